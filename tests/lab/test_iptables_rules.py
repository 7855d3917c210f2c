"""The iptables generator: the rules of a real kube-proxy, and what follows from a Service's fields."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from analysis.facts import Balancer, Endpoint, Facts, Policy, Service, ServicePort
from probe.lab.forwarding.iptables import iptables_rules
from probe.lab.forwarding.services import NodeFacts
from probe.objects import facts_from_objects
from tests.lab.rule_files import Chains, iptables_tables

NODE = NodeFacts(name="node1", addresses=("172.30.0.11",), cluster_cidrs=("10.244.0.0/16",))

WEB = Service(
    namespace="default",
    name="web",
    type="LoadBalancer",
    cluster_ips=("10.96.0.80",),
    ports=(ServicePort("http", "tcp", 80, 30080),),
    endpoints=(
        Endpoint("10.244.1.2", 8080, "tcp", "http", node="node1"),
        Endpoint("10.244.2.2", 8080, "tcp", "http", node="node2"),
    ),
)


def generated(service: Service, node: NodeFacts = NODE) -> tuple[Chains, Chains]:
    tables = iptables_tables(iptables_rules(Facts(services=(service,)), node, 4))
    return tables["filter"], tables["nat"]


def changed(**fields: object) -> Service:
    return msgspec.structs.replace(WEB, **fields)


def texts(chains: Chains, chain: str) -> list[str]:
    return [" ".join(rule) for rule in chains.get(chain, [])]


def chain_of(chains: Chains, prefix: str) -> str:
    (name,) = [name for name in chains if name.startswith(prefix)]
    return name


@pytest.mark.parametrize("node", ["node1", "node2", "node3"])
def test_the_rules_are_those_of_a_real_kube_proxy(node: str, evidence: Path) -> None:
    folder = evidence / "kubernetes-1.36-iptables"
    facts = facts_from_objects(json.loads((folder / "objects.json").read_text()))
    mine = NodeFacts(name=node, addresses=(), cluster_cidrs=("10.244.0.0/16",))
    real = iptables_tables((folder / f"{node}.iptables-save").read_text())
    ours = iptables_tables(iptables_rules(facts, mine, 4))
    for table in ("filter", "nat"):
        assert set(ours[table]) == set(real[table])
        for chain, rules in real[table].items():
            assert ours[table][chain] == rules, f"{table} {chain}"


def test_policy_cluster_marks_external_traffic_for_masquerade() -> None:
    _, nat = generated(WEB)
    assert "-j KUBE-MARK-MASQ" in texts(nat, chain_of(nat, "KUBE-EXT-"))[0]


def test_policy_local_sends_pods_of_the_cluster_to_all_endpoints_and_others_to_the_nodes_own() -> None:
    _, nat = generated(changed(external_policy=Policy.LOCAL))
    pods, masquerade, local, others = texts(nat, chain_of(nat, "KUBE-EXT-"))
    assert "-s 10.244.0.0/16" in pods
    assert "-j KUBE-SVC-" in pods
    assert "--src-type LOCAL" in masquerade
    assert "-j KUBE-SVC-" in local
    assert "-j KUBE-SVL-" in others
    assert len(nat[chain_of(nat, "KUBE-SVL-")]) == 1


def test_policy_local_without_a_local_endpoint_drops_in_silence() -> None:
    away = NodeFacts(name="node3", addresses=(), cluster_cidrs=("10.244.0.0/16",))
    filter_, nat = generated(changed(external_policy=Policy.LOCAL), away)
    (dropped,) = texts(filter_, "KUBE-EXTERNAL-SERVICES")
    assert "has no local endpoints" in dropped
    assert "-j DROP" in dropped
    assert not [chain for chain in nat if chain.startswith("KUBE-SVL-")]


def test_no_endpoint_at_all_is_rejected_on_every_address() -> None:
    balancers = (Balancer("172.30.0.200"),)
    filter_, nat = generated(changed(endpoints=(), balancers=balancers, external_ips=("172.30.0.220",)))
    rejected = texts(filter_, "KUBE-EXTERNAL-SERVICES") + texts(filter_, "KUBE-SERVICES")
    assert len(rejected) == 4
    assert all("-j REJECT" in rule and "has no endpoints" in rule for rule in rejected)
    assert not [chain for chain in nat if chain.startswith(("KUBE-SVC-", "KUBE-EXT-", "KUBE-SEP-"))]


def test_terminating_endpoints_serve_only_while_nobody_is_ready() -> None:
    draining = Endpoint(
        "10.244.1.2", 8080, "tcp", "http", node="node1", ready=False, serving=True, terminating=True
    )
    ready = WEB.endpoints[1]
    _, nat = generated(changed(external_policy=Policy.LOCAL, endpoints=(draining, ready)))
    assert "10.244.1.2:8080" in texts(nat, chain_of(nat, "KUBE-SVL-"))[0], "the node has no other"
    cluster = texts(nat, chain_of(nat, "KUBE-SVC-"))
    assert not any("10.244.1.2" in rule for rule in cluster), "the cluster has a ready one"


def test_a_balancer_that_keeps_its_address_is_not_short_circuited() -> None:
    _, vip = generated(changed(balancers=(Balancer("172.30.0.200", ip_mode="VIP"),)))
    _, own = generated(changed(balancers=(Balancer("172.30.0.200", ip_mode="Proxy"),)))
    assert any("172.30.0.200" in rule for rule in texts(vip, "KUBE-SERVICES"))
    assert not any("172.30.0.200" in rule for rule in texts(own, "KUBE-SERVICES"))


def test_source_ranges_let_only_these_sources_through_to_dnat() -> None:
    filter_, nat = generated(
        changed(balancers=(Balancer("172.30.0.200"),), source_ranges=("172.30.0.0/24", "fd00::/8"))
    )
    (allowed,) = texts(nat, chain_of(nat, "KUBE-FW-"))
    assert "-s 172.30.0.0/24" in allowed
    (dropped,) = texts(filter_, "KUBE-PROXY-FIREWALL")
    assert "-d 172.30.0.200/32" in dropped
    assert "-j DROP" in dropped


def test_masquerade_all_marks_cluster_ip_traffic_of_pods_too() -> None:
    _, usual = generated(WEB)
    _, everything = generated(WEB, msgspec.structs.replace(NODE, masquerade_all=True))
    assert "! -s 10.244.0.0/16" in texts(usual, chain_of(usual, "KUBE-SVC-"))[0]
    marked = texts(everything, chain_of(everything, "KUBE-SVC-"))[0]
    assert "-j KUBE-MARK-MASQ" in marked
    assert "-s " not in marked


def test_without_a_cluster_cidr_nobody_is_local() -> None:
    blind = NodeFacts(name="node1", addresses=())
    _, nat = generated(changed(external_policy=Policy.LOCAL), blind)
    assert not any("10.244.0.0/16" in rule for chain in nat for rule in texts(nat, chain))


def test_session_affinity_remembers_the_endpoint_of_a_source() -> None:
    _, nat = generated(changed(session_affinity="ClientIP"))
    service = texts(nat, chain_of(nat, "KUBE-SVC-"))
    assert sum("--rcheck" in rule for rule in service) == 2
    endpoints = [rule for chain in nat if chain.startswith("KUBE-SEP-") for rule in texts(nat, chain)]
    assert sum("--set" in rule for rule in endpoints) == 2


def test_the_health_check_node_port_is_let_in() -> None:
    filter_, _ = generated(changed(external_policy=Policy.LOCAL, health_check_node_port=32100))
    (accepted,) = texts(filter_, "KUBE-NODEPORTS")
    assert "--dport 32100" in accepted
    assert "-j ACCEPT" in accepted


def test_a_service_of_the_other_family_leaves_no_trace() -> None:
    text = iptables_rules(Facts(services=(WEB,)), NODE, 6)
    assert "default/web" not in text
