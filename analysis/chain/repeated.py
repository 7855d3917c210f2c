"""Requests that a watched balancer makes in its own name, again and again: its health checks at the node port."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from analysis.chain.trips import Trip
from analysis.hops.addresses import AddressBook, OwnerKind
from daemonset.observation import TapKind

#: How often a request must come again before it can be taken for a check, and how far gaps may differ from the middle.
_REPEATED = 4
_STEADY = 0.5
_MOSTLY = 0.8  # of the gaps: a busy balancer is late now and then


def repeated_requests(candidates: Sequence[Trip], fronts: Sequence[Trip], book: AddressBook) -> set[int]:
    """Ids of legs that are a watched balancer's own requests to a node port, made again and again in steady time.

    No client's connection at the balancer holds such a request, and each connection carries that one alone.
    """
    if not fronts or any(front.unreadable for front in fronts):
        return set()
    lines = {request.line for front in fronts for request in front.requests}
    groups: dict[tuple[int, int, tuple[str, ...]], list[Trip]] = defaultdict(list)
    for trip in candidates:
        watched = any(step.kind is TapKind.LB for step in trip.steps)
        if not watched or book.owner(trip.source).kind is not OwnerKind.BALANCER or len(trip.requests) != 1:
            continue
        if trip.header is not None or trip.requests[0].line in lines or trip.requests[0].claims:
            continue
        first = trip.steps[0].addresses
        groups[first.src, first.dst, trip.requests[0].line].append(trip)
    return {id(trip) for group in groups.values() if _steady(group) for trip in group}


def _steady(group: Sequence[Trip]) -> bool:
    times = sorted(trip.leg.start for trip in group)
    gaps = [b - a for a, b in pairwise(times)]
    if len(times) < _REPEATED:
        return False
    middle = median(gaps)
    return sum(abs(gap - middle) <= _STEADY * middle for gap in gaps) >= _MOSTLY * len(gaps)
