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

from analysis.chain.claims import address_in
from analysis.chain.forwarded import Forwarded
from analysis.chain.proxies import Proxies
from analysis.chain.strangers import PASSING, Strangers
from analysis.chain.trips import PROXY_PAYLOADS, Link, Request, Trip
from analysis.hops.addresses import AddressBook, OwnerKind, endpoint
from daemonset.observation import Tap

RELAY_WINDOW = PASSING  # ns within which a proxy is taken to pass on a client's first bytes

#: ns for which a client is taken to wait, where the end of its connection was not seen.
PATIENCE = 60_000_000_000

BY_HEADER = "PROXY header"
BY_SAME_HEADER = "the same PROXY header, which the balancer passed on"
BY_HELLO = "the same TLS ClientHello"
BY_TOKEN = "the probe's token"  # noqa: S105 - words for people
BY_REQUEST_ID = "the same request id"
BY_FORWARDED = "X-Forwarded-For"
BY_ORDER = "the same first bytes, the only ones in time at the balancer"
BY_LINE = "the same request line, the only one in time at the balancer"
BY_CONNECTION = "the order of connections at the balancer"


@dataclass(frozen=True, slots=True)
class Tie:
    """One back leg, or some of its requests, carry on a front leg. `requests` None: all of them.

    `carried` pairs indexes of the back leg's requests with those of the front leg's. `before` is what the front leg
    carries on with these requests, where a proxy stands behind a proxy.
    """

    front: Trip
    by: str
    requests: frozenset[int] | None = None
    carried: tuple[tuple[int, int], ...] = ()
    before: Tie | None = None


class Relay:
    """Finds, for legs that a proxy opened, the legs that they carry on."""

    def __init__(
        self,
        fronts: Sequence[Trip],
        backs: Sequence[Trip],
        taps: Sequence[Tap],
        book: AddressBook,
        strangers: Strangers,
        *,
        sampled: bool = False,
    ) -> None:
        self._sampled = sampled
        self._fronts = fronts
        self._strangers = strangers
        self._backs = backs
        self._proxies = Proxies(fronts, taps, book)
        self._book = book
        self._passed_on: set[int] = set()  # backs that begin with somebody else's PROXY header
        self._ties: dict[int, list[Tie]] = defaultdict(list)
        self._split: dict[int, tuple[Tie, ...]] = {}
        self._by_leg(backs)
        loose = [trip for trip in backs if id(trip) not in self._ties]
        self._by_requests(loose)
        loose = [trip for trip in loose if id(trip) not in self._ties]
        if not sampled:
            self._by_order([trip for trip in loose if trip.header is None or id(trip) in self._passed_on])
        self._doubt_headers()

    def ties(self, back: Trip) -> Sequence[Tie]:
        """The legs that this one carries on, one tie for each way by which they came; empty where that is not known."""
        if id(back) not in self._split:
            self._split[id(back)] = ()  # a leg that would come to carry on itself carries on nothing
            ties = self._ties.get(id(back), ())
            self._split[id(back)] = tuple(part for tie in ties for part in self._parted(tie, back))
        return self._split[id(back)]

    def _parted(self, tie: Tie, back: Trip) -> Iterable[Tie]:
        """One tie for each of the legs that the front leg itself carries on with these requests."""
        earlier = self.ties(tie.front)
        if not earlier:
            return [tie]
        if len(earlier) == 1 and earlier[0].requests is None:
            return [replace(tie, before=earlier[0])]
        ways: dict[int, list[int]] = defaultdict(list)
        for mine, theirs in tie.carried or _one_to_one(tie.front, back):
            found = [
                way for way, each in enumerate(earlier) if each.requests is None or theirs in each.requests
            ]
            ways[found[0] if len(found) == 1 else -1].append(mine)
        if not ways:
            return [tie]
        return [
            replace(tie, requests=frozenset(numbers), before=earlier[way] if way >= 0 else None)
            for way, numbers in ways.items()
        ]

    def passed_on(self, back: Trip) -> bool:
        """Whether its PROXY header came to the proxy in front of a client's bytes, or is likely to have done so."""
        return id(back) in self._passed_on

    def _doubt_headers(self) -> None:
        """A balancer that carried a client on without a header to the same port puts none of its own anywhere there."""
        bare = {
            (back.source, _asked_for(back))
            for back in self._backs
            if back.leg.first_bytes is not None and not _begins_header(back) and self._ties.get(id(back))
        }
        for back in self._backs:
            untied = back.header is not None and id(back) not in self._ties
            if untied and (back.source, _asked_for(back)) in bare:
                self._passed_on.add(id(back))

    def _written_by_clients(self, back: Trip, fronts: Iterable[Trip]) -> Tie | None:
        """Who wrote the header, where it came to the proxy like that from somebody who is no balancer."""
        writers = [front for front in fronts if self._book.owner(front.source).kind is not OwnerKind.BALANCER]
        writers = self._come_to(back, writers)
        if not writers:
            return None
        self._passed_on.add(id(back))
        return Tie(writers[0], BY_SAME_HEADER) if len(writers) == 1 else None

    def _by_leg(self, backs: Sequence[Trip]) -> None:
        # The header names the client as the balancer saw it, after whatever was done to it before.
        by_client: dict[str, list[Trip]] = defaultdict(list)
        by_hello: dict[bytes, list[Trip]] = defaultdict(list)
        by_claim: dict[str, list[Trip]] = defaultdict(list)
        for front in self._fronts:
            last = front.steps[-1].addresses
            by_client[endpoint(last.src, last.sport)].append(front)
            if front.hello is not None:
                by_hello[front.hello].append(front)
            if front.header is not None and front.header.source is not None:
                by_claim[front.header.source].append(front)
        for back in backs:
            named = back.header.source if back.header is not None else None
            tie = self._written_by_clients(back, by_claim[named]) if named is not None else None
            if named is not None and id(back) not in self._passed_on:
                before = self._nearest(by_client[named], back)
                tie = Tie(before, BY_HEADER) if before is not None else None
            if tie is None and back.hello is not None:
                same = self._come_to(back, by_hello[back.hello])
                tie = Tie(same[0], BY_HELLO) if len(same) == 1 else None
            if tie is not None:
                self._ties[id(back)].append(tie)

    def _nearest(self, fronts: Sequence[Trip], back: Trip) -> Trip | None:
        """The last of several connections of one client port that began before; clocks of one place compare."""
        others = [front for front in fronts if front is not back]
        if len(others) < 2:
            return others[0] if others else None
        start = _first_at(back, self._proxies.taps)
        if start is None:
            return None
        times = [(_first_at(front, self._proxies.taps), front) for front in others]
        earlier = [(seen, front) for seen, front in times if seen is not None and seen <= start]
        return max(earlier, key=lambda entry: entry[0])[1] if earlier else None

    def _clock(self, back: Trip) -> frozenset[int]:
        """The taps at the proxy that made this leg."""
        return self._proxies.clock(self._proxies.maker(back))

    def _by_requests(self, backs: Sequence[Trip]) -> None:
        tokens = self._index(lambda request: request.claims.token)
        identities = self._index(lambda request: request.claims.request_id)
        forwarded = Forwarded(self._fronts, backs)
        passing = self._passing_on(backs)
        unread: dict[int, list[Trip]] = defaultdict(list)
        for front in self._fronts:
            if front.hello is not None:
                unread[front.steps[-1].addresses.src].append(front)
        found: dict[int, dict[int, tuple[Trip, str, list[tuple[int, int]]]]] = defaultdict(dict)
        asked = [
            (request.said.at(self._clock(back)) or 0, number, back, request)
            for number, back in enumerate(backs)
            for request in back.requests
        ]
        for _, _, back, request in sorted(asked, key=lambda entry: entry[:2]):
            tie = self._by_name(tokens, request.claims.token, back, BY_TOKEN)
            tie = tie or self._by_name(identities, request.claims.request_id, back, BY_REQUEST_ID)
            if tie is None and not self._sampled and back.header is None and back.source not in passing:
                tie = self._by_forwarded(back, request, forwarded)
                tie = tie or self._by_client(back, request, unread)
            if tie is not None:
                pairs = found[id(back)].setdefault(id(tie.front), (tie.front, tie.by, []))[2]
                pairs += [(request.index, theirs) for _, theirs in tie.carried or ((0, -1),)]
        for back in backs:
            for front, by, pairs in found[id(back)].values():
                numbers = frozenset(mine for mine, _ in pairs)
                carried = tuple(pair for pair in pairs if pair[1] >= 0)
                everything = len(numbers) == len(back.requests)
                self._ties[id(back)].append(Tie(front, by, None if everything else numbers, carried))

    def _passing_on(self, backs: Sequence[Trip]) -> frozenset[int]:
        """Addresses of proxies that pass bytes on as they came, and so never append to a field."""
        came: dict[int, set[int]] = defaultdict(set)  # who sent such bytes to a proxy
        for front in self._fronts:
            came[_digest(front)].add(front.source)
        return frozenset(
            back.source for back in backs if _digest(back) and came.get(_digest(back), set()) - {back.source}
        )

    def _index(self, key: Callable[[Request], str | None]) -> dict[str, list[tuple[Trip, Request]]]:
        index: dict[str, list[tuple[Trip, Request]]] = defaultdict(list)
        for front in self._fronts:
            for request in front.requests:
                if name := key(request):
                    index[name].append((front, request))
        return index

    def _by_name(
        self, index: dict[str, list[tuple[Trip, Request]]], name: str | None, back: Trip, by: str
    ) -> Tie | None:
        """The request that came by this name; of proxies in a row, to the one that made `back`."""
        named = index.get(name or "", ())
        fronts = self._come_to(back, list({id(front): front for front, _ in named}.values()))
        if len(fronts) != 1:
            return None
        indexes = [asked.index for front, asked in named if front is fronts[0]]
        return Tie(fronts[0], by, carried=((0, indexes[0]),) if len(indexes) == 1 else ())

    def _come_to(self, back: Trip, fronts: Sequence[Trip]) -> list[Trip]:
        """Other legs than this one; of proxies in a row, those that came to the one that made it."""
        others = [front for front in fronts if front is not back]
        place = self._proxies.maker(back)
        if place is None or len(others) < 2:
            return others
        return [front for front in others if self._proxies.keeper(front) == place]

    def _by_forwarded(self, back: Trip, request: Request, forwarded: Forwarded) -> Tie | None:
        """The request that a proxy which names its peer in a field carried on."""
        clock = self._clock(back)
        now = request.said.at(clock)
        if now is None and self._proxies.taps:
            return None  # whose it is would depend on what came to a proxy that was not watched
        place = self._proxies.maker(back)
        found = forwarded.take(
            back, request, clock, lambda front: place is None or self._proxies.keeper(front) == place
        )
        if found is None:
            return None
        (front, asked), field = found
        if now is not None and self._strangers.ask_from(front.steps[-1].addresses.src, now, clock):
            return None  # the same client asked by a connection of which the beginning was not seen
        return Tie(front, field, carried=((request.index, asked.index),))

    def _by_client(self, back: Trip, request: Request, unread: dict[int, list[Trip]]) -> Tie | None:
        """The only encrypted connection of the client that the proxy names which was open at the time."""
        named = address_in(request.claims.chain[-1]) if request.claims.chain else None
        clock = self._clock(back)
        now = request.said.at(clock)
        if named is None or now is None:
            return None
        clients = [front for front in unread.get(named, ()) if _open_at(front, now, clock)]
        if self._strangers.ask_from(named, now, clock):
            return None
        return Tie(clients[0], BY_FORWARDED) if len(clients) == 1 else None

    def _by_order(self, backs: Sequence[Trip]) -> None:
        """Ties where the order of events at one proxy alone decides."""
        makers = {id(back): self._proxies.maker(back) for back in backs}
        for place in sorted({maker for maker in makers.values() if maker is not None}):
            here = [front for front in self._fronts if self._proxies.keeper(front) == place]
            self._order_at(place, here, [back for back in backs if makers[id(back)] == place])

    def _order_at(self, place: str, fronts: Sequence[Trip], backs: Sequence[Trip]) -> None:
        """Equal bytes, else equal request lines, else connections, as they came to a proxy and went out of it."""
        at = _At(self._proxies.clock(place), fronts, self._fronts, self._strangers)
        self._order(at, at.legs(fronts, True) + at.legs(backs, False), BY_ORDER)
        digests = {_digest(front) for front in fronts}
        other = [back for back in backs if id(back) not in self._ties and _digest(back) not in digests]
        self._order(at, at.lines(fronts, True) + at.lines(other, False), BY_LINE)

        # What is left begins with a header that cannot be read: one connection comes in, one goes out.
        used = {id(tie.front) for ties in self._ties.values() for tie in ties}
        unread = [back for back in backs if id(back) not in self._ties and _begins_header(back)]
        events = at.legs([front for front in fronts if id(front) not in used], True) + at.legs(unread, False)
        self._order(at, [replace(event, key=None) for event in events], BY_CONNECTION)

        self._attempts(at, fronts, [back for back in backs if id(back) not in self._ties and _in_vain(back)])

    def _attempts(self, at: _At, fronts: Sequence[Trip], backs: Sequence[Trip]) -> None:
        """Connections that nobody answered: of the only client whose own connection was open and waiting."""
        carried: dict[int, int] = {}  # when a front leg was first carried on, by its id
        for back in self._backs:
            begun = _first_at(back, at.clock) or 0
            for tie in self._ties.get(id(back), ()):
                carried[id(tie.front)] = min(begun, carried.get(id(tie.front), begun))
        for back in backs:
            now = _first_at(back, at.clock)
            if now is None:
                continue
            waiting = [
                front
                for front in fronts
                if _open_at(front, now, at.clock, PATIENCE) and now <= carried.get(id(front), now)
            ]
            if len(waiting) == 1 and not at.unknown(now):
                self._ties[id(back)].append(Tie(waiting[0], BY_CONNECTION))

    def _order(self, at: _At, events: list[_Event], by: str) -> None:
        groups: dict[object, list[_Event]] = defaultdict(list)
        for event in events:
            groups[event.key].append(event)
        for group in groups.values():
            in_time = sorted(group, key=lambda event: (event.time, not event.incoming))
            for back, front in _certain(in_time, at.unknown):
                numbers = frozenset({back.request}) if back.request is not None else None
                if len(back.trip.requests) <= 1:
                    numbers = None
                if not _fits(front.trip, back.trip, numbers):
                    continue
                pairs: tuple[tuple[int, int], ...] = ()
                if back.request is not None and front.request is not None:
                    pairs = ((back.request, front.request),)
                self._ties[id(back.trip)].append(Tie(front.trip, by, numbers, pairs))


class _At:
    """What happens at one proxy, by its own clock. `fronts` are legs that ended there; of `others` some may have."""

    def __init__(
        self, clock: frozenset[int], fronts: Iterable[Trip], others: Iterable[Trip], strangers: Strangers
    ) -> None:
        self.clock = clock
        self._strangers = strangers
        self._listeners = frozenset(_end(front) for front in fronts)
        # One that went to the proxy without being seen there may have come at any time.
        self._missed = any(
            _end(other) in self._listeners and _first_at(other, clock) is None for other in others
        )

    def unknown(self, now: int) -> bool:
        """Whether a client of which the beginning was not seen may wait at the proxy."""
        return self._missed or self._strangers.ask(self._listeners, now, self.clock)

    def legs(self, trips: Sequence[Trip], incoming: bool) -> list[_Event]:
        """Whole connections, by their first bytes."""
        return [
            _Event(time, incoming, trip, _digest(trip))
            for trip in trips
            if trip.leg.first_bytes is not None and (time := _first_at(trip, self.clock)) is not None
        ]

    def lines(self, trips: Sequence[Trip], incoming: bool) -> list[_Event]:
        """Single requests, by their request lines."""
        return [
            _Event(time, incoming, trip, request.line, request.index)
            for trip in trips
            for request in trip.requests
            if (time := request.said.at(self.clock)) is not None
        ]


@dataclass(frozen=True, slots=True)
class _Event:
    """Something met the proxy: it came in, or went out of it."""

    time: int  # ns by the proxy's clock
    incoming: bool
    trip: Trip
    key: object
    request: int | None = None


def _end(trip: Trip) -> tuple[int, int]:
    last = trip.steps[-1].addresses
    return last.dst, last.dport


def _digest(trip: Trip) -> int:
    return trip.leg.first_bytes.digest if trip.leg.first_bytes is not None else 0


def _first_at(trip: Trip, clock: frozenset[int]) -> int | None:
    return min((each.seen for each in trip.leg.sightings if each.tap in clock), default=None)


def _open_at(trip: Trip, now: int, clock: frozenset[int], patience: int = RELAY_WINDOW) -> bool:
    begun = _first_at(trip, clock)
    ended = [end.time for end in trip.leg.stream.ends if end.tap in clock]
    return begun is not None and begun <= now <= min(ended, default=begun + patience)


def _one_to_one(front: Trip, back: Trip) -> tuple[tuple[int, int], ...]:
    """The requests of two legs of which the one carries on the other as a whole; none where they are not the same."""
    same = [each.line for each in front.requests] == [each.line for each in back.requests]
    return tuple((each.index, each.index) for each in back.requests) if same else ()


def _asked_for(trip: Trip) -> object:
    return (trip.target.service.key, trip.target.port) if trip.target is not None else None


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


def chain_of(tie: Tie, book: AddressBook, limit: int = 8) -> tuple[Link, ...]:
    """The legs before, the client's own first; a proxy may stand behind a proxy."""
    links = [Link(tie.front, tie.by)]
    seen = {id(tie.front)}
    earlier = tie.before
    while earlier is not None and len(links) < limit and id(earlier.front) not in seen:
        if book.owner(links[0].trip.source).kind is not OwnerKind.BALANCER:
            break
        seen.add(id(earlier.front))
        links.insert(0, Link(earlier.front, earlier.by))
        earlier = earlier.before
    return tuple(links)
