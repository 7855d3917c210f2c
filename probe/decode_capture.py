"""PROXY headers in a capture: the first bytes of each direction of each TCP connection, and of each datagram.

A header that is split over segments is put together by sequence numbers, retransmissions and disorder allowed
for. Everything is bounded: connections, bytes and segments held for each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgspec

from daemonset.decode.packet import TCP, Batch
from daemonset.decode.proxy_protocol import (
    Decoder,
    NotProxyProtocolError,
    ProxyProtocolError,
    begins_header,
)
from daemonset.observation import PACKET, ProxyHeader, TcpFlag, endpoint_text
from daemonset.taps.pcap import CapturedPacket, read_packets
from probe.decode_answer import Answer, Seen, answer_failed, answer_for, decode_bytes, version_of

#: Connection directions followed at a time; the one that began first is given up first.
FLOW_LIMIT = 65_536

_EARLY_SEGMENTS = 64  # segments held while an earlier one is missing
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

    def _read_body(self, frame: bytes, start: int, stop: int, *, reads: bool) -> tuple[int, int, int]:
        self._payload = frame[start:stop] if reads else b""
        return 0, 0, 0


class _Flow:
    """One direction of a connection, from its first byte to where its headers end."""

    def __init__(self, first: int, seen: Seen) -> None:
        self.first = first
        self.seen = seen
        self.done = False
        self.decoder = Decoder()
        self._expected = first
        self._early: dict[int, bytes] = {}

    def add(self, sequence: int, payload: bytes, cut: bool) -> Iterator[ProxyHeader | ProxyProtocolError]:
        """What a segment settles. `cut`: the capture holds only its beginning, so that nothing can follow."""
        self._early.setdefault(sequence, payload)
        while not self.done and (ready := self._next()) is not None:
            yield from self._feed(ready)
        if cut or len(self._early) > _EARLY_SEGMENTS:
            self.done = True
        if self.done:
            self._early.clear()

    def unfinished(self) -> bytes:
        """The beginning of a header whose end is not in the capture."""
        held = self.decoder.held
        return held if not self.decoder.complete and begins_header(held) else b""

    def _next(self) -> bytes | None:
        for sequence, payload in self._early.items():
            ahead = (sequence - self._expected + 2**31) % 2**32 - 2**31
            if ahead <= 0:
                del self._early[sequence]
                return payload[-ahead:]
        return None

    def _feed(self, payload: bytes) -> Iterator[ProxyHeader | ProxyProtocolError]:
        self._expected = (self._expected + len(payload)) % 2**32
        for event in self.decoder.feed(payload):
            if isinstance(event, bytes):
                self.done = True
            else:
                self.done = isinstance(event, ProxyProtocolError)
                yield event


class HeaderFinder:
    """Reads one capture. `remarks` (why the result may not be whole) and `flows` are final at its end."""

    def __init__(self) -> None:
        self.flows = 0
        self.remarks: list[str] = []
        self._flows: OrderedDict[tuple[Any, ...], _Flow] = OrderedDict()
        self._given_up = 0

    def read(self, path: str) -> Iterator[Answer]:
        """An answer for each header, in the order in which they became clear. Raises CaptureFileError."""
        payloads = _Payloads()
        capture = read_packets(path)
        for number, packet in enumerate(capture, 1):
            found = payloads.read(packet)
            if found and not found[0]["icmp"]:
                yield from self._take(number, packet, *found)
        for flow in self._flows.values():
            yield from _cut_short(flow)
        if capture.truncated:
            self.remarks.append(f"the capture is not whole: {capture.truncated}")
        if self._given_up:
            self.remarks.append(
                f"{self._given_up} connections were given up: more than {FLOW_LIMIT} at a time"
            )

    def _take(self, number: int, packet: CapturedPacket, row: Row, payload: bytes) -> Iterator[Answer]:
        seen = Seen(
            number,
            packet.time / 1e9,
            endpoint_text(row["src_hi"], row["src_lo"], row["sport"]),
            endpoint_text(row["dst_hi"], row["dst_lo"], row["dport"]),
            packet.interface,
        )
        if row["protocol"] != TCP:
            self.flows += bool(payload)
            if begins_header(payload):
                yield from (_at(answer, seen) for answer in decode_bytes(payload))
            return
        flow = self._flow(row, payload, seen)
        if flow is None or flow.done or not payload:
            return
        sequence = (row["seq"] + (1 if row["flags"] & TcpFlag.SYN else 0)) % 2**32
        for event in flow.add(sequence, payload, len(payload) < row["length"]):
            if isinstance(event, ProxyHeader):
                yield answer_for(event, seen)
            elif not isinstance(event, NotProxyProtocolError):
                yield answer_failed(version_of(event), str(event), complete=True, seen=seen)

    def _flow(self, row: Row, payload: bytes, seen: Seen) -> _Flow | None:
        """The flow of a packet: the known one, or a new one that begins with a SYN or a header."""
        key = (seen.interface, *(row[name] for name in _FLOW))
        flow = self._flows.get(key)
        if row["flags"] & TcpFlag.SYN:
            first = (row["seq"] + 1) % 2**32
            if flow and flow.first == first:
                return flow
        elif flow or not payload:
            return flow
        else:
            first = row["seq"]
        self.flows += 1
        flow = self._flows[key] = _Flow(first, seen)
        flow.done = not row["flags"] & TcpFlag.SYN and not begins_header(payload)
        if len(self._flows) > FLOW_LIMIT:
            _, oldest = self._flows.popitem(last=False)
            self._given_up += not oldest.done
        return flow


def _cut_short(flow: _Flow) -> Iterator[Answer]:
    if begin := flow.unfinished():
        yield from (_at(answer, flow.seen) for answer in decode_bytes(begin, final=False))


def _at(answer: Answer, seen: Seen) -> Answer:
    return msgspec.structs.replace(answer, seen=seen)
