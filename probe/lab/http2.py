"""As much HTTP/2 as one GET with prior knowledge needs (RFC 9113, RFC 7541). Sans I/O.

Fields are sent without Huffman coding and without the dynamic table. Of the answer's fields only a status of the
static table is read, and not one that is spelled out.
"""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_DATA, _HEADERS, _RESET, _SETTINGS, _GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x7
_END_STREAM, _END_HEADERS, _PADDED, _ACK = 0x1, 0x4, 0x8, 0x1
_HEAD = 9  # bytes before a frame's payload
_STREAM = 1

#: Indexed fields of the static table (RFC 7541 appendix A): the whole byte of `:status`, GET and http.
_STATUS = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
_METHOD_GET, _SCHEME_HTTP = b"\x82", b"\x86"
_AUTHORITY, _PATH, _NEW_NAME = b"\x01", b"\x04", b"\x00"  # literals without indexing, by name


def _text(value: str) -> bytes:
    data = value.encode("ascii")
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, length = len(data) - 127, bytearray([127])  # RFC 7541 §5.1
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes([*length, rest]) + data


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def get(authority: str, path: str, fields: dict[str, str]) -> bytes:
    """Everything that a client sends for one GET, but for the acknowledgement of the server's settings."""
    block = _METHOD_GET + _SCHEME_HTTP + _AUTHORITY + _text(authority) + _PATH + _text(path)
    block += b"".join(_NEW_NAME + _text(name.lower()) + _text(value) for name, value in fields.items())
    return PREFACE + _frame(_SETTINGS, 0, 0) + _frame(_HEADERS, _END_STREAM | _END_HEADERS, _STREAM, block)


class Reader:
    """The server's side of that exchange. `reply` is what is to be sent to the server, to be taken away."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.body = b""
        self.complete = False
        self.reply = b""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Read what has come."""
        self._rest += data
        while len(self._rest) >= _HEAD:
            length = int.from_bytes(self._rest[:3])
            if len(self._rest) < _HEAD + length:
                return
            kind, flags = self._rest[3], self._rest[4]
            self._frame(kind, flags, self._rest[_HEAD : _HEAD + length])
            self._rest = self._rest[_HEAD + length :]

    def _frame(self, kind: int, flags: int, payload: bytes) -> None:
        if flags & _PADDED and kind in {_DATA, _HEADERS}:
            payload = payload[1 : len(payload) - payload[0]]
        if kind == _SETTINGS and not flags & _ACK:
            self.reply += _frame(_SETTINGS, _ACK, 0)
        elif kind == _HEADERS and self.status is None:
            self.status = _STATUS.get(payload[0]) if payload else None
        elif kind == _DATA:
            self.body += payload
        ends = kind in {_DATA, _HEADERS} and bool(flags & _END_STREAM)
        self.complete = self.complete or ends or kind in {_RESET, _GOAWAY}
