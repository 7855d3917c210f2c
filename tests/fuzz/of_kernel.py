"""Readers of what the kernel says, of itself and of what others gave it to keep: netlink, tables, saved listings."""

from __future__ import annotations

import struct

import msgspec

from daemonset.node.conntrack import parse_text
from daemonset.node.conntrack_counters import parse_cpu, parse_filled
from daemonset.node.ctnetlink import parse_message
from daemonset.node.legacy_table import INFO_SIZE, LegacyTableError, parse_size, parse_table
from daemonset.node.nfnetlink import Order, attribute, messages, nested, u32, u64
from daemonset.node.nft_rules import parse_rule, sets_trace
from daemonset.node.nft_trace import parse_trace
from daemonset.node.ruleset import parse_chain, parse_elements
from daemonset.observation import NAT
from tests.fuzz.reader import Reader, one_line


def conntrack(data: bytes, size: int) -> None:
    """Messages of the kernel's connection tracking."""
    row = parse_message(data, time=size, dumped=bool(size & 1))
    assert row is None or len(row) == NAT.size


def conntrack_tables(data: bytes, size: int) -> None:
    """Its tables as people save them."""
    rows, skipped = parse_text(data.decode("latin-1"), time=size)
    assert len(rows) % NAT.size == 0
    assert all(line.isprintable() and len(line) < 800 for line in skipped)


def conntrack_counters(data: bytes, size: int) -> None:
    """Its statistics: how full the table is, and what each CPU has counted."""
    for message in messages(data):
        filled, cpu = parse_filled(message), parse_cpu(message)
        assert filled is None or max(filled) < 1 << 32
        assert cpu is None or max(cpu[1]) < 1 << 32
        assert filled is None or cpu is None
    assert size < 256


def netfilter(data: bytes, size: int) -> None:
    """Messages of nftables: rules, and what packets met."""
    for message in messages(data):
        rule, event = parse_rule(message, str(size)), parse_trace(message)
        assert rule is None or len(msgspec.msgpack.encode(rule)) <= 64 * len(data) + 4096
        assert (
            event is None or len(event.chain) <= 1024
        )  # names are the kernel's own, and escaped where they are shown
        assert sets_trace(message) in {True, False}


#: Types of keys: an address, two addresses and a port, an interface, what is not known.
_KEYS = (7, 8, 7 << 12 | 12 << 6 | 13, 8 << 6 | 41, 63, 0)


def rule_sets(data: bytes, size: int) -> None:
    """Messages of nftables: chains, and elements of sets and maps."""
    for message in messages(data):
        chain = parse_chain(message)
        assert chain is None or len(msgspec.msgpack.encode(chain)) <= 4 * len(data) + 1024
        written = list(parse_elements(message, _KEYS[size % len(_KEYS)]))
        assert sum(map(len, written)) <= 32 * len(data) + 1024


def legacy_tables(data: bytes, size: int) -> None:
    """A table of iptables-legacy, as getsockopt(2) gives it, and what its rules say."""
    try:
        parse_size(data[:INFO_SIZE])
        chains = list(parse_table("ip6" if size & 1 else "ip", data[:INFO_SIZE], data[INFO_SIZE:]))
        rules = [rule for chain in chains for rule in chain.rules]
        assert len(rules) <= len(data)
        for rule in rules:
            rule.read()
    except LegacyTableError as error:
        one_line(error)


class _Taken:
    """Bytes of an input, one piece after the other; nothing but zeros where it ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """The next bytes."""
        taken = self._data[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return taken

    def number(self) -> int:
        """The next byte."""
        return self.take(1)[0]


_EXPRESSIONS = (
    "meta", "ct", "payload", "fib", "numgen", "bitwise", "cmp", "range", "lookup", "match", "immediate", "target",
    "masq", "redir", "reject", "tproxy", "nat", "counter", "osf",
)  # fmt: skip
_NAMES = (b"comment", b"mark", b"tcp", b"MARK", b"DNAT", b"SNAT", b"TRACE", b"__set1", b"other")


def _attribute_of(kind: int, taken: _Taken) -> bytes:
    """An attribute as expressions have them: absent, a number, a name, bytes, or a value within."""
    form = taken.number()
    match form & 7:
        case 0 | 1:
            return b""
        case 2 | 3:
            return u32(kind, form >> 3)
        case 4:
            return attribute(kind, _NAMES[(form >> 3) % len(_NAMES)] + b"\0")
        case 5:
            return attribute(kind, taken.take(form >> 3))
        case 6:
            return nested(kind, attribute(1, taken.take(form >> 3 & 31)))
        case _:
            return nested(kind, nested(2, u32(1, 0xFFFF_FFF8 | form >> 3), attribute(2, b"KUBE-SVC-X\0")))


def rule_expressions(data: bytes, size: int) -> None:
    """Rules of nftables made of the expressions that are known, whatever they hold."""
    taken, expressions = _Taken(data), b""
    while taken and len(expressions) < 4096:
        kind = _EXPRESSIONS[taken.number() % len(_EXPRESSIONS)]
        held = b"".join(_attribute_of(each, taken) for each in (1, 2, 3, 4, 5))
        expressions += nested(1, attribute(1, kind.encode() + b"\0"), nested(2, held))
    about = attribute(1, b"nat\0") + attribute(2, b"c\0") + u64(3, 12) + nested(4, expressions)
    netfilter(Order(6, 0, (2, 10, 1, 7)[size & 3], about).message(1), size)


_MATCHES = (
    (b"tcp", 0), (b"udp", 0), (b"multiport", 1), (b"mark", 1), (b"addrtype", 1), (b"conntrack", 2), (b"conntrack", 3),
    (b"state", 0), (b"statistic", 0), (b"comment", 0), (b"tcp", 1), (b"other", 0),
)  # fmt: skip
_TARGETS = (b"", b"MARK", b"DNAT", b"SNAT", b"MASQUERADE", b"REDIRECT", b"REJECT", b"LOG", b"ERROR")


def _part(name: bytes, revision: int, info: bytes) -> bytes:
    """A match or target (struct xt_entry_match), aligned."""
    info = info.ljust(len(info) + -len(info) % 8, b"\0")
    return struct.pack("=H29sB", 32 + len(info), name, revision) + info


def legacy_rules(data: bytes, size: int) -> None:
    """Tables of iptables-legacy made of the matches and targets that are known, whatever they hold."""
    width, flags = (168, 140) if size & 1 else (112, 88)
    taken, entries, last = _Taken(data), b"", 0
    while taken and len(entries) < 8192:
        last = len(entries)
        head = bytearray(taken.take(16).ljust(width, b"\0"))
        matches = b""
        for _ in range(taken.number() & 3):
            name, revision = _MATCHES[taken.number() % len(_MATCHES)]
            matches += _part(name, revision, taken.take(taken.number()))
        target = _part(
            _TARGETS[taken.number() % len(_TARGETS)], taken.number() & 3, taken.take(taken.number())
        )
        struct.pack_into("=HH", head, flags, width + len(matches), width + len(matches) + len(target))
        entries += bytes(head) + matches + target
    ends = [0] * 10
    ends[8] = last  # of the chain `output`
    table = bytes(32) + struct.pack("=I10III", 1 << 3, *ends, 1, len(entries)) + entries
    legacy_tables(table, size)


READERS = (
    Reader(conntrack, 600, longest=1024),
    Reader(conntrack_tables, 200, longest=1024),
    Reader(conntrack_counters, 100, longest=512),
    Reader(netfilter, 500, longest=1024),
    Reader(rule_expressions, 200, longest=256),
    Reader(rule_sets, 300, longest=1024),
    Reader(legacy_tables, 150),
    Reader(legacy_rules, 150, longest=1024),
)
