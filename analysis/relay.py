"""Ties between the connections on both sides of a balancer or proxy that makes connections of its own.

Strongest evidence first, and the report says which it was: a PROXY header names the 4-tuple of the leg before; the
same TLS ClientHello or the same token or request id stands on both sides; X-Forwarded-For holds what came in and the
address that it came from; and last, the order of events by the proxy's own clock, where it leaves no choice. Where
more than one leg could be the one before, none is taken. Of a sample not all legs are there, so that nothing is "the
only one": then only numbers and tokens count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from analysis.addresses import AddressBook, OwnerKind, endpoint
from analysis.claims import address_in
from analysis.strangers import PASSING, Strangers
from analysis.trips import PROXY_PAYLOADS, Link, Request, Trip
from daemonset.observation import Tap, TapKind

RELAY_WINDOW = PASSING  # ns within which a proxy is taken to pass on a client's first bytes

#: ns for which a client is taken to wait, where the end of its connection was not seen.
PATIENCE = 60_000_000_000

BY_HEADER = "PROXY header"
BY_HELLO = "the same TLS ClientHello"
BY_TOKEN = "the probe's token"  # noqa: S105 - words for people
BY_REQUEST_ID = "the same request id"
BY_FORWARDED = "X-Forwarded-For"
BY_ORDER = "the same first bytes, the only ones in time at the balancer"
BY_LINE = "the same request line, the only one in time at the balancer"
BY_CONNECTION = "the order of connections at the balancer"


@dataclass(frozen=True, slots=True)
class Tie:
    """One back leg, or some of its requests, carry on a front leg. `requests` None: all of them."""

    front: Trip
    by: str
    requests: frozenset[int] | None = None


class Relay:
    """Finds, for legs that a proxy opened, the legs that they carry on."""

    def __init__(
        self,
        fronts: Sequence[Trip],
        backs: Sequence[Trip],
        taps: Sequence[Tap],
        strangers: Strangers,
        *,
        sampled: bool = False,
    ) -> None:
        self._sampled = sampled
        self._fronts = fronts
        self._strangers = strangers
        self._listeners = frozenset(
            (last.dst, last.dport) for front in fronts for last in [front.steps[-1].addresses]
        )
        self._backs = backs
        self._clock = frozenset(number for number, tap in enumerate(taps) if tap.kind is TapKind.LB)
        self._ties: dict[int, list[Tie]] = defaultdict(list)
        self._by_leg(backs)
        loose = [trip for trip in backs if id(trip) not in self._ties]
        self._by_requests(loose)
        loose = [trip for trip in loose if id(trip) not in self._ties and trip.header is None]
        if not sampled:
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
        taken: set[tuple[int, int]] = set()
        passing = self._passing_on(backs)
        unread: dict[int, list[Trip]] = defaultdict(list)
        for front in self._fronts:
            if front.hello is not None:
                unread[front.steps[-1].addresses.src].append(front)
        found: dict[int, dict[int, tuple[Trip, str, set[int]]]] = defaultdict(dict)
        asked = [(back, request) for back in backs for request in back.requests]
        for back, request in sorted(asked, key=lambda entry: entry[1].said.at(self._clock) or 0):
            tie = _only(tokens.get(request.claims.token or ""), back, BY_TOKEN) or _only(
                identities.get(request.claims.request_id or ""), back, BY_REQUEST_ID
            )
            if tie is None and not self._sampled and back.header is None and back.source not in passing:
                tie = self._by_forwarded(back, request, forwarded, taken) or self._by_client(request, unread)
            if tie is not None:
                found[id(back)].setdefault(id(tie.front), (tie.front, tie.by, set()))[2].add(request.index)
        for back in backs:
            for front, by, numbers in found[id(back)].values():
                everything = len(numbers) == len(back.requests)
                self._ties[id(back)].append(Tie(front, by, None if everything else frozenset(numbers)))

    def _passing_on(self, backs: Sequence[Trip]) -> frozenset[int]:
        """Addresses of proxies that pass bytes on as they came, and so never append to a field."""
        came = {_digest(front) for front in self._fronts} - {0}
        return frozenset(back.source for back in backs if _digest(back) in came)

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

    def _by_forwarded(
        self,
        back: Trip,
        request: Request,
        index: dict[object, list[tuple[Trip, Request]]],
        taken: set[tuple[int, int]],
    ) -> Tie | None:
        """The request that a proxy which appends to X-Forwarded-For carried on.

        All candidates are of one client address; of several of its connections that wait at once the one counts
        whose request and answer lie closest around.
        """
        if not request.claims.chain:
            return None
        *before, last = request.claims.chain
        candidates = index.get((request.line, tuple(before), address_in(last)), [])
        candidates = [(front, asked) for front, asked in candidates if (id(front), asked.index) not in taken]
        around = [(self._around(back, request, front, asked), front, asked) for front, asked in candidates]
        close = sorted((gap, number) for number, (gap, _, _) in enumerate(around) if gap is not None)
        if close:
            _, front, asked = around[close[0][1]]
        elif len({id(front) for front, _ in candidates}) == 1 and request.said.at(self._clock) is None:
            front, asked = candidates[0]
        else:
            return None
        now, client = request.said.at(self._clock), front.steps[-1].addresses.src
        if now is not None and self._strangers.ask_from(client, now, self._clock):
            return None  # the same client asked by a connection of which the beginning was not seen
        taken.add((id(front), asked.index))
        return Tie(front, BY_FORWARDED)

    def _by_client(self, request: Request, unread: dict[int, list[Trip]]) -> Tie | None:
        """The only encrypted connection of the client that the proxy names which was open at the time."""
        named = address_in(request.claims.chain[-1]) if request.claims.chain else None
        now = request.said.at(self._clock)
        if named is None or now is None:
            return None
        clients = [front for front in unread.get(named, ()) if self._open_at(front, now)]
        if self._strangers.ask_from(named, now, self._clock):
            return None
        return Tie(clients[0], BY_FORWARDED) if len(clients) == 1 else None

    def _open_at(self, trip: Trip, now: int, patience: int = RELAY_WINDOW) -> bool:
        begun = self._first_at(trip)
        ended = [end.time for end in trip.leg.stream.ends if end.tap in self._clock]
        return begun is not None and begun <= now <= min(ended, default=begun + patience)

    def _around(self, back: Trip, request: Request, front: Trip, asked: Request) -> int | None:
        """By how many ns the one exchange encloses the other, by the proxy's clock; None where it does not."""
        came, went = asked.said.at(self._clock), request.said.at(self._clock)
        if came is None or went is None or not came <= went <= came + RELAY_WINDOW:
            return None
        answered, returned = self._answer(back, request), self._answer(front, asked)
        if returned is None:
            return went - came
        if returned < went or (answered is not None and returned < answered):
            return None
        return went - came + (returned - answered if answered is not None else 0)

    def _answer(self, trip: Trip, request: Request) -> int | None:
        answers = trip.leg.stream.answers
        return answers[request.index].at(self._clock) if request.index < len(answers) else None

    def _by_order(self, backs: Sequence[Trip]) -> None:
        """Ties where the order of events at the proxy alone decides: equal bytes, else equal request lines."""
        self._order(self._legs(self._fronts, True) + self._legs(backs, False), BY_ORDER)
        digests = {_digest(front) for front in self._fronts}
        other = [back for back in backs if id(back) not in self._ties and _digest(back) not in digests]
        self._order(self._lines(self._fronts, True) + self._lines(other, False), BY_LINE)

        # What is left begins with a header that cannot be read: one connection comes in, one goes out.
        used = {id(tie.front) for ties in self._ties.values() for tie in ties}
        unread = [back for back in backs if id(back) not in self._ties and _begins_header(back)]
        fronts = [front for front in self._fronts if id(front) not in used]
        events = self._legs(fronts, True) + self._legs(unread, False)
        self._order([replace(event, key=None) for event in events], BY_CONNECTION)

        self._attempts([back for back in backs if id(back) not in self._ties and _in_vain(back)])

    def _attempts(self, backs: Sequence[Trip]) -> None:
        """Connections that nobody answered: of the only client whose own connection was open and waiting."""
        carried: dict[int, int] = {}  # when a front leg was first carried on, by its id
        for back in self._backs:
            begun = self._first_at(back) or 0
            for tie in self.ties(back):
                carried[id(tie.front)] = min(begun, carried.get(id(tie.front), begun))
        for back in backs:
            now = self._first_at(back)
            if now is None:
                continue
            waiting = [
                front
                for front in self._fronts
                if self._open_at(front, now, PATIENCE) and now <= carried.get(id(front), now)
            ]
            if len(waiting) == 1 and not self._unknown(now):
                self._ties[id(back)].append(Tie(waiting[0], BY_CONNECTION))

    def _unknown(self, now: int) -> bool:
        """Whether a client of which the beginning was not seen may wait at the proxy."""
        return self._strangers.ask(self._listeners, now, self._clock)

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
            for back, front in _certain(
                sorted(group, key=lambda event: (event.time, not event.incoming)), self._unknown
            ):
                numbers = frozenset({back.request}) if back.request is not None else None
                if len(back.trip.requests) <= 1:
                    numbers = None
                if not _fits(front.trip, back.trip, numbers):
                    continue
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


def _in_vain(trip: Trip) -> bool:
    """Whether nobody answered, so that nothing was said on it."""
    return not trip.leg.answered and trip.leg.first_bytes is None


def _fits(front: Trip, back: Trip, numbers: frozenset[int] | None) -> bool:
    """Whether what the requests say of where they came from does not contradict that they came by `front`."""
    came = {request.claims.chain for request in front.requests}
    peer = front.steps[-1].addresses.src
    return all(
        not request.claims.chain
        or request.claims.chain in came
        or address_in(request.claims.chain[-1]) == peer
        for request in back.requests
        if numbers is None or request.index in numbers
    )


def _begins_header(trip: Trip) -> bool:
    return trip.leg.first_bytes is not None and trip.leg.first_bytes.payload in PROXY_PAYLOADS


def _only(trips: Sequence[Trip] | None, back: Trip, by: str) -> Tie | None:
    others = [trip for trip in trips or () if trip is not back]
    return Tie(others[0], by) if len(others) == 1 else None


def _certain(events: Sequence[_Event], unknown: Callable[[int], bool]) -> Iterable[tuple[_Event, _Event]]:
    """(outgoing, incoming) where exactly one that came in waits.

    While several wait nobody knows which of them goes out, nor which are left; that lasts until none is. Where
    somebody unknown may wait at that time, whoever is known may go on waiting.
    """
    waiting: list[_Event] = []
    certain = True
    for event in events:
        waiting = [other for other in waiting if event.time - other.time <= RELAY_WINDOW]
        certain = certain or not waiting
        if event.incoming:
            waiting.append(event)
            continue
        if unknown(event.time):
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
