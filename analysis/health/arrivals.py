"""Connections as health checks see them: at which node they arrived, when, and whether a byte came back.

Where a balancer makes connections of its own, one lost client may be several attempts in vain, from other source
ports each. So clients are counted at the balancer's front and attempts at the nodes, and never one for the other.
"""

from __future__ import annotations

import enum
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.chain.journeys import Selection
from analysis.chain.trips import Trip
from analysis.engine.legs import Leg
from analysis.hops.addresses import AddressBook, OwnerKind
from daemonset.observation import Tap, TapKind

SECOND = 1_000_000_000

#: A SYN is repeated after 1 s (RFC 6298 §2). One that nobody answered so shortly before the end may still be.
PATIENCE = SECOND

_MOST_BYTES = 1 << 31  # an offset beyond is no count of bytes but a sequence number of another connection


_STATUS_LINE = re.compile(r"HTTP/\S* ([0-9]{3})(?: |$)")


class Outcome(enum.StrEnum):
    """What became of one connection."""

    SERVED = "served"
    UNANSWERED = "unanswered"
    REFUSED = "refused"
    CLOSED = "closed"  # accepted, and ended without a byte of an answer
    ERROR = "error"  # answered by the balancer, which found no server
    BARE = "bare"  # the client said nothing either
    OPEN = "open"  # not ended when the capture ended

    @property
    def failed(self) -> bool:
        """Whether a client got nothing."""
        return self in {Outcome.UNANSWERED, Outcome.REFUSED, Outcome.CLOSED, Outcome.ERROR}


@dataclass(frozen=True, slots=True)
class Arrival:
    """One connection into the Service at the node where it came in. Times in ns."""

    node: str
    time: int
    trip: Trip
    outcome: Outcome
    front: Trip | None  # the connection of the client that it carries on, where that is known


@dataclass(slots=True)
class Client:
    """One connection of a client, at the balancer's front or, where nothing stands before them, at a node."""

    start: int
    end: int
    outcome: Outcome
    node: str | None  # where it was sent; None where that is not certain


def outcome_of(leg: Leg, finished: int) -> Outcome:
    """What became of a TCP leg in a capture that ended at `finished`, ns."""
    ends = [end for end in leg.stream.ends if 0 <= end.offset < _MOST_BYTES]
    if leg.stream.answers or leg.response is not None or any(not end.client and end.offset for end in ends):
        return Outcome.SERVED
    spoke = leg.first_bytes is not None or bool(leg.stream.requests)
    spoke = spoke or any(end.client and end.offset for end in ends)
    if leg.refusals and not leg.answered:
        return Outcome.REFUSED
    if not leg.answered:
        repeated = any(sighting.syns > 1 for sighting in leg.sightings)
        return Outcome.UNANSWERED if repeated or finished - leg.start > PATIENCE else Outcome.OPEN
    if not ends and not leg.refusals:
        return Outcome.OPEN
    return Outcome.CLOSED if spoke else Outcome.BARE


@dataclass(frozen=True, slots=True)
class Clock:
    """One clock for all: the balancer's own where it was watched, else that of the node."""

    taps: frozenset[int]  # at load balancers

    @classmethod
    def of(cls, taps: Sequence[Tap]) -> Clock:
        """The clock of a recording."""
        return cls(frozenset(number for number, tap in enumerate(taps) if tap.kind is TapKind.LB))

    def start(self, trip: Trip, node: str | None = None) -> int:
        """When the leg was first seen, ns: at the balancer, else at `node`, else anywhere."""
        seen = [sighting.seen for sighting in trip.leg.sightings if sighting.tap in self.taps]
        if not seen and node is not None:
            seen = [step.time for step in trip.steps if step.place == node]
        return min(seen, default=trip.leg.start)

    def end(self, trip: Trip) -> int | None:
        """When either side first ended it, ns, at the balancer's taps or else at any."""
        times = [end.time for end in trip.leg.stream.ends if end.tap in self.taps]
        return min(times or [end.time for end in trip.leg.stream.ends], default=None)


class Arrivals:
    """All connections of the Service's clients in a recording."""

    def __init__(self, selection: Selection, taps: Sequence[Tap], book: AddressBook, finished: int) -> None:
        self._book = book
        self._finished = finished
        self.clock = Clock.of(taps)
        self.at_nodes = sorted(self._at_nodes(selection), key=lambda each: each.time)
        self.fronts = self._fronts(selection)
        self.clients = sorted(self._clients(), key=lambda each: each.start)

    @property
    def behind_balancer(self) -> bool:
        """Whether connections at nodes are a balancer's own, so that one of them need not be a client's."""
        return any(self._by_balancer(each.trip) for each in self.at_nodes)

    def _by_balancer(self, trip: Trip) -> bool:
        return self._book.owner(trip.source).kind is OwnerKind.BALANCER or self._book.suspected(trip.source)

    def _at_nodes(self, selection: Selection) -> Iterable[Arrival]:
        known: set[int] = set()
        for connection in selection.connections:
            front = connection.chain[-1].trip if connection.chain else None
            for trip in (connection.trip, *connection.attempts):
                kind = self._book.owner(trip.source).kind
                node = entry_node(trip, self._book)
                if id(trip) in known or node is None or trip.leg.protocol != 6:
                    continue
                known.add(id(trip))
                if kind in {OwnerKind.EXTERNAL, OwnerKind.BALANCER}:
                    time = self.clock.start(trip, node)
                    yield Arrival(node, time, trip, outcome_of(trip.leg, self._finished), front)

    def _fronts(self, selection: Selection) -> list[Trip]:
        """Connections of clients into the balancer, at the ports that lead to the Service."""
        found = [
            trip
            for trip in selection.trips
            if trip.target is None
            and trip.leg.protocol == 6
            and self._book.owner(trip.steps[-1].addresses.dst).kind is OwnerKind.BALANCER
            and not self._by_balancer(trip)
        ]
        carried = {each.front.steps[-1].addresses.dport for each in self.at_nodes if each.front is not None}
        return [trip for trip in found if not carried or trip.steps[-1].addresses.dport in carried]

    def _clients(self) -> Iterable[Client]:
        if not self.fronts:
            if not self.behind_balancer:
                for each in self.at_nodes:
                    yield Client(each.time, self.clock.end(each.trip) or each.time, each.outcome, each.node)
            return
        carried: dict[int, list[Arrival]] = defaultdict(list)
        for each in self.at_nodes:
            if each.front is not None:
                carried[id(each.front)].append(each)
        vain = [each for each in self.at_nodes if each.front is None and each.outcome.failed]
        for front in self.fronts:
            start = self.clock.start(front)
            end = self.clock.end(front) or self._finished
            backs = carried[id(front)]
            outcome = self._front_outcome(front, backs)
            nodes = {each.node for each in backs if each.outcome is outcome} or {each.node for each in backs}
            if not nodes and outcome.failed:
                # Attempts in vain carry nothing by which they could be tied. Where all of that time went to one
                # node, so did this client's.
                nodes = {each.node for each in vain if start <= each.time <= end}
            yield Client(start, end, outcome, nodes.pop() if len(nodes) == 1 else None)

    def _front_outcome(self, front: Trip, backs: Sequence[Arrival]) -> Outcome:
        outcome = outcome_of(front.leg, self._finished)
        if outcome is not Outcome.SERVED or any(each.outcome is Outcome.SERVED for each in backs):
            return outcome
        first = front.leg.stream.answers[0].head if front.leg.stream.answers else None
        status = status_of(first.http.start) if first is not None and first.http is not None else None
        if status not in {502, 503, 504}:
            return outcome
        # Where a connection that could be this client's was served, the application itself may have said so.
        return Outcome.OPEN if not backs and self._untied_at(front) else Outcome.ERROR

    def _untied_at(self, front: Trip) -> bool:
        start, end = self.clock.start(front), self.clock.end(front) or self._finished
        return any(
            each.front is None
            and each.outcome is Outcome.SERVED
            and each.time <= end
            and (self.clock.end(each.trip) or end) >= start
            for each in self.at_nodes
        )


def status_of(start: str) -> int | None:
    """The status of an HTTP/1 status line."""
    found = _STATUS_LINE.match(start)
    return int(found[1]) if found else None


def entry_node(trip: Trip, book: AddressBook) -> str | None:
    """The node that a connection into a Service was sent to: the first that saw it ask for an endpoint."""
    for step in trip.steps:
        if step.frontend:
            if book.is_node(step.place):
                return step.place
            owner = book.owner(step.addresses.dst)
            if owner.kind is OwnerKind.NODE:
                return owner.node
    return None
