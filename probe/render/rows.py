"""What of a journey is put on which line: hops that repeat an address together, and each connection by its two ends.

The whole, hop by hop, is in the JSON and in `-o wide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from analysis.chain.claims import address_in
from analysis.report import Hop, Journey

#: Points that are no place on the way: what is said there, not what was seen.
SAID = {"proxy-header": "PROXY header", "http-header": "HTTP header", "app": "answer", "log": "log"}

#: Words of servers further on than the endpoint of the Service.
BEHIND = frozenset({"http-header", "app", "log"})

_TIED = "tied by "
_OUTSIDE = frozenset({"client", "lb"})
_INSIDE = frozenset({"bridge", "veth", "pod", "dnat"})


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a path: hops of one node, one after the other, at which the addresses are the same."""

    hops: tuple[Hop, ...]

    @property
    def first(self) -> Hop:
        """The hop whose addresses, changes and note are shown."""
        return self.hops[0]

    @property
    def where(self) -> str:
        """Where it was seen, as people call it; that the address is one after DNAT, its marks show."""
        first = self.first
        if first.point in SAID:
            return SAID[first.point]
        if first.evidence == "conntrack":
            return "kernel NAT"
        if first.evidence == "rule":
            return "kernel rule"
        kinds = [kind for kind, _ in groupby(hop.tap or hop.point for hop in self.hops)]
        if len(self.hops) > 1:
            return ", ".join(kinds)
        return kinds[0] if first.interface in {None, "", kinds[0]} else f"{kinds[0]} {first.interface}"


def rows_of(journey: Journey, whole: bool) -> list[Row]:
    """The lines of a path, in order; `whole`: every hop on a line of its own."""
    rows: list[list[Hop]] = []
    for hop in journey.hops:
        if rows and not whole and _repeats(rows[-1][-1], hop):
            rows[-1].append(hop)
        else:
            rows.append([hop])
    return [Row(tuple(hops)) for hops in rows]


def _repeats(before: Hop, hop: Hop) -> bool:
    """Whether a hop tells nothing that the one before has not told, but that the packet came by there too.

    Where a packet enters or leaves a node has a line of its own in any case.
    """
    if before.point in SAID or hop.point in SAID or before.changed or hop.changed:
        return False
    if not {before.tap or before.point, hop.tap or hop.point} <= _INSIDE:
        return False
    if {before.evidence, hop.evidence} != {"packet"} or (hop.note and hop.note != before.note):
        return False
    same_place = (before.node, before.leg) == (hop.node, hop.leg)
    return same_place and (before.source, before.destination) == (hop.source, hop.destination)


def tie(hop: Hop) -> str | None:
    """By what the connection that this hop begins was tied to the one before it."""
    return hop.note.removeprefix(_TIED) if hop.note and hop.note.startswith(_TIED) else None


def note(hop: Hop) -> str | None:
    """What else is to be said of a hop."""
    return None if tie(hop) else hop.note


def bare(text: str) -> str:
    """An address without the port 0 that stands where there is none: fields of requests name no port."""
    if not text.endswith(":0"):
        return text
    return text.removesuffix(":0").removeprefix("[").removesuffix("]")


def same_address(one: str, other: str) -> bool:
    """Whether two texts name one address, with or without ports."""
    address = address_in(one)
    return address == address_in(other) if address is not None else one == other


def spoken(journey: Journey, point: str) -> Hop | None:
    """The last word of this kind."""
    return next((hop for hop in reversed(journey.hops) if hop.point == point), None)


def last_word(journey: Journey) -> Hop | None:
    """Whom the server furthest on named, where it is known from its words."""
    return next((hop for hop in reversed(journey.hops) if hop.point in BEHIND), None)


def endpoint_of(journey: Journey) -> str:
    """The server that the Service led to: a pod's name, else its address and port."""
    inside = [hop for hop in _packets(journey) if hop.leg == _last_leg(journey)]
    return journey.endpoint or (inside[-1].destination if inside else "the server")


def application_of(journey: Journey) -> str | None:
    """Address and port of the server behind the endpoint; None where no connection to one was seen."""
    onward = [hop for hop in _packets(journey) if hop.leg > _last_leg(journey)]
    return onward[-1].destination if onward else None


def ends(journey: Journey, leg: int) -> tuple[str, str]:
    """Who opened a connection of the journey and who received it, by name where there is one."""
    hops = [hop for hop in _packets(journey) if hop.leg == leg]
    last = _last_leg(journey)
    receiver = endpoint_of(journey) if leg == last else _outside(hops[-1]) or hops[-1].destination
    opener = endpoint_of(journey) if leg > last else _outside(hops[0]) or hops[0].source
    return opener, receiver


def legs(journey: Journey) -> Sequence[int]:
    """The numbers of the journey's connections, in order."""
    return list(dict.fromkeys(hop.leg for hop in _packets(journey)))


def _outside(hop: Hop) -> str | None:
    """The machine outside the cluster that a hop was seen at."""
    return hop.node if (hop.tap or hop.point) in _OUTSIDE else None


def _packets(journey: Journey) -> list[Hop]:
    return [hop for hop in journey.hops if hop.point not in SAID]


def _last_leg(journey: Journey) -> int:
    """The number of the connection into the Service; what servers behind it said is counted on from there."""
    behind = [hop.leg for hop in journey.hops if hop.point in BEHIND]
    return min(behind) - 1 if behind else max((hop.leg for hop in journey.hops), default=0)
