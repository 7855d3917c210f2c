"""Which watched proxy a connection ended at, and which one made it: only there can order in time tie two of them.

Of proxies in a row, each sees the connection in between: the one as its own, the other as a client's.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.chain.trips import Trip
from analysis.hops.addresses import AddressBook
from daemonset.observation import Tap, TapKind


class Proxies:
    """The proxies at which there are taps, by place. `fronts`: legs that end at a proxy."""

    def __init__(self, fronts: Sequence[Trip], taps: Sequence[Tap], book: AddressBook) -> None:
        self._fronts = frozenset(id(front) for front in fronts)
        self._book = book
        self._taps: dict[str, set[int]] = {}
        for number, tap in enumerate(taps):
            if tap.kind is TapKind.LB:
                self._taps.setdefault(tap.node, set()).add(number)
        self.taps = frozenset(number for numbers in self._taps.values() for number in numbers)

    def clock(self, place: str | None) -> frozenset[int]:
        """The taps of a place, which share a clock; none where the place is not known."""
        return frozenset(self._taps.get(place or "", ()))

    def keeper(self, front: Trip) -> str | None:
        """The place of the proxy that the leg ended at; None where that one was not watched."""
        places = _watched(front)
        if not places or (len(set(places)) == 1 and self._book.home(front.source) == places[0]):
            return None  # seen only where it began
        return places[-1]

    def maker(self, back: Trip) -> str | None:
        """The place of the proxy that made the leg; None where that one was not watched."""
        places = _watched(back)
        if not places:
            return None
        one = len(set(places)) == 1
        if one and id(back) in self._fronts and self._book.home(back.source) != places[0]:
            return None  # it may be seen only where it ended
        return places[0]


def _watched(trip: Trip) -> list[str]:
    return [step.place for step in trip.steps if step.kind is TapKind.LB]
