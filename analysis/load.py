"""A recording → tables of the database in which legs are joined.

    openings  SYNs and SYN-ACKs, most of all rows: what names their connection, in the client's direction
    packets   all others, and of those the ones that carry data
    nat       the kernels' NAT records
    taps      where packets were captured

Rows go in piece by piece, so that they are never in memory a second time, and addresses as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np

from analysis.addresses import EXACT_TAPS, every_interface
from analysis.gathering import Rows, pieces
from analysis.interning import Interned
from analysis.recording import Recording
from daemonset.observation import TapKind

#: Kinds of taps from the client inwards; of several readings of one segment the innermost counts.
_DEPTH = (TapKind.CLIENT, TapKind.LB, TapKind.NIC, TapKind.TUNNEL, TapKind.BRIDGE, TapKind.VETH, TapKind.POD)

#: What is asked of packets; the rest stays where it is.
_PACKETS = (
    "time", "tap", "protocol", "sport", "dport", "flags", "seq", "ack", "tsval", "tsecr", "length", "payload", "digest",
    "head", "icmp", "tunnel",
)  # fmt: skip
_NAT = (
    "time", "node", "protocol", "orig_sport", "orig_dport", "reply_sport", "reply_dport",
)  # fmt: skip


#: Flags: 1 FIN, 2 SYN, 4 RST, 16 ACK. A SYN carries the client's initial sequence number and timestamp; the SYN-ACK
#: acknowledges the number plus one, and echoes the timestamp.
_OPENINGS = """
    select row, tap, time, src, sport, dst, dport, outer_src, outer_dst, tunnel, true as forward,
           seq as isn, tsval as stamp, null::uinteger as server_isn
    from piece where protocol = 6 and icmp = 0 and (flags & 22) = 2
    union all
    select row, tap, time, dst, dport, src, sport, outer_src, outer_dst, tunnel, false,
           ((ack::bigint - 1) & 4294967295)::uinteger, tsecr, seq
    from piece where protocol = 6 and icmp = 0 and (flags & 22) = 18
"""
_OTHERS = "from piece where protocol <> 6 or icmp <> 0 or length > 0 or (flags & 23) not in (2, 18)"


def load(database: duckdb.DuckDBPyConnection, recording: Recording) -> Interned:
    """Make the tables; `row` and `record` count the rows. Answers with the addresses by number."""
    addresses = Interned()
    for number, columns in enumerate(_pieces(recording.packets, "row", _PACKETS, addresses)):
        _put(database, columns, {"openings": _OPENINGS, "packets": _OTHERS}, create=not number)
    for number, columns in enumerate(_pieces(recording.nat, "record", _NAT, addresses)):
        _put(database, columns, {"nat": "from piece"}, create=not number)
    nodes = {name: number for number, name in enumerate(recording.nodes)}
    taps = {
        "tap": np.arange(len(recording.taps), dtype=np.uint32),
        "node": np.array([nodes[tap.node] for tap in recording.taps], dtype=np.uint16),
        # Where one tap shows every interface, answers half translated are among what it shows.
        "exact": np.array(
            [tap.kind in EXACT_TAPS and not every_interface(tap.interface) for tap in recording.taps],
            dtype=bool,
        ),
        "depth": np.array([_DEPTH.index(tap.kind) for tap in recording.taps], dtype=np.uint8),
    }
    database.register("taps", taps)
    return addresses


def _pieces(
    rows: Rows, number: str, plain: tuple[str, ...], addresses: Interned
) -> Iterator[dict[str, Rows]]:
    """The columns `plain`, the rows' `number`, and each address as its number; at least one piece."""
    words = [name.removesuffix("_hi") for name in rows.dtype.names or () if name.endswith("_hi")]
    for start, piece in pieces(rows) if len(rows) else [(0, rows)]:
        columns = {name: np.ascontiguousarray(piece[name]) for name in plain}
        columns |= {name: addresses.numbers(piece[f"{name}_hi"], piece[f"{name}_lo"]) for name in words}
        columns[number] = np.arange(start, start + len(piece), dtype=np.int64)
        yield columns


def _put(
    database: duckdb.DuckDBPyConnection, columns: dict[str, Rows], tables: dict[str, str], *, create: bool
) -> None:
    """Put a piece into tables; each says which of its rows it takes."""
    database.register("piece", columns)
    for table, query in tables.items():
        database.execute(
            f"create temp table {table} as {query}" if create else f"insert into {table} {query}"
        )
    database.unregister("piece")
