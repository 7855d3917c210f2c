"""PROXY headers in a capture: the first bytes of each direction of each TCP connection, and of each datagram.

A header that is split over segments is put together by sequence numbers, retransmissions and disorder allowed
for. Everything is bounded: connections, bytes and segments held for each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from analysis.receivers import receptions
from daemonset.decode.packet import TCP, Batch
from daemonset.decode.proxy_protocol import NotProxyProtocolError, begins_header
from daemonset.observation import PACKET, ProxyHeader, TcpFlag, endpoint_text
from daemonset.taps.pcap import Capture, CapturedPacket, read_packets
from probe.decoding.answer import (
    Answer,
    Seen,
    answer_failed,
    answer_for,
    decode_bytes,
    version_of,
    with_receivers,
)
from probe.decoding.stream import Found, Stream

#: Connection directions followed at a time; the one that began first is given up first.
FLOW_LIMIT = 65_536

_NAMES = tuple(column.name for column in PACKET.columns)
_FLOW = ("tunnel", "vni", "src_hi", "src_lo", "dst_hi", "dst_lo", "sport", "dport")

Row = dict[str, Any]


class _Payloads(Batch):
    """Decodes one packet at a time into a row and its payload, as far as that was captured."""

    def __init__(self) -> None:
        super().__init__(heads=False)
        self._payload = b""

    def read(self, packet: CapturedPacket) -> tuple[Row, bytes] | None:
        """None for what is neither TCP nor UDP."""
        self._payload = b""
        self.add(packet.data, link=packet.link, time=packet.time, tap=0, wire_length=packet.wire_length)
        rows, _ = self.take()
        if not rows:
            return None
        return dict(zip(_NAMES, PACKET.struct.unpack(rows), strict=True)), self._payload

    def read_body(self, frame: bytes, start: int, stop: int, *, reads: bool) -> tuple[int, int, int]:
        self._payload = frame[start:stop] if reads else b""
        return 0, 0, 0


class _Flow(NamedTuple):
    """One direction of a connection, and the packet that began it."""

    stream: Stream
    seen: Seen


class HeaderFinder:
    """Reads one capture. `remarks` (why the result may not be whole) and `flows` are final at its end.

    With `receivers` every answer says who would take the header.
    """

    def __init__(self, *, receivers: bool = False) -> None:
        self.flows = 0
        self.remarks: list[str] = []
        self._receivers = receivers
        self._flows: OrderedDict[tuple[Any, ...], _Flow] = OrderedDict()
        self._given_up = 0  # connections
        self._overfull = 0

    def read(self, path: str) -> Iterator[Answer]:
        """An answer for each header, in the order in which they became clear. Raises CaptureFileError."""
        yield from self.answers(read_packets(path))

    def answers(self, capture: Capture) -> Iterator[Answer]:
        """The same of a capture that is open."""
        payloads = _Payloads()
        for number, packet in enumerate(capture, 1):
            found = payloads.read(packet)
            if found and not found[0]["icmp"]:
                yield from self._take(number, packet, *found)
        for flow in self._flows.values():
            yield from self._cut_short(flow)
        if capture.truncated:
            self.remarks.append(f"the capture is not whole: {capture.truncated}")
        if self._given_up:
            self.remarks.append(
                f"{self._given_up} connections were given up: more than {FLOW_LIMIT} at a time"
            )
        if self._overfull:
            self.remarks.append(
                f"{self._overfull} connections were given up: their beginning is not in the capture"
            )

    def _take(self, number: int, packet: CapturedPacket, row: Row, payload: bytes) -> Iterator[Answer]:
        seen = Seen(
            number,
            packet.time / 1e9,
            endpoint_text(row["src_hi"], row["src_lo"], row["sport"]),
            endpoint_text(row["dst_hi"], row["dst_lo"], row["dport"]),
            packet.interface,
        )
        cut = len(payload) < row["length"]
        if row["protocol"] != TCP:
            self.flows += bool(payload)
            if begins_header(payload):
                yield from self._datagram(payload, seen, cut)
            return
        key = (seen.interface, *(row[name] for name in _FLOW))
        known = self._flows.get(key)
        flow = self._flow(key, known, row, payload, seen)
        if known and flow is not known:
            yield from self._cut_short(known)
        if flow is None or flow.stream.done or not payload:
            return
        sequence = (row["seq"] + (1 if row["flags"] & TcpFlag.SYN else 0)) % 2**32
        for found in flow.stream.add(sequence, payload, cut=cut):
            yield from self._answer(found, seen)
        self._overfull += flow.stream.gave_up

    def _answer(self, found: Found, seen: Seen) -> Iterator[Answer]:
        if isinstance(found.event, NotProxyProtocolError):
            return
        if isinstance(found.event, ProxyHeader):
            answer = answer_for(found.event, seen)
        else:
            answer = answer_failed(version_of(found.event), str(found.event), complete=True, seen=seen)
        yield self._judged(answer, found)

    def _judged(self, answer: Answer, found: Found) -> Answer:
        if not self._receivers:
            return answer
        told = receptions(found.data, first=found.first, cuts=found.cuts)
        return msgspec.structs.replace(answer, receivers=told)

    def _datagram(self, payload: bytes, seen: Seen, cut: bool) -> Iterator[Answer]:
        answers = decode_bytes(payload, final=not cut)
        if self._receivers:
            answers = with_receivers(answers, payload, datagram=True)
        yield from (_at(answer, seen) for answer in answers)

    def _flow(
        self, key: tuple[Any, ...], flow: _Flow | None, row: Row, payload: bytes, seen: Seen
    ) -> _Flow | None:
        """The flow of a packet: the known one, or a new one that begins with a SYN or a header."""
        if row["flags"] & TcpFlag.SYN:
            first = (row["seq"] + 1) % 2**32
            if flow and flow.stream.first == first:
                return flow
        elif flow or not payload:
            return flow
        else:
            first = row["seq"]
        self.flows += 1
        flow = self._flows[key] = _Flow(Stream(first), seen)
        self._flows.move_to_end(key)
        flow.stream.done = not row["flags"] & TcpFlag.SYN and not begins_header(payload)
        if len(self._flows) > FLOW_LIMIT:
            _, oldest = self._flows.popitem(last=False)
            self._given_up += not oldest.stream.done
        return flow

    def _cut_short(self, flow: _Flow) -> Iterator[Answer]:
        if found := flow.stream.unfinished():
            for answer in decode_bytes(found.data, final=False):
                yield self._judged(_at(answer, flow.seen), found)


def _at(answer: Answer, seen: Seen) -> Answer:
    return msgspec.structs.replace(answer, seen=seen)
