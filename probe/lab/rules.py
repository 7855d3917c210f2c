"""All packet rules of the lab: which text each tool is fed in each network namespace. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Literal

import msgspec

from analysis.facts import Facts
from probe.lab.forwarding import extras
from probe.lab.forwarding.iptables import iptables_rules
from probe.lab.forwarding.nftables import nftables_rules
from probe.lab.forwarding.services import IpVersion, NodeFacts
from probe.lab.kube_objects import SERVICE_CIDRS
from probe.lab.network import BRIDGE
from probe.lab.plan import CLUSTER_CIDRS, Plan, PlannedNode, PlannedPod
from probe.lab.scenario import Family

Tool = Literal[
    "iptables-restore", "ip6tables-restore", "iptables-legacy-restore", "ip6tables-legacy-restore", "nft"
]

VERSIONS: dict[Family, IpVersion] = {"ipv4": 4, "ipv6": 6}
_RESTORE: dict[Family, Tool] = {"ipv4": "iptables-restore", "ipv6": "ip6tables-restore"}
_LEGACY: dict[Family, Tool] = {"ipv4": "iptables-legacy-restore", "ipv6": "ip6tables-legacy-restore"}


class RuleText(msgspec.Struct, frozen=True):
    """What one tool reads on its stdin in one namespace."""

    namespace: str
    tool: Tool
    text: str


def rule_texts(plan: Plan, facts: Facts) -> list[RuleText]:
    """Everything to load. Texts do not depend on each other; each is one transaction per table."""
    texts: defaultdict[tuple[str, Tool], str] = defaultdict(str)
    for family in plan.families:
        tool = _tool(plan, family)
        for node in plan.nodes:
            texts[node.name, tool] += _node(plan, facts, node, family)
        for pod in plan.pods:
            if pod.pod.role == "svclb":
                version, redirect = VERSIONS[family], _service_pod(plan, family)
                texts[pod.namespace, tool] += extras.service_pod(plan.proxy_mode, version, redirect)
    balancer, lb = plan.scenario.balancer, plan.lb
    if balancer and lb and balancer.kind == "snat":
        for family in plan.families:
            redirect = extras.Redirect(
                protocol=plan.scenario.service.protocol,
                port=balancer.port,
                to_address=plan.node(balancer.targets[0]).host.addresses[family],
                to_port=plan.scenario.service.node_port,
                address=lb.addresses[family],
            )
            texts[lb.name, "nft"] += extras.snat_balancer(VERSIONS[family], redirect)
    return [RuleText(namespace, tool, text) for (namespace, tool), text in texts.items()]


def _tool(plan: Plan, family: Family) -> Tool:
    """What loads a node's rules."""
    match plan.proxy_mode:
        case "nftables":
            return "nft"
        case "iptables-legacy":
            return _LEGACY[family]
    return _RESTORE[family]


def anew(tool: Tool, text: str) -> str:
    """The same text for a namespace that has rules already: what stands in its tables goes, in the same transaction."""
    if tool == "nft":
        tables = dict.fromkeys(re.findall(r"(?m)^(?:add )?table (\w+ [\w-]+)", text))
        return "".join(f"add table {table}\ndelete table {table}\n" for table in tables) + text
    for table in dict.fromkeys(re.findall(r"(?m)^\*(\w+)$", text)):
        text = text.replace(f"*{table}\n", f"*{table}\n-F\n-X\n", 1)
    return text


def node_facts(plan: Plan, node: PlannedNode) -> NodeFacts:
    """What kube-proxy on that node is told about itself and the cluster."""
    cluster = plan.scenario.cluster
    ranges = tuple(CLUSTER_CIDRS[family] for family in plan.families) if cluster.cluster_cidr else ()
    by_node = cluster.detect_local == "NodeCIDR"
    return NodeFacts(
        name=node.name,
        addresses=tuple(node.host.addresses.values()),
        cluster_cidrs=tuple(node.pod_cidrs.values()) if by_node else ranges,
        local_interface={"BridgeInterface": BRIDGE, "InterfaceNamePrefix": f"{BRIDGE[:3]}*"}.get(
            cluster.detect_local, ""
        ),
        service_cidrs=tuple(SERVICE_CIDRS[family] for family in plan.families),
        masquerade_all=cluster.masquerade_all,
    )


def _node(plan: Plan, facts: Facts, node: PlannedNode, family: Family) -> str:
    mode, version = plan.proxy_mode, VERSIONS[family]
    generate = nftables_rules if mode == "nftables" else iptables_rules
    text = generate(facts, node_facts(plan, node), version)
    masquerade = plan.scenario.cluster.cni_masquerade
    if masquerade != "off":
        everything = masquerade == "everything"
        text += extras.cni_masquerade(mode, version, CLUSTER_CIDRS[family], everything)
    redirects = [_host_port(plan, pod, family) for pod in plan.pods_on(node.name) if pod.pod.role == "svclb"]
    return text + (extras.host_port(mode, version, redirects) if redirects else "")


def _host_port(plan: Plan, pod: PlannedPod, family: Family) -> extras.Redirect:
    """The node's port of a balancer pod: the Service's port, as klipper-lb takes it."""
    service = plan.scenario.service
    return extras.Redirect(service.protocol, service.port, pod.addresses[family], service.port)


def _service_pod(plan: Plan, family: Family) -> extras.Redirect:
    service = plan.scenario.service
    return extras.Redirect(service.protocol, service.port, plan.cluster_ip[family], service.port)
