"""Where kube-proxy on a node takes a connection for coming from: the node itself, a pod, or outside (detectLocalMode).

By the source address or the interface that it came in by, as pkg/proxy/util/localdetector.go and getLocalDetectors of
cmd/kube-proxy/app/server_linux.go have it: of several ranges the first of each family counts, and where a mode has none
of a family, no pod is told apart there. Where facts do not suffice, the answer is UNKNOWN.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from analysis.facts import Facts
from analysis.hops.addresses import Owner, OwnerKind, text

_OUTSIDERS = frozenset({OwnerKind.EXTERNAL, OwnerKind.BALANCER})


class Origin(enum.Enum):
    """What kube-proxy takes a source for."""

    HOST = "a process of the node itself"
    POD = "a pod"
    OUTSIDE = "outside"
    UNKNOWN = "nothing says which"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who connects to a Service at a node. `owner`: whose the source is, None where that is not known.

    `arrived`: the interface that the packet came in by, as IP sees it (of what comes from a pod on a bridge, the
    bridge), None where it was not seen.
    """

    node: str | None
    source: int
    owner: Owner | None
    arrived: str | None = None


def told_apart(facts: Facts, node: str | None, version: int) -> bool | None:
    """Whether kube-proxy on a node knows pods from others, of one family; None where that is not known."""
    match facts.local_detection.mode:
        case "ClusterCIDR":
            return _first(facts.cluster_cidrs, version) is not None
        case "NodeCIDR":
            ranges = _pod_cidrs(node, facts)
            return _first(ranges, version) is not None if ranges else None
        case "BridgeInterface" | "InterfaceNamePrefix":
            return True
    return None


def origin(caller: Caller, facts: Facts) -> Origin:
    """What kube-proxy takes the caller for."""
    if _of_the_host(caller, facts):
        return Origin.HOST
    outsider = caller.owner is not None and caller.owner.kind in _OUTSIDERS
    match facts.local_detection.mode:
        case "ClusterCIDR":
            return _by_range(caller.source, facts.cluster_cidrs)
        case "NodeCIDR":
            ranges = _pod_cidrs(caller.node, facts)
            return _by_range(caller.source, ranges) if ranges else Origin.UNKNOWN
        case "BridgeInterface" | "InterfaceNamePrefix" as mode:
            wanted, arrived = facts.local_detection.interface, caller.arrived
            if arrived is None or not wanted:
                return Origin.OUTSIDE if outsider else Origin.UNKNOWN
            local = arrived == wanted if mode == "BridgeInterface" else arrived.startswith(wanted)
            return Origin.POD if local else Origin.OUTSIDE
    return Origin.OUTSIDE if outsider else Origin.UNKNOWN


def _of_the_host(caller: Caller, facts: Facts) -> bool:
    owner = caller.owner
    if owner is not None and owner.kind is OwnerKind.LOOPBACK:
        return True
    if owner is not None and owner.kind in {OwnerKind.NODE, OwnerKind.POD_NETWORK}:
        return owner.node == caller.node
    address = text(caller.source)
    return any(each.name == caller.node and address in each.addresses for each in facts.nodes)


def _pod_cidrs(node: str | None, facts: Facts) -> tuple[str, ...]:
    return next((each.pod_cidrs for each in facts.nodes if each.name == node), ())


def _by_range(source: int, ranges: Sequence[str]) -> Origin:
    """By the first range of the address's family. Without one nothing is told apart, and so all are from outside."""
    parsed = ip_address(text(source))
    first = _first(ranges, parsed.version)
    if first is None:
        return Origin.OUTSIDE
    return Origin.POD if parsed in ip_network(first, strict=False) else Origin.OUTSIDE


def _first(ranges: Sequence[str], version: int) -> str | None:
    for each in ranges:
        try:
            network = ip_network(each, strict=False)
        except ValueError:
            continue
        if network.version == version:
            return each
    return None
