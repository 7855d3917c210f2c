"""The nftables generator: the same decisions as in iptables mode, in kube-proxy's maps and chains."""

from __future__ import annotations

import re

import msgspec
import pytest

from analysis.facts import Balancer, Endpoint, Facts, Policy, Service, ServicePort
from probe.lab.forwarding.names import nftables_chain
from probe.lab.forwarding.nftables import nftables_rules
from probe.lab.forwarding.services import NodeFacts, port_rules
from tests.lab.test_iptables_rules import NODE, WEB, changed


def blocks(service: Service, node: NodeFacts = NODE, version: int = 4) -> dict[str, list[str]]:
    """Chains, sets and maps by name, each with its lines."""
    text = nftables_rules(Facts(services=(service,)), node, 4 if version == 4 else 6)
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines()[1:]:
        opened = re.match(r"\s*(?:chain|set|map) (\S+) \{$", line)
        if opened:
            name = opened.group(1)
        found.setdefault(name, []).append(line.strip())
    return found


def elements(found: dict[str, list[str]], name: str) -> dict[str, str]:
    """The verdicts of a map."""
    pairs = {}
    for line in found[name]:
        element = re.match(r'(.+?) comment ".*" : (.+?),?$', line)
        if element:
            pairs[element.group(1)] = element.group(2)
    return pairs


def chain(found: dict[str, list[str]], prefix: str) -> list[str]:
    (name,) = [name for name in found if re.match(rf"{prefix}-[A-Z2-7]{{8}}-", name)]
    return found[name][1:-1]


def test_names_are_those_that_kube_proxy_computes() -> None:
    service = Service("ns1", "svc1", cluster_ips=("10.96.0.1",), ports=(ServicePort("p80", "tcp", 80),))
    endpoint = Endpoint("10.180.0.1", 80, "tcp", "p80")
    (rules,) = port_rules(Facts(services=(service,)), NODE, 4)
    assert nftables_chain("service", rules) == "service-ULMVA6XW-ns1/svc1/tcp/p80"
    assert nftables_chain("endpoint", rules, endpoint) == (
        "endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80"
    )


def test_policy_cluster_marks_external_traffic_for_masquerade() -> None:
    found = blocks(WEB)
    assert elements(found, "service-nodeports")["tcp . 30080"].startswith("goto external-")
    assert chain(found, "external")[0] == "jump mark-for-masquerade"


def test_policy_local_sends_pods_of_the_cluster_to_all_endpoints_and_others_to_the_nodes_own() -> None:
    pods, masquerade, local, others = chain(blocks(changed(external_policy=Policy.LOCAL)), "external")
    assert pods.startswith("ip saddr 10.244.0.0/16 goto service-")
    assert masquerade.startswith("fib saddr type local jump mark-for-masquerade")
    assert local.startswith("fib saddr type local goto service-")
    assert others.startswith("goto local-")


def test_policy_local_without_a_local_endpoint_drops_in_silence() -> None:
    away = NodeFacts(name="node3", addresses=("172.30.0.13",), cluster_cidrs=("10.244.0.0/16",))
    balancers = (Balancer("172.30.0.200"),)
    found = blocks(changed(external_policy=Policy.LOCAL, balancers=balancers), away)
    assert elements(found, "no-endpoint-nodeports") == {"tcp . 30080": "drop"}
    assert elements(found, "no-endpoint-services") == {"172.30.0.200 . tcp . 80": "drop"}


def test_no_endpoint_at_all_is_rejected_on_every_address() -> None:
    found = blocks(changed(endpoints=(), external_ips=("172.30.0.220",)))
    assert set(elements(found, "no-endpoint-services").values()) == {"goto reject-chain"}
    assert len(elements(found, "no-endpoint-services")) == 2
    assert elements(found, "no-endpoint-nodeports") == {"tcp . 30080": "goto reject-chain"}
    assert not elements(found, "service-ips")


def test_every_endpoint_has_the_same_chance() -> None:
    assert re.search(
        r"numgen random mod 2 vmap \{ 0 : goto endpoint-\S+, 1 : goto", chain(blocks(WEB), "service")[-1]
    )


def test_source_ranges_are_checked_before_dnat() -> None:
    found = blocks(changed(balancers=(Balancer("172.30.0.200"),), source_ranges=("172.30.0.0/24",)))
    assert elements(found, "firewall-ips")["172.30.0.200 . tcp . 80"].startswith("goto firewall-")
    assert chain(found, "firewall") == ["ip saddr != { 172.30.0.0/24 } drop"]


def test_masquerade_all_marks_cluster_ip_traffic_of_pods_too() -> None:
    usual = chain(blocks(WEB), "service")[0]
    everything = chain(blocks(WEB, msgspec.structs.replace(NODE, masquerade_all=True)), "service")[0]
    assert usual == "ip daddr 10.96.0.80 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade"
    assert everything == "ip daddr 10.96.0.80 tcp dport 80 jump mark-for-masquerade"


@pytest.mark.parametrize(("version", "address"), [(4, "172.30.0.11"), (6, "fd00:30::11")])
def test_node_ports_are_open_on_the_nodes_own_addresses_of_the_family(version: int, address: str) -> None:
    node = NodeFacts(name="node1", addresses=("172.30.0.11", "fd00:30::11"))
    assert address in blocks(WEB, node, version)["nodeport-ips"]
