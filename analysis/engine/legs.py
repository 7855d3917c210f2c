"""Observations → legs: one TCP connection or UDP exchange followed across taps, nodes and NAT.

NAT rewrites addresses and ports and nothing else of a handshake. So a TCP leg is followed by what stays:

1. A SYN carries the client's initial sequence number (ISN) and timestamp; the SYN-ACK acknowledges ISN + 1 and
   echoes the timestamp (RFC 9293 §3.5, RFC 7323 §3). Both therefore name the same leg, on either side of NAT.
2. Rows of one ISN are one leg unless time or timestamp says otherwise: a silence longer than any SYN
   retransmission gap, or timestamps further apart than retransmissions can be.
3. The client's first data byte has sequence number ISN + 1, the server's first its own ISN + 1; they are tied to
   the leg by that and by a tuple which the leg already has at the same tap.
4. A UDP exchange is followed by the digest of its datagrams; datagrams of one tuple at one tap are one exchange.
5. NAT records join by exact tuple on their own node.

All joins run in DuckDB over columns (`joining`, `attaching`, `shapes`), whatever the number of rows; Python sees legs,
not packets. This file knows nothing of Services, owners or verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np

from analysis.chain.clients import Clients
from analysis.chain.strangers import Strangers, find_strangers
from analysis.engine.attaching import attach
from analysis.engine.first_bytes_alone import add_places
from analysis.engine.interning import Interned
from analysis.engine.joining import SAME_TUPLE, IsServer, join
from analysis.engine.load import load
from analysis.engine.shapes import Classify, Shape, shape, shapes
from analysis.engine.streams import ASKERS, SILENT, Stream, collect_streams
from analysis.recording import Recording
from daemonset.observation import Head, Payload, Tunnel, address_words

#: What a join may put on the disk: some times the recording itself. More would be a defect, and fill the disk.
_SPILL_FACTOR, _SPILL_LEAST = 8, 1 << 30

#: What a join may keep in memory: bytes for each row, and for few rows.
_MEMORY_ROW, _MEMORY_LEAST = 50, 500 << 20

#: Bytes of rows of which joins take a part of `_MEMORY_LEAST`, and need no disk.
_FEW = 64 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """What joins may take of the machine."""

    #: Makes a folder for what does not fit into memory, and takes it away. It is asked only where that may come to be.
    spill: Callable[[], AbstractContextManager[str]] | None = None
    memory: int | None = None  # bytes at most; None: as many as they need


def fits_in_memory(recording: Recording) -> bool:
    """Whether the legs of a recording can be told apart without a folder, unless somebody made it to be hard."""
    return _size(recording) <= _FEW


def _size(recording: Recording) -> int:
    return recording.packets.nbytes + recording.nat.nbytes


@dataclass(frozen=True, slots=True)
class FourTuple:
    """Source and destination of a packet from the client's side; addresses as 128-bit integers."""

    src: int
    sport: int
    dst: int
    dport: int


@dataclass(slots=True)
class Sighting:
    """One tuple of a leg at one tap, whether seen in the client's packets or, mirrored, in the answers."""

    tap: int
    addresses: FourTuple
    tunnel: Tunnel
    first: (
        int | None
    )  # ns; first SYN or datagram of the client here, None where only answers or data were seen
    seen: int  # ns; first packet of any kind here
    last: int  # ns; last SYN or datagram of the client here
    syns: int
    replied: bool
    outer: tuple[int, int] | None = None  # addresses of the tunnel


@dataclass(frozen=True, slots=True)
class NatRecord:
    """What a node's kernel says it did to the leg."""

    node: str
    time: int
    original: FourTuple
    translated: FourTuple  # the reply tuple, mirrored: how the packet leaves


@dataclass(frozen=True, slots=True)
class FirstBytes:
    """The first segment that one side sent."""

    tap: int
    time: int
    payload: Payload
    digest: int
    head: Head | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A RST before any data, or an ICMP error that quotes the leg's packet."""

    tap: int
    time: int
    icmp: int  # 0: RST
    sender: int  # address of who refused


@dataclass(slots=True)
class Leg:
    """One connection as far as it was seen."""

    number: int
    protocol: int
    isn: int
    start: int  # ns
    sightings: list[Sighting] = field(default_factory=list)
    nat: list[NatRecord] = field(default_factory=list)
    first_bytes: FirstBytes | None = None
    response: FirstBytes | None = None
    refusals: list[Refusal] = field(default_factory=list)
    answered: bool = False
    stream: Stream = SILENT


class LegStore:
    """The legs of a recording, joined and kept as columns; Python objects are made only for those asked for.

    `spill`: a folder for what does not fit into memory; None where there is none. `most`: bytes of memory.
    """

    def __init__(
        self, recording: Recording, is_server: IsServer, spill: str | None = None, most: int | None = None
    ) -> None:
        self._recording = recording
        # Of a sample, ports may have been used again by connections that were not kept.
        self._sampled = recording.sample > 1
        disk = _SPILL_LEAST + _SPILL_FACTOR * _size(recording)
        memory = max(_MEMORY_LEAST, _MEMORY_ROW * (len(recording.packets) + len(recording.nat)))
        memory = memory if most is None else min(memory, most)
        self._database = duckdb.connect(
            ":memory:",
            config={
                # By default it would be a folder in the working directory.
                "temp_directory": spill or "",
                "max_temp_directory_size": f"{disk >> 20}MiB",
                "memory_limit": f"{memory >> 20}MiB",
                "preserve_insertion_order": False,
            },
        )
        try:
            self._database.execute("set threads to 2")
            # After two seconds it would stand in the middle of the report.
            self._database.execute("set enable_progress_bar_print = false")
            loaded = load(self._database, recording)
            self._addresses = loaded.addresses
            join(self._database, loaded, is_server)
            add_places(self._database)
            attach(self._database, loaded, sampled=self._sampled)
            self._release = loaded.release
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the memory back, and what is in the folder."""
        self._database.close()

    def __len__(self) -> int:
        return int(self._one("select count(*) from legs"))

    def _one(self, query: str) -> Any:
        rows = self._database.execute(query).fetchall()  # all: the connection is busy until the last is taken
        return rows[0][0] if rows else None

    def pairs_at(self, taps: Sequence[int]) -> list[tuple[int, int, int]]:
        """Distinct (tap, source, destination) of client packets at these taps."""
        self._database.register("wanted", {"tap": np.array(taps, dtype=np.uint32)})
        rows = self._database.execute("""
            select distinct tap, src, dst from sightings join wanted using (tap)
        """).fetchall()
        return [(tap, self._addresses[src], self._addresses[dst]) for tap, src, dst in rows]

    def strangers(self) -> Strangers:
        """Connections of which only the middle was seen."""
        return find_strangers(self._database, self._addresses)

    def sources(self) -> set[int]:
        """Every address that opens connections."""
        rows = self._database.execute("select distinct src from sightings").fetchall()
        return {self._addresses[src] for (src,) in rows}

    def askers(self) -> frozenset[int]:
        """Every address that may have opened a connection: was seen to, or to speak first, or the kernel says so."""
        rows = self._database.execute(ASKERS).fetchall()
        return frozenset(self._addresses[src] for (src,) in rows)

    def askers_of(self, ports: Sequence[int], but: Collection[tuple[str, int]] = ()) -> list[tuple[int, int]]:
        """Distinct (source, destination) of legs to these ports; not from the sockets `but` (address, port)."""
        self._database.register("ports", {"dport": np.array(ports, dtype=np.uint16)})
        words = [address_words(address) for address, _ in but]
        high, low = (np.array([pair[at] for pair in words], dtype=np.uint64) for at in (0, 1))
        left_out = {
            "src": self._addresses.numbers(high, low),
            "sport": np.array([port for _, port in but], dtype=np.uint16),
        }
        self._database.register("left_out", left_out)
        rows = self._database.execute("""
            select distinct src, dst from sightings join ports using (dport) anti join left_out using (src, sport)
        """).fetchall()
        return [(self._addresses[src], self._addresses[dst]) for src, dst in rows]

    def shape(self, classify: Classify) -> int:
        """Tell the shapes of all legs apart; answers with how many there are."""
        count = shape(self._database, classify, self._addresses, self._recording.heads)
        self._release()
        return count

    def shapes(self, sample: int) -> list[Shape]:
        """All shapes, once they are told apart, with up to `sample` legs of each."""
        return shapes(self._database, sample)

    def earliest(self, most: int) -> list[int]:
        """The numbers of the first legs, in order of time."""
        rows = self._database.execute("select leg from legs order by start, row limit ?", [most]).fetchall()
        return [int(row[0]) for row in rows]

    def touching(self, clients: Clients, heads: Sequence[Head]) -> list[int]:
        """Numbers of the legs on which one of these clients stands anywhere, the earliest first."""
        named = [number for number, head in enumerate(heads, start=1) if clients.named_in(head)]
        self._database.register("named", {"head": np.array(named, dtype=np.uint32)})
        self._database.register(
            "theirs", {"src": np.flatnonzero(clients.among(self._addresses)).astype(np.uint32)}
        )
        rows = self._database.execute(f"""
            with touching as (
                select leg from sightings semi join theirs using (src)
                union
                select leg from translations join nat using (record) semi join theirs on orig_src = src
                union
                select a.leg from packets b semi join named using (head)
                join sightings a on a.tap = b.tap and b.time >= a.seen and {SAME_TUPLE}
            )
            select leg from legs semi join touching using (leg) order by start, row
        """).fetchall()  # noqa: S608 - columns of this module and numbers are put into the text
        return [leg for (leg,) in rows]

    def saying(self, heads: Sequence[int]) -> list[tuple[int, int, int]]:
        """Who sent these heads: the source, the head that its leg may have begun with (0: none), and the head."""
        self._database.register("named", {"head": np.array(heads, dtype=np.uint32)})
        rows = self._database.execute(f"""
            select distinct b.src, coalesce(f.head, 0), b.head
            from packets b semi join named using (head)
            left join sightings a on a.tap = b.tap and b.time >= a.seen and {SAME_TUPLE}
            left join first_bytes f on f.leg = a.leg and f.client
        """).fetchall()  # noqa: S608 - columns of this package are put into the text
        return [(self._addresses[src], first, head) for src, first, head in rows]

    def collect(self, numbers: Sequence[int]) -> list[Leg]:
        """These legs in full, in order of their first packet."""
        self._database.register("chosen", {"leg": np.array(numbers, dtype=np.int64)})
        return _collect(self._database, self._recording, self._addresses, self._sampled)


def _collect(
    database: duckdb.DuckDBPyConnection, recording: Recording, addresses: Interned, sampled: bool
) -> list[Leg]:
    legs: dict[int, Leg] = {}
    for leg, protocol, isn, start, answered in database.execute("""
        select leg, protocol, isn, start, answered from legs join chosen using (leg) order by start, row
    """).fetchall():
        legs[leg] = Leg(leg, protocol, isn, start, answered=answered)
    for row in database.execute("""
        select leg, tap, tunnel, src, sport, dst, dport, first, seen, last, syns, replied, outer_src, outer_dst
        from sightings join chosen using (leg) order by leg, seen, tap, tunnel, src, sport, dst, dport
    """).fetchall():
        legs[row[0]].sightings.append(_sighting(row, addresses))
    for leg, row, client in database.execute(
        "select leg, row, client from first_bytes join chosen using (leg)"
    ).fetchall():
        _first_bytes(legs[leg], recording, row, client)
    for leg, row in database.execute(
        "select leg, row from refusals join chosen using (leg) order by row"
    ).fetchall():
        legs[leg].refusals.append(_refusal(recording, row))
    for leg, record in database.execute(
        "select leg, record from translations join chosen using (leg) order by record"
    ).fetchall():
        _translation(legs[leg], recording, record)
    for number, stream in collect_streams(database, recording.heads, sampled).items():
        legs[number].stream = stream
    return list(legs.values())


def _word(high: int, low: int) -> int:
    return int(high) << 64 | int(low)


def _sighting(row: Any, known: Interned) -> Sighting:
    (_, tap, tunnel, src, sport, dst, dport, first, seen, last, syns, replied, *ends) = row
    outer = (known[ends[0]], known[ends[1]]) if tunnel and ends[0] is not None else None
    return Sighting(
        tap=tap,
        addresses=FourTuple(known[src], sport, known[dst], dport),
        tunnel=Tunnel(tunnel),
        first=first,
        seen=seen,
        last=last if last is not None else seen,
        syns=syns,
        replied=replied,
        outer=outer,
    )


def _first_bytes(leg: Leg, recording: Recording, row: int, client: bool) -> None:
    packet = recording.packets[row]
    head = int(packet["head"])
    first = FirstBytes(
        tap=int(packet["tap"]),
        time=int(packet["time"]),
        payload=Payload(int(packet["payload"])),
        digest=int(packet["digest"]),
        head=recording.heads[head - 1] if head else None,
    )
    if client:
        leg.first_bytes = first
    else:
        leg.response = first


def _refusal(recording: Recording, row: int) -> Refusal:
    packet = recording.packets[row]
    icmp = int(packet["icmp"])
    sender = ("outer_src_hi", "outer_src_lo") if icmp else ("src_hi", "src_lo")
    return Refusal(int(packet["tap"]), int(packet["time"]), icmp, _word(packet[sender[0]], packet[sender[1]]))


def _translation(leg: Leg, recording: Recording, record: int) -> None:
    row = recording.nat[record]
    original = FourTuple(
        _word(row["orig_src_hi"], row["orig_src_lo"]),
        int(row["orig_sport"]),
        _word(row["orig_dst_hi"], row["orig_dst_lo"]),
        int(row["orig_dport"]),
    )
    translated = FourTuple(
        _word(row["reply_dst_hi"], row["reply_dst_lo"]),
        int(row["reply_dport"]),
        _word(row["reply_src_hi"], row["reply_src_lo"]),
        int(row["reply_sport"]),
    )
    node = recording.nodes[int(row["node"])]
    known = {(entry.node, entry.original, entry.translated) for entry in leg.nat}
    if original != translated and (node, original, translated) not in known:
        leg.nat.append(NatRecord(node, int(row["time"]), original, translated))
