"""PROXY protocol, versions 1 and 2, to the letter of proxy-protocol.txt (revision 2026/04/27). No I/O.

    decode      one header at the start of some bytes
    decode_all  the headers that stand there one after the other, as two balancers in a row send them
    Decoder     the same, fed in chunks

Rules of this file:

1. Any bytes give a header, "more bytes are needed" or ProxyProtocolError; nothing else.
2. What is decided of some bytes does not change when more arrive: any chunking gives the same headers, the
   same error at the same offset, the same rest.
3. What follows the first header is payload unless it begins as a header beyond doubt.
"""

from __future__ import annotations

from typing import NamedTuple

from daemonset.decode.errors import NotProxyProtocolError, ProxyProtocolError
from daemonset.decode.proxy_v1 import LINE_LIMIT, PREFIX, decode_v1
from daemonset.decode.proxy_v2 import SIGNATURE, decode_v2
from daemonset.observation import ProxyHeader

__all__ = [
    "HEADER_LIMIT",
    "HEADER_MAX",
    "Decoded",
    "Decoder",
    "NotProxyProtocolError",
    "ProxyProtocolError",
    "begins_header",
    "decode",
    "decode_all",
]

#: The longest header: 16 bytes and a 16-bit length.
HEADER_LIMIT = 16 + 0xFFFF
#: How many headers in a row are read.
HEADER_MAX = 8

#: Bytes of a signature that, behind a first header, are taken for the begin of another. A blank line or a "P"
#: there is payload; no protocol that is known begins with a whole "PROXY" or with CR LF CR LF NUL.
_TELLING = 5

Bytes = bytes | bytearray | memoryview


def decode(data: Bytes) -> ProxyHeader | None:
    """The header that `data` begins with; None where every byte fits and more are needed.

    `ProxyHeader.length` says where the payload begins. Raises ProxyProtocolError with the specification's
    section and the offset; NotProxyProtocolError where the bytes begin with neither signature.
    """
    if data[:12] == SIGNATURE:
        return decode_v2(data)
    if data[:5] == PREFIX:
        return decode_v1(bytes(data[:LINE_LIMIT]))
    start = bytes(data[:12])
    if SIGNATURE.startswith(start) or PREFIX.startswith(start):
        return None
    offset = max(_common_length(start, SIGNATURE), _common_length(start, PREFIX))
    found = start[offset : offset + 1].hex()
    raise NotProxyProtocolError(
        "2", offset, f"not a PROXY header: 0x{found} fits neither the v1 nor the v2 signature"
    )


def begins_header(data: Bytes) -> bool:
    """Whether `data` begins as a header beyond doubt (the first five bytes of either signature)."""
    start = data[:_TELLING]
    return start == PREFIX or (start == SIGNATURE[:_TELLING] and SIGNATURE.startswith(bytes(data[:12])))


class Decoded(NamedTuple):
    """Headers in a row, and how they ended.

    `rest` is where the payload begins, or the header that could not be decoded: in error where `error` is
    set, cut short where `complete` is false.
    """

    headers: tuple[ProxyHeader, ...]
    rest: int
    error: ProxyProtocolError | None = None
    complete: bool = True


def decode_all(data: Bytes, limit: int = HEADER_MAX) -> Decoded:
    """The headers at the start of `data`, up to `limit`. Raises nothing.

    Offsets in the error count from `rest`. NotProxyProtocolError is an error only of the first header.
    """
    view = memoryview(data)
    headers: list[ProxyHeader] = []
    at = 0
    while len(headers) < limit:
        here = view[at:]
        if headers and not begins_header(here):
            break
        try:
            header = decode(here)
        except ProxyProtocolError as error:
            return Decoded(tuple(headers), at, error)
        if header is None:
            return Decoded(tuple(headers), at, None, complete=False)
        headers.append(header)
        at += header.length
    return Decoded(tuple(headers), at)


class Decoder:
    """Reads headers from a stream, chunk by chunk, and gives back everything behind them.

    A stream that ends while `complete` is false ended inside a header. After an error the connection is to be
    dropped (section 2.1): what is fed then is not looked at. At most HEADER_LIMIT bytes are held.
    """

    def __init__(self, limit: int = HEADER_MAX) -> None:
        self._limit = limit
        self._held = bytearray()
        self._headers = 0
        self._done = False
        self.error: ProxyProtocolError | None = None

    @property
    def complete(self) -> bool:
        """Whether the stream could end here without cutting a header."""
        if self._done or self.error:
            return True
        return self._headers > 0 and not begins_header(self._held)

    @property
    def held(self) -> bytes:
        """Bytes that are neither given back nor understood yet."""
        return bytes(self._held)

    def feed(self, chunk: Bytes) -> list[ProxyHeader | ProxyProtocolError | bytes]:
        """What this chunk settled, in order: headers, an error (once), or payload bytes."""
        if self.error:
            return []
        if self._done:
            return [bytes(chunk)] if chunk else []
        self._held += chunk
        events: list[ProxyHeader | ProxyProtocolError | bytes] = []
        while self._held and not self._done:
            if self._headers and not self._may_be_header():
                self._done = True
                break
            try:
                header = decode(self._held)
            except ProxyProtocolError as error:
                self.error = error
                self._held.clear()
                return [*events, error]
            if header is None:
                return events
            events.append(header)
            del self._held[: header.length]
            self._headers += 1
            self._done = self._headers >= self._limit
        if self._done:
            events += self._release()
        return events

    def close(self) -> bytes:
        """The stream has ended: the bytes held back in case they would become a header, which are payload."""
        if not self.complete:
            return b""
        self._done = True
        return b"".join(self._release())

    def _may_be_header(self) -> bool:
        start = bytes(self._held[:_TELLING])
        if len(start) < _TELLING:
            return PREFIX.startswith(start) or SIGNATURE.startswith(start)
        return begins_header(self._held)

    def _release(self) -> list[bytes]:
        held = bytes(self._held)
        self._held.clear()
        return [held] if held else []


def _common_length(one: bytes, other: bytes) -> int:
    length = min(len(one), len(other))
    return next((at for at in range(length) if one[at] != other[at]), length)
