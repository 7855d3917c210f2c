"""The kernel's own account of NAT: conntrack records as rows of `observation.NAT`.

Three sources, one row: text that somebody saved with `conntrack -L` (or /proc/net/nf_conntrack), a dump of
the live table, and live events. The two live ones speak ctnetlink (`ctnetlink.py`) on a socket of our own.

`parse_text` is pure, and any input gives rows or none of them; only `snapshot` and `Events` touch the kernel. They
need CAP_NET_ADMIN over the network namespace.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
import time as clock
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, Self

from daemonset.node.ctnetlink import (
    ASSURED,
    DONE,
    DUMP_INTERRUPTED,
    ERROR,
    SEEN_REPLY,
    Ports,
    Tuple,
    dump_requests,
    messages,
    nat_bits,
    parse_message,
    row_of,
)
from daemonset.node.namespaces import call_inside
from daemonset.observation import Gap, NatEvent, address_words


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
                reason = ascii(str(error)[:100])[1:-1]  # it may quote the line
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
    return row_of(
        original,
        reply,
        time=time,
        status=status | nat_bits(original, reply),
        mark=_number(values.get("mark", ["0"])[0], 0xFFFF_FFFF),
        node=node,
        zone=_number(zones[0], 0xFFFF),
        protocol=_number(entry["protocol"], 0xFF),
        event=NatEvent[entry["event"]] if entry["event"] else NatEvent.DUMP,
    )


def _text_tuple(values: dict[str, list[str]], which: int) -> Tuple:
    sports, dports = values.get("sport", ()), values.get("dport", ())
    if len(sports) != len(dports) or len(sports) not in {0, 2}:
        raise ValueError("not two tuples of ports")
    return Tuple(
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


# ── the live table ──

_NETLINK_NETFILTER = 12
_GROUPS = (
    1,
    3,
)  # NFNLGRP_CONNTRACK_NEW, _DESTROY; five UPDATEs of a TCP connection say nothing new of its NAT
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_DATAGRAM = 1 << 17  # the kernel fills at most 32 KiB of a dump at a time


#: Up to so many ports the kernel is to send the records of these alone (before 5.8 it sends all). It goes through the
#: whole table then for each port and family, and the records of all namespaces: for more, it costs less to take all.
_FEW_PORTS = 2

#: Datagrams of events that one reading takes; more wait for the next.
MOST_AT_ONCE = 4096


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

    `ports` are pairs of IP protocol and original destination port; with any, only records of these are kept. Raises
    ConntrackError where the kernel refuses, OSError where `namespace` (an open file) cannot be entered.
    """
    rows: dict[bytes, None] = {}
    whole, time, ports = True, clock.time_ns(), frozenset(ports)
    asked = ports if len(ports) <= _FEW_PORTS else ()
    wanted = Ports(ports) if ports else None
    with call_inside(namespace, _open) as channel:
        for request in dump_requests(asked):
            channel.send(request)
            whole &= _receive_dump(channel, rows, wanted, time=time, node=node, most=most)
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

    def read(self, most: int = MOST_AT_ONCE) -> Drained:
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
            for _, _, message in messages(data):
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


def ask(question: bytes) -> Iterator[bytes]:
    """The messages with which ctnetlink answers in the network namespace that we are in, up to the end of its answer.

    The question is a dump, or asks for an acknowledgement. Raises ConntrackError where the kernel refuses.
    """
    with _open() as channel:
        try:
            channel.send(question)
        except OSError as error:
            raise _refused(error) from error
        for _, message in _answer(channel):
            yield message


def _answer(channel: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Flags and bytes of each message of an answer, up to the one that ends it. Raises ConntrackError."""
    while True:
        try:
            data = _receive(channel)
        except OSError as error:
            raise _refused(error) from error
        for kind, flags, message in messages(data):
            yield flags, message
            if kind in {ERROR, DONE}:
                number = -int.from_bytes(message[16:20], sys.byteorder, signed=True)
                if number > 0:
                    raise _refusal(number)
                return


def _receive_dump(
    channel: socket.socket, rows: dict[bytes, None], wanted: Ports | None, *, time: int, node: int, most: int
) -> bool:
    """Collect one dump's rows of wanted ports; False when the kernel says that the table changed under it."""
    whole = True
    for flags, message in _answer(channel):
        whole &= not flags & DUMP_INTERRUPTED
        if len(rows) >= most or (wanted is not None and not wanted.may_have(message)):
            continue
        row = parse_message(message, time=time, node=node, dumped=True)
        if row is not None and (wanted is None or wanted.have(row)):
            rows[row] = None
    return whole
