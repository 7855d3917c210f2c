"""PROXY headers at the begin of one direction of a TCP connection, put together from its segments.

Segments may come twice, late, or overlap: what came first at a place of the stream stays. Everything that is held
is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from daemonset.decode.proxy_protocol import Decoder, ProxyProtocolError, begins_header
from daemonset.observation import ProxyHeader

_EARLY_SEGMENTS = 64  # segments held while an earlier one is missing


class Found(NamedTuple):
    """A header or an error, with the bytes of it.

    `data` begins with the header and has whatever came with it; `first` is the header at the begin of the stream,
    where this is a later one. `cuts` are the offsets in `data` at which a segment ended before the next one came.
    """

    event: ProxyHeader | ProxyProtocolError
    data: bytes
    first: bytes | None
    cuts: tuple[int, ...]


class Stream:
    """From the first byte, whose sequence number is `first`, to where the headers end (`done`)."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.done = False
        self.gave_up = False  # too much was held while something was missing
        self._decoder = Decoder()
        self._expected = first
        self._early: dict[int, bytes] = {}
        self._data = bytearray()  # from the begin of the header that is being read
        self._cuts: list[int] = []
        self._header: bytes | None = None

    def add(self, sequence: int, payload: bytes, *, cut: bool = False) -> Iterator[Found]:
        """What a segment settles. `cut`: the capture holds only its beginning, so that nothing can follow."""
        if self.done:
            return
        if len(payload) > len(self._early.get(sequence, b"")):
            self._early[sequence] = payload
        if ready := self._ready():
            yield from self._feed(ready)
        elif len(self._early) > _EARLY_SEGMENTS:
            self.gave_up = self.done = True
        self.done |= cut
        if self.done:
            self._early.clear()

    def unfinished(self) -> Found | None:
        """The begin of a header whose end is not in the capture; its event is an error without meaning."""
        if self._decoder.complete or not begins_header(self._decoder.held):
            return None
        return self._found(ProxyProtocolError("2", len(self._data), "the header is cut"))

    def _ready(self) -> bytes:
        """The bytes that continue the stream now."""
        pieces = []
        while (piece := self._next()) is not None:
            pieces.append(piece)
            self._expected = (self._expected + len(piece)) % 2**32
        return b"".join(pieces)

    def _next(self) -> bytes | None:
        for sequence, payload in self._early.items():
            ahead = (sequence - self._expected + 2**31) % 2**32 - 2**31
            if ahead <= 0:
                del self._early[sequence]
                return payload[-ahead:]
        return None

    def _feed(self, payload: bytes) -> Iterator[Found]:
        if self._data:
            self._cuts.append(len(self._data))
        self._data += payload
        for event in self._decoder.feed(payload):
            if isinstance(event, bytes):
                self.done = True
                break
            yield self._found(event)
            if isinstance(event, ProxyProtocolError):
                self.done = True
                break
            self._pass(event.length)
        if self.done:
            self._data.clear()

    def _found(self, event: ProxyHeader | ProxyProtocolError) -> Found:
        return Found(event, bytes(self._data), self._header, tuple(self._cuts))

    def _pass(self, length: int) -> None:
        """Go on behind a header."""
        if self._header is None:
            self._header = bytes(self._data[:length])
        del self._data[:length]
        self._cuts = [at - length for at in self._cuts if at > length]
