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
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from daemonset.node.legacy_table import (
    INFO_SIZE,
    LegacyChain,
    LegacyTableError,
    parse_size,
    parse_table,
)
from daemonset.observation import CountedChain, CountedRule, RuleCounts

MOST_BYTES = 64 << 20  # of one table
MOST_RULES = 10_000  # that are told

_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_*, and IP6T_SO_* alike
_NAME = 32  # XT_TABLE_MAXNAMELEN
_ENTRIES_HEAD = 40  # struct ipt_get_entries: the name, a size, and room up to the next multiple of 8
_ATTEMPTS = 5  # the table may change between the two questions
_LEVELS = {"ip": (socket.AF_INET, socket.IPPROTO_IP), "ip6": (socket.AF_INET6, socket.IPPROTO_IPV6)}
_LISTINGS = {"ip": "ip_tables_names", "ip6": "ip6_tables_names"}
_TABLES = frozenset({"raw", "mangle", "nat", "filter", "security"})

Tables = dict[tuple[str, str], tuple[LegacyChain, ...]]


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
            self._before = self._read()
            self._began = time.time_ns()
        except OSError as error:
            self.close()
            raise CountsRefusedError(_why(error.errno or errno.EIO)) from error
        except BaseException:
            self.close()
            raise

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return bool(self._with_rules())

    def _with_rules(self) -> tuple[str, ...]:
        return tuple(
            f"{family} {table}"
            for (family, table), chains in self._before.items()
            if any(chain.rules or chain.policy == "drop" for chain in chains)
        )

    def close(self) -> None:
        """Let go of the namespace."""
        for each in self._sockets.values():
            each.close()

    def counts(self) -> RuleCounts:
        """What rules counted since this was made."""
        tables, now = self._with_rules(), time.time_ns()
        try:
            after = self._read()
        except CountsRefusedError as error:
            return RuleCounts(self.namespace, str(error), tables, time=now)
        except OSError as error:
            return RuleCounts(self.namespace, _why(error.errno or errno.EIO), tables, time=now)
        chains, omitted = _differences(self._before, after)
        return RuleCounts(self.namespace, "", tables, chains, omitted=omitted, began=self._began, time=now)

    def _read(self) -> Tables:
        return {(family, table): self._table(family, table) for family, table in self._names}

    def _table(self, family: str, table: str) -> tuple[LegacyChain, ...]:
        channel, (_, level) = self._sockets[family], _LEVELS[family]
        name = table.encode().ljust(_NAME, b"\0")
        for _ in range(_ATTEMPTS):
            info = _ask(channel, level, _GET_INFO, name.ljust(INFO_SIZE, b"\0"))
            try:
                size = parse_size(info)
                if size > MOST_BYTES:
                    raise CountsRefusedError(
                        f"table {family} {table} of iptables-legacy has {size:,} bytes of rules"
                    )
                wanted = (name + size.to_bytes(4, sys.byteorder)).ljust(_ENTRIES_HEAD, b"\0")
                answer = _ask(channel, level, _GET_ENTRIES, wanted + bytes(size))
                return parse_table(family, info, answer[_ENTRIES_HEAD : _ENTRIES_HEAD + size])
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


def _ask(channel: socket.socket, level: int, option: int, wanted: bytes) -> bytes:
    """getsockopt with a question in the buffer, which Python's own does not pass on. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(wanted, len(wanted))
    length = ctypes.c_uint(len(wanted))
    if libc.getsockopt(channel.fileno(), level, option, buffer, ctypes.byref(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw[: length.value]


def _differences(before: Tables, after: Tables) -> tuple[tuple[CountedChain, ...], int]:
    """What each chain counted in between, and how many rules were too many."""
    told: list[CountedChain] = []
    kept = omitted = 0
    for (family, table), chains in after.items():
        earlier = {chain.name: chain for chain in before.get((family, table), ())}
        for chain in chains:
            was = earlier.get(chain.name)
            counted = _counted(was, chain) if was is not None else None
            if counted is None:
                told.append(CountedChain(family, table, chain.name, chain.hook, chain.policy, changed=True))
                continue
            room = max(MOST_RULES - kept, 0)
            omitted += len(counted[room:])
            kept += len(counted[:room])
            if counted or chain.hook:
                told.append(
                    CountedChain(
                        family, table, chain.name, chain.hook, chain.policy, rules=tuple(counted[:room])
                    )
                )
    return tuple(told), omitted


def _counted(before: LegacyChain, after: LegacyChain) -> list[CountedRule] | None:
    """The rules that counted; None where the chain is not the same, or its counters were set back."""
    if [rule.identity for rule in before.rules] != [rule.identity for rule in after.rules]:
        return None
    counted = []
    for number, (old, new) in enumerate(zip(before.rules, after.rules, strict=True), start=1):
        if new.packets < old.packets:
            return None
        if new.packets > old.packets:
            more = new.packets - old.packets
            counted.append(
                CountedRule(number, more, new.conditions, new.does, new.action, new.target, new.comment)
            )
    return counted


def _why(number: int) -> str:
    if number in {errno.EPERM, errno.EACCES}:
        return "rules of iptables-legacy cannot be read: it needs the capability NET_ADMIN"
    return f"rules of iptables-legacy cannot be read: {os.strerror(number)}"
