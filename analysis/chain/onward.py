"""What a server told the server behind it about its client, and what the application said itself.

A server that takes a PROXY header or X-Forwarded-For need not believe it: it has a list of peers that it believes.
Its next connection, with the same request in it, says in X-Forwarded-For or X-Real-IP whom it takes for the client.
That request is found by a token or request id that stands in both; else by what it names, which must be one of the
addresses that this server can have taken from the request that it got, between that request and its answer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.asked import Asked
from analysis.chain.claims import Claims, address_in, own_words
from analysis.chain.relay import BY_REQUEST_ID, BY_TOKEN
from analysis.chain.strangers import Strangers
from analysis.chain.trips import Request, Trip, Word
from analysis.hops.addresses import endpoint
from analysis.hops.steps import Step
from daemonset.observation import ProxyHeader, Tap

SLACK = 100_000  # ns by which two taps of one node may disagree about order

BY_VALUES = "the addresses named in it, and time"

_NOTHING = Claims()


@dataclass(frozen=True, slots=True)
class _Made:
    """A request that a server made."""

    trip: Trip
    request: Request


class Onward:
    """Finds the requests that servers made while they answered others."""

    def __init__(
        self, trips: Iterable[Trip], taps: Sequence[Tap], strangers: Strangers, *, sampled: bool = False
    ) -> None:
        self._strangers = strangers
        self._sampled = sampled  # others may have named the same, and are not there
        self._taps: dict[str, frozenset[int]] = {
            place: frozenset(number for number, tap in enumerate(taps) if tap.node == place)
            for place in {tap.node for tap in taps}
        }
        self._made: dict[int, list[_Made]] = defaultdict(list)
        self._by_token: dict[tuple[int, str], list[_Made]] = defaultdict(list)
        self._by_request_id: dict[tuple[int, str], list[_Made]] = defaultdict(list)
        self._by_time: dict[tuple[int, str], list[tuple[int, int, _Made]]] = {}
        for trip in trips:
            for request in trip.requests:
                entry = _Made(trip, request)
                self._made[trip.source].append(entry)
                if request.claims.token:
                    self._by_token[trip.source, request.claims.token].append(entry)
                if request.claims.request_id:
                    self._by_request_id[trip.source, request.claims.request_id].append(entry)

    def word(self, trip: Trip, request: Request | None) -> Word | None:
        """Whom the endpoint of `trip` named to the server behind it, for this request; None: not known.

        `request` None: the request could not be read, or there is one only.
        """
        reached = trip.reached
        if reached is None:
            return None
        received = request.claims if request is not None else _NOTHING
        for mine, index, by in (
            (received.token, self._by_token, BY_TOKEN),
            (received.request_id, self._by_request_id, BY_REQUEST_ID),
        ):
            same = index.get((reached.addresses.dst, mine), []) if mine else []
            if same := [entry for entry in same if entry.trip is not trip]:
                return self._agreed(same, received, by, reached)
        window = self._window(trip, request, reached)
        if window is None or self._sampled or self._may_have_asked(reached, window):
            return None
        plausible = _can_name(trip, reached, received)
        found = [
            entry
            for entry in self._within(reached, window)
            if entry.trip is not trip
            and (request is None or entry.request.line == request.line)
            and _names_one_of(entry.request.claims, received, plausible)
        ]
        return self._agreed(found, received, BY_VALUES, reached)

    def _may_have_asked(self, reached: Step, window: tuple[int, int]) -> bool:
        """Whether the endpoint may have asked by a connection of which the beginning was not seen."""
        here = self._taps.get(reached.place, frozenset())
        return any(self._strangers.ask_from(reached.addresses.dst, now, here) for now in window)

    def _within(self, reached: Step, window: tuple[int, int]) -> list[_Made]:
        """What the endpoint asked others at a time, by the clock of its place."""
        key = (reached.addresses.dst, reached.place)
        if key not in self._by_time:
            here = self._taps.get(reached.place, frozenset())
            entries = [
                (time, number, entry)
                for number, entry in enumerate(self._made.get(reached.addresses.dst, ()))
                if (time := entry.request.said.at(here)) is not None
            ]
            self._by_time[key] = sorted(entries)
        entries = self._by_time[key]
        first = bisect_left(entries, (window[0] - SLACK,))
        last = bisect_right(entries, (window[1] + SLACK, len(entries)))
        return [entry for _, _, entry in entries[first:last]]

    def _agreed(self, made: Sequence[_Made], received: Claims, by: str, reached: Step) -> Word | None:
        """The word of these requests, if it is one word; the connection, if it is one connection."""
        words = {own_words(entry.request.claims, received) for entry in made}
        if len(words) != 1 or not (word := words.pop()):
            return None
        trips = {id(entry.trip): entry.trip for entry in made}
        onward = next(iter(trips.values())) if len(trips) == 1 else None
        time = self._time(made[0], reached)
        # Of several requests that say the same, the one that goes on with what came in, and the one that tells most, is
        # the one that the application gets.
        requests = [entry.request for entry in made]
        going_on = [each for each in requests if each.claims.chain[: len(received.chain)] == received.chain]
        fullest = max(going_on or requests, key=lambda request: len(request.claims.addresses))
        return Word(word, "http-header", by, reached.place, time, onward, fullest)

    def _time(self, made: _Made, reached: Step) -> int:
        """When the request was first seen at the endpoint's place, by its clock; 0 where it was not."""
        return made.request.said.at(self._taps.get(reached.place, frozenset())) or 0

    def _window(self, trip: Trip, request: Request | None, reached: Step) -> tuple[int, int] | None:
        """From the request's arrival to its answer, by the clock of the endpoint's place."""
        here = self._taps.get(reached.place, frozenset())
        stream = trip.leg.stream
        if request is not None:
            known = _from_the_beginning(trip) if request.index else stream.requests[0].offset == 0
            if not known:
                return None  # which answer is this request's is not known
            start = request.said.at(here)
            answers = stream.answers[request.index : request.index + 1]
            end = answers[0].at(here) if answers else None
        else:
            first, response = trip.leg.first_bytes, trip.leg.response
            start = first.time if first is not None else None
            end = response.time if response is not None else None
            ends = [entry.time for entry in stream.ends if entry.tap in here]
            end = max([end, *ends]) if end is not None and ends else end
        return (start, end) if start is not None and end is not None else None


def _can_name(trip: Trip, reached: Step, received: Claims) -> frozenset[int]:
    """Every address that the server can have taken for its client's: its peer's, and what it was told."""
    named = [header.source for header in trip.headers if header.source is not None]
    told = {found for source in named if (found := address_in(source)) is not None}
    return frozenset({reached.addresses.src, *told, *received.addresses})


def _names_one_of(told: Claims, received: Claims, plausible: frozenset[int]) -> bool:
    words = own_words(told, received)
    return bool(words) and any(address_in(word) in plausible for word in words)


class AskedBook:
    """The client's own records of its requests, by socket."""

    def __init__(self, asked: Iterable[Asked]) -> None:
        self._by_socket: dict[tuple[str, str], list[Asked]] = defaultdict(list)
        self._by_token: dict[str, list[Asked]] = defaultdict(list)
        for entry in asked:
            self._by_socket[entry.source, entry.destination].append(entry)
            if entry.token:
                self._by_token[entry.token].append(entry)

    def of(
        self, client: Trip, requests: Sequence[Request], header: ProxyHeader | None = None
    ) -> Asked | None:
        """The record of these requests: by token, else by the socket; None where several say different things.

        `header`: a balancer's, which names the client's socket though the connection to the balancer was not seen.
        """
        tokens = {request.claims.token for request in requests} - {None}
        found = [entry for token in tokens for entry in self._by_token.get(str(token), ())]
        if not found:
            first = client.steps[0].addresses
            sockets = [(endpoint(first.src, first.sport), endpoint(first.dst, first.dport))]
            if header is not None and header.source is not None and header.destination is not None:
                sockets.append((header.source, header.destination))
            found = [entry for socket in sockets for entry in self._by_socket.get(socket, ())]
            if any(entry.token for entry in found) and requests:
                return None  # they carry tokens, and these requests carry none of theirs
            found = [entry for entry in found if _in_time(entry, client)]
        return found[0] if len({(entry.saw, entry.outcome, entry.forged) for entry in found}) == 1 else None


#: Seconds by which the clocks of the one who asked and of the place that saw it may differ.
_CLOCKS = 30.0


def _in_time(entry: Asked, client: Trip) -> bool:
    begun = client.leg.start / 1e9
    return entry.started - _CLOCKS <= begun <= entry.ended + _CLOCKS


#: Where echoes live: what is asked there is answered with the client's address as the application has it.
ECHO_PATHS = frozenset({"/debug/ip"})


def echoed(trip: Trip, request: Request | None) -> Word | None:
    """What the application answered about its client, read from the answer of an echo on the wire.

    Answers have no names: the one in the request's place is taken only if nothing before it can be missing.
    """
    if request is None or request.line[1:] == () or request.line[1].partition("?")[0] not in ECHO_PATHS:
        return None
    requests, answers = trip.requests, trip.leg.stream.answers
    if not answers or answers[0].offset != 0 or not _from_the_beginning(trip):
        return None
    if len(requests) != len(answers) and request.index != 0:
        return None
    answer = answers[request.index]
    if (
        answer.head is None
        or answer.head.echo is None
        or (request.index == 0 and len(answers) > len(requests))
    ):
        return None
    return Word(
        (answer.head.echo,), "app", "the application's answer", None, min(time for _, time in answer.times)
    )


def _from_the_beginning(trip: Trip) -> bool:
    """Whether the client's first bytes were seen, and its requests follow one another without a gap."""
    reached = 0
    for said in trip.leg.stream.requests:
        if said.offset != reached:
            return False
        reached += said.length
    return True


def told_by(asked: Asked | None) -> Word | None:
    """What the application answered about its client."""
    if asked is None or asked.saw is None:
        return None
    return Word((asked.saw,), "app", "the application's answer", None, int(asked.ended * 1e9))
