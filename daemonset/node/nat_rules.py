"""The kernel names the rules that packets meet: nftables' trace, for the packets that begin connections.

    Tracer ── makes ──▶ nft_table        a table of our own, which dies with our socket
           ◀─ reads ─── nft_trace        what happened to a packet at which rule
           ── asks for ▶ nft_rules       what that rule says, once for each

Rules of nftables and of iptables-nft are told alike. Whatever ends this process, the kernel takes the table away.

Rules of this file:

1. A trace that others run at the same time is not disturbed: where somebody listens to the kernel's traces, or a rule
   marks packets for one, nothing is placed, and `TraceRefusedError` says who.
2. Everything is bounded: packets by the kernel, and what is told of them here.
3. A rule that was replaced before it could be read keeps its chain and number, and has no text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from daemonset.node.nfnetlink import (
    DONE,
    DUMP,
    ERROR,
    NETLINK_NETFILTER,
    NFTABLES,
    Message,
    Order,
    batch,
    messages,
    name,
    u64,
)
from daemonset.node.nft_rules import parse_rule, sets_trace
from daemonset.node.nft_table import CHOOSE_ARRIVING, CHOOSE_LEAVING, TABLE, table_orders
from daemonset.node.nft_trace import FAMILIES, Header, TraceEvent, TraceType, parse_trace
from daemonset.observation import Rule, RuleHit, RuleHits, TracedRules, Tracing

MECHANISM = "nftables trace"
DEFAULT_PACKETS = 64
MOST_PACKETS = 10_000
MOST_PORTS = 4096

_GETTABLE, _GETRULE = 1, 7  # NFT_MSG_*
_TRACE_GROUP = 9  # NFNLGRP_NFTRACE
_TRACE_BIT = 1 << _TRACE_GROUP - 1
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_DATAGRAM = 1 << 17
_PATIENCE = 5.0  # seconds for an answer of the kernel
_QUEUE = 4 << 20  # bytes of traces that may wait for us
_HITS_A_PACKET = 200  # what a packet may meet on its way through a node and still be told in full
_MOST_RULES = 4096
_FAMILY_NUMBERS = {word: number for number, word in FAMILIES.items()}


class TraceRefusedError(Exception):
    """Rules cannot be traced here; the message says why, in one line."""


class Tracer:
    """Traces the rules of the network namespace that it is made in, until `close` or the end of the process.

    `ports`: destination ports of the packets, none: all of TCP; `packets`: how many at most. Raises
    TraceRefusedError. `namespace` is only what hits call it.
    """

    def __init__(self, ports: Iterable[int], packets: int = DEFAULT_PACKETS, namespace: str = "") -> None:
        self.namespace = namespace
        self._limit = packets
        self._marked = {CHOOSE_ARRIVING: 0, CHOOSE_LEAVING: 0}
        self._overrun = False
        self._told = 0
        self._sequence = 1
        self._headers: OrderedDict[int, Header] = OrderedDict()
        self._rules: dict[tuple[str, str, int], Rule | None] = {}
        wanted = sorted(set(ports))
        if len(wanted) > MOST_PORTS:
            raise TraceRefusedError(f"more than {MOST_PORTS} ports to trace")
        self._unheard = _legacy_tables()
        self._owner = _open()
        try:
            self._refuse_if_disturbing()
            self._events = _open()
        except BaseException:
            self._owner.close()
            raise
        try:
            self._events.setblocking(False)
            self._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE)
            self._events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _TRACE_GROUP)
            self._place(wanted)
        except OSError as error:
            self.close()
            raise TraceRefusedError(os.strerror(error.errno or errno.EIO)) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For poll: readable when the kernel has told of a packet."""
        return self._events.fileno()

    def close(self) -> None:
        """Close both sockets; with the first, the kernel takes the table away."""
        self._owner.close()
        self._events.close()

    def state(self) -> Tracing:
        """How it went so far."""
        return Tracing(
            namespace=self.namespace,
            mechanism=MECHANISM,
            limit=self._limit,
            packets=sum(self._marked.values()),
            overrun=self._overrun,
            time=time.time_ns(),
            full=max(self._marked.values()) >= self._limit,
            unheard=self._unheard,
        )

    def read(self) -> list[TracedRules | RuleHits]:
        """What waits: rules that are new, and hits. Never blocks for traces, only for rules that are asked for."""
        now = time.time_ns()
        hits: list[RuleHit] = []
        rules: list[Rule] = []
        for event in self._waiting():
            hit = self._hit(event, now)
            if hit is None:
                continue
            if self._told >= 2 * self._limit * _HITS_A_PACKET:
                self._overrun = True
                break
            self._told += 1
            hits.append(hit)
            if (rule := self._rule(hit)) is not None:
                rules.append(rule)
        said: list[TracedRules | RuleHits] = [TracedRules(tuple(rules))] if rules else []
        return [*said, RuleHits(tuple(hits))] if hits else said

    # ── hits ──

    def _waiting(self) -> Iterator[TraceEvent]:
        while True:
            try:
                data, (sender, _) = self._events.recvfrom(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return
                self._overrun = True
                continue
            for message in messages(data) if sender == 0 else ():
                if (event := parse_trace(message)) is not None:
                    yield event

    def _hit(self, event: TraceEvent, now: int) -> RuleHit | None:
        """The hit of an event; None for what tells nothing: our own rules, ends of chains, policies that accept."""
        if event.table == TABLE:
            if event.chain in self._marked and event.type is TraceType.RULE and event.handle:
                self._marked[event.chain] += 1
            return None
        if event.header is not None:
            self._headers[event.packet] = event.header
            self._headers.move_to_end(event.packet)
            if len(self._headers) > 2 * self._limit:
                self._headers.popitem(last=False)
        # The end of a chain is told like a rule, without a number.
        by_rule = event.type is TraceType.RULE and event.handle
        deciding = by_rule or (event.type is TraceType.POLICY and event.verdict == "drop")
        header = self._headers.get(event.packet)
        if not deciding or header is None:
            return None
        return RuleHit(
            time=now,
            packet=event.packet,
            family=event.family,
            table=event.table,
            chain=event.chain,
            handle=event.handle,
            verdict=event.verdict,
            target=event.target,
            mark=event.mark,
            protocol=header.protocol,
            source=header.source,
            destination=header.destination,
            seq=header.seq,
            namespace=self.namespace,
        )

    # ── rules ──

    def _rule(self, hit: RuleHit) -> Rule | None:
        """The rule of a hit where it is not told yet."""
        key = (hit.family, hit.table, hit.handle)
        if not hit.handle or key in self._rules or len(self._rules) >= _MOST_RULES:
            return None
        wanted = name(1, hit.table) + name(2, hit.chain) + u64(3, hit.handle)
        order = Order(_GETRULE, 0, _FAMILY_NUMBERS[hit.family], wanted)
        found = None
        try:
            for message in self._ask(order):
                found = found or parse_rule(message, self.namespace)
        except (TraceRefusedError, OSError):
            found = None  # it has been replaced meanwhile
        self._rules[key] = found
        return found

    # ── placing ──

    def _refuse_if_disturbing(self) -> None:
        if _somebody_listens():
            raise TraceRefusedError("another program listens to the kernel's packet traces: end it first")
        for message in self._ask(Order(_GETRULE, DUMP, 0, b"")):
            if sets_trace(message):
                rule = parse_rule(message)
                where = f": table {rule.family} {rule.table}, chain {rule.chain}" if rule else ""
                raise TraceRefusedError(f"a rule marks packets for tracing already{where}; remove it first")

    def _place(self, ports: list[int]) -> None:
        orders = table_orders(ports, self._limit)
        first, self._sequence = self._sequence, self._sequence + len(orders)
        last = self._sequence - 1
        self._owner.send(batch(orders, first))
        while True:
            for message in messages(self._owner.recv(_DATAGRAM)):
                if message.kind != ERROR:
                    continue
                if message.error:
                    raise TraceRefusedError(_why(message.error))
                if message.sequence == last:
                    return

    def _ask(self, order: Order) -> Iterator[Message]:
        yield from _answers(self._owner, order, self._sequence)
        self._sequence += 1


def has_rules() -> bool:
    """Whether this network namespace has tables of nftables at all. Raises TraceRefusedError."""
    with contextlib.closing(_open()) as channel:
        return any(
            message.subsystem == NFTABLES for message in _answers(channel, Order(_GETTABLE, DUMP, 0, b""), 1)
        )


def listed(*orders: Order) -> Iterator[Message]:
    """What nftables has here of what is asked for, one order after the other. Raises TraceRefusedError."""
    with contextlib.closing(_open()) as channel:
        for number, order in enumerate(orders, start=1):
            yield from _answers(channel, order, number)


def _open() -> socket.socket:
    try:
        channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError as error:
        raise TraceRefusedError(f"nftables cannot be asked: {error.strerror}") from error
    channel.bind((0, 0))
    channel.settimeout(_PATIENCE)
    return channel


def _answers(channel: socket.socket, order: Order, sequence: int) -> Iterator[Message]:
    """The messages that answer a request: all of a dump, or one. Raises TraceRefusedError."""
    channel.send(order.message(sequence))
    while True:
        try:
            data = channel.recv(_DATAGRAM)
        except TimeoutError as error:
            raise TraceRefusedError("the kernel does not answer about its rules") from error
        except OSError as error:
            raise TraceRefusedError(_why(error.errno or errno.EIO)) from error
        for message in messages(data):
            if message.sequence != sequence:
                continue
            if message.subsystem == 0 and message.kind in {ERROR, DONE}:
                if message.error:
                    raise TraceRefusedError(_why(message.error))
                return
            yield message
            if not order.flags & DUMP:
                return


def _somebody_listens(listing: Path = Path("/proc/thread-self/net/netlink")) -> bool:
    """Whether a socket of this network namespace is in the group that traces are sent to.

    Columns: sk Eth Pid Groups …, groups as a mask in hexadecimal (net/netlink/af_netlink.c).
    """
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return False
    for line in lines[1:]:
        columns = line.split()
        if len(columns) > 3 and columns[1] == str(NETLINK_NETFILTER) and int(columns[3], 16) & _TRACE_BIT:
            return True
    return False


def _legacy_tables(folder: Path = Path("/proc/thread-self/net")) -> tuple[str, ...]:
    """The tables of iptables-legacy in this network namespace, which come into being with the first look at them."""
    found: list[str] = []
    for listing in ("ip_tables_names", "ip6_tables_names"):
        with contextlib.suppress(OSError):  # this kernel has none, or we may not look
            found += (folder / listing).read_text().split()
    return tuple(sorted(set(found)))


def _why(number: int) -> str:
    match number:
        case errno.EPERM | errno.EACCES:
            return "nftables refuses: it needs the capability NET_ADMIN"
        case errno.EEXIST | errno.EBUSY:
            return "another session traces rules here: wait for its end"
        case errno.EOPNOTSUPP | errno.EINVAL | errno.EPROTONOSUPPORT:
            return "this kernel cannot take a trace away by itself: it needs nf_tables with table owners (Linux 5.12)"
    return f"nftables refuses: {os.strerror(number)}"
