"""Ties between the connections on both sides of a balancer or proxy that makes connections of its own.

Strongest evidence first, and the report says which it was: a PROXY header names the 4-tuple of the leg before; the
same TLS ClientHello or the same token or request id stands on both sides; X-Forwarded-For holds what came in and the
address that it came from; and last, the order of events by the proxy's own clock, where it leaves no choice. Where
more than one leg could be the one before, none is taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from analysis.addresses import AddressBook, OwnerKind, endpoint
from analysis.claims import address_in
from analysis.trips import Link, Request, Trip
from daemonset.observation import Tap, TapKind

RELAY_WINDOW = 5_000_000_000  # ns within which a proxy is taken to pass on a client's first bytes

BY_HEADER = "PROXY header"
BY_HELLO = "the same TLS ClientHello"
BY_TOKEN = "the probe's token"  # noqa: S105 - words for people
BY_REQUEST_ID = "the same request id"
BY_FORWARDED = "X-Forwarded-For"
BY_ORDER = "same first bytes, the only one in time at the balancer"
BY_LINE = "same request line, the only one in time at the balancer"


@dataclass(frozen=True, slots=True)
class Tie:
    """One back leg, or some of its requests, carry on a front leg. `requests` None: all of them."""

    front: Trip
    by: str
    requests: frozenset[int] | None = None


class Relay:
    """Finds, for legs that a proxy opened, the legs that they carry on."""

    def __init__(self, fronts: Sequence[Trip], backs: Sequence[Trip], taps: Sequence[Tap]) -> None:
        self._fronts = fronts
        self._clock = frozenset(number for number, tap in enumerate(taps) if tap.kind is TapKind.LB)
        self._ties: dict[int, list[Tie]] = defaultdict(list)
        self._by_leg(backs)
        loose = [trip for trip in backs if id(trip) not in self._ties]
        self._by_requests(loose)
        loose = [trip for trip in loose if id(trip) not in self._ties and trip.header is None]
        self._by_order(loose)

    def ties(self, back: Trip) -> Sequence[Tie]:
        """The legs that this one carries on; empty where that is not known."""
        return self._ties.get(id(back), ())

    def _by_leg(self, backs: Sequence[Trip]) -> None:
        # The header names the client as the balancer saw it, after whatever was done to it before.
        by_client: dict[str, list[Trip]] = defaultdict(list)
        by_hello: dict[bytes, list[Trip]] = defaultdict(list)
        for front in self._fronts:
            last = front.steps[-1].addresses
            by_client[endpoint(last.src, last.sport)].append(front)
            if front.hello is not None:
                by_hello[front.hello].append(front)
        for back in backs:
            named = back.header.source if back.header is not None else None
            before = self._nearest(by_client[named], back) if named is not None else None
            tie = Tie(before, BY_HEADER) if before is not None else None
            tie = tie or (_only(by_hello.get(back.hello), back, BY_HELLO) if back.hello is not None else None)
            if tie is not None:
                self._ties[id(back)].append(tie)

    def _nearest(self, fronts: Sequence[Trip], back: Trip) -> Trip | None:
        """The last of several connections of one client port that began before; clocks of one place compare."""
        others = [front for front in fronts if front is not back]
        if len(others) < 2:
            return others[0] if others else None
        start = self._first_at(back)
        if start is None:
            return None
        earlier = [(seen, front) for front in others if (seen := self._first_at(front)) and seen <= start]
        return max(earlier, key=lambda entry: entry[0])[1] if earlier else None

    def _first_at(self, trip: Trip) -> int | None:
        times = [sighting.seen for sighting in trip.leg.sightings if sighting.tap in self._clock]
        return min(times, default=None)

    def _by_requests(self, backs: Sequence[Trip]) -> None:
        tokens = self._index(lambda request: request.claims.token)
        identities = self._index(lambda request: request.claims.request_id)
        forwarded = self._forwarded_index()
        for back in backs:
            found: dict[int, tuple[Trip, str, set[int]]] = {}
            for request in back.requests:
                tie = (
                    _only(tokens.get(request.claims.token or ""), back, BY_TOKEN)
                    or _only(identities.get(request.claims.request_id or ""), back, BY_REQUEST_ID)
                    or (self._by_forwarded(request, forwarded) if back.header is None else None)
                )
                if tie is not None:
                    found.setdefault(id(tie.front), (tie.front, tie.by, set()))[2].add(request.index)
            for front, by, numbers in found.values():
                everything = len(numbers) == len(back.requests)
                self._ties[id(back)].append(Tie(front, by, None if everything else frozenset(numbers)))

    def _index(self, key: Callable[[Request], str | None]) -> dict[str, list[Trip]]:
        index: dict[str, list[Trip]] = defaultdict(list)
        for front in self._fronts:
            for name in {key(request) for request in front.requests} - {None, ""}:
                index[str(name)].append(front)
        return index

    def _forwarded_index(self) -> dict[object, list[tuple[Trip, Request]]]:
        """Requests by what a proxy that appends to X-Forwarded-For would make of them."""
        index: dict[object, list[tuple[Trip, Request]]] = defaultdict(list)
        for front in self._fronts:
            peer = front.steps[-1].addresses.src
            for request in front.requests:
                index[request.line, request.claims.chain, peer].append((front, request))
        return index

    def _by_forwarded(self, request: Request, index: dict[object, list[tuple[Trip, Request]]]) -> Tie | None:
        if not request.claims.chain:
            return None
        *before, last = request.claims.chain
        key = (request.line, tuple(before), address_in(last))
        now = request.said.at(self._clock)
        pending = [
            front for front, asked in index.get(key, ()) if now is None or self._pending(front, asked, now)
        ]
        fronts = {id(front): front for front in pending}
        return Tie(next(iter(fronts.values())), BY_FORWARDED) if len(fronts) == 1 else None

    def _pending(self, front: Trip, request: Request, now: int) -> bool:
        """Whether a request had come in and was not answered yet, by the proxy's clock."""
        asked = request.said.at(self._clock)
        if asked is None or not asked <= now <= asked + RELAY_WINDOW:
            return False
        answers = front.leg.stream.answers
        if request.index >= len(answers):
            return True
        answered = answers[request.index].at(self._clock)
        return answered is None or now <= answered

    def _by_order(self, backs: Sequence[Trip]) -> None:
        """Ties where the order of events at the proxy alone decides: equal bytes, else equal request lines."""
        self._order(self._legs(self._fronts, True) + self._legs(backs, False), BY_ORDER)
        digests = {_digest(front) for front in self._fronts}
        other = [back for back in backs if id(back) not in self._ties and _digest(back) not in digests]
        self._order(self._lines(self._fronts, True) + self._lines(other, False), BY_LINE)

    def _legs(self, trips: Sequence[Trip], incoming: bool) -> list[_Event]:
        return [
            _Event(time, incoming, trip, _digest(trip))
            for trip in trips
            if trip.leg.first_bytes is not None and (time := self._first_at(trip)) is not None
        ]

    def _lines(self, trips: Sequence[Trip], incoming: bool) -> list[_Event]:
        return [
            _Event(time, incoming, trip, request.line, request.index)
            for trip in trips
            for request in trip.requests
            if (time := request.said.at(self._clock)) is not None
        ]

    def _order(self, events: list[_Event], by: str) -> None:
        groups: dict[object, list[_Event]] = defaultdict(list)
        for event in events:
            groups[event.key].append(event)
        for group in groups.values():
            for back, front in _certain(sorted(group, key=lambda event: (event.time, not event.incoming))):
                numbers = frozenset({back.request}) if back.request is not None else None
                if len(back.trip.requests) <= 1:
                    numbers = None
                self._ties[id(back.trip)].append(Tie(front.trip, by, numbers))


@dataclass(frozen=True, slots=True)
class _Event:
    """Something met the proxy: it came in, or went out of it."""

    time: int  # ns by the proxy's clock
    incoming: bool
    trip: Trip
    key: object
    request: int | None = None


def _digest(trip: Trip) -> int:
    return trip.leg.first_bytes.digest if trip.leg.first_bytes is not None else 0


def _only(trips: Sequence[Trip] | None, back: Trip, by: str) -> Tie | None:
    others = [trip for trip in trips or () if trip is not back]
    return Tie(others[0], by) if len(others) == 1 else None


def _certain(events: Sequence[_Event]) -> Iterable[tuple[_Event, _Event]]:
    """(outgoing, incoming) where exactly one that came in waits.

    While several wait nobody knows which of them goes out, nor which are left; that lasts until none is.
    """
    waiting: list[_Event] = []
    certain = True
    for event in events:
        waiting = [other for other in waiting if event.time - other.time <= RELAY_WINDOW]
        certain = certain or not waiting
        if event.incoming:
            waiting.append(event)
            continue
        certain = certain and len(waiting) <= 1
        if waiting:
            front = waiting.pop(0)
            if certain:
                yield event, front
        certain = certain or not waiting


def chain_of(tie: Tie, relay: Relay, book: AddressBook, limit: int = 8) -> tuple[Link, ...]:
    """The legs before, the client's own first; a proxy may stand behind a proxy."""
    links = [Link(tie.front, tie.by)]
    seen = {id(tie.front)}
    while len(links) < limit and book.owner(links[0].trip.source).kind is OwnerKind.BALANCER:
        earlier = relay.ties(links[0].trip)
        if len(earlier) != 1 or id(earlier[0].front) in seen:
            break
        seen.add(id(earlier[0].front))
        links.insert(0, Link(earlier[0].front, earlier[0].by))
    return tuple(links)
