"""Conntrack's own statistics, from messages as the kernel sends them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from daemonset.node.conntrack_counters import (
    Counters,
    Reading,
    counted,
    parse_cpu,
    parse_filled,
)
from daemonset.node.nfnetlink import Message, messages
from tests.ground.test_conntrack_records import attribute

LARGEST = (1 << 32) - 1


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


def statistics(*attributes: bytes, kind: int, cpu: int = 0, flags: int = 0) -> bytes:
    body = struct.pack("!BBH", 0, 0, cpu) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


FILLED = statistics(u32(1, 262_140), u32(2, 262_144), kind=0x105)
#: FOUND, INVALID, INSERT, INSERT_FAILED, DROP, EARLY_DROP, ERROR, SEARCH_RESTART, CLASH_RESOLVE, CHAIN_TOOLONG.
CPU = statistics(
    *(u32(kind, kind * 100) for kind in (2, 4, 8, 9, 10, 11, 12, 13, 14, 15)), kind=0x104, cpu=3, flags=2
)


def one(data: bytes) -> Message:
    (message,) = messages(data)
    return message


def moment(*cpus: Sequence[int], entries: int = 0, time: int = 0) -> Reading:
    return Reading(time, entries, 262_144, {number: Counters(*each) for number, each in enumerate(cpus)})


def test_how_full_the_table_is() -> None:
    assert parse_filled(one(FILLED)) == (262_140, 262_144)
    assert parse_filled(one(statistics(u32(1, 7), kind=0x105))) == (7, 0), (
        "kernels before 4.19 tell no maximum"
    )


def test_what_a_cpu_has_counted() -> None:
    expected = Counters(drop=1000, early_drop=1100, insert_failed=900, invalid=400, chain_too_long=1500)
    assert parse_cpu(one(CPU)) == (3, expected)
    assert parse_cpu(one(statistics(u32(10, 5), kind=0x104))) == (0, Counters(drop=5))


def test_what_is_something_else_is_not_read() -> None:
    assert parse_filled(one(CPU)) is None
    assert parse_cpu(one(FILLED)) is None
    cut = one(struct.pack("=IHHII", 16, 0x104, 0, 1, 0))
    assert parse_cpu(cut) is None
    assert parse_cpu(one(statistics(attribute(10, b"\x01"), kind=0x104))) == (0, Counters())


def test_only_what_came_in_between_is_told() -> None:
    before = moment((5, 0, 2, 90, 1), (1, 1, 0, 0, 0), entries=100, time=1)
    after = moment((12, 0, 2, 95, 1), (1, 4, 1, 0, 2), entries=262_144, time=2)
    said = counted(before, after)
    assert (said.drop, said.early_drop, said.insert_failed, said.invalid, said.chain_too_long) == (
        7,
        3,
        1,
        5,
        2,
    )
    assert (said.entries_before, said.entries, said.maximum_before, said.maximum) == (
        100, 262_144, 262_144, 262_144,
    )  # fmt: skip
    assert (said.began, said.time) == (1, 2)


def test_counters_wrap_around() -> None:
    assert counted(moment((LARGEST - 2, 0, 0, 0, 0)), moment((4, 0, 0, 0, 0))).drop == 7


def test_a_cpu_that_came_meanwhile_has_counted_nobody_knows_since_when() -> None:
    assert counted(moment((5, 0, 0, 0, 0)), moment((5, 0, 0, 0, 0), (900, 0, 0, 0, 0))).drop == 0


@given(st.binary(max_size=120) | st.tuples(st.sampled_from([FILLED, CPU]), st.integers(0, 60)).map(
    lambda pair: pair[0][: pair[1]]
))  # fmt: skip
@example(FILLED[:20])
@example(CPU + FILLED)
def test_any_bytes_are_statistics_or_none(data: bytes) -> None:
    for message in messages(data):
        filled, cpu = parse_filled(message), parse_cpu(message)
        assert filled is None or all(0 <= each <= LARGEST for each in filled)
        assert cpu is None or (cpu[0] <= 0xFFFF and all(0 <= each <= LARGEST for each in cpu[1]))
