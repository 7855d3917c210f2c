"""Where a connection went another way than the Service's own configuration calls for: both are named, side by side.

Only what was seen for certain is held against an expectation. The expectation rests on objects, which may have been
other ones at the time of the packets, so a difference is never more than a warning and decides no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.chain.trips import Connection
from analysis.facts import Facts, Policy
from analysis.hops.addresses import OwnerKind, endpoint
from analysis.judging.blame import Blame, Mechanism
from analysis.judging.corroboration import Support
from analysis.judging.expectation import EXTERNAL_WAYS, Expected, Source, source_expected
from analysis.judging.knowledge import entry_step, expectation
from analysis.judging.verdict import Known, Named
from daemonset.observation import TapKind

#: What a server does that knows its balancer by its address, and meets another.
_BY_PEER = frozenset({"SIP502", "SIP503"})


def differences(
    connection: Connection, known: Known, blames: Sequence[Blame], codes: Sequence[str], facts: Facts
) -> tuple[list[str], tuple[Support, ...]]:
    """Codes of differences that no other finding tells, and a line for each difference; none without facts."""
    if not facts.known:
        return [], ()
    found = [each for each in (_forwarded(connection, known, facts), _masked(known, blames, codes)) if each]
    told = [*found, *_source(connection, blames, codes, facts)]
    return [each.code for each in found], tuple(told)


def _forwarded(connection: Connection, known: Known, facts: Facts) -> Support | None:
    """Forwarded by a node that should have dropped it. The way in has to have been seen from outside, at its NIC."""
    trip = connection.trip
    entry = entry_step(trip.steps)
    if entry is None or entry.target is None or entry.kind is not TapKind.NIC or not trip.leg.answered:
        return None
    if connection.owner.kind is not OwnerKind.EXTERNAL or entry.target.kind not in EXTERNAL_WAYS:
        return None
    expected = expectation(connection, entry, facts)
    reached = trip.reached
    if expected is not Expected.DROP_NO_LOCAL_ENDPOINT or not known.forwarded or reached is None:
        return None
    where = endpoint(reached.addresses.dst, reached.addresses.dport)
    return Support(
        "SIP432", f"expected at {entry.place}: {expected}; observed: forwarded to {where} and answered"
    )


def _masked(known: Known, blames: Sequence[Blame], codes: Sequence[str]) -> Support | None:
    """kube-proxy replaced the balancer's address, by which the server behind would have known the balancer."""
    if not (known.proxied and known.replaced and known.named is Named.OTHER and _BY_PEER & set(codes)):
        return None
    for entry in blames:
        if entry.mechanism in {Mechanism.POLICY_CLUSTER, Mechanism.MASQUERADE_ALL}:
            came, became = entry.change.before.addresses, entry.change.after.addresses
            return Support(
                "SIP431",
                f"{endpoint(came.src, came.sport)}, the balancer's, became {endpoint(became.src, became.sport)} at "
                f"{entry.node}: {entry.mechanism}",
            )
    return None


def _source(
    connection: Connection, blames: Sequence[Blame], codes: Sequence[str], facts: Facts
) -> list[Support]:
    """What was to become of the source, where what became of it is a finding of its own."""
    entry = entry_step(connection.trip.steps)
    if entry is None or entry.target is None or entry.target.kind not in EXTERNAL_WAYS:
        return []
    if connection.owner.kind not in {OwnerKind.EXTERNAL, OwnerKind.BALANCER}:
        return []
    policy = entry.target.service.external_policy
    expected = source_expected(entry.target.service, facts)
    found: list[Support] = []
    if expected is Source.KEPT:
        found += [
            Support(
                code, f"expected at {entry.place}: {expected} (policy {policy}); observed: {each.mechanism}"
            )
            for each in blames
            for code in codes
            if (each.mechanism, code) in {(Mechanism.CNI, "SIP102"), (Mechanism.UNKNOWN, "SIP111")}
        ]
    elif policy is Policy.CLUSTER and expected is Source.MASQUERADED and "SIP403" in codes:
        found.append(
            Support("SIP403", f"expected at {entry.place}: {expected} (policy {policy}); observed: kept")
        )
    return found
