"""One conntrack record: as a message of the kernel's (ctnetlink), and as a row of `observation.NAT`.

Messages are those of linux/netfilter/nfnetlink_conntrack.h. Events come by tens of thousands a second, and a table may
hold hundreds of thousands of records, which leaves a few microseconds for each: so a message that is laid out as the
kernel lays out nearly all of them is unpacked in one step, and known again by the headers of its attributes. Whatever
looks otherwise has its attributes walked one by one. A test compares the two.

Pure: any bytes give a row or none.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from daemonset.observation import NAT, NatEvent

# IPS_* bits (linux/netfilter/nf_conntrack_common.h).
SEEN_REPLY, ASSURED, SRC_NAT, DST_NAT = 1 << 1, 1 << 2, 1 << 4, 1 << 5

_MAPPED = 0xFFFF_0000_0000
_pack = NAT.struct.pack


class Tuple(NamedTuple):
    """One direction of a connection as conntrack keys it. Protocols without ports have 0 for them."""

    src: tuple[int, int]
    dst: tuple[int, int]
    sport: int
    dport: int


def nat_bits(original: Tuple, reply: Tuple) -> int:
    """What NAT did: without it, a reply comes from where the packet was sent, and goes where it came from."""
    destination = (original.dst, original.dport) != (reply.src, reply.sport)
    source = (original.src, original.sport) != (reply.dst, reply.dport)
    return (DST_NAT if destination else 0) | (SRC_NAT if source else 0)


def row_of(
    original: Tuple,
    reply: Tuple,
    *,
    time: int,
    status: int,
    mark: int,
    node: int,
    zone: int,
    protocol: int,
    event: int,
) -> bytes:
    """A row of `observation.NAT`."""
    return _pack(
        time, *original.src, *original.dst, *reply.src, *reply.dst,
        status, mark, node, original.sport, original.dport, reply.sport, reply.dport, zone, protocol, event,
    )  # fmt: skip


#: Types of messages, and a flag: the table changed while it was dumped.
ERROR, DONE = 2, 3
DUMP_INTERRUPTED = 0x10

_SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK
_CT_NEW, _CT_GET, _CT_DELETE = 0, 1, 2
_F_REQUEST, _F_DUMP, _F_CREATE = 0x1, 0x300, 0x400

_ORIG, _REPLY, _STATUS, _MARK, _ZONE, _FILTER, _EVENT_TIME = 1, 2, 3, 8, 18, 25, 27
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_PROTO_NUM, _PROTO_SPORT, _PROTO_DPORT = 1, 2, 3
_SOURCES, _DESTINATIONS = frozenset({1, 3}), frozenset({2, 4})  # CTA_IP_V4_SRC, V6_SRC; V4_DST, V6_DST
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF

# What a dump is filtered by in the kernel (net/netfilter/nf_internals.h, since Linux 5.8).
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_BY_PROTOCOL_AND_PORT = 1 << 3 | 1 << 5

_header = struct.Struct("=IHHII")
_family_header = struct.Struct("!BBH")
_attribute = struct.Struct("=HH")
_be16 = struct.Struct("!H")
_be32 = struct.Struct("!I")
_be64 = struct.Struct("!Q")
_PAYLOAD = _header.size + _family_header.size

_row_port = struct.Struct("<H")
_ROW_DPORT, _ROW_PROTOCOL = NAT.offset("orig_dport"), NAT.offset("protocol")


def parse_message(message: bytes, *, time: int, node: int = 0, dumped: bool = False) -> bytes | None:
    """The row of one netlink message, header included; None when it is no whole conntrack record.

    `dumped` says that it answers a dump; otherwise it is an event, NEW when the kernel set NLM_F_CREATE on
    it. `time` stands unless the kernel stamped the event itself (Linux 6.14, with nf_conntrack_timestamp).
    """
    if len(message) < _PAYLOAD:
        return None
    length, kind, flags, _, _ = _header.unpack_from(message)
    if kind >> 8 != _SUBSYSTEM or kind & 0xFF not in {_CT_NEW, _CT_DELETE}:
        return None
    event = NatEvent.DUMP
    if not dumped:
        event = NatEvent.NEW if flags & _F_CREATE else NatEvent.UPDATE
        if kind & 0xFF == _CT_DELETE:
            event = NatEvent.DESTROY
    stop = min(length, len(message))
    row = _usual_row(message, stop, time, node, event)
    return _walked_row(message, stop, time, node, event) if row is None else row


def _walked_row(message: bytes, stop: int, time: int, node: int, event: NatEvent) -> bytes | None:
    """The row of a message in any order."""
    found = dict(_attributes(message, _PAYLOAD, stop))
    original, reply = _wire_tuple(message, found.get(_ORIG)), _wire_tuple(message, found.get(_REPLY))
    if original is None or reply is None:
        return None
    protocol, zone_of_direction, forward = original
    status, mark, zone, time = _others(message, _PAYLOAD, stop, time)
    return row_of(
        forward,
        reply[2],
        time=time,
        # A record of a later kernel may lack the status in its DESTROY event; the tuples still tell the NAT.
        status=status | nat_bits(forward, reply[2]),
        mark=mark,
        node=node,
        zone=zone or zone_of_direction,
        protocol=protocol,
        event=event,
    )


_Span = tuple[int, int]


def _attributes(message: bytes, start: int, stop: int) -> Iterator[tuple[int, _Span]]:
    """Type and extent of each attribute (struct nlattr) between two offsets, up to the first broken one."""
    while start + 4 <= stop:
        size, kind = _attribute.unpack_from(message, start)
        if size < 4 or start + size > stop:
            return
        yield kind & _TYPE_MASK, (start + 4, start + size)
        start += size + 3 & ~3


def _field(message: bytes, span: _Span | None, layout: struct.Struct) -> int | None:
    if span is None or span[1] - span[0] != layout.size:
        return None
    value: int = layout.unpack_from(message, span[0])[0]
    return value


class _Before(NamedTuple):
    """What stands before the original destination port in the usual order, without the lengths of open nests."""

    layout: struct.Struct
    headers: tuple[bytes, ...]


def _before_dport(size: int, first: int) -> _Before:
    """`size` is that of an address in bytes, `first` the type of the source's."""
    header, address = _attribute.pack, 4 + size
    return _Before(
        struct.Struct(f"{_PAYLOAD + 2}x6s4s{size}x4s{size}x2x6s4x4s4x4s2s"),
        (
            header(0, _ORIG | _NESTED)[2:] + header(4 + 2 * address, _TUPLE_IP | _NESTED),
            header(address, first),
            header(address, first + 1),
            header(0, _TUPLE_PROTO | _NESTED)[2:] + header(5, _PROTO_NUM),
            header(6, _PROTO_SPORT),
            header(6, _PROTO_DPORT),
        ),
    )


_BEFORE_DPORT = (_before_dport(4, 1), _before_dport(16, 3))


class Ports:
    """Protocols and original destination ports of the records that are wanted. Most others are soon known as such."""

    def __init__(self, ports: Iterable[tuple[int, int]]) -> None:
        self._ports = frozenset(ports)
        self._written = frozenset(_be16.pack(port) for _, port in self._ports)

    def may_have(self, message: bytes) -> bool:
        """Whether a message may be of a wanted record. No is said only where the port stands in its usual place."""
        for layout, headers in _BEFORE_DPORT:
            if len(message) >= layout.size:
                *found, port = layout.unpack_from(message)
                if tuple(found) == headers:
                    return port in self._written
        return True

    def have(self, row: bytes) -> bool:
        """Whether a row is of a wanted record."""
        (port,) = _row_port.unpack_from(row, _ROW_DPORT)
        return (row[_ROW_PROTOCOL], port) in self._ports


class _Usual(NamedTuple):
    """How the kernel lays out the tuples of a TCP or UDP record: both, with their addresses as so many words.

    `headers` are those of the attributes, `known` finds them among what was unpacked, `values` the rest.
    """

    layout: struct.Struct
    headers: tuple[bytes, ...]
    known: Callable[[tuple[Any, ...]], tuple[bytes, ...]]
    values: Callable[[tuple[Any, ...]], tuple[int, ...]]


def _usual(size: int, first: int, words: str) -> _Usual:
    """`size` is that of an address in bytes, `first` the type of the source's, `words` how it is unpacked."""
    header = _attribute.pack
    address, whole = 4 + size, 4 + 2 * (4 + size) + 28
    layout = ["12s", *words, "4s", *words, "8s", "B3x", "4s", "H2x", "4s", "H2x"] * 2
    within = (
        header(4 + 2 * address, _TUPLE_IP | _NESTED) + header(address, first),
        header(address, first + 1),
        header(28, _TUPLE_PROTO | _NESTED) + header(5, _PROTO_NUM),
        header(6, _PROTO_SPORT),
        header(6, _PROTO_DPORT),
    )
    headers = [(header(4 + whole, kind | _NESTED) + within[0], *within[1:]) for kind in (_ORIG, _REPLY)]
    at = range(len(layout))
    return _Usual(
        struct.Struct("!" + "".join(layout)),
        (*headers[0], *headers[1]),
        itemgetter(*(number for number in at if layout[number].endswith("s"))),
        itemgetter(*(number for number in at if not layout[number].endswith("s"))),
    )


_FOUR, _SIX = _usual(4, 1, "I"), _usual(16, 3, "QQ")


def _usual_row(message: bytes, stop: int, time: int, node: int, event: int) -> bytes | None:
    """The row of a message that is laid out as usual; None where it is another."""
    for usual in (_FOUR, _SIX):
        at = _PAYLOAD + usual.layout.size
        if stop < at:
            return None
        unpacked = usual.layout.unpack_from(message, _PAYLOAD)
        if usual.known(unpacked) == usual.headers:
            break
    else:
        return None
    words: tuple[int, ...]
    if usual is _FOUR:
        src, dst, number, sport, dport, back, to, _, back_port, to_port = usual.values(unpacked)
        words = (0, _MAPPED | src, 0, _MAPPED | dst, 0, _MAPPED | back, 0, _MAPPED | to)
    else:
        *ends, number, sport, dport, back_hi, back_lo, to_hi, to_lo, _, back_port, to_port = usual.values(
            unpacked
        )
        words = (*ends, back_hi, back_lo, to_hi, to_lo)
    status, mark, zone, time = _others(message, at, stop, time)
    if words[2:4] != words[4:6] or dport != back_port:
        status |= DST_NAT
    if words[:2] != words[6:] or sport != to_port:
        status |= SRC_NAT
    return _pack(time, *words, status, mark, node, sport, dport, back_port, to_port, zone, number, event)


def _others(message: bytes, at: int, stop: int, time: int) -> tuple[int, int, int, int]:
    """Status, mark, zone and time, where attributes from `at` on tell them: the last whole one of each counts."""
    status = mark = zone = 0
    while at + 8 <= stop:
        size, kind = _attribute.unpack_from(message, at)
        if size < 4:
            break
        kind &= _TYPE_MASK
        if kind == _STATUS and size == 8:
            (status,) = _be32.unpack_from(message, at + 4)
        elif kind == _MARK and size == 8:
            (mark,) = _be32.unpack_from(message, at + 4)
        elif kind == _ZONE and size == 6:
            (zone,) = _be16.unpack_from(message, at + 4)
        elif kind == _EVENT_TIME and size == 12 and at + 12 <= stop:
            (time,) = _be64.unpack_from(message, at + 4)
        at += size + 3 & ~3
    return status, mark, zone, time


def _mapped(address: bytes) -> tuple[int, int]:
    if len(address) == 4:
        return 0, _MAPPED | int.from_bytes(address, "big")
    return int.from_bytes(address[:8], "big"), int.from_bytes(address[8:], "big")


def _wire_tuple(message: bytes, span: _Span | None) -> tuple[int, int, Tuple] | None:
    """Protocol, zone of this direction, and the tuple; None when addresses or protocol are not there."""
    if span is None:
        return None
    parts = dict(_attributes(message, *span))
    addresses, proto = parts.get(_TUPLE_IP), parts.get(_TUPLE_PROTO)
    if addresses is None or proto is None:
        return None
    src = dst = None
    for kind, (start, stop) in _attributes(message, *addresses):
        if stop - start != (4 if kind <= 2 else 16):
            continue
        if kind in _SOURCES:
            src = _mapped(message[start:stop])
        elif kind in _DESTINATIONS:
            dst = _mapped(message[start:stop])
    fields = dict(_attributes(message, *proto))
    number = fields.get(_PROTO_NUM)
    if src is None or dst is None or number is None or number[1] - number[0] != 1:
        return None
    sport = _field(message, fields.get(_PROTO_SPORT), _be16) or 0
    dport = _field(message, fields.get(_PROTO_DPORT), _be16) or 0
    zone = _field(message, parts.get(_TUPLE_ZONE), _be16) or 0
    return message[number[0]], zone, Tuple(src, dst, sport, dport)


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and bytes of each netlink message of a datagram."""
    start = 0
    while start + _header.size <= len(data):
        length, kind, flags, _, _ = _header.unpack_from(data, start)
        if length < _header.size or start + length > len(data):
            return
        yield kind, flags, data[start : start + length]
        start += length + 3 & ~3


def dump_requests(ports: Iterable[tuple[int, int]]) -> list[bytes]:
    """One request for the whole table, or one for each port and family (a filter is of one family)."""
    families = (socket.AF_INET, socket.AF_INET6)
    filtered = [
        _dump_request(family, _port_filter(protocol, port)) for protocol, port in ports for family in families
    ]
    return filtered or [_dump_request(socket.AF_UNSPEC, b"")]


def _dump_request(family: int, attributes: bytes) -> bytes:
    kind, length = _SUBSYSTEM << 8 | _CT_GET, _PAYLOAD + len(attributes)
    header = _header.pack(length, kind, _F_REQUEST | _F_DUMP, 1, 0)
    return header + _family_header.pack(family, 0, 0) + attributes


def _port_filter(protocol: int, port: int) -> bytes:
    proto = _attribute_of(_PROTO_NUM, bytes([protocol])) + _attribute_of(_PROTO_DPORT, _be16.pack(port))
    original = _attribute_of(_ORIG | _NESTED, _attribute_of(_TUPLE_PROTO | _NESTED, proto))
    by = _attribute_of(_FILTER_ORIG_FLAGS, struct.pack("=I", _BY_PROTOCOL_AND_PORT))
    return original + _attribute_of(_FILTER | _NESTED, by + _attribute_of(_FILTER_REPLY_FLAGS, bytes(4)))


def _attribute_of(kind: int, value: bytes) -> bytes:
    return _attribute.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)
