"""Addresses as small numbers, so that joins compare four bytes where an address has sixteen."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]

_WORD = 0xFFFF_FFFF_FFFF_FFFF

#: The number of the address 0, which stands for "none".
NONE = 0

#: While addresses are few, their number stands in a table of so many places, and nothing has to be searched for.
_PLACES_BITS = 16
_MOST_PLACED = 512
_MIXERS = tuple(0x9E37_79B9_7F4A_7C15 * odd & _WORD for odd in range(1, 16, 2))


def at_least(high: Column, low: Column, address: int) -> Column:
    """Which addresses, given by their words, are not below this one, which may be 2**128."""
    if address >> 128:
        return np.zeros(len(high), dtype=np.bool_)
    top, bottom = np.uint64(address >> 64), np.uint64(address & _WORD)
    result: Column = (high > top) | ((high == top) & (low >= bottom))
    return result


def _mixed(words: Column) -> Column:
    """Other words, one for one, each bit of which depends on all bits (the last step of SplitMix64)."""
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58_476D_1CE4_E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D0_49BB_1331_11EB)
    mixed: Column = words ^ words >> np.uint64(31)
    return mixed


class Interned:
    """Addresses in the order in which they were met. `high` and `low` are their words by number.

    They are looked up by a hash that depends on a secret, so that nobody can choose addresses which share it. That two
    do is improbable, and not assumed: then there is another secret.
    """

    def __init__(self) -> None:
        self.high = np.zeros(1, dtype=np.uint64)
        self.low = np.zeros(1, dtype=np.uint64)
        self._rehash()

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, number: int) -> int:
        """The address as a 128-bit integer."""
        return int(self.high[number]) << 64 | int(self.low[number])

    def numbers(self, high: Column, low: Column) -> Column:
        """The number of each address, given by its words; those not met before get the next ones."""
        if not (high.any() or low.any()):
            return np.full(len(high), NONE, dtype=np.uint32)
        if self._places is not None:
            numbers = self._places[self._place(self._key(high, low))]
            if np.array_equal(self.high[numbers], high) and np.array_equal(self.low[numbers], low):
                return numbers
        while True:
            keys = self._key(high, low)
            found = self._find(keys)
            unknown = self._keys[found] != keys
            if unknown.any():
                self._add(high[unknown], low[unknown], keys[unknown])
                found = self._find(keys)
            numbers = self._numbers[found]
            if np.array_equal(self.high[numbers], high) and np.array_equal(self.low[numbers], low):
                return numbers
            self._rehash()

    def between(self, first: int, last: int) -> Column:
        """For each number, whether the address is in this range, ends included."""
        return at_least(self.high, self.low, first) & ~at_least(self.high, self.low, last + 1)

    def _key(self, high: Column, low: Column) -> Column:
        if not high.any():  # IPv4
            return _mixed(self._secret) + low
        return _mixed(high ^ self._secret) + low

    def _find(self, keys: Column) -> Column:
        found = np.searchsorted(self._keys, keys)
        found[found == len(self._keys)] = 0
        return found

    def _add(self, high: Column, low: Column, keys: Column) -> None:
        _, first = np.unique(keys, return_index=True)
        first.sort()
        self.high = np.concatenate((self.high, high[first]))
        self.low = np.concatenate((self.low, low[first]))
        self._sort(self._key(self.high, self.low))

    def _rehash(self) -> None:
        """Take another secret, under which no two of the addresses that are known share a key."""
        while True:
            self._secret = np.full(1, secrets.randbits(64), dtype=np.uint64)
            keys = self._key(self.high, self.low)
            if len(np.unique(keys)) == len(keys):
                self._sort(keys)
                return

    def _sort(self, keys: Column) -> None:
        self._numbers = np.argsort(keys, kind="stable").astype(np.uint32)
        self._keys = keys[self._numbers]
        self._places = self._placed(keys) if len(keys) <= _MOST_PLACED else None

    def _place(self, keys: Column) -> Column:
        return (keys * self._mixer) >> np.uint64(64 - _PLACES_BITS)

    def _placed(self, keys: Column) -> Column | None:
        """The number of each address at a place that is its alone; None where no such places were found."""
        for mixer in _MIXERS:
            self._mixer = np.uint64(mixer)
            places = self._place(keys)
            if len(np.unique(places)) == len(places):
                table = np.zeros(1 << _PLACES_BITS, dtype=np.uint32)
                table[places] = np.arange(len(keys), dtype=np.uint32)
                return table
        return None
