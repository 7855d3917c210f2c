"""What the Service's own configuration calls for, at the node that was asked.

Written after the semantics of kube-proxy (pkg/proxy/topology.go, KEP-1669 for terminating endpoints; for clients inside
the cluster, the external chains of pkg/proxy/iptables and pkg/proxy/nftables); datapaths that do otherwise are told
apart by facts.
"""

from __future__ import annotations

import enum
from ipaddress import ip_address, ip_network

from analysis.facts import Endpoint, Facts, Policy, Service
from analysis.hops.addresses import OwnerKind, Target, TargetKind, text
from analysis.hops.origin import Caller, Origin, origin

EXTERNAL_WAYS = frozenset({TargetKind.NODE_PORT, TargetKind.LOAD_BALANCER, TargetKind.EXTERNAL_IP})


class Expected(enum.StrEnum):
    """What a node should do with a new connection."""

    FORWARD = "forward"
    DROP_NO_LOCAL_ENDPOINT = "drop: no local endpoint"
    DROP_SOURCE_RANGE = "drop: source outside loadBalancerSourceRanges"
    REJECT_NO_ENDPOINT = "reject: no endpoint at all"


class Source(enum.StrEnum):
    """What a node should do with the source of a connection from outside that it forwards."""

    KEPT = "the source is kept"
    MASQUERADED = "the source is masqueraded"
    LOCAL_KEPT = "the source is kept to endpoints of the same node, and masqueraded to others"
    UNKNOWN = "nothing says who forwards"


def source_expected(service: Service, facts: Facts, *, tcp: bool = True) -> Source:
    """What becomes of the source by the datapath and the policy.

    kube-proxy masquerades under policy Cluster, to endpoints of the same node as well. Cilium masquerades only what
    leaves the node, unless endpoints answer clients directly (dsr; hybrid: of TCP). Calico's eBPF hands the packet on
    as it came in every mode (docs.tigera.io, "Enable the eBPF data plane": source IP preservation).
    """
    if facts.proxy_mode == "ebpf":
        direct = facts.forwarding_mode == "dsr" or (facts.forwarding_mode == "hybrid" and tcp)
        if facts.datapath in {"calico", "canal"} or direct or service.external_policy is Policy.LOCAL:
            return Source.KEPT
        return Source.LOCAL_KEPT if "cilium" in facts.datapath else Source.UNKNOWN
    if facts.proxy_mode not in {"iptables", "nftables", "ipvs"}:
        return Source.UNKNOWN
    if service.external_policy is Policy.CLUSTER or facts.masquerade_all:
        return Source.MASQUERADED
    return Source.KEPT


def usable(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Ready endpoints; where there is none, those that terminate and still serve (KEP-1669)."""
    ready = tuple(entry for entry in endpoints if entry.ready)
    return ready or tuple(entry for entry in endpoints if entry.serving and entry.terminating)


def expected_at(target: Target, caller: Caller, facts: Facts) -> Expected:
    """What the caller's node should do with its connection to this way into a Service.

    Where nothing says whether the node takes the caller for a pod of its own cluster, a drop is not expected.
    """
    service = target.service
    endpoints = tuple(entry for entry in service.endpoints if entry.port_name == target.port)
    if not usable(endpoints):
        return Expected.REJECT_NO_ENDPOINT
    if target.kind is TargetKind.LOAD_BALANCER and not _admitted(service, caller.source):
        return Expected.DROP_SOURCE_RANGE
    if _needs_local(target, caller, facts):
        local = tuple(entry for entry in endpoints if entry.node == caller.node)
        if not usable(local):
            return Expected.DROP_NO_LOCAL_ENDPOINT
    return Expected.FORWARD


def _needs_local(target: Target, caller: Caller, facts: Facts) -> bool:
    """Whether only endpoints of the same node count, for certain.

    kube-proxy leads pods and processes of the node past policy Local, as if they went out to the balancer and came
    back; whom it takes for a pod, detectLocalMode says. Other datapaths know their pods by themselves.
    """
    if target.kind is TargetKind.CLUSTER_IP:
        return target.service.internal_policy is Policy.LOCAL
    if target.service.external_policy is not Policy.LOCAL:
        return False
    if facts.proxy_mode in {"iptables", "nftables"}:
        return origin(caller, facts) is Origin.OUTSIDE
    return caller.owner is not None and caller.owner.kind in {OwnerKind.EXTERNAL, OwnerKind.BALANCER}


def _admitted(service: Service, source: int) -> bool:
    if not service.source_ranges:
        return True
    address = ip_address(text(source))
    for entry in service.source_ranges:
        try:
            network = ip_network(entry.strip(), strict=False)
        except ValueError:
            return True  # what cannot be read must not make an expectation
        if address.version == network.version and address in network:
            return True
    return False
