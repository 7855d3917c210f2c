"""Legs that are really several connections with one sequence number.

Two clients can choose the same initial sequence number, and without TCP timestamps nothing in the handshake
tells them apart. They betray themselves where two different sources ask the same tap for the same destination.
What can be told apart by the kernel's NAT records or by an unchanged source is; the rest is left out of both, and
both are marked, so that no verdict is built on a mixture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.engine.legs import FourTuple, Leg, Sighting
from daemonset.observation import Tap, TapKind


@dataclass(frozen=True, slots=True)
class Separated:
    """A leg, and whether some of its packets could not be told from another leg's."""

    leg: Leg
    mixed: bool = False


def separate(leg: Leg, taps: Sequence[Tap]) -> list[Separated]:
    """One or more legs out of one."""
    origins = _rival_origins(leg, taps)
    if len(origins) < 2:
        return [Separated(leg)]
    parts: dict[FourTuple, list[Sighting]] = {origin: [] for origin in origins}
    leftover = False
    for sighting in leg.sightings:
        owners = [origin for origin in origins if _belongs(sighting.addresses, origin, leg)]
        if len(owners) == 1:
            parts[owners[0]].append(sighting)
        else:
            leftover = True
    return [Separated(_part(leg, origin, parts[origin]), leftover) for origin in origins]


def _rival_origins(leg: Leg, taps: Sequence[Tap]) -> list[FourTuple]:
    """Tuples of different sources for one destination at one tap, or at taps of different clients."""
    groups: dict[tuple[object, int, int], dict[FourTuple, None]] = defaultdict(dict)
    for sighting in leg.sightings:
        tap = taps[sighting.tap]
        where: object = "clients" if tap.kind is TapKind.CLIENT else sighting.tap
        groups[where, sighting.addresses.dst, sighting.addresses.dport].setdefault(sighting.addresses)
    rivals = [list(group) for group in groups.values() if len(group) > 1]
    if not rivals:
        return []
    translated = {record.translated for record in leg.nat}
    translations = {(record.original, record.translated) for record in leg.nat}
    first = max(rivals, key=len)
    # A source translated towards the very same destination (SNAT alone) is one connection, not two.
    explained = {b for a in first for b in first if (a, b) in translations}
    return [origin for origin in first if origin not in explained and origin not in translated]


def _belongs(candidate: FourTuple, origin: FourTuple, leg: Leg) -> bool:
    if candidate == origin or (candidate.src, candidate.sport) == (origin.src, origin.sport):
        return True
    return any(record.original == origin and record.translated == candidate for record in leg.nat)


def _part(leg: Leg, origin: FourTuple, sightings: list[Sighting]) -> Leg:
    tuples = {sighting.addresses for sighting in sightings}
    return Leg(
        number=leg.number,
        protocol=leg.protocol,
        isn=leg.isn,
        start=min(sighting.seen for sighting in sightings) if sightings else leg.start,
        sightings=sightings,
        nat=[record for record in leg.nat if record.original == origin or record.translated in tuples],
        answered=any(sighting.replied for sighting in sightings),
    )
