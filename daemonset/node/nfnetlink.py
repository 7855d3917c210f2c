"""nfnetlink messages as bytes: attributes read within bounds, and written (linux/netfilter/nfnetlink.h).

Pure, and without a word of what any message means. Any bytes are read up to their first broken attribute; nothing
raises.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

NETLINK_NETFILTER = 12
NFTABLES = 10  # NFNL_SUBSYS_NFTABLES
ERROR, DONE = 2, 3  # NLMSG_*
REQUEST, ACKNOWLEDGE, DUMP, EXCLUSIVE, CREATE, APPEND = 0x1, 0x4, 0x300, 0x200, 0x400, 0x800  # NLM_F_*
LISTED = 1  # NFTA_LIST_ELEM

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF

_header = struct.Struct("=IHHII")
_family_header = struct.Struct("!BBH")
_attribute = struct.Struct("=HH")

#: Where the attributes of a message begin.
PAYLOAD = _header.size + _family_header.size


class Message(NamedTuple):
    """One netlink message. `subsystem` and `kind` are the two halves of its type; `data` holds all of it."""

    subsystem: int
    kind: int
    sequence: int
    family: int
    data: bytes

    @property
    def error(self) -> int:
        """The errno of an `ERROR` or `DONE` message; 0 where it says that all is well."""
        return max(0, -int.from_bytes(self.data[_header.size : _header.size + 4], sys.byteorder, signed=True))

    def attributes(self) -> dict[int, bytes]:
        """The attributes by type; of one that comes again, the last."""
        return dict(attributes(self.data[PAYLOAD:]))


def messages(datagram: bytes) -> Iterator[Message]:
    """The messages of one datagram, up to the first whose length cannot be."""
    start = 0
    while start + _header.size <= len(datagram):
        length, kind, _, sequence, _ = _header.unpack_from(datagram, start)
        if length < _header.size or start + length > len(datagram):
            return
        data = datagram[start : start + length]
        family = data[_header.size] if length > _header.size else 0
        yield Message(kind >> 8, kind & 0xFF, sequence, family, data)
        start += length + 3 & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute (struct nlattr), up to the first broken one."""
    start = 0
    while start + _attribute.size <= len(data):
        size, kind = _attribute.unpack_from(data, start)
        if size < _attribute.size or start + size > len(data):
            return
        yield kind & _TYPE_MASK, data[start + _attribute.size : start + size]
        start += size + 3 & ~3


def number(value: bytes | None) -> int:
    """An integer in network order, of whatever width; 0 where there is none."""
    return int.from_bytes(value, "big") if value is not None and len(value) <= 8 else 0


def text(value: bytes | None, most: int = 256) -> str:
    """A string that ends at its first NUL, at most `most` characters of it; bytes that are no UTF-8 escaped."""
    if value is None:
        return ""
    return value.split(b"\0", 1)[0][:most].decode("utf-8", "backslashreplace")[:most]


# ── writing ──


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _attribute.pack(_attribute.size + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *values: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(values))


def name(kind: int, value: str) -> bytes:
    """An attribute that holds a string."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """An attribute that holds 32 bits in network order; negative ones in two's complement."""
    return attribute(kind, (value & 0xFFFF_FFFF).to_bytes(4, "big"))


def u64(kind: int, value: int) -> bytes:
    """An attribute that holds 64 bits in network order."""
    return attribute(kind, value.to_bytes(8, "big"))


class Order(NamedTuple):
    """A message to the kernel that is yet to be numbered."""

    kind: int
    flags: int
    family: int
    attributes: bytes

    def message(self, sequence: int) -> bytes:
        """The message of the nftables subsystem with this number."""
        return _message(
            NFTABLES << 8 | self.kind, self.flags | REQUEST, sequence, (self.family, 0), self.attributes
        )


def request(subsystem: int, kind: int, flags: int = 0) -> bytes:
    """A question without attributes, about all families."""
    return _message(subsystem << 8 | kind, flags | REQUEST, 1, (0, 0), b"")


def batch(orders: Iterable[Order], first: int) -> bytes:
    """Orders as one transaction, numbered from `first` on; each is acknowledged."""
    numbered = [
        order._replace(flags=order.flags | ACKNOWLEDGE).message(sequence)
        for sequence, order in enumerate(orders, first)
    ]
    begin = _message(_BATCH_BEGIN, REQUEST, first, (0, NFTABLES), b"")
    end = _message(_BATCH_END, REQUEST, first, (0, NFTABLES), b"")
    return b"".join((begin, *numbered, end))


def _message(kind: int, flags: int, sequence: int, about: tuple[int, int], attributes: bytes) -> bytes:
    """A message; `about`: address family and resource (of a batch, the subsystem)."""
    header = _header.pack(PAYLOAD + len(attributes), kind, flags, sequence, 0)
    return header + _family_header.pack(about[0], 0, about[1]) + attributes
