"""Who replaced a source address: the catalogue of docs/findings.md, read from packets, addresses and facts."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from analysis.facts import Facts, Policy
from analysis.hops.addresses import AddressBook, Owner, OwnerKind, TargetKind, text
from analysis.hops.origin import Caller, Origin, origin, told_apart
from analysis.hops.steps import Change, Step
from analysis.judging.expectation import EXTERNAL_WAYS
from daemonset.observation import TapKind


class Mechanism(enum.StrEnum):
    """What replaced the source address, in words for the report."""

    POLICY_CLUSTER = "kube-proxy masquerade (externalTrafficPolicy: Cluster)"
    MASQUERADE_ALL = "kube-proxy masquerade (--masquerade-all)"
    CLUSTER_CIDR = "kube-proxy masquerade (source outside clusterCIDR)"
    HAIRPIN = "kube-proxy masquerade (a pod reached itself through the Service)"
    NODE_LOCAL = "kube-proxy masquerade (client on the node itself)"
    IPVS_EXTERNAL_IP = "kube-proxy masquerade (KUBE-MARK-MASQ of an external IP in IPVS mode)"
    CNI = "CNI masquerade"
    SERVICE_LB = "masquerade in an in-cluster load balancer pod (svclb)"
    HOST = "masquerade by a rule of the host's own"
    BALANCER = "load balancer SNAT before the cluster"
    UNKNOWN = "SNAT by an unnamed rule"


CODES = {
    Mechanism.POLICY_CLUSTER: "SIP101",
    Mechanism.CNI: "SIP102",
    Mechanism.BALANCER: "SIP103",
    Mechanism.SERVICE_LB: "SIP105",
    Mechanism.MASQUERADE_ALL: "SIP106",
    Mechanism.CLUSTER_CIDR: "SIP107",
    Mechanism.IPVS_EXTERNAL_IP: "SIP108",
    Mechanism.HAIRPIN: "SIP109",
    Mechanism.NODE_LOCAL: "SIP110",
    Mechanism.UNKNOWN: "SIP111",
    Mechanism.HOST: "SIP421",
}


@dataclass(frozen=True, slots=True)
class Blame:
    """One replacement: where, and by what."""

    change: Change
    node: str | None
    mechanism: Mechanism
    rule: str | None = None  # the very rule, where the kernel named it


def blame(change: Change, steps: Sequence[Step], book: AddressBook, facts: Facts) -> Blame:
    """Name the mechanism behind one change of the source address."""
    taken = book.owner(change.after.addresses.src)
    if _at_balancer(change, taken.kind):
        return Blame(change, _place(change, taken.node), Mechanism.BALANCER)
    if taken.kind is OwnerKind.BALANCER:
        return Blame(change, taken.node or change.after.place, Mechanism.SERVICE_LB)
    node = taken.node or _place(change, None)
    return Blame(change, node, _on_node(change, steps, node, book, facts))


def _at_balancer(change: Change, taken: OwnerKind) -> bool:
    """Replaced on the balancer's own host, as its taps show, or before anything of the cluster saw it."""
    at_tap = TapKind.LB in {change.before.kind, change.after.kind} and change.after.kind is not None
    outside = change.before.kind in {TapKind.CLIENT, TapKind.LB}
    return (at_tap and change.before.kind is not TapKind.POD and change.after.kind is TapKind.LB) or (
        outside and taken is OwnerKind.BALANCER
    )


def _place(change: Change, owner: str | None) -> str | None:
    if owner is not None:
        return owner
    return change.after.place if change.before.place == change.after.place else None


def _on_node(
    change: Change, steps: Sequence[Step], node: str | None, book: AddressBook, facts: Facts
) -> Mechanism:
    entry = _entry(change, steps)
    if entry is None or entry.target is None:
        # On its way to an endpoint already, or to no Service at all: none of kube-proxy's business.
        done = change.before.at_endpoint or change.before.target is None
        return Mechanism.CNI if facts.known and done else Mechanism.UNKNOWN
    if change.after.frontend:
        # Nobody has chosen an endpoint yet, and kube-proxy masquerades only what it sends to one.
        return Mechanism.CNI
    if change.before.at_endpoint and entry.place not in {change.before.place, node}:
        return Mechanism.CNI
    return _by_kube_proxy(entry, change, book, facts) or Mechanism.CNI


def _entry(change: Change, steps: Sequence[Step]) -> Step | None:
    """The last step before the change at which an endpoint had still to be chosen."""
    before = steps[: steps.index(change.after)]
    return next((step for step in reversed(before) if step.frontend), None)


def _by_kube_proxy(entry: Step, change: Change, book: AddressBook, facts: Facts) -> Mechanism | None:
    """The rule of kube-proxy that masquerades such a packet, or None where none does."""
    target, source = entry.target, book.owner(entry.addresses.src)
    assert target is not None
    endpoint = book.owner(change.after.addresses.dst)
    if source.kind is OwnerKind.POD and endpoint == source:
        return Mechanism.HAIRPIN
    if target.kind in EXTERNAL_WAYS:
        if facts.proxy_mode == "ipvs" and target.kind is TargetKind.EXTERNAL_IP:
            return Mechanism.IPVS_EXTERNAL_IP
        if target.service.external_policy is Policy.CLUSTER:
            return Mechanism.POLICY_CLUSTER
        if source.kind in {OwnerKind.NODE, OwnerKind.LOOPBACK}:
            return Mechanism.NODE_LOCAL
        return Mechanism.MASQUERADE_ALL if facts.masquerade_all else None
    if facts.masquerade_all:
        return Mechanism.MASQUERADE_ALL
    if source.kind in {OwnerKind.NODE, OwnerKind.LOOPBACK}:
        return Mechanism.NODE_LOCAL
    return Mechanism.CLUSTER_CIDR if _off_cluster(entry, source, facts) else None


def _off_cluster(entry: Step, owner: Owner, facts: Facts) -> bool:
    """Whether kube-proxy masquerades what comes from there to a cluster IP, as traffic from outside the cluster.

    It does not where it tells no pods apart. By a bridge or by the names of interfaces it knows the pods of its own
    node, whose addresses are the node's.
    """
    address = ip_address(text(entry.addresses.src))
    detection = facts.local_detection
    if detection.mode and told_apart(facts, entry.place, address.version) is False:
        return False
    if detection.mode in {"ClusterCIDR", "NodeCIDR"}:
        found = origin(Caller(entry.place, entry.addresses.src, owner), facts)
        if found is not Origin.UNKNOWN:
            return found is Origin.OUTSIDE
    return not any(address in network for network in _pod_networks(entry.place, facts))


def _pod_networks(node: str, facts: Facts) -> list[IPv4Network | IPv6Network]:
    """The ranges of pods' addresses that kube-proxy on a node is likely to take for local."""
    own = tuple(cidr for each in facts.nodes if each.name == node for cidr in each.pod_cidrs)
    every = tuple(cidr for each in facts.nodes for cidr in each.pod_cidrs)
    found = []
    for cidr in (facts.local_detection.mode and own) or facts.cluster_cidrs or every:
        try:
            found.append(ip_network(cidr, strict=False))
        except ValueError:
            continue
    return found
