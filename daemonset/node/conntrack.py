"""The kernel's own account of NAT: conntrack records as rows of `observation.NAT`.

Three sources, one row: text that somebody saved with `conntrack -L` (or /proc/net/nf_conntrack), a dump of
the live table, and live events. The two live ones speak ctnetlink (linux/netfilter/nfnetlink_conntrack.h) on
a socket of our own: events come by tens of thousands a second, which leaves ten microseconds for each.

`parse_text` and `parse_message` are pure, and any input gives rows or none of them; only `snapshot` and
`Events` touch the kernel. They need CAP_NET_ADMIN over the network namespace.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import sys
import time as clock
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, Self

from daemonset.node.namespaces import call_inside
from daemonset.observation import NAT, Gap, NatEvent, address_words

# IPS_* bits (linux/netfilter/nf_conntrack_common.h).
SEEN_REPLY, ASSURED, SRC_NAT, DST_NAT = 1 << 1, 1 << 2, 1 << 4, 1 << 5

_MAPPED = 0xFFFF_0000_0000
_pack = NAT.struct.pack


class ConntrackError(Exception):
    """The kernel's table cannot be read; the message says why, in one line."""


# ── text ──

_MOST_SKIPPED = 100  # a foreign file must not fill the memory with complaints about its lines

# [NEW] tcp 6 120 SYN_SENT src=…       conntrack -E, with [seconds.fraction] in front under -o timestamp
# ipv4 2 tcp 6 431999 ESTABLISHED src=…  -o extended and /proc/net/nf_conntrack
_ENTRY = re.compile(
    r"\s*(?:\[(?P<time>\d{1,10}\.\d{1,9})\]\s*)?(?:\[(?P<event>NEW|UPDATE|DESTROY)\]\s*)?"
    r"(?:ipv[46]\s+\d+\s+)?\w+\s+(?P<protocol>\d{1,3})\s",
    re.ASCII,
)
_PAIR = re.compile(r"(?<![^\s])(src|dst|sport|dport|mark|zone|zone-orig|orig-zone)=(\S+)", re.ASCII)
_SUMMARY = re.compile(r"conntrack v\S+ \(conntrack-tools\): ", re.ASCII)

_words = lru_cache(maxsize=4096)(address_words)


def parse_text(text: str | Iterable[str], *, time: int = 0, node: int = 0) -> tuple[bytes, list[str]]:
    """Rows of saved conntrack output (plain, `-o extended`, `-E`, /proc), and what was not understood of it.

    `time` (ns) is for lines that carry none, `node` the index for the rows. Each skipped line is told with
    its number, the reason and its beginning, escaped; blank lines and the tool's summary are not told.
    """
    rows: list[bytes] = []
    skipped: list[str] = []
    unheard = 0
    for number, line in enumerate(text.splitlines() if isinstance(text, str) else text, 1):
        if not line.strip() or _SUMMARY.match(line):
            continue
        try:
            rows.append(_parse_line(line, time, node))
        except ValueError as error:
            if len(skipped) < _MOST_SKIPPED:
                reason = ascii(str(error))[1:-1]  # it may quote the line
                skipped.append(f"line {number}: {reason}: {line[:80]!a}")
            else:
                unheard += 1
    if unheard:
        skipped.append(f"and {unheard} more lines")
    return b"".join(rows), skipped


def _parse_line(line: str, time: int, node: int) -> bytes:
    entry = _ENTRY.match(line)
    if entry is None:
        raise ValueError("not a conntrack entry")
    values: dict[str, list[str]] = {}
    for key, value in _PAIR.findall(line, entry.end()):
        values.setdefault(key, []).append(value)
    if len(values.get("src", ())) != 2 or len(values.get("dst", ())) != 2:
        raise ValueError("not two tuples of addresses")
    original, reply = _text_tuple(values, 0), _text_tuple(values, 1)
    status = (0 if "[UNREPLIED]" in line else SEEN_REPLY) | (ASSURED if "[ASSURED]" in line else 0)
    zones = values.get("zone") or values.get("zone-orig") or values.get("orig-zone") or ["0"]
    if entry["time"]:
        seconds, fraction = entry["time"].split(".")
        time = int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0"))
    return _row(
        original,
        reply,
        time=time,
        status=status | _nat_bits(original, reply),
        mark=_number(values.get("mark", ["0"])[0], 0xFFFF_FFFF),
        node=node,
        zone=_number(zones[0], 0xFFFF),
        protocol=_number(entry["protocol"], 0xFF),
        event=NatEvent[entry["event"]] if entry["event"] else NatEvent.DUMP,
    )


class _Tuple(NamedTuple):
    """One direction of a connection as conntrack keys it. Protocols without ports have 0 for them."""

    src: tuple[int, int]
    dst: tuple[int, int]
    sport: int
    dport: int


def _text_tuple(values: dict[str, list[str]], which: int) -> _Tuple:
    sports, dports = values.get("sport", ()), values.get("dport", ())
    if len(sports) != len(dports) or len(sports) not in {0, 2}:
        raise ValueError("not two tuples of ports")
    return _Tuple(
        _words(values["src"][which]),
        _words(values["dst"][which]),
        _number(sports[which], 0xFFFF) if sports else 0,
        _number(dports[which], 0xFFFF) if dports else 0,
    )


def _number(text: str, most: int) -> int:
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else -1
    if not 0 <= value <= most:
        raise ValueError("a number out of range")
    return value


def _nat_bits(original: _Tuple, reply: _Tuple) -> int:
    """What NAT did: without it, a reply comes from where the packet was sent, and goes where it came from."""
    destination = (original.dst, original.dport) != (reply.src, reply.sport)
    source = (original.src, original.sport) != (reply.dst, reply.dport)
    return (DST_NAT if destination else 0) | (SRC_NAT if source else 0)


def _row(
    original: _Tuple,
    reply: _Tuple,
    *,
    time: int,
    status: int,
    mark: int,
    node: int,
    zone: int,
    protocol: int,
    event: int,
) -> bytes:
    return _pack(
        time, *original.src, *original.dst, *reply.src, *reply.dst,
        status, mark, node, original.sport, original.dport, reply.sport, reply.dport, zone, protocol, event,
    )  # fmt: skip


# ── ctnetlink messages ──

_NETLINK_NETFILTER = 12
_NETLINK_ERROR, _NETLINK_DONE = 2, 3
_SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK
_CT_NEW, _CT_GET, _CT_DELETE = 0, 1, 2
_F_REQUEST, _F_DUMP, _F_DUMP_INTERRUPTED, _F_CREATE = 0x1, 0x300, 0x10, 0x400

_ORIG, _REPLY, _STATUS, _MARK, _ZONE, _FILTER, _EVENT_TIME = 1, 2, 3, 8, 18, 25, 27
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_PROTO_NUM, _PROTO_SPORT, _PROTO_DPORT = 1, 2, 3
_SOURCES, _DESTINATIONS = frozenset({1, 3}), frozenset({2, 4})  # CTA_IP_V4_SRC, V6_SRC; V4_DST, V6_DST
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF

_header = struct.Struct("=IHHII")
_family_header = struct.Struct("!BBH")
_attribute = struct.Struct("=HH")
_be16 = struct.Struct("!H")
_be32 = struct.Struct("!I")
_be64 = struct.Struct("!Q")
_PAYLOAD = _header.size + _family_header.size


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
    found = dict(_attributes(message, _PAYLOAD, min(length, len(message))))
    original, reply = _wire_tuple(message, found.get(_ORIG)), _wire_tuple(message, found.get(_REPLY))
    if original is None or reply is None:
        return None
    protocol, zone, forward = original
    stamped = _field(message, found.get(_EVENT_TIME), _be64)
    return _row(
        forward,
        reply[2],
        time=time if stamped is None else stamped,
        # A record of a later kernel may lack the status in its DESTROY event; the tuples still tell the NAT.
        status=(_field(message, found.get(_STATUS), _be32) or 0) | _nat_bits(forward, reply[2]),
        mark=_field(message, found.get(_MARK), _be32) or 0,
        node=node,
        zone=_field(message, found.get(_ZONE), _be16) or zone,
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


def _usual(size: int, first: int) -> tuple[struct.Struct, tuple[bytes, ...]]:
    """How the kernel lays out a tuple with ports, and the attribute headers by which it is known again.

    `size` is that of an address, `first` the type of the source's. Most of the time of an event went into
    walking these attributes one by one.
    """
    header = _attribute.pack
    headers = (
        header(4 + 2 * (4 + size), _TUPLE_IP | _NESTED) + header(4 + size, first),
        header(4 + size, first + 1),
        header(28, _TUPLE_PROTO | _NESTED) + header(5, _PROTO_NUM),
        header(6, _PROTO_SPORT),
        header(6, _PROTO_DPORT),
    )
    return struct.Struct(f"!8s{size}s4s{size}s8sB3x4sH2x4sH2x"), headers


_USUAL = {layout.size: (layout, headers) for layout, headers in (_usual(4, 1), _usual(16, 3))}


def _mapped(address: bytes) -> tuple[int, int]:
    if len(address) == 4:
        return 0, _MAPPED | int.from_bytes(address, "big")
    return int.from_bytes(address[:8], "big"), int.from_bytes(address[8:], "big")


def _wire_tuple(message: bytes, span: _Span | None) -> tuple[int, int, _Tuple] | None:
    """Protocol, zone of this direction, and the tuple; None when addresses or protocol are not there."""
    if span is None:
        return None
    usual = _USUAL.get(span[1] - span[0])
    if usual is not None:
        layout, headers = usual
        first, src, second, dst, third, number, fourth, sport, fifth, dport = layout.unpack_from(
            message, span[0]
        )
        if (first, second, third, fourth, fifth) == headers:
            return number, 0, _Tuple(_mapped(src), _mapped(dst), sport, dport)
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
    return message[number[0]], zone, _Tuple(src, dst, sport, dport)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and bytes of each netlink message of a datagram."""
    start = 0
    while start + _header.size <= len(data):
        length, kind, flags, _, _ = _header.unpack_from(data, start)
        if length < _header.size or start + length > len(data):
            return
        yield kind, flags, data[start : start + length]
        start += length + 3 & ~3


# ── the live table ──

_GROUPS = (1, 2, 3)  # NFNLGRP_CONNTRACK_NEW, _UPDATE, _DESTROY
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_DATAGRAM = 1 << 17  # the kernel fills at most 32 KiB of a dump at a time

# What a dump is filtered by in the kernel (net/netfilter/nf_internals.h, since Linux 5.8).
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_BY_PROTOCOL_AND_PORT = 1 << 3 | 1 << 5


class Drained(NamedTuple):
    """Rows, and the hole in them if there is one."""

    rows: bytes
    gap: Gap | None = None


def snapshot(
    namespace: int | None = None,
    *,
    ports: Iterable[tuple[int, int]] = (),
    node: int = 0,
    most: int = 200_000,
) -> Drained:
    """The records that the kernel holds now, at most `most` of them.

    `ports` are pairs of IP protocol and original destination port; with any, the kernel sends only records of
    these, which saves most of the cost of a large table (kernels before 5.8 send all). Raises ConntrackError
    where the kernel refuses, OSError where `namespace` (an open file) cannot be entered.
    """
    rows: dict[bytes, None] = {}
    whole, time = True, clock.time_ns()
    with call_inside(namespace, _open) as channel:
        for request in _dump_requests(ports):
            channel.send(request)
            whole &= _receive_dump(channel, rows, time, node, most)
    if len(rows) >= most:
        return Drained(
            b"".join(rows), Gap("conntrack", f"more than {most} records: the rest was not read", time)
        )
    gap = (
        None
        if whole
        else Gap("conntrack", "the table changed while it was read: records may be missing", time)
    )
    return Drained(b"".join(rows), gap)


class Events:
    """Live conntrack events of one network namespace, from its making until `close`.

    `buffer` is the receive buffer in bytes, `granted` what the kernel gave (it doubles the figure for its own
    bookkeeping): beyond net.core.rmem_max it takes CAP_NET_ADMIN in the initial user namespace.
    """

    def __init__(self, namespace: int | None = None, *, node: int = 0, buffer: int = 16 << 20) -> None:
        self._node = node
        self._socket = call_inside(namespace, _open)
        try:
            self._socket.setblocking(False)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self.granted = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            for group in _GROUPS:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise _refused(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For select and epoll: readable when events wait."""
        return self._socket.fileno()

    def close(self) -> None:
        """Leave the groups and close the socket."""
        self._socket.close()

    def read(self, most: int = 4096) -> Drained:
        """What waits, at most `most` datagrams of it; never blocks.

        When the kernel had to drop events since the last call (ENOBUFS), or sent some that could not be read,
        the gap says so.
        """
        rows: list[bytes] = []
        overrun = False
        unread = 0
        time = clock.time_ns()
        for _ in range(most):
            try:
                data = _receive(self._socket)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise _refused(error) from error
                overrun = True
                continue
            for _, _, message in _messages(data):
                row = parse_message(message, time=time, node=self._node)
                if row is None:
                    unread += 1
                else:
                    rows.append(row)
        gap = None
        if overrun or unread:
            what = (
                "the kernel dropped events (receive buffer full)"
                if overrun
                else f"{unread} events unreadable"
            )
            gap = Gap("conntrack", what, time)
        return Drained(b"".join(rows), gap)


def _open() -> socket.socket:
    try:
        channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as error:
        raise _refused(error) from error
    channel.bind((0, 0))  # the kernel sends no events to a socket without an address, and does not say so
    return channel


def _refused(error: OSError) -> ConntrackError:
    return _refusal(error.errno or errno.EIO)


def _refusal(number: int) -> ConntrackError:
    if number in {errno.EPERM, errno.EACCES}:
        return ConntrackError("conntrack cannot be read: it needs the capability NET_ADMIN")
    return ConntrackError(f"conntrack cannot be read: {os.strerror(number)}")


def _receive(channel: socket.socket) -> bytes:
    """One datagram of the kernel's; what another process sent is read as nothing."""
    data, (sender, _) = channel.recvfrom(_DATAGRAM)
    return data if sender == 0 else b""


def _dump_requests(ports: Iterable[tuple[int, int]]) -> list[bytes]:
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


def _receive_dump(channel: socket.socket, rows: dict[bytes, None], time: int, node: int, most: int) -> bool:
    """Collect one dump's rows; False when the kernel says that the table changed under it."""
    whole = True
    while True:
        try:
            data = _receive(channel)
        except OSError as error:
            raise _refused(error) from error
        for kind, flags, message in _messages(data):
            whole &= not flags & _F_DUMP_INTERRUPTED
            if kind in {_NETLINK_ERROR, _NETLINK_DONE}:
                number = -int.from_bytes(message[16:20], sys.byteorder, signed=True)
                if number > 0:
                    raise _refusal(number)
                return whole
            row = parse_message(message, time=time, node=node, dumped=True)
            if row is not None and len(rows) < most:
                rows[row] = None
