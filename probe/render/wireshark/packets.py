"""The packets of a session as one pcapng file: all taps merged in order of time, with what the report says of them.

An interface for each tap, a comment on each packet of a journey, names for addresses, and what kernels dropped.
Captures that were given as files are copied as they are; what agents recorded is rebuilt
(`probe.render.wireshark.frames`), and the file says so.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from analysis.facts import Facts, Pod
from analysis.recording import Recording
from analysis.report import Report
from daemonset.decode.packet import Batch
from daemonset.observation import PACKET, Head, Tap, TapKind
from daemonset.taps.pcap import read_packets
from probe import __version__
from probe.render.wireshark.frames import ETHERNET, rebuild
from probe.render.wireshark.marks import Mark, Marks, Passage
from probe.render.wireshark.names import names_of, plain_name
from probe.render.wireshark.pcapng import Writer

_NAMES = [column.name for column in PACKET.columns]
_CHUNK = 50_000  # rows made into Python values at once

#: How many packets of one file are held back to put them in order: kernels number them by CPU.
_REORDERED = 4096

_SAID_LIMIT = 5  # journeys that one comment names

_REBUILT = (
    "These frames are rebuilt from what agents recorded. Kept and true: addresses, ports, sequence numbers, flags, "
    "windows, timestamps, TTL, VLAN tags, tunnels, PROXY headers. Not kept, so cut off: other payload; left out: other "
    "TCP options; zero: MAC addresses."
)


class Seen(NamedTuple):
    """What a report was made from. `files` are the captures that were given: tap and path."""

    recording: Recording
    facts: Facts
    files: Sequence[tuple[Tap, Path]] = ()


class _Packet(NamedTuple):
    """A packet on its way into the file; see `probe.render.wireshark.pcapng.Packet`."""

    time: int
    data: bytes
    length: int
    direction: int
    comments: tuple[str, ...]
    tap: int
    link: int


def write_packets(file: BinaryIO, report: Report, seen: Seen) -> int:
    """Write them all; returns how many. Raises what `file.write` raises, and CaptureFileError for files given."""
    recording = seen.recording
    marks = Marks(report.journeys, recording.taps)
    writer = Writer(file, f"probe {__version__}", _section_comments(report, rebuilt=not seen.files))
    writer.names(names_of(recording, seen.facts).items())
    interfaces = _Interfaces(writer, seen)
    packets = _from_files(seen, marks) if seen.files else _from_rows(recording, marks)
    count = last = 0
    for packet in packets:
        number = interfaces.number(packet.tap, packet.link)
        writer.packet(number, packet)
        count, last = count + 1, packet.time
    interfaces.finish(last)
    return count


class _Interfaces:
    """The interfaces of the file: one a tap, and another where a tap's file holds a second link type."""

    def __init__(self, writer: Writer, seen: Seen) -> None:
        self._writer, self._recording = writer, seen.recording
        self._rebuilt = not seen.files
        pods = {address: pod for pod in seen.facts.pods for address in pod.addresses}
        self._names = [_tap_name(tap, pods) for tap in self._recording.taps]
        self._numbers: dict[tuple[int, int], int] = {}
        if self._rebuilt:
            for tap in range(len(self._recording.taps)):
                self.number(tap, ETHERNET)

    def number(self, tap: int, link: int) -> int:
        """The interface of a tap's packets, described when it is needed first."""
        number = self._numbers.get((tap, link))
        if number is None:
            place = self._recording.taps[tap]
            made = "frames rebuilt from what the agent recorded" if self._rebuilt else "packets as captured"
            where = f"{place.interface} on {place.node}"
            addresses = f", {' '.join(place.addresses)}" if place.addresses else ""
            number = self._writer.interface(
                link, self._names[tap], f"{place.kind}: {where}{addresses}; {made}"
            )
            self._numbers[tap, link] = number
        return number

    def finish(self, time: int) -> None:
        """Taps that stayed silent, and what kernels counted: the last thing that is written."""
        described = {tap for tap, _ in self._numbers}
        for tap in range(len(self._recording.taps)):
            if tap not in described:
                self.number(tap, ETHERNET)
        counted: dict[Tap, tuple[int, int]] = {}
        for place, received, dropped in self._recording.losses:
            before = counted.get(place, (0, 0))
            counted[place] = before[0] + received, before[1] + dropped
        for (tap, _), number in self._numbers.items():
            if received_dropped := counted.pop(self._recording.taps[tap], None):
                self._writer.statistics(number, time, *received_dropped)


def _tap_name(tap: Tap, pods: dict[str, Pod]) -> str:
    """node1/nic/eth0; a pod's with its name or address, because every pod's interface has the same name."""
    own = tap.namespace
    if tap.addresses:
        address = tap.addresses[0].partition("/")[0]
        own = pods[address].name if address in pods else address
    middle = f"{plain_name(own)}/" if tap.kind is TapKind.POD and own and own != tap.interface else ""
    return f"{tap.node}/{tap.kind}/{middle}{tap.interface}"


def _section_comments(report: Report, *, rebuilt: bool) -> list[str]:
    summary = report.summary
    counts = ", ".join(
        f"{number} {verdict}"
        for number, verdict in (
            (summary.lost, "lost"),
            (summary.blackholed, "blackholed"),
            (summary.inconclusive, "inconclusive"),
            (summary.preserved, "preserved"),
        )
        if number
    )
    told = [report.title] if report.title else []
    told.append(f"{summary.journeys} journeys: {counts or 'none'}")
    told += [f"incomplete: {reason}" for reason in report.capture.reasons[:20]]
    if report.journeys_omitted:
        told.append(
            f"{report.journeys_omitted} journeys are not told one by one; their packets have no comment"
        )
    return [*told, _REBUILT] if rebuilt else told


def _from_rows(recording: Recording, marks: Marks) -> Iterator[_Packet]:
    """Frames rebuilt from rows."""
    order = np.argsort(recording.packets["time"], kind="stable")
    for start in range(0, len(order), _CHUNK):
        for values in recording.packets[order[start : start + _CHUNK]].tolist():
            row = dict(zip(_NAMES, values, strict=True))
            head = recording.heads[row["head"] - 1] if row["head"] else None
            frame = rebuild(row, head)
            comments = (*_comments(marks.of(row)), *said(head))
            direction = row["direction"] & 3
            yield _Packet(row["time"], *frame, direction, comments, row["tap"], ETHERNET)


def _from_files(seen: Seen, marks: Marks) -> Iterator[_Packet]:
    """The packets of files as they are, those too in which the analysis found nothing of interest."""
    taps = {tap: number for number, tap in enumerate(seen.recording.taps)}
    streams = [_in_order(_read(path, taps[tap])) for tap, path in seen.files]
    batch = Batch(heads=False)
    for packet in heapq.merge(*streams, key=itemgetter(0)):
        kept = batch.add(
            packet.data,
            link=packet.link,
            time=packet.time,
            tap=packet.tap,
            direction=packet.direction,
            wire_length=packet.length,
        )
        mark = None
        if kept:
            mark = marks.of(dict(zip(_NAMES, PACKET.struct.unpack(batch.take()[0]), strict=True)))
        yield packet._replace(comments=_comments(mark))


def _read(path: Path, tap: int) -> Iterator[_Packet]:
    for packet in read_packets(path):
        time, link, data, length, _, direction = packet
        yield _Packet(time, data, length, direction, (), tap, link)


def _in_order(packets: Iterable[_Packet]) -> Iterator[_Packet]:
    """In order of time, as far as that can be had without holding a whole file."""
    held: list[tuple[int, int, _Packet]] = []
    for number, packet in enumerate(packets):
        if len(held) < _REORDERED:
            heapq.heappush(held, (packet.time, number, packet))
        else:
            yield heapq.heappushpop(held, (packet.time, number, packet))[2]
    while held:
        yield heapq.heappop(held)[2]


def _comments(mark: Mark | None) -> tuple[str, ...]:
    """`journey j3: lost` on each packet; at the first of a place why, and what had changed before it got there."""
    if mark is None:
        return ()
    told = _several(mark.passages, _first if mark.first else _verdict)
    return tuple(told)


def _several(passages: Sequence[Passage], say: Callable[[Passage], str]) -> Iterator[str]:
    yield from map(say, passages[:_SAID_LIMIT])
    if (more := len(passages) - _SAID_LIMIT) > 0:
        yield f"and {more} journeys more"


def _verdict(passage: Passage) -> str:
    return f"journey {passage.journey.id}: {passage.journey.verdict}"


def _first(passage: Passage) -> str:
    journey, _, changed = passage
    parts = [_verdict(passage)]
    if journey.findings:
        parts[0] += f" ({', '.join(journey.findings)})"
    parts += [_change(passage, what) for what in changed]
    if journey.reason:
        parts.append(journey.reason)
    return "; ".join(parts)


def _change(passage: Passage, what: str) -> str:
    became = passage.hop.source if what == "source" else None
    by = next((snat.mechanism for snat in passage.journey.snat if snat.to == became), "")
    return f"{what} replaced on the way here{f': {by}' if by else ''}"


def said(head: Head | None) -> tuple[str, ...]:
    """What a payload that is not in the file said, as far as it was kept."""
    if head is None:
        return ()
    lines = [
        "HTTP: " + " | ".join([message.start, *(f"{name}: {value}" for name, value in message.fields)])
        for message in ([head.http] if head.http else []) + list(head.more)
    ]
    if head.tls is not None:
        lines.append(f"TLS ClientHello for {head.tls.server_name or 'no name'}")
    if head.echo is not None:
        lines.append(f"the answer says that it sees {head.echo}")
    return tuple(lines[:_SAID_LIMIT])
