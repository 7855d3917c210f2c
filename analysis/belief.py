"""What a server told the application behind it about its client, as far as that was seen.

A server that takes a PROXY header need not use it: it has a list of peers that it believes. Its next connection, with
the same request in it, says in X-Real-IP or X-Forwarded-For whom it believes to be the client. That connection is
taken for the continuation only if it is the one and only that the server opened between request and answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from analysis.hops import Step
from analysis.journeys import Connection, Trip
from daemonset.observation import HttpHead

SLACK = 100_000  # ns by which two taps of one node may disagree about order


class Told:
    """Whom servers named to the applications behind them."""

    def __init__(self, trips: Iterable[Trip]) -> None:
        self._opened: dict[int, list[Trip]] = defaultdict(list)
        for trip in trips:
            if _request(trip) is not None:
                self._opened[trip.source].append(trip)

    def client_of(self, connection: Connection) -> str | None:
        """The address that the server named for this connection's client; None where that is not known."""
        trip = connection.trip
        reached = next((step for step in reversed(trip.steps) if step.at_endpoint), None)
        first, response = trip.leg.first_bytes, trip.leg.response
        if reached is None or first is None or response is None:
            return None
        onward = [
            other
            for other in self._opened[reached.addresses.dst]
            if other is not trip
            and first.time - SLACK <= _seen_at(other, reached) <= response.time + SLACK
            and _same_request(trip, other)
        ]
        request = _request(onward[0]) if len(onward) == 1 else None
        return _named(request) if request is not None else None


def _request(trip: Trip) -> HttpHead | None:
    first = trip.leg.first_bytes
    return first.head.http if first is not None and first.head is not None else None


def _seen_at(trip: Trip, where: Step) -> int:
    """When the leg was first seen at the place, by its clock; 0 where it was not."""
    return min((step.time for step in trip.steps if step.place == where.place), default=0)


def _same_request(trip: Trip, other: Trip) -> bool:
    mine, theirs = _request(trip), _request(other)
    if mine is None or theirs is None:
        return theirs is not None
    return mine.start.split(" ")[:2] == theirs.start.split(" ")[:2]


def _named(request: HttpHead) -> str | None:
    """X-Real-IP, else the last entry of X-Forwarded-For: what the server itself put there."""
    fields = dict(request.fields)
    value = fields.get("x-real-ip") or fields.get("x-forwarded-for", "").rpartition(",")[2]
    return value.strip().strip("[]") or None
