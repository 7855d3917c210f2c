"""What the Service's own configuration calls for, at the node that was asked.

Written after the semantics of kube-proxy (pkg/proxy/topology.go, KEP-1669 for terminating endpoints); datapaths
that do otherwise are told apart by facts.
"""

from __future__ import annotations

import enum
from ipaddress import ip_address, ip_network

from analysis.addresses import Owner, OwnerKind, Target, TargetKind, text
from analysis.facts import Endpoint, Policy, Service

EXTERNAL_WAYS = frozenset({TargetKind.NODE_PORT, TargetKind.LOAD_BALANCER, TargetKind.EXTERNAL_IP})


class Expected(enum.StrEnum):
    """What a node should do with a new connection."""

    FORWARD = "forward"
    DROP_NO_LOCAL_ENDPOINT = "drop: no local endpoint"
    DROP_SOURCE_RANGE = "drop: source outside loadBalancerSourceRanges"
    REJECT_NO_ENDPOINT = "reject: no endpoint at all"


def usable(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Ready endpoints; where there is none, those that terminate and still serve (KEP-1669)."""
    ready = tuple(entry for entry in endpoints if entry.ready)
    return ready or tuple(entry for entry in endpoints if entry.serving and entry.terminating)


def expected_at(target: Target, node: str | None, source: int, owner: Owner) -> Expected:
    """What `node` should do with a connection from `source` to this way into a Service."""
    service = target.service
    endpoints = tuple(entry for entry in service.endpoints if entry.port_name == target.port)
    if not usable(endpoints):
        return Expected.REJECT_NO_ENDPOINT
    if target.kind is TargetKind.LOAD_BALANCER and not _admitted(service, source):
        return Expected.DROP_SOURCE_RANGE
    if _needs_local(target, owner):
        local = tuple(entry for entry in endpoints if entry.node == node)
        if not usable(local):
            return Expected.DROP_NO_LOCAL_ENDPOINT
    return Expected.FORWARD


def _needs_local(target: Target, owner: Owner) -> bool:
    """Whether only endpoints of the same node count. Clients inside the cluster are short-circuited."""
    if target.kind is TargetKind.CLUSTER_IP:
        return target.service.internal_policy is Policy.LOCAL
    inside = owner.kind in {OwnerKind.POD, OwnerKind.NODE, OwnerKind.LOOPBACK, OwnerKind.POD_NETWORK}
    return target.service.external_policy is Policy.LOCAL and not inside


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
