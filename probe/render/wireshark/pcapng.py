"""A pcapng file, block by block (draft-ietf-opsawg-pcapng): what `probe.render.wireshark.packets` says of a capture.

Little-endian, one section of unknown length, so that it can be written to a pipe. Times are nanoseconds since the
epoch and stay so (if_tsresol 9). Nothing here knows what a journey is.

Every text is one safe line (`probe.render.escape`): comments and names are read by terminals too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import BinaryIO, Protocol

from probe.render.escape import escape

_SECTION, _INTERFACE, _NAMES, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 4, 5, 6
_BYTE_ORDER = 0x1A2B3C4D
_UNKNOWN_LENGTH = 0xFFFF_FFFF_FFFF_FFFF

# Options. A comment may stand in every block, and more than once.
_END, _COMMENT = 0, 1
_APPLICATION = 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 2, 3, 9
_FLAGS = 2
_RECEIVED, _DROPPED = 4, 5
_NANOSECONDS = b"\x09"

_RECORD_END, _RECORD_IPV4, _RECORD_IPV6 = 0, 1, 2

#: Longest text of an option, in characters; in UTF-8 it fits into an option's 65,535 bytes.
_TEXT_LIMIT = 4000

Option = tuple[int, bytes]


class Packet(Protocol):
    """A packet: its bytes as far as they are there, and how many it had. `direction`: 1 in, 2 out, 0 unknown."""

    @property
    def time(self) -> int:
        """Nanoseconds since the epoch."""
        ...

    @property
    def data(self) -> bytes: ...  # noqa: D102 - said above

    @property
    def length(self) -> int: ...  # noqa: D102

    @property
    def direction(self) -> int: ...  # noqa: D102

    @property
    def comments(self) -> Sequence[str]: ...  # noqa: D102


class Writer:
    """Writes one section. Raises what `file.write` raises."""

    def __init__(self, file: BinaryIO, application: str, comments: Iterable[str] = ()) -> None:
        self._file = file
        self._interfaces = 0
        head = struct.pack("<IHHQ", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH)
        self._block(_SECTION, head, [*_comments(comments), (_APPLICATION, _text(application))])

    def names(self, names: Iterable[tuple[IPv4Address | IPv6Address, str]]) -> None:
        """What addresses are called. A reader uses the names for the packets that come later."""
        records = []
        for address, name in names:
            kind = _RECORD_IPV4 if address.version == 4 else _RECORD_IPV6
            value = address.packed + _text(name, 200) + b"\0"
            records.append(struct.pack("<HH", kind, len(value)) + _padded(value))
        if records:
            self._block(_NAMES, b"".join(records) + struct.pack("<HH", _RECORD_END, 0))

    def interface(self, link: int, name: str, description: str) -> int:
        """One more interface of this LINKTYPE; returns its number."""
        options = [
            (_IF_NAME, _text(name)),
            (_IF_DESCRIPTION, _text(description)),
            (_IF_TSRESOL, _NANOSECONDS),
        ]
        self._block(_INTERFACE, struct.pack("<HHI", link, 0, 0), options)
        self._interfaces += 1
        return self._interfaces - 1

    def packet(self, interface: int, packet: Packet) -> None:
        """One packet of an interface."""
        time, data = packet.time, packet.data
        length = min(packet.length, 0xFFFF_FFFF)
        head = struct.pack("<IIIII", interface, time >> 32, time & 0xFFFF_FFFF, len(data), length)
        options = _comments(packet.comments)
        if packet.direction:
            options.append((_FLAGS, struct.pack("<I", packet.direction)))
        self._block(_PACKET, head + _padded(data), options)

    def statistics(self, interface: int, time: int, received: int, dropped: int) -> None:
        """What the kernel counted at an interface."""
        head = struct.pack("<III", interface, time >> 32, time & 0xFFFF_FFFF)
        options = [(_RECEIVED, struct.pack("<Q", received)), (_DROPPED, struct.pack("<Q", dropped))]
        self._block(_STATISTICS, head, options)

    def _block(self, kind: int, body: bytes, options: Sequence[Option] = ()) -> None:
        if options:
            written = (struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options)
            body += b"".join(written) + struct.pack("<HH", _END, 0)
        size = struct.pack("<I", len(body) + 12)
        self._file.write(struct.pack("<I", kind) + size + body + size)


def _comments(comments: Iterable[str]) -> list[Option]:
    return [(_COMMENT, _text(comment)) for comment in comments]


def _text(text: str, limit: int = _TEXT_LIMIT) -> bytes:
    return escape(text, limit).encode()


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)
