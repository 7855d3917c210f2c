"""Which journey a packet belongs to, by what the report says of journeys, and nothing else.

A hop that was seen in packets names its tap, its sockets, and the time of the first packet that showed it. So:

1. The packet of that time with those sockets at that tap begins a run, which is the journey's.
2. What has the same sockets there later, in either direction, goes on with the run: data, ends, ICMP errors that
   quote it.
3. A SYN of another sequence number ends the run: ports are used again, and the next connection may be nobody's
   journey. So does a silence of datagrams after which `analysis.engine.legs` begins another exchange.

A packet of which this cannot be said belongs to no journey: a comment that is wrong would be a wrong verdict.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.report import Hop, Journey
from daemonset.observation import Tap, TcpFlag, address_words

#: How far the time of a hop, which is a float of seconds, may be off, in nanoseconds.
_ROUNDING = 1_000

_UDP_SILENCE = 30_000_000_000  # ns, as in analysis.engine.joining

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

Row = Mapping[str, int]  # the columns of observation.PACKET
_Socket = tuple[int, int, int]  # the two words of the address, and the port
_Key = tuple[int, int, _Socket, _Socket]  # the place of a tap, protocol, source, destination
_Place = tuple[str | None, str | None, str | None]  # node, kind and interface, as a hop names its tap


class Passage(NamedTuple):
    """One hop of one journey: a place where its packets were seen, and what changed since the one before."""

    journey: Journey
    hop: Hop
    changed: tuple[str, ...] = ()


class Mark(NamedTuple):
    """The journeys that a packet belongs to, and whether it is the first that was seen of them at its place."""

    passages: tuple[Passage, ...]
    first: bool


@dataclass(slots=True)
class _Run:
    """Packets of one connection at one tap. `isn` is None where its SYN was not seen there."""

    passages: tuple[Passage, ...]
    isn: int | None
    last: int


class Marks:
    """Tells journeys of packets, which have to come in the order of their times."""

    def __init__(self, journeys: Sequence[Journey], taps: Sequence[Tap]) -> None:
        places: dict[_Place, int] = {}
        self._places = [places.setdefault((t.node, str(t.kind), t.interface), len(places)) for t in taps]
        self._begins: dict[_Key, list[tuple[int, Passage]]] = defaultdict(list)
        self._runs: dict[_Key, _Run] = {}
        for journey in journeys:
            for passage in _passages(journey) if journey.protocol in _PROTOCOLS else ():
                hop = passage.hop
                place = places.get((hop.node, hop.tap, hop.interface))
                if place is not None:
                    key = (place, _PROTOCOLS[journey.protocol], _socket(hop.source), _socket(hop.destination))
                    self._begins[key].append((round(hop.time * 1e9), passage))

    def of(self, row: Row) -> Mark | None:
        """The mark of a packet; None where it belongs to no journey that is told."""
        source = row["src_hi"], row["src_lo"], row["sport"]
        destination = row["dst_hi"], row["dst_lo"], row["dport"]
        place, protocol = self._places[row["tap"]], row["protocol"]
        forward = (place, protocol, source, destination)
        opening = row["flags"] & (TcpFlag.SYN | TcpFlag.ACK) == TcpFlag.SYN and not row["icmp"]
        for key in (forward,) if opening else (forward, (place, protocol, destination, source)):
            if key in self._begins and (mark := self._at(key, row, opening)) is not None:
                return mark
        return None

    def _at(self, key: _Key, row: Row, opening: bool) -> Mark | None:
        time, run = row["time"], self._runs.get(key)
        if run is not None and _goes_on(run, row, opening):
            run.last = time
            return Mark(run.passages, first=False) if run.passages else None
        begins = tuple(passage for at, passage in self._begins[key] if abs(at - time) <= _ROUNDING)
        if begins or opening:
            self._runs[key] = _Run(begins, row["seq"] if opening else None, time)
        else:
            self._runs.pop(key, None)
        return Mark(begins, first=True) if begins else None


def _passages(journey: Journey) -> Iterator[Passage]:
    """The hops that packets showed. What a NAT record between two says, the second shows as well."""
    before: Hop | None = None
    for hop in journey.hops:
        if hop.evidence != "packet":
            continue
        changed: tuple[str, ...] = ()
        if before is not None and before.leg == hop.leg:
            ends = ("source", before.source, hop.source), ("destination", before.destination, hop.destination)
            changed = tuple(name for name, was, became in ends if was != became)
        yield Passage(journey, hop, changed)
        before = hop


def _goes_on(run: _Run, row: Row, opening: bool) -> bool:
    if opening:
        return run.isn == row["seq"]
    return row["protocol"] == _PROTOCOLS["tcp"] or row["time"] - run.last <= _UDP_SILENCE


def _socket(endpoint: str) -> _Socket:
    """The socket of a hop; one that is no address is met by no packet."""
    address, _, port = endpoint.rpartition(":")
    try:
        return (*address_words(address.strip("[]")), int(port))
    except ValueError:
        return 0, 0, -1
