"""Readers of what the kernel says, of itself and of what others gave it to keep: netlink, tables, saved listings."""

from __future__ import annotations

import msgspec

from daemonset.node.conntrack import parse_text
from daemonset.node.ctnetlink import parse_message
from daemonset.node.legacy_table import INFO_SIZE, LegacyTableError, parse_size, parse_table
from daemonset.node.nfnetlink import messages
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


READERS = (
    Reader(conntrack, 700, longest=1024),
    Reader(conntrack_tables, 200, longest=1024),
    Reader(netfilter, 700, longest=1024),
    Reader(rule_sets, 300, longest=1024),
    Reader(legacy_tables, 300),
)
