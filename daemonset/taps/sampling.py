"""One connection of N, the same ones on every node: chosen by the initial sequence number that no NAT rewrites.

The kernel filter drops the handshakes of other connections. What passes it although it does not tell its connection's
ISN (FIN, RST, heads) is dropped here, unless a chosen handshake with the same two ends was seen at the same tap. So is
a NAT record of which neither tuple was seen. UDP has no such number: all of it is kept. So are ICMP errors.

What is dropped too much (a handshake before the capture began, two connections at one place of the table) takes
evidence away and adds none. Ports are used again: a connection that has ended owns its tuple a little longer, for
what was still on its way, and then no more.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemonset.observation import NAT, PACKET, Head, TcpFlag

#: Knuth's multiplier: the product's upper bits depend on all bits, so stacks that count ISNs in steps are sampled too.
MULTIPLIER = 2_654_435_761

MOST = 1 << 16

#: Connections that are followed at all taps of a node together; what is beyond displaces the older ones.
PLACES = 1 << 20

#: Nanoseconds for which an ended connection keeps its tuple: for its other side's end, and answers on their way.
LINGER = 2_000_000_000

_PLACE = 32  # bytes
_ROW = np.dtype((np.void, PACKET.size))  # one thing and not fields: to choose among these takes a thirtieth

_TCP = 6
_ENDS = TcpFlag.FIN | TcpFlag.RST
_ANY_TAP = np.array([0xFFFF_FFFF], np.uint64)
#: Factors that mix well: those of splitmix64 and xxHash.
_ODD = np.array(
    [
        0x9E37_79B9_7F4A_7C15,
        0xC2B2_AE3D_27D4_EB4F,
        0x1656_67B1_9E37_79F9,
        0xBF58_476D_1CE4_E5B9,
        0x94D0_49BB_1331_11EB,
    ],
    np.uint64,
)
_SIDES = (("src", "sport"), ("dst", "dport"))

Words = NDArray[np.uint64]


def bits_of(sample: int) -> int:
    """How many bits choose one of `sample`. Raises ValueError where it is no power of two from 1 to 65536."""
    if not 1 <= sample <= MOST or sample & (sample - 1):
        raise ValueError(f"1/{sample} is no sample; N is a power of two up to {MOST}")
    return sample.bit_length() - 1


def chosen(isn: int, sample: int) -> bool:
    """Whether the connection with this initial sequence number is among one of `sample`."""
    return (isn * MULTIPLIER & 0xFFFF_FFFF) >> (32 - bits_of(sample)) == 0


class Sampler:
    """Knows the chosen connections of one node. Not for several threads at once.

    `nat`: whether NAT records are going to be asked for.
    """

    def __init__(self, sample: int, *, nat: bool = True) -> None:
        self._bits = bits_of(sample)
        self._for_nat = nat
        # Side by side, so that a connection is one line of the cache and not three; times in ns, 0: not yet.
        table = np.frombuffer(_scattered(PLACES * _PLACE), np.uint64).reshape(PLACES, 4)
        self._keys, self._opened, self._ended = table[:, 0], table[:, 1], table[:, 2]

    def packets(
        self, rows: bytes | memoryview, heads: tuple[Head, ...]
    ) -> tuple[bytes | memoryview, tuple[Head, ...]]:
        """Of rows of `PACKET` with their heads those of chosen connections."""
        table = np.frombuffer(rows, PACKET.dtype())
        if not len(table):
            return rows, heads
        wanted = self._wanted(table)
        if wanted.all():
            return rows, heads
        kept = np.frombuffer(rows, _ROW)[wanted].view(PACKET.dtype())
        if not heads:
            return kept.tobytes(), heads
        used = np.unique(kept["head"])
        used = used[used > 0]
        if len(used) < len(heads):
            kept["head"] = np.where(kept["head"] > 0, np.searchsorted(used, kept["head"]) + 1, 0)
        return kept.tobytes(), tuple(heads[number - 1] for number in used.tolist())

    def nat(self, rows: bytes) -> bytes:
        """Of rows of `NAT` those that may be of a chosen connection: one of their tuples was seen on this node."""
        table = np.frombuffer(rows, NAT.dtype())
        if not len(table):
            return rows
        known = np.zeros(len(table), bool)
        for side in ("orig", "reply"):
            one, other = (f"{side}_src", f"{side}_sport"), (f"{side}_dst", f"{side}_dport")
            key = _keys(_ends(table, one, other), _ANY_TAP)
            known |= self._keys[_places(key)] == key
        kept: bytes = np.frombuffer(rows, f"V{NAT.size}")[known | (table["protocol"] != _TCP)].tobytes()
        return kept

    def _wanted(self, table: NDArray[Any]) -> NDArray[np.bool_]:
        tcp = (table["protocol"] == _TCP) & (table["icmp"] == 0)
        flags = table["flags"]
        opening = tcp & (flags & (TcpFlag.SYN | TcpFlag.RST) == TcpFlag.SYN)
        isn = np.where(flags & TcpFlag.ACK, table["ack"] - np.uint32(1), table["seq"]).astype(np.uint64)
        mixed = isn * np.uint64(MULTIPLIER) & np.uint64(0xFFFF_FFFF)
        picked = opening & (mixed >> np.uint64(32 - self._bits) == 0)
        ends = _ends(table, *_SIDES)
        key = _keys(ends, table["tap"].astype(np.uint64))
        time = table["time"][picked]
        self._open(key[picked], time)
        if self._for_nat:
            self._open(_keys(ends[picked], _ANY_TAP), time)
        result: NDArray[np.bool_] = ~tcp | picked
        others = np.flatnonzero(tcp & ~opening)
        if len(others):
            result[others] = self._followed(key[others], table["time"][others], flags[others] & _ENDS != 0)
        return result

    def _followed(self, key: Words, time: Words, ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of packets that do not tell their connection's number: which are of a chosen one."""
        self._end(key, time, ends)
        place = _places(key)
        ended = self._ended[place]
        in_time = (ended == 0) | (time <= ended + np.uint64(LINGER))
        followed: NDArray[np.bool_] = (self._keys[place] == key) & in_time
        return followed

    def _open(self, key: Words, time: Words) -> None:
        place = _places(key)
        known = (self._keys[place] == key) & (self._opened[place] >= time)
        place, key, time = place[~known], key[~known], time[~known]
        self._keys[place], self._opened[place], self._ended[place] = key, time, 0

    def _end(self, key: Words, time: Words, ends: NDArray[np.bool_]) -> None:
        """Note the first end of each connection; one that is older than what is open now was of another."""
        key, time = key[ends], time[ends]
        place = _places(key)
        own = (self._keys[place] == key) & (time >= self._opened[place]) & (self._ended[place] == 0)
        place, time = place[own], time[own]
        self._ended[place[::-1]] = time[::-1]  # of several in one batch the first stays


def _scattered(size: int) -> mmap.mmap:
    """Zeros of which a few are used here and there: by small pages, of which each has to be cleared on first use.

    Large ones, which numpy asks for, would all be there after the first dozen of connections: a tenth of a second.
    """
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def _places(key: Words) -> NDArray[np.int64]:
    return (key >> np.uint64(44)).astype(np.int64)  # the upper 20 bits


def _ends(table: NDArray[Any], *sides: tuple[str, str]) -> Words:
    """The two ends of each row as one number, whichever is the source; `sides`: the columns of address and port."""
    one, other = (
        _mix(
            table[f"{address}_hi"].astype(np.uint64) * _ODD[0]
            + table[f"{address}_lo"].astype(np.uint64) * _ODD[1]
            + table[port].astype(np.uint64) * _ODD[2]
        )
        for address, port in sides
    )
    return one + other


def _keys(ends: Words, taps: Words) -> Words:
    """One number for a tap and two ends; never 0."""
    return _mix(ends + taps * _ODD[0]) | np.uint64(1)


def _mix(words: Words) -> Words:
    """The finalizer of splitmix64, in place."""
    for shift, factor in ((30, _ODD[3]), (27, _ODD[4]), (31, None)):
        words ^= words >> np.uint64(shift)
        if factor is not None:
            words *= factor
    return words
