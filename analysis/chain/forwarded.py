"""Requests as a proxy passes them on that names its peer in a field: X-Forwarded-For, Forwarded, X-Real-IP and its kin.

What came in and the address that it came from make what goes out: a proxy adds that address to a list, or writes it in
place of what was there. One that passes on what a client wrote looks the same, so where a client may have written it,
the field says nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from analysis.chain.claims import Claims, address_in
from analysis.chain.strangers import PASSING
from analysis.chain.trips import Request, Trip
from analysis.ports import is_port

#: A request, and the leg that it came by.
Came = tuple[Trip, Request]


@dataclass(frozen=True, slots=True)
class Naming:
    """Whom a field of a request names last, and the list before that."""

    field: str
    before: tuple[str, ...]
    last: str

    @property
    def address(self) -> int | None:
        """The address of the one who is named."""
        return address_in(self.last)

    @property
    def port(self) -> int | None:
        """The port, where the proxy names it too."""
        _, colon, port = self.last.rpartition(":")
        written = self.last.count(":") == 1 or "]:" in self.last
        return int(port) if colon and written and is_port(port) else None


def naming(claims: Claims) -> Naming | None:
    """The field that proxies are most likely to have written."""
    if claims.chain:
        return Naming("X-Forwarded-For", claims.chain[:-1], claims.chain[-1])
    if claims.forwarded:
        return Naming("Forwarded", claims.forwarded[:-1], claims.forwarded[-1])
    if claims.singles:
        field, value = claims.singles[0]
        parts = [part.upper() if len(part) < 3 else part.capitalize() for part in field.split("-")]
        return Naming("-".join(parts), (), value)
    return None


class Forwarded:
    """What came to proxies, by whom it came from, and what they are seen to do with fields."""

    def __init__(self, fronts: Iterable[Trip], backs: Iterable[Trip]) -> None:
        self._came: dict[tuple[object, int], list[Came]] = defaultdict(list)
        self._claimed: dict[tuple[object, Claims], list[Came]] = defaultdict(list)
        for front in fronts:
            peers = {front.steps[-1].addresses.src}
            peers |= {found for each in front.headers if each.source and (found := address_in(each.source))}
            for request in front.requests:
                if request.claims:
                    self._claimed[request.line, _fields(request.claims)].append((front, request))
                for peer in peers:
                    self._came[request.line, peer].append((front, request))
        self._taken: set[tuple[int, int]] = set()
        self._appending: set[int] = set()
        self._silent: set[tuple[int, str]] = set()  # who does not write a field, at times
        made = [(back, request) for back in backs for request in back.requests]
        fields: dict[int, set[str]] = defaultdict(set)
        for back, request in made:
            if (word := naming(request.claims)) is not None:
                fields[back.source].add(word.field)
                if word.before and self._added(request, word):
                    self._appending.add(back.source)
        for back, request in made:
            word = naming(request.claims)
            others = fields[back.source] - ({word.field} if word else set())
            self._silent |= {(back.source, each) for each in others}

    def take(
        self, back: Trip, request: Request, clock: frozenset[int], came_here: Callable[[Trip], bool]
    ) -> tuple[Came, str] | None:
        """The request that this one carries on, and the field that says so; by the clock of these taps, if any.

        `came_here` tells of a leg whether it may have come to the proxy that made `back`.
        All candidates are of one client address; of several of its connections that wait at once the one counts
        whose request and answer lie closest around.
        """
        word = naming(request.claims)
        if word is None or word.address is None:
            return None
        if word.field != "X-Forwarded-For" and (back.source, word.field) in self._silent:
            return None
        found = self._fitting(request, word)
        found = [
            came for came in found if (id(came[0]), came[1].index) not in self._taken and came_here(came[0])
        ]
        if len({front.source for front, _ in found}) > 1 or self._may_be_passed_on(
            back, request, word, clock
        ):
            return None
        came = closest(back, request, found, clock)
        if came is not None:
            self._taken.add((id(came[0]), came[1].index))
        return (came, word.field) if came is not None else None

    def _fitting(self, request: Request, word: Naming) -> list[Came]:
        """What a proxy would make this of: it adds to what came, or writes in place of that."""
        asked = self._came.get((request.line, word.address or 0), [])
        asked = [came for came in asked if word.port in {None, came[0].steps[-1].addresses.sport}]
        added = [came for came in asked if _had(came[1].claims, word.field) == word.before]
        return added or ([] if word.before else asked)

    def _added(self, request: Request, word: Naming) -> bool:
        came = self._came.get((request.line, word.address or 0), [])
        return any(_had(asked.claims, word.field) == word.before for _, asked in came)

    def _may_be_passed_on(self, back: Trip, request: Request, word: Naming, clock: frozenset[int]) -> bool:
        """Whether somebody else who waits wrote it like that, and the proxy is not known to add itself to lists."""
        if word.field == "X-Forwarded-For" and back.source in self._appending:
            return False
        same = self._claimed.get((request.line, _fields(request.claims)), [])
        others = [came for came in same if came[0] is not back and came[0].source != word.address]
        return closest(back, request, others, clock) is not None or (not clock and bool(others))


def closest(back: Trip, request: Request, found: Sequence[Came], clock: frozenset[int]) -> Came | None:
    """Of those that waited, the one whose request and answer lie closest around; without a clock, the only one."""
    around = [
        (_around(back, request, front, asked, clock), number) for number, (front, asked) in enumerate(found)
    ]
    close = sorted((gap, number) for gap, number in around if gap is not None)
    if close:
        return found[close[0][1]]
    only = len({id(front) for front, _ in found}) == 1 and request.said.at(clock) is None
    return found[0] if only else None


def _around(back: Trip, request: Request, front: Trip, asked: Request, clock: frozenset[int]) -> int | None:
    """By how many ns the one exchange encloses the other, by the proxy's clock; None where it does not."""
    came, went = asked.said.at(clock), request.said.at(clock)
    if came is None or went is None or not came <= went <= came + PASSING:
        return None
    answered, returned = _answer(back, request, clock), _answer(front, asked, clock)
    if returned is None:
        return went - came
    if returned < went or (answered is not None and returned < answered):
        return None
    return went - came + (returned - answered if answered is not None else 0)


def _answer(trip: Trip, request: Request, clock: frozenset[int]) -> int | None:
    answers = trip.leg.stream.answers
    return answers[request.index].at(clock) if request.index < len(answers) else None


def _had(claims: Claims, field: str) -> tuple[str, ...]:
    return {"X-Forwarded-For": claims.chain, "Forwarded": claims.forwarded}.get(field, ())


def _fields(claims: Claims) -> Claims:
    """The claims alone, without tokens and request ids."""
    return Claims(claims.chain, claims.forwarded, claims.singles)
