"""Any bytes are a table of iptables-legacy, or an error of its own."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonset.node.legacy_table import INFO_SIZE, LegacyChain, LegacyTableError, parse_size, parse_table


def entry(target: bytes = b"", verdict: int = -2, matches: bytes = b"", packets: int = 0) -> bytes:
    """A rule of IPv4 that asks nothing of addresses (struct ipt_entry)."""
    deed = struct.pack("=H29sBi4x", 40, target, 0, verdict)
    begin = 112 + len(matches)
    head = bytes(88) + struct.pack("=HHI", begin, begin + len(deed), 0) + struct.pack("=QQ", packets, 0)
    return head + matches + deed


def info(entries: bytes, begins: int = 0, ends: int = 0) -> bytes:
    """struct ipt_getinfo of a table with the hook `output` alone."""
    numbers = [0] * 10
    numbers[3], numbers[8] = begins, ends
    return bytes(32) + struct.pack("=I10III", 1 << 3, *numbers, 1, len(entries))


def read_all(chains: Iterable[LegacyChain]) -> None:
    for chain in chains:
        for rule in chain.rules:
            rule.read()


def test_a_chain_ends_with_its_policy() -> None:
    entries = entry(verdict=-1, packets=7) + entry(verdict=-1)
    (chain,) = parse_table("ip", info(entries, 0, len(entries) // 2), entries)
    assert (chain.name, chain.hook, chain.policy) == ("OUTPUT", "output", "drop")
    assert [(rule.read().does, rule.packets) for rule in chain.rules] == [("-j DROP", 7)]


def test_a_match_that_is_not_known_is_still_one() -> None:
    strange = struct.pack("=H29sB8s", 40, b"strange", 3, b"whatever")
    entries = entry(matches=strange) + entry()
    (chain,) = parse_table("ip", info(entries, 0, len(entries) - len(entry())), entries)
    assert chain.rules[0].read().conditions == ("-m strange",)


@pytest.mark.parametrize("cut", [1, 50, 111, 120, 151])
def test_a_rule_that_is_cut_off_is_none(cut: int) -> None:
    with pytest.raises(LegacyTableError):
        list(parse_table("ip", info(b""), entry()[:cut]))


@given(st.sampled_from(["ip", "ip6"]), st.binary(max_size=INFO_SIZE + 8), st.binary(max_size=600))
def test_any_bytes_are_a_table_or_an_error(family: str, account: bytes, entries: bytes) -> None:
    with contextlib.suppress(LegacyTableError):
        parse_size(account)
        read_all(parse_table(family, account, entries))


@given(st.data())
def test_bytes_that_change_in_a_table_are_a_table_or_an_error(data: st.DataObject) -> None:
    strange = struct.pack(
        "=H29sB16s", 48, data.draw(st.sampled_from([b"tcp", b"mark", b"conntrack"])), 0, b""
    )
    entries = bytearray(entry(matches=strange) + entry())
    for _ in range(data.draw(st.integers(0, 8))):
        entries[data.draw(st.integers(0, len(entries) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LegacyTableError):
        read_all(parse_table("ip", info(bytes(entries), 0, 200), bytes(entries)))
