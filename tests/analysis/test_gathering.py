"""Many rows: gathered on disk, and their addresses joined as numbers, without a difference to few rows in memory."""

from __future__ import annotations

import dataclasses
import errno
import secrets
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.analyze import analyze
from analysis.engine import gathering, interning
from analysis.engine.gathering import Columns, Gathered, pieces
from analysis.engine.interning import Interned
from tests.analysis.story import Story, cluster
from tests.analysis.test_scale import repeated
from tests.analysis.test_stories import REMOTE

WORDS = st.integers(0, 3) | st.integers(0, 2**64 - 1)


def test_rows_on_disk_are_judged_as_rows_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(cluster()).connection(REMOTE)
    few = repeated(story.recording(), 40)
    monkeypatch.setattr(gathering, "MOST_IN_MEMORY", 1000)
    gathered = Gathered(few.packets.dtype)
    for _, piece in pieces(few.packets, 7):
        gathered.add(piece)
    rows = gathered.rows()
    assert not rows.flags.writeable, "they are mapped"
    assert np.array_equal(rows, few.packets)
    on_disk = dataclasses.replace(few, packets=rows)
    assert analyze(on_disk, story.facts) == analyze(few, story.facts)
    assert np.array_equal(rows, few.packets), "memory that was given back is read again"


def test_no_rows_are_no_pieces() -> None:
    gathered = Gathered(np.dtype([("time", "<u8")]))
    assert len(gathered.rows()) == 0
    assert list(pieces(gathered.rows())) == []


def test_a_folder_for_temporary_files_without_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gathering, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr("analysis.engine.gathering.tempfile.TemporaryFile", full)
    with pytest.raises(MemoryError, match=r"No space left on device$"):
        Gathered(np.dtype([("time", "<u8")])).add(np.zeros(1, dtype=[("time", "<u8")]))


@given(st.lists(st.lists(st.tuples(WORDS, WORDS), max_size=30), max_size=4))
def test_a_number_is_one_address_and_an_address_one_number(tables: list[list[tuple[int, int]]]) -> None:
    known = Interned()
    numbers: dict[tuple[int, int], int] = {(0, 0): 0}
    for table in tables:
        words = np.array(table, dtype=np.uint64).reshape(-1, 2)
        for pair, number in zip(table, known.numbers(words[:, 0], words[:, 1]).tolist(), strict=True):
            assert numbers.setdefault(pair, number) == number
            assert known[number] == pair[0] << 64 | pair[1]
    assert len(set(numbers.values())) == len(numbers) == len(known)


def test_many_addresses_have_numbers_as_few_have() -> None:
    known = Interned()
    high = np.zeros(3_000, dtype=np.uint64)
    low = np.arange(3_000, dtype=np.uint64) * np.uint64(7)
    for size in (3, 400, 3_000):
        numbers = known.numbers(high[:size], low[:size])
        assert [known[number] for number in numbers.tolist()] == low[:size].tolist()
    assert len(known) == 3_000


def test_columns_on_disk_are_as_columns_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MOST_IN_MEMORY", 1000)
    columns = Columns({"time": "u8", "forward": "?"})
    numbers = np.arange(500, dtype=np.uint64)
    for start in range(0, 500, 60):
        piece = numbers[start : start + 60]
        columns.add({"time": piece, "forward": piece % 3 == 0})
    found = columns.finish()
    columns.release()
    assert not found["time"].flags.writeable, "they are mapped"
    assert np.array_equal(found["time"], numbers)
    assert np.array_equal(found["forward"], numbers % 3 == 0)


def test_addresses_that_share_a_key_keep_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 5
    given_secrets = iter([secret, secret, secrets.randbits(64)])
    monkeypatch.setattr("analysis.engine.interning.secrets.randbits", lambda _: next(given_secrets))
    known = Interned()
    high = np.array([1, 2, 7], dtype=np.uint64)
    first, second, _ = interning._mixed(high ^ np.uint64(secret))
    low = np.array([9, 9 + int(first) - int(second) & (1 << 64) - 1, 0], dtype=np.uint64)
    assert len(set(known._key(high, low).tolist())) == 2, "two of them share a key by this secret"
    assert known.numbers(high[:1], low[:1]).tolist() == [1]
    assert sorted(known.numbers(high, low).tolist()) == [1, 2, 3]


def test_no_addresses_share_a_key_by_their_looks() -> None:
    """What differs in the top bits alone would share a key by any product of whole words."""
    top = 1 << 63
    high = np.array([0, top, 0, top], dtype=np.uint64)
    low = np.array([0, 0, top, top], dtype=np.uint64)
    assert Interned().numbers(high, low).tolist() == [0, 1, 2, 3]


@given(
    st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1), st.lists(st.integers(0, 2**128 - 1), max_size=20)
)
def test_a_range_has_both_its_ends(one: int, other: int, addresses: list[int]) -> None:
    first, last = sorted((one, other))
    known = Interned()
    met = [first, last, *addresses]
    numbers = known.numbers(
        np.array([each >> 64 for each in met], dtype=np.uint64),
        np.array([each & (1 << 64) - 1 for each in met], dtype=np.uint64),
    )
    inside = known.between(first, last)
    for address, number in zip(met, numbers.tolist(), strict=True):
        assert inside[number] == (first <= address <= last)
