"""A recording → columns that the database joins.

    openings  SYNs and SYN-ACKs, most of all rows: what names their connection, in the client's direction
    packets   all others, and of those the ones that carry data
    nat       the kernels' NAT records
    taps      where packets were captured

The database reads the columns where they are and copies none. They are made piece by piece, so that rows are never in
memory a second time; those of many rows are on disk. Addresses are numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import duckdb
import numpy as np

from analysis.engine.gathering import Columns, Rows, pieces
from analysis.engine.interning import Interned
from analysis.hops.addresses import EXACT_TAPS, every_interface
from analysis.recording import Recording
from daemonset.observation import TapKind

#: Kinds of taps from the client inwards; of several readings of one segment the innermost counts.
_DEPTH = (TapKind.CLIENT, TapKind.LB, TapKind.NIC, TapKind.TUNNEL, TapKind.BRIDGE, TapKind.VETH, TapKind.POD)

_TCP, _UDP = 6, 17
_SYN, _RST, _ACK = 2, 4, 16

#: Set in the `tunnel` of an answer that its tap does not show as it is on the wire.
HALF_TRANSLATED = 0x80

#: ns, in the year 2116: a time that a stream puts later is no time, and is counted with as this one.
_LATEST = np.uint64(1 << 62)

#: Rows whose columns are made at once: they and their columns fit the processor's cache.
_BLOCK = 1 << 13

#: Flags: 1 FIN, 2 SYN, 4 RST, 16 ACK. A SYN carries the client's initial sequence number and timestamp; the SYN-ACK
#: acknowledges the number plus one, and echoes the timestamp. `server_isn` is of answers alone.
_OPENINGS = {
    "row": "u4", "tap": "u4", "time": "i8", "src": "u4", "sport": "u2", "dst": "u4", "dport": "u2", "outer_src": "u4",
    "outer_dst": "u4", "tunnel": "u1", "forward": "?", "isn": "u4", "stamp": "u4", "server_isn": "u4",
}  # fmt: skip

#: What is asked of packets; the rest stays where it is.
_PACKETS = {
    "row": "u4", "tap": "u4", "time": "i8", "protocol": "u1", "src": "u4", "sport": "u2", "dst": "u4", "dport": "u2",
    "outer_src": "u4", "outer_dst": "u4", "flags": "u1", "seq": "u4", "ack": "u4", "length": "u4", "payload": "u1",
    "digest": "u8", "head": "u4", "icmp": "u2", "tunnel": "u1",
}  # fmt: skip
_OPENING_FIELDS = ("tap", "time", "src", "sport", "dst", "dport", "outer_src", "outer_dst", "tunnel", "seq")
_NAT = {
    "record": "u4", "time": "i8", "node": "u2", "protocol": "u1", "orig_src": "u4", "orig_sport": "u2",
    "orig_dst": "u4", "orig_dport": "u2", "reply_src": "u4", "reply_sport": "u2", "reply_dst": "u4",
    "reply_dport": "u2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is in the database. `addresses` by number; the rest says what need not be looked for."""

    addresses: Interned
    columns: tuple[Columns, ...]
    packets: int
    heads: bool
    nat: bool
    datagrams: bool  # UDP was seen
    tunnels: bool  # openings in tunnels were
    half_translated: bool  # answers of that kind were

    def release(self) -> None:
        """Give back the memory of columns that are on disk."""
        for each in self.columns:
            each.release()


def load(database: duckdb.DuckDBPyConnection, recording: Recording) -> Loaded:
    """Register the columns; `row` and `record` count the rows. Raises MemoryError where they find no room."""
    addresses = Interned()
    exact = _exact(recording)
    openings, packets, nat = Columns(_OPENINGS), Columns(_PACKETS), Columns(_NAT)
    datagrams = tunnels = False
    for start, block in _blocks(recording.packets):
        ends = _ends(block, addresses)
        opening = _is_opening(block)
        opened = _opened(block, ends, start, np.flatnonzero(opening), exact)
        openings.add(opened)
        tunnels = tunnels or bool((opened["tunnel"] % HALF_TRANSLATED).any())
        other = np.flatnonzero(~opening | (block["length"] > 0) | (block["flags"] & 1 > 0))
        packets.add({**_taken(block, ends, _PACKETS, other), "row": _numbers(start, other)})
        datagrams = datagrams or bool((block["protocol"] == _UDP).any())
    for start, block in _blocks(recording.nat):
        every = np.arange(len(block))
        numbered = {"record": _numbers(start, every)}
        nat.add({**_taken(block, _ends(block, addresses), _NAT, every), **numbered})
    for name, columns in (("openings", openings), ("packets", packets), ("nat", nat)):
        database.register(name, columns.finish())
    database.register("taps", _taps(recording, exact))
    return Loaded(
        addresses,
        (openings, packets, nat),
        packets=len(recording.packets),
        heads=bool(recording.heads),
        nat=bool(len(recording.nat)),
        datagrams=datagrams,
        tunnels=tunnels,
        half_translated=not exact.all(),
    )


def _exact(recording: Recording) -> Rows:
    """For each tap, whether it shows answers as they are on the wire.

    Where one tap shows every interface, answers half translated are among what it shows.
    """
    return np.array(
        [tap.kind in EXACT_TAPS and not every_interface(tap.interface) for tap in recording.taps], dtype=bool
    )


def _taps(recording: Recording, exact: Rows) -> dict[str, Rows]:
    nodes = {name: number for number, name in enumerate(recording.nodes)}
    return {
        "tap": np.arange(len(recording.taps), dtype=np.uint32),
        "node": np.array([nodes[tap.node] for tap in recording.taps], dtype=np.uint16),
        "exact": exact,
        "depth": np.array([_DEPTH.index(tap.kind) for tap in recording.taps], dtype=np.uint8),
    }


def _blocks(rows: Rows) -> Iterator[tuple[int, Rows]]:
    for start, piece in pieces(rows):
        for at in range(0, len(piece), _BLOCK):
            yield start + at, piece[at : at + _BLOCK]


def _ends(block: Rows, addresses: Interned) -> dict[str, Rows]:
    """Each address of the rows as its number, by the name of its columns."""
    names = [name.removesuffix("_hi") for name in block.dtype.names or () if name.endswith("_hi")]
    return {name: addresses.numbers(block[f"{name}_hi"], block[f"{name}_lo"]) for name in names}


def _is_opening(block: Rows) -> Rows:
    way = block["flags"] & (_SYN | _RST | _ACK)
    plain = (block["protocol"] == _TCP) & (block["icmp"] == 0)
    opening: Rows = plain & ((way == _SYN) | (way == _SYN | _ACK))
    return opening


def _opened(block: Rows, ends: Mapping[str, Rows], start: int, at: Rows, exact: Rows) -> dict[str, Rows]:
    """The openings of a block, turned into the client's direction."""
    taken = _taken(block, ends, _OPENING_FIELDS, at)
    answer = (block["flags"][at] & _ACK) > 0
    turned = {
        name: np.where(answer, taken[other], taken[name])
        for pair in (("src", "dst"), ("sport", "dport"))
        for name, other in (pair, pair[::-1])
    }
    hidden = answer & ~exact[taken["tap"]]
    return {
        **taken,
        **turned,
        "row": _numbers(start, at),
        "tunnel": np.where(hidden, taken["tunnel"] | HALF_TRANSLATED, taken["tunnel"]),
        "forward": ~answer,
        "isn": np.where(answer, block["ack"][at] - np.uint32(1), taken["seq"]),
        "stamp": np.where(answer, block["tsecr"][at], block["tsval"][at]),
        "server_isn": taken["seq"],
    }


def _taken(block: Rows, ends: Mapping[str, Rows], names: Iterable[str], at: Rows) -> dict[str, Rows]:
    """Of these columns those that the rows have, for the rows `at`."""
    had = block.dtype.names or ()
    taken = {
        name: (ends[name] if name in ends else block[name])[at]
        for name in names
        if name in ends or name in had
    }
    taken["time"] = np.minimum(taken["time"], _LATEST).astype(np.int64)
    return taken


def _numbers(start: int, at: Rows) -> Rows:
    return (at + start).astype(np.uint32)
