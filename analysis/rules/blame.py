"""What the kernel's own account of its rules changes in a judgement: who replaced a source, and who dropped a packet.

Where it contradicts what facts and addresses suggest, the rule wins. It never changes a verdict, which rests on what
became of packets and not on why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis.chain.trips import Connection, Trip
from analysis.facts import Policy
from analysis.hops.addresses import endpoint
from analysis.judging.blame import Blame, Mechanism
from analysis.report import RuleSaid
from analysis.rules.hits import Met, RuleBook
from analysis.rules.words import (
    Cause,
    Refusal,
    by_kube_proxy,
    cause,
    marked_by,
    owner,
    plugin,
    refusal,
    words,
)

_BY_CAUSE = {
    Cause.POLICY_CLUSTER: Mechanism.POLICY_CLUSTER,
    Cause.NODE_LOCAL: Mechanism.NODE_LOCAL,
    Cause.MASQUERADE_ALL: Mechanism.MASQUERADE_ALL,
    Cause.CLUSTER_CIDR: Mechanism.CLUSTER_CIDR,
    Cause.HAIRPIN: Mechanism.HAIRPIN,
    Cause.EXTERNAL_IP: Mechanism.IPVS_EXTERNAL_IP,
}
_OUTSIDE_KUBE_PROXY = frozenset({Mechanism.BALANCER, Mechanism.SERVICE_LB})
_DROPPED = {
    Refusal.NO_LOCAL_ENDPOINT: "SIP201",
    Refusal.NO_ENDPOINT: "SIP202",
    Refusal.SOURCE_RANGE: "SIP205",
    Refusal.OTHER: "SIP422",
}

_MOST_SAID = 24  # rules that are told of one journey


def by_rule(entry: Blame, trip: Trip, book: RuleBook) -> Blame:
    """The same replacement with the rule that made it, where the kernel named one on that place."""
    before, after = entry.change.before, entry.change.after
    places = {entry.node, after.place, before.place} - {None}
    source = endpoint(before.addresses.src, before.addresses.sport)
    for met in book.met(trip.leg):
        if met.does == "snat" and met.node in places and met.hit.source == source:
            marking = marked_by(met) if by_kube_proxy(met) else None
            rule = met.text + (f"; marked by {marking.text}" if marking is not None else "")
            return replace(entry, mechanism=_mechanism(entry.mechanism, met, marking), rule=rule)
    return entry


def _mechanism(guessed: Mechanism, met: Met, marking: Met | None) -> Mechanism:
    """The mechanism that a rule belongs to."""
    if met.hit.namespace or guessed in _OUTSIDE_KUBE_PROXY:
        return guessed  # inside a pod, or before the cluster: whose it is, addresses tell better than names
    if by_kube_proxy(met):
        why = cause(marking) if marking is not None else None
        return _BY_CAUSE[why] if why is not None else guessed
    return Mechanism.CNI if plugin(met) is not None else Mechanism.HOST


def outdated(blames: Sequence[Blame], trip: Trip) -> bool:
    """Whether a rule marked for policy Cluster what the Service's objects say is of policy Local."""
    target = trip.target
    local = target is not None and target.service.external_policy is Policy.LOCAL
    return local and any(entry.rule and entry.mechanism is Mechanism.POLICY_CLUSTER for entry in blames)


def ends_at(trip: Trip, book: RuleBook) -> Met | None:
    """The rule that let the connection go no further; None where none did, or where it was answered after all."""
    if trip.leg.answered:
        return None
    met = book.met(trip.leg)
    last: dict[tuple[str, str], Met] = {}  # on each place, what became of the packet that was traced last
    for each in met:
        before = last.get((each.node, each.hit.namespace))
        if before is None or each.hit.packet == before.hit.packet or each.hit.time > before.hit.time:
            last[each.node, each.hit.namespace] = each
    return next((each for each in last.values() if each.does in {"drop", "reject"}), None)


def dropped_code(met: Met) -> str:
    """The finding of a rule that drops or rejects."""
    return _DROPPED[refusal(met)] if by_kube_proxy(met) else "SIP422"


def told(connection: Connection, book: RuleBook) -> tuple[RuleSaid, ...]:
    """What rules did to a journey's packets, for the report: each rule once, in the order in which it was met."""
    said: dict[RuleSaid, None] = {}
    for trip in (*(link.trip for link in connection.chain), connection.trip):
        for met in book.met(trip.leg):
            marks = marked_by(met) if met.does == "snat" else None
            for each in (marks, met):
                if each is not None and (each.does or each is marks) and len(said) < _MOST_SAID:
                    did = each.does or "mark"
                    said.setdefault(_said(each, did))
        for met in book.possible(trip.leg):
            if met.does and len(said) < _MOST_SAID:
                said.setdefault(_said(met, met.does))
    return tuple(said)


def _said(met: Met, did: str) -> RuleSaid:
    evidence = "trace" if met.counted is None else "counters" if met.sure else "consistent"
    return RuleSaid(met.node, did, met.text, words(met), owner(met), met.hit.namespace or None, evidence)
