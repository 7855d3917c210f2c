"""The expectation as a table: for each node that is asked and each kind of client, what should be seen.

Rows: a client from outside that asks the node (by its node port, or by an address that leads packets there), and a
client in a pod of the node that asks the balancer's address. Who forwards is taken from the facts; where nothing says
it, kube-proxy is taken, and the row says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import NamedTuple

import msgspec

from analysis.checks.case import Case
from analysis.checks.providers import ip_targets, reads_http, sends_proxy
from analysis.checks.result import Sight
from analysis.checks.spread import eligible, placed
from analysis.facts import Endpoint, Facts, Node, Policy, Service
from analysis.hops.origin import told_apart
from analysis.judging.expectation import Source, source_expected, usable

#: Most nodes that get rows of their own.
MOST_NODES = 1000


class Place(NamedTuple):
    """A pod or endpoint, and the node that it is on."""

    name: str
    node: str
    terminating: bool = False


def sights(case: Case) -> tuple[Sight, ...]:
    """All rows; none where nodes or endpoints are not known, or nodes are not on the way."""
    service = case.entry.service
    if not service.external or ip_targets(service.annotations) or not case.facts.nodes:
        return ()
    places, planned = _places(case)
    if not places and planned:
        return ()  # neither endpoints nor replicas are known
    rows: list[Sight] = []
    for node in case.facts.nodes[:MOST_NODES]:
        rows.append(_outside(case, node, places, planned=planned))
        rows.append(_inside(case, node, places))
    return tuple(rows)


def _places(case: Case) -> tuple[list[Place], bool]:
    """Where connections may go: endpoints that are usable now, or the pods that replicas would make."""
    service = case.entry.service
    if service.endpoints:
        return [_place(each) for each in _once(usable(service.endpoints))], False
    if case.live and "EndpointSlice" not in case.lacking:
        return [], False
    return [Place(name, node) for name, node in placed(case)] if eligible(case) else [], True


def _once(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    return list({(each.pod or each.address): each for each in endpoints}.values())


def _place(entry: Endpoint) -> Place:
    return Place(entry.pod or entry.address, entry.node or "", entry.terminating and not entry.ready)


def _facts(case: Case) -> tuple[Facts, str]:
    """The facts, with kube-proxy where nothing says who forwards; and why, in words."""
    if case.facts.proxy_mode:
        return case.facts, ""
    return msgspec.structs.replace(case.facts, proxy_mode="iptables"), "taking kube-proxy for who forwards"


def client_words(case: Case) -> str:
    """Who connects to the nodes: the clients themselves, or a balancer that makes connections of its own."""
    annotations = case.entry.service.annotations
    if sends_proxy(annotations).on or reads_http(annotations):
        return "balancer"
    return "client outside"


def _header(case: Case) -> str:
    annotations = case.entry.service.annotations
    if sends_proxy(annotations).on:
        return "a PROXY header names the client"
    return "X-Forwarded-For names the client" if reads_http(annotations) else ""


def _outside(case: Case, node: Node, places: list[Place], *, planned: bool) -> Sight:
    service, client = case.entry.service, client_words(case)
    facts, because = _facts(case)
    because = "; ".join(
        each for each in (because, "replicas as evenly as they go" if planned else "") if each
    )
    if service.type == "NodePort" and not _listens(node, facts):
        why = f"nodePortAddresses {', '.join(facts.node_port_addresses[:4])} hold no address of the node"
        return Sight(node.name, client, "refused", "", because=why)
    if not places:
        return Sight(node.name, client, "rejected", "", because="the Service has no usable endpoint")
    local = [each for each in places if each.node == node.name]
    if service.external_policy is Policy.LOCAL and not local:
        return Sight(node.name, client, "dropped", "", because=because or "policy Local and no endpoint here")
    targets = local if service.external_policy is Policy.LOCAL else places
    if any(each.terminating for each in targets):
        because = "; ".join(
            each for each in (because, "only terminating endpoints are left, and they serve") if each
        )
    to = tuple(sorted(each.name for each in targets))
    return _forwarded(
        Sight(node.name, client, "", "", to=to, header=_header(case), because=because), service, facts
    )


def _listens(node: Node, facts: Facts) -> bool:
    """Whether kube-proxy answers node ports on an address of the node (nodePortAddresses; "primary" always does)."""
    try:
        ranges = [ip_network(each, strict=False) for each in facts.node_port_addresses]
        own = [ip_address(each) for each in node.addresses]
    except ValueError:
        return True
    return not ranges or not own or any(address in one for one in ranges for address in own)


def _forwarded(row: Sight, service: Service, facts: Facts) -> Sight:
    """What becomes of the source of a connection that is forwarded."""
    expected = source_expected(service, facts)
    sees = "the client's address" if row.client == "client outside" else "the balancer's address"
    if expected is Source.KEPT:
        return msgspec.structs.replace(row, outcome="preserved", seen=sees)
    masked = f"an address of {row.node}"
    who = "Cilium" if expected is Source.LOCAL_KEPT else "kube-proxy"
    if expected is Source.LOCAL_KEPT:
        return msgspec.structs.replace(
            row, outcome="masqueraded to other nodes", by=f"{who} on {row.node}",
            seen=f"{masked}, or {sees} on the same node",
        )  # fmt: skip
    if expected is Source.UNKNOWN:
        return msgspec.structs.replace(row, outcome="forwarded", seen="", because=str(expected))
    return msgspec.structs.replace(row, outcome="masqueraded", by=f"{who} on {row.node}", seen=masked)


def _inside(case: Case, node: Node, places: list[Place]) -> Sight:
    """A pod of the node that asks the balancer's address: short-circuited, unless the address is not known there."""
    service, client = case.entry.service, "pod, to the balancer's address"
    facts, because = _facts(case)
    if service.type != "LoadBalancer":
        client = "pod, to the node port"
    elif service.balancers and not any(each.address and each.ip_mode == "VIP" for each in service.balancers):
        why = "ipMode Proxy, or a host name: nodes do not short-circuit it"
        return Sight(node.name, client, "goes out to the balancer", "", header=_header(case), because=why)
    if not places:
        return Sight(node.name, client, "rejected", "", because="the Service has no usable endpoint")
    to = tuple(sorted(each.name for each in places))
    missing = "no PROXY header" if sends_proxy(service.annotations).on else ""
    row = Sight(node.name, client, "short-circuited", "", to=to, header=missing, because=because)
    if service.external_policy is Policy.LOCAL and not _told_apart(facts, node, service):
        local = tuple(sorted(each.name for each in places if each.node == node.name))
        missing = "podCIDR of the node" if facts.local_detection.mode == "NodeCIDR" else "clusterCIDR"
        why = f"kube-proxy does not tell pods from clients outside (no {missing})"
        if not local:
            return Sight(node.name, client, "dropped", "", because=why)
        return msgspec.structs.replace(row, to=local, seen="the pod's address", because=why)
    if service.external_policy is Policy.LOCAL or source_expected(service, facts) is Source.KEPT:
        return msgspec.structs.replace(row, seen="the pod's address")
    return msgspec.structs.replace(row, by=f"kube-proxy on {node.name}", seen=f"an address of {node.name}")


def _told_apart(facts: Facts, node: Node, service: Service) -> bool:
    """Whether who forwards knows the cluster's own pods (detectLocalMode), of the Service's family."""
    version = 6 if ":" in next(iter(service.cluster_ips), "") else 4
    return facts.proxy_mode == "ebpf" or told_apart(facts, node.name, version) is not False
