"""Which rules of iptables-legacy count packets during a capture: their counters, read at its begin and at its end.

The kernel hands out the tables by getsockopt (IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES), as iptables-legacy-save asks for
them: no program of the node is run, its lock is not taken, and nothing is placed, so that nothing can stay behind.

Rules of this file:

1. A table comes into being when it is first asked for. So only those are asked for that /proc names already, and where
   it cannot be read, none is.
2. A rule that counted nothing matched nothing, and is not told. Of a chain that was written anew meanwhile this is not
   known; it is told as changed.
3. iptables-legacy's own TRACE is not used: it needs a rule in somebody else's table, which would stay when we are
   killed, and it writes into the kernel's log, which is not to be read from user namespaces.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import socket
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from daemonset.node.legacy_table import (
    INFO_SIZE,
    LegacyChain,
    LegacyTableError,
    parse_size,
    parse_table,
)
from daemonset.observation import CountedChain, CountedRule, RuleCounts

MOST_BYTES = 32 << 20  # of one table
MOST_RULES = 10_000  # that are told

_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_*, and IP6T_SO_* alike
_NAME = 32  # XT_TABLE_MAXNAMELEN
_ENTRIES_HEAD = 40  # struct ipt_get_entries: the name, a size, and room up to the next multiple of 8
_ATTEMPTS = 5  # the table may change between the two questions
_LEVELS = {"ip": (socket.AF_INET, socket.IPPROTO_IP), "ip6": (socket.AF_INET6, socket.IPPROTO_IPV6)}
_LISTINGS = {"ip": "ip_tables_names", "ip6": "ip6_tables_names"}
_TABLES = frozenset({"raw", "mangle", "nat", "filter", "security"})

_Key = tuple[str, str, str]  # family, table, chain


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept of a chain from the begin to the end: which rules it had, and what they had counted."""

    identity: bytes
    packets: array[int]

    @classmethod
    def of(cls, chain: LegacyChain) -> _Kept:
        digest = hashlib.blake2b(b"".join(rule.identity for rule in chain.rules), digest_size=16)
        return cls(digest.digest(), array("Q", [rule.packets for rule in chain.rules]))


class CountsRefusedError(Exception):
    """Counters cannot be read here; the message says why, in one line."""


class LegacyCounters:
    """The counters of one network namespace from when this is made; `counts` tells what came since.

    Made inside the namespace; `counts` may be asked from anywhere. Raises CountsRefusedError. `namespace` is only what
    the counts call it.
    """

    def __init__(self, namespace: str = "") -> None:
        self.namespace = namespace
        self._sockets: dict[str, socket.socket] = {}
        try:
            self._names = tuple(_names())
            for family in {family for family, _ in self._names}:
                kind, _ = _LEVELS[family]
                self._sockets[family] = socket.socket(kind, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._kept: dict[_Key, _Kept] = {}
            tables: dict[str, None] = {}
            for family, table, chain in self._read():
                self._kept[family, table, chain.name] = _Kept.of(chain)
                if chain.rules or chain.policy == "drop":
                    tables.setdefault(f"{family} {table}")
            self._tables = tuple(tables)
            self._began = time.time_ns()
        except OSError as error:
            self.close()
            raise CountsRefusedError(_why(error.errno or errno.EIO)) from error
        except LegacyTableError as error:
            self.close()
            raise CountsRefusedError(f"rules of iptables-legacy: {error}") from error
        except BaseException:
            self.close()
            raise

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return bool(self._tables)

    def close(self) -> None:
        """Let go of the namespace."""
        for each in self._sockets.values():
            each.close()

    def counts(self) -> RuleCounts:
        """What rules counted since this was made."""
        tables, now = self._tables, time.time_ns()
        try:
            chains, omitted = self._differences()
        except (CountsRefusedError, LegacyTableError) as error:
            return RuleCounts(self.namespace, str(error), tables, time=now)
        except OSError as error:
            return RuleCounts(self.namespace, _why(error.errno or errno.EIO), tables, time=now)
        return RuleCounts(self.namespace, "", tables, chains, omitted=omitted, began=self._began, time=now)

    def _differences(self) -> tuple[tuple[CountedChain, ...], int]:
        """What each chain counted in between, and how many rules were too many."""
        told: list[CountedChain] = []
        kept = omitted = 0
        for family, table, chain in self._read():
            counted = _counted(self._kept.get((family, table, chain.name)), chain)
            what = CountedChain(family, table, chain.name, chain.hook, chain.policy)
            if counted is None:
                told.append(msgspec.structs.replace(what, changed=True))
                continue
            room = max(MOST_RULES - kept, 0)
            omitted += len(counted[room:])
            kept += len(counted[:room])
            if counted or chain.hook:
                told.append(msgspec.structs.replace(what, rules=tuple(counted[:room])))
        return tuple(told), omitted

    def _read(self) -> Iterator[tuple[str, str, LegacyChain]]:
        for family, table in self._names:
            for chain in parse_table(family, *self._table(family, table)):
                yield family, table, chain

    def _table(self, family: str, table: str) -> tuple[bytes, memoryview]:
        """What the kernel says of a table, and its entries."""
        channel, (_, level) = self._sockets[family], _LEVELS[family]
        name = table.encode().ljust(_NAME, b"\0")
        for _ in range(_ATTEMPTS):
            info = bytes(_ask(channel, level, _GET_INFO, name, INFO_SIZE))
            try:
                size = parse_size(info)
                if size > MOST_BYTES:
                    raise CountsRefusedError(
                        f"table {family} {table} of iptables-legacy has {size:,} bytes of rules"
                    )
                wanted = name + size.to_bytes(4, sys.byteorder)
                answer = _ask(channel, level, _GET_ENTRIES, wanted, _ENTRIES_HEAD + size)
                return info, answer[_ENTRIES_HEAD : _ENTRIES_HEAD + size]
            except LegacyTableError as error:
                raise CountsRefusedError(f"table {family} {table} of iptables-legacy: {error}") from error
            except BlockingIOError:
                continue  # EAGAIN: it was replaced between the two questions
        raise CountsRefusedError(f"table {family} {table} of iptables-legacy changes faster than it is read")


def _names(folder: Path = Path("/proc/thread-self/net")) -> Iterator[tuple[str, str]]:
    """Family and name of each table that is there. Raises CountsRefusedError where the kernel does not show it."""
    for family, listing in _LISTINGS.items():
        try:
            found = (folder / listing).read_text().split()
        except FileNotFoundError:
            continue  # this kernel has none
        except OSError as error:
            raise CountsRefusedError(
                "the kernel does not show here which tables of iptables-legacy there are"
            ) from error
        yield from ((family, table) for table in sorted(found) if table in _TABLES)


def _ask(channel: socket.socket, level: int, option: int, wanted: bytes, room: int) -> memoryview:
    """getsockopt with a question in the buffer, which Python's own does not pass on. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(room)
    ctypes.memmove(buffer, wanted, len(wanted))
    length = ctypes.c_uint(room)
    if libc.getsockopt(channel.fileno(), level, option, buffer, ctypes.byref(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return memoryview(buffer).cast("B")[: length.value]


def _counted(before: _Kept | None, after: LegacyChain) -> list[CountedRule] | None:
    """The rules that counted; None where the chain is not the same, or its counters were set back."""
    if before is None or before.identity != _Kept.of(after).identity:
        return None
    counted = []
    for number, (old, new) in enumerate(zip(before.packets, after.rules, strict=True), start=1):
        if new.packets < old:
            return None
        if new.packets > old:
            said = new.read()
            more = new.packets - old
            counted.append(
                CountedRule(number, more, said.conditions, said.does, said.action, new.target, said.comment)
            )
    return counted


def _why(number: int) -> str:
    if number in {errno.EPERM, errno.EACCES}:
        return "rules of iptables-legacy cannot be read: it needs the capability NET_ADMIN"
    return f"rules of iptables-legacy cannot be read: {os.strerror(number)}"
