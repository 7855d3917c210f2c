"""Observations → legs: one TCP connection or UDP exchange followed across taps, nodes and NAT.

NAT rewrites addresses and ports and nothing else of a handshake. So a TCP leg is followed by what stays:

1. A SYN carries the client's initial sequence number (ISN) and timestamp; the SYN-ACK acknowledges ISN + 1 and
   echoes the timestamp (RFC 9293 §3.5, RFC 7323 §3). Both therefore name the same leg, on either side of NAT.
2. Rows of one ISN are one leg unless time or timestamp says otherwise: a silence longer than any SYN
   retransmission gap (`SILENCE`), or timestamps further apart than retransmissions can be (`TIMESTAMP_SPAN`).
3. The client's first data byte has sequence number ISN + 1, the server's first its own ISN + 1; they are tied to
   the leg by that and by a tuple which the leg already has at the same tap.
4. A UDP exchange is followed by the digest of its datagrams; datagrams of one tuple at one tap are one exchange.
5. NAT records join by exact tuple on their own node.

All joins run in DuckDB over columns, whatever the number of rows; Python sees legs, not packets. This file knows
nothing of Services, owners or verdicts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np

from analysis.addresses import EXACT_TAPS, every_interface
from analysis.clients import Clients
from analysis.recording import Recording, Rows
from analysis.strangers import Strangers, find_strangers
from analysis.streams import SILENT, Stream, collect_streams
from daemonset.observation import Head, Payload, TapKind, Tunnel, address_words

#: Kinds of taps from the client inwards; of several readings of one segment the innermost counts.
_DEPTH = (TapKind.CLIENT, TapKind.LB, TapKind.NIC, TapKind.TUNNEL, TapKind.BRIDGE, TapKind.VETH, TapKind.POD)

SILENCE = 90_000_000_000  # ns; Linux and others wait at most 64 s between two SYNs of one connection
TIMESTAMP_SPAN = 300_000  # ticks of the timestamp clock, 1 ms or slower on every stack known
UDP_SILENCE = 30_000_000_000  # ns; nf_conntrack_udp_timeout
CLOCK_SLACK = 60_000_000_000  # ns by which the clocks of two nodes may differ

#: What a join may put on the disk: some times the recording itself. More would be a defect, and fill the disk.
_SPILL_FACTOR, _SPILL_LEAST = 8, 1 << 30

#: Decides whether (protocol, address words, port) is where a Service listens; tells the ways of UDP apart.
IsServer = Callable[[int, int, int], bool]


@dataclass(frozen=True, slots=True)
class Classify:
    """What two addresses or destinations have to share so that legs may have the same shape.

    owners: code of an address's owner. targets: code of what (protocol, address, port) stands for. heads: code of
    what a decoded head says. Codes are small integers; 0 stands for "nothing known".
    """

    owners: Callable[[Rows, Rows], Rows]  # the two words of addresses → codes
    targets: Callable[[int, int, int], int]
    heads: Callable[[Head], int]


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


@dataclass(frozen=True, slots=True)
class Shape:
    """Legs that took the same path: same taps, owners, translations, order, answers and kinds of first bytes."""

    key: int
    count: int
    sample: tuple[int, ...]  # numbers of some of its legs, the earliest first


class LegStore:
    """The legs of a recording, joined and kept as columns; Python objects are made only for those asked for."""

    def __init__(self, recording: Recording, is_server: IsServer) -> None:
        self._recording = recording
        # What does not fit into memory is spilled; the engine's default would be a folder in the working directory.
        self._spill = tempfile.TemporaryDirectory(prefix="probe-")
        # Of a sample, ports may have been used again by connections that were not kept.
        self._sampled = recording.sample > 1
        most = _SPILL_LEAST + _SPILL_FACTOR * (recording.packets.nbytes + recording.nat.nbytes)
        self._database = duckdb.connect(
            ":memory:",
            config={"temp_directory": self._spill.name, "max_temp_directory_size": f"{most >> 20}MiB"},
        )
        try:
            self._database.execute("set threads to 2")
            _load(self._database, recording)
            _follow_tcp(self._database)
            _follow_udp(self._database, is_server)
            _sight(self._database)
            _attach(self._database, self._sampled)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the memory back, and the disk."""
        self._database.close()
        self._spill.cleanup()

    def __len__(self) -> int:
        return int(self._one("select count(*) from legs"))

    def _one(self, query: str) -> Any:
        rows = self._database.execute(query).fetchall()  # all: the connection is busy until the last is taken
        return rows[0][0] if rows else None

    def pairs_at(self, taps: Sequence[int]) -> list[tuple[int, int, int]]:
        """Distinct (tap, source, destination) of client packets at these taps."""
        self._database.register("wanted", {"tap": np.array(taps, dtype=np.uint32)})
        rows = self._database.execute("""
            select distinct tap, src_hi, src_lo, dst_hi, dst_lo from sightings join wanted using (tap)
        """).fetchall()
        return [(tap, _word(sh, sl), _word(dh, dl)) for tap, sh, sl, dh, dl in rows]

    def strangers(self) -> Strangers:
        """Connections of which only the middle was seen."""
        return find_strangers(self._database)

    def sources(self) -> set[int]:
        """Every address that opens connections."""
        rows = self._database.execute("select distinct src_hi, src_lo from sightings").fetchall()
        return {_word(high, low) for high, low in rows}

    def askers_of(self, ports: Sequence[int], but: Collection[tuple[str, int]] = ()) -> list[tuple[int, int]]:
        """Distinct (source, destination) of legs to these ports; not from the sockets `but` (address, port)."""
        self._database.register("ports", {"dport": np.array(ports, dtype=np.uint16)})
        words = [address_words(address) for address, _ in but]
        left_out = {
            "src_hi": np.array([high for high, _ in words], dtype=np.uint64),
            "src_lo": np.array([low for _, low in words], dtype=np.uint64),
            "sport": np.array([port for _, port in but], dtype=np.uint16),
        }
        self._database.register("left_out", left_out)
        rows = self._database.execute("""
            select distinct src_hi, src_lo, dst_hi, dst_lo
            from sightings join ports using (dport) anti join left_out using (src_hi, src_lo, sport)
        """).fetchall()
        return [(_word(sh, sl), _word(dh, dl)) for sh, sl, dh, dl in rows]

    def shapes(self, classify: Classify, sample: int) -> list[Shape]:
        """All shapes, with up to `sample` legs of each."""
        _register_classes(self._database, classify, self._recording)
        rows = self._database.execute(_SHAPES, [sample]).fetchall()
        return [Shape(key, count, tuple(legs)) for key, count, legs in rows]

    def earliest(self, most: int) -> list[int]:
        """The numbers of the first legs, in order of time."""
        rows = self._database.execute("select leg from legs order by start, leg limit ?", [most]).fetchall()
        return [int(row[0]) for row in rows]

    def touching(self, clients: Clients, heads: Sequence[Head]) -> list[int]:
        """Numbers of the legs on which one of these clients stands anywhere, the earliest first."""
        named = [number for number, head in enumerate(heads, start=1) if clients.named_in(head)]
        self._database.register("named", {"head": np.array(named, dtype=np.uint32)})
        rows = self._database.execute(f"""
            with touching as (
                select leg from sightings where {clients.condition("src")}
                union
                select leg from translations join nat using (record) where {clients.condition("orig_src")}
                union
                select a.leg from packets b semi join named using (head)
                join sightings a on a.tap = b.tap and b.time >= a.seen and {_SAME_TUPLE}
            )
            select leg from legs semi join touching using (leg) order by start, leg
        """).fetchall()  # noqa: S608 - columns of this module and numbers are put into the text
        return [leg for (leg,) in rows]

    def collect(self, numbers: Sequence[int]) -> list[Leg]:
        """These legs in full, in order of their first packet."""
        self._database.register("chosen", {"leg": np.array(numbers, dtype=np.int64)})
        return _collect(self._database, self._recording, self._sampled)


def _columns(table: Rows) -> dict[str, Rows]:
    return {name: np.ascontiguousarray(table[name]) for name in table.dtype.names or ()}


def _load(database: duckdb.DuckDBPyConnection, recording: Recording) -> None:
    columns = _columns(recording.packets)
    columns["row"] = np.arange(len(recording.packets), dtype=np.int64)
    database.register("packets", columns)
    database.register(
        "nat", _columns(recording.nat) | {"record": np.arange(len(recording.nat), dtype=np.int64)}
    )
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


# The tuple's columns, in the client's direction, and mirrored for packets of the server.
_FORWARD = "src_hi, src_lo, sport, dst_hi, dst_lo, dport"
_MIRRORED = (
    "dst_hi as src_hi, dst_lo as src_lo, dport as sport, src_hi as dst_hi, src_lo as dst_lo, sport as dport"
)
_OUTER = "outer_src_hi, outer_src_lo, outer_dst_hi, outer_dst_lo"
_SAME_TUPLE = " and ".join(f"a.{column} = b.{column}" for column in _FORWARD.split(", "))
_SAME_MIRRORED = (
    "a.src_hi = b.dst_hi and a.src_lo = b.dst_lo and a.sport = b.dport"
    " and a.dst_hi = b.src_hi and a.dst_lo = b.src_lo and a.dport = b.sport"
)


def _follow_tcp(database: duckdb.DuckDBPyConnection) -> None:
    """Table `handshake`: every SYN and SYN-ACK with the number of its leg. Flags: 2 SYN, 16 ACK, 4 RST."""
    database.execute(f"""
        create temp table handshake as
        with named as (
            select row, tap, time, 6::utinyint as protocol, {_FORWARD}, {_OUTER}, tunnel, true as forward,
                   seq as isn, tsval as stamp, null::uinteger as server_isn
            from packets where protocol = 6 and icmp = 0 and (flags & 22) = 2
            union all
            select row, tap, time, 6, {_MIRRORED}, {_OUTER}, tunnel, false,
                   ((ack::bigint - 1) & 4294967295)::uinteger, tsecr, seq
            from packets where protocol = 6 and icmp = 0 and (flags & 22) = 18
        ),
        timed as (
            select *, (time - lag(time, 1, time) over by_time > {SILENCE})::int as pause from named
            window by_time as (partition by isn order by time)
        ),
        bursts as (
            select *, sum(pause) over (partition by isn order by time, row) as burst from timed
        ),
        stamped as (
            select *, (stamp::bigint - lag(stamp::bigint, 1, stamp::bigint) over by_stamp > {TIMESTAMP_SPAN}
                       or (stamp <> 0 and lag(stamp, 1, stamp) over by_stamp = 0))::int as jump from bursts
            window by_stamp as (partition by isn, burst order by stamp)
        ),
        clustered as (
            select *, sum(jump) over (partition by isn, burst order by stamp, row) as cluster from stamped
        )
        select * exclude (pause, jump, burst, cluster),
               min(row) over (partition by isn, burst, cluster) as leg
        from clustered
    """)  # noqa: S608 - only constants of this module are put into the text


def _follow_udp(database: duckdb.DuckDBPyConnection, is_server: IsServer) -> None:
    """Append to `handshake` the datagrams of clients, their answers, and the number of their exchange."""
    database.register("servers", _servers(database, is_server))
    # Labels travel from datagram to tuple and back three times: enough for an exchange seen on any number of
    # taps, since one shared datagram or one shared tuple joins two groups at once.
    label = "partition by digest, burst"
    tuples = f"partition by tap, {_FORWARD}, burst"
    database.execute(f"""
        insert into handshake by name
        with asked as (
            select p.* from packets p join servers s
              on p.dst_hi = s.hi and p.dst_lo = s.lo and p.dport = s.port
            where p.protocol = 17 and p.icmp = 0 and p.digest <> 0
        ),
        timed as (
            select *, (time - lag(time, 1, time) over by_time > {UDP_SILENCE})::int as pause from asked
            window by_time as (partition by digest order by time)
        ),
        l0 as (select *, sum(pause) over (partition by digest order by time, row) as burst from timed),
        l1 as (select *, min(row) over ({label}) as l from l0),
        l2 as (select * replace (min(l) over ({tuples}) as l) from l1),
        l3 as (select * replace (min(l) over ({label}) as l) from l2),
        l4 as (select * replace (min(l) over ({tuples}) as l) from l3),
        client as (select * replace (min(l) over ({label}) as l) from l4)
        select row, tap, time, protocol, {_FORWARD}, {_OUTER}, tunnel, true as forward,
               0::uinteger as isn, 0::uinteger as stamp, null::uinteger as server_isn, l as leg
        from client
    """)  # noqa: S608 - only constants of this module are put into the text
    database.execute(f"""
        insert into handshake by name
        select b.row, b.tap, b.time, 17::utinyint as protocol,
               b.dst_hi as src_hi, b.dst_lo as src_lo, b.dport as sport,
               b.src_hi as dst_hi, b.src_lo as dst_lo, b.sport as dport,
               b.outer_src_hi, b.outer_src_lo, b.outer_dst_hi, b.outer_dst_lo, b.tunnel,
               false as forward, 0::uinteger as isn, 0::uinteger as stamp, 0::uinteger as server_isn, a.leg
        from packets b join (
            select leg, tap, {_FORWARD}, min(time) as first, max(time) as last
            from handshake where protocol = 17 group by all
        ) a on a.tap = b.tap and {_SAME_MIRRORED}
           and b.time between a.first and a.last + {UDP_SILENCE}
        where b.protocol = 17 and b.icmp = 0
        qualify row_number() over (partition by b.row order by a.first desc) = 1
    """)  # noqa: S608 - only constants of this module are put into the text


def _servers(database: duckdb.DuckDBPyConnection, is_server: IsServer) -> dict[str, Rows]:
    """Where UDP servers are, among the destinations seen: by facts through `is_server`."""
    found = database.execute("""
        select distinct dst_hi, dst_lo, dport from packets where protocol = 17 and icmp = 0
    """).fetchall()
    kept = [(high, low, port) for high, low, port in found if is_server(17, high << 64 | low, port)]
    table = np.array(kept, dtype=[("hi", "<u8"), ("lo", "<u8"), ("port", "<u2")])
    return _columns(table)


def _sight(database: duckdb.DuckDBPyConnection) -> None:
    """Table `sightings`: one row for each tuple of a leg at each tap.

    Answers count as sightings only where the tap shows them as they are on the wire.
    """
    database.execute(f"""
        create temp table sightings as
        select h.leg, h.tap, h.tunnel, {_FORWARD}, any_value(t.node) as node,
               min(time) filter (forward) as first, min(time) as seen,
               max(time) filter (forward) as last,
               count(distinct time) filter (forward) as syns,
               bool_or(not forward) as replied,
               min(outer_src_hi) filter (forward) as osh, min(outer_src_lo) filter (forward) as osl,
               min(outer_dst_hi) filter (forward) as odh, min(outer_dst_lo) filter (forward) as odl
        from handshake h join taps t using (tap)
        where h.forward or t.exact
        group by h.leg, h.tap, h.tunnel, {_FORWARD}
    """)  # noqa: S608 - only constants of this module are put into the text
    database.execute("""
        create temp table legs as
        select leg, any_value(protocol) as protocol, any_value(isn) as isn, min(time) as start, max(time) as finish,
               bool_or(not forward) as answered, min(server_isn) as server_isn
        from handshake group by leg
    """)


def _attach(database: duckdb.DuckDBPyConnection, sampled: bool) -> None:
    """Tables `first_bytes`, `refusals` and `translations`: what else is tied to a leg.

    `sampled`: that no other leg has a record's tuple says nothing, since not all are there; the leg must have both.
    """
    # The first bytes of either side: sequence number ISN + 1 and a tuple that the leg has at that tap.
    # A capture may show the same segment with less of it; the reading that could be decoded counts.
    database.execute(f"""
        create temp table first_bytes as
        select leg, row, client from (
        select l.leg, b.row, true as client
        from packets b
        join legs l on l.isn = ((b.seq::bigint - 1) & 4294967295)::uinteger and l.protocol = 6
        join sightings a on a.leg = l.leg and a.tap = b.tap and {_SAME_TUPLE}
        where b.protocol = 6 and b.icmp = 0 and b.length > 0 and (b.flags & 6) = 0
        union all
        select l.leg, b.row, true
        from packets b
        join legs l on l.isn = b.seq and l.protocol = 6
        join sightings a on a.leg = l.leg and a.tap = b.tap and {_SAME_TUPLE}
        where b.protocol = 6 and b.icmp = 0 and b.length > 0 and (b.flags & 22) = 2
        union all
        select l.leg, b.row, false
        from packets b
        join legs l on l.server_isn = ((b.seq::bigint - 1) & 4294967295)::uinteger and l.protocol = 6
        join sightings a on a.leg = l.leg and a.tap = b.tap and {_SAME_MIRRORED}
        where b.protocol = 6 and b.icmp = 0 and b.length > 0 and (b.flags & 6) = 0
        union all
        select h.leg, h.row, true from handshake h join packets b using (row)
        where b.protocol = 17 and h.forward and b.payload in ({int(Payload.PROXY_V1)}, {int(Payload.PROXY_V2)})
        ) join packets using (row) join taps using (tap)
        qualify row_number() over (partition by leg, client order by (packets.head > 0) desc, depth desc, row) = 1
    """)  # noqa: S608 - only constants of this module are put into the text
    database.execute(f"""
        create temp table refusals as
        select l.leg, b.row from packets b
        join legs l on l.protocol = 6 and l.isn = ((b.ack::bigint - 1) & 4294967295)::uinteger
        join sightings a on a.leg = l.leg and a.tap = b.tap and {_SAME_MIRRORED}
        where b.protocol = 6 and b.icmp = 0 and (b.flags & 20) = 20
        union
        select l.leg, b.row from packets b
        join legs l on l.protocol = b.protocol and l.isn = b.seq
        where b.icmp <> 0 and b.protocol = 6
          and b.time between l.start - {CLOCK_SLACK} and l.finish + {CLOCK_SLACK}
        union
        select a.leg, b.row from packets b
        join sightings a on a.tap = b.tap and {_SAME_TUPLE}
        where b.icmp <> 0 and b.protocol = 17
    """)  # noqa: S608 - only constants of this module are put into the text
    # Ports are used again, so the tuples of a record can stand in several legs. It is of the leg that has both; else
    # of one that no other record can be about alone; then of one that leaves the node as the record says, or came as
    # it says; and of several, of the last.
    original = "a.src_hi = n.orig_src_hi and a.src_lo = n.orig_src_lo and a.sport = n.orig_sport"
    original += " and a.dst_hi = n.orig_dst_hi and a.dst_lo = n.orig_dst_lo and a.dport = n.orig_dport"
    translated = "a.src_hi = n.reply_dst_hi and a.src_lo = n.reply_dst_lo and a.sport = n.reply_dport"
    translated += " and a.dst_hi = n.reply_src_hi and a.dst_lo = n.reply_src_lo and a.dport = n.reply_sport"
    database.execute(f"""
        create temp table translations as
        with last as (
            select leg, node, max_by({{src: src_lo, dst: dst_lo, sport: sport, dport: dport}}, seen) as way
            from sightings group by leg, node
        ),
        matched as (
            select a.leg, n.record, a.seen, n.time, a.node, true as came, false as went, false as left_so from nat n
            join sightings a on a.node = n.node and {original}
            join legs l on l.leg = a.leg and l.protocol = n.protocol
            union all
            select a.leg, n.record, a.seen, n.time, a.node, false, true,
                   last.way = {{src: a.src_lo, dst: a.dst_lo, sport: a.sport, dport: a.dport}}
            from nat n
            join sightings a on a.node = n.node and {translated}
            join legs l on l.leg = a.leg and l.protocol = n.protocol
            join last on last.leg = a.leg and last.node = a.node
        ),
        candidates as (
            select leg, record, node, bool_or(came) as came, bool_or(went) as went, bool_or(left_so) as left_so,
                   max(seen) as seen, count(*) over (partition by record) as rivals
            from matched where time = 0 or seen <= time + 1000000000
            group by leg, record, node
            having {"came and went" if sampled else "true"}
        ),
        settled as (select distinct leg, node, true as settled from candidates where rivals = 1)
        select leg, record from candidates left join settled using (leg, node)
        qualify row_number() over (
            partition by record
            order by came and went desc, coalesce(settled, false), left_so desc, came desc, seen desc
        ) = 1
    """)  # noqa: S608 - only constants of this module are put into the text


def _register_classes(database: duckdb.DuckDBPyConnection, classify: Classify, recording: Recording) -> None:
    found = database.execute("""
        select src_hi as hi, src_lo as lo from sightings union select dst_hi, dst_lo from sightings
        union select orig_src_hi, orig_src_lo from translations join nat using (record)
        union select reply_dst_hi, reply_dst_lo from translations join nat using (record)
        union select reply_src_hi, reply_src_lo from translations join nat using (record)
    """).fetchnumpy()
    high, low = np.asarray(found["hi"]), np.asarray(found["lo"])
    database.register("owners", {"hi": high, "lo": low, "code": classify.owners(high, low)})
    asked = database.execute("""
        select distinct l.protocol, s.dst_hi, s.dst_lo, s.dport from sightings s join legs l using (leg)
        union select n.protocol, orig_dst_hi, orig_dst_lo, orig_dport from translations join nat n using (record)
    """).fetchall()
    targets = [
        (protocol, high, low, port, classify.targets(protocol, _word(high, low), port))
        for protocol, high, low, port in asked
    ]
    columns = [("protocol", "u1"), ("hi", "u8"), ("lo", "u8"), ("port", "u2"), ("code", "i4")]
    database.register("targets", _columns(np.array(targets, dtype=columns)))
    heads = [
        (0, 0),
        *((number, classify.heads(head)) for number, head in enumerate(recording.heads, start=1)),
    ]
    database.register("head_codes", _columns(np.array(heads, dtype=[("head", "u4"), ("code", "i4")])))


#: A leg's shape is a sum of hashes of everything that a judgement of it may look at: each sighting with its place
#: in the leg's order, the owners of its addresses and which of them are the same; NAT records; first bytes; ends.
_SHAPES = """
    with numbered as (
        select s.*,
               row_number() over (partition by leg order by coalesce(first, seen), seen, tap) as place,
               dense_rank() over (partition by leg order by src_hi, src_lo) as source,
               dense_rank() over (partition by leg order by dst_hi, dst_lo, dport) as destination
        from sightings s
    ),
    token as (
        select n.leg, hash(n.place, n.source, n.destination, n.tap, n.tunnel, n.first is null, n.replied,
                           n.syns > 1 and n.last - n.first >= 500000000, a.code, b.code, t.code) as token
        from numbered n join legs l using (leg)
        join owners a on a.hi = n.src_hi and a.lo = n.src_lo
        join owners b on b.hi = n.dst_hi and b.lo = n.dst_lo
        join targets t on t.protocol = l.protocol and t.hi = n.dst_hi and t.lo = n.dst_lo and t.port = n.dport
        union all
        select leg, hash('nat', n.node, o.code, t.code, a.code, b.code,
                         n.orig_src_hi = n.reply_dst_hi and n.orig_src_lo = n.reply_dst_lo,
                         n.orig_sport = n.reply_dport,
                         exists(from sightings s where s.leg = translations.leg and s.sport = n.reply_dport
                                and s.src_hi = n.reply_dst_hi and s.src_lo = n.reply_dst_lo
                                and s.dst_hi = n.reply_src_hi and s.dst_lo = n.reply_src_lo),
                         exists(from sightings s where s.leg = translations.leg and s.sport = n.orig_sport
                                and s.src_hi = n.orig_src_hi and s.src_lo = n.orig_src_lo
                                and s.dst_hi = n.orig_dst_hi and s.dst_lo = n.orig_dst_lo))
        from translations join nat n using (record)
        join owners o on o.hi = n.orig_src_hi and o.lo = n.orig_src_lo
        join owners a on a.hi = n.reply_src_hi and a.lo = n.reply_src_lo
        join owners b on b.hi = n.reply_dst_hi and b.lo = n.reply_dst_lo
        join targets t on t.protocol = n.protocol and t.hi = n.orig_dst_hi and t.lo = n.orig_dst_lo
                      and t.port = n.orig_dport
        union all
        select leg, hash('bytes', f.client, p.payload, h.code)
        from first_bytes f join packets p using (row) join head_codes h using (head)
        union all
        select distinct leg, hash('refused', p.icmp) from refusals join packets p using (row)
        union all
        select leg, hash('leg', protocol, answered) from legs
    ),
    shaped as (
        select leg, sum(token::hugeint) as shape from token group by leg
    )
    select hash(shape) as key, count(*), list(leg order by start)[1:?]
    from shaped join legs using (leg) group by key order by min(start)
"""


def _collect(database: duckdb.DuckDBPyConnection, recording: Recording, sampled: bool) -> list[Leg]:
    legs: dict[int, Leg] = {}
    for leg, protocol, isn, start, answered in database.execute("""
        select leg, protocol, isn, start, answered from legs join chosen using (leg) order by start, leg
    """).fetchall():
        legs[leg] = Leg(leg, protocol, isn, start, answered=answered)
    for row in database.execute("""
        select leg, tap, tunnel, src_hi, src_lo, sport, dst_hi, dst_lo, dport, first, seen, last, syns, replied,
               osh, osl, odh, odl
        from sightings join chosen using (leg) order by leg, seen, tap
    """).fetchall():
        legs[row[0]].sightings.append(_sighting(row))
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


def _sighting(row: Any) -> Sighting:
    (_, tap, tunnel, sh, sl, sport, dh, dl, dport, first, seen, last, syns, replied, *outer) = row
    addresses = None
    if tunnel and outer[0] is not None:
        addresses = (_word(outer[0], outer[1]), _word(outer[2], outer[3]))
    return Sighting(
        tap=tap,
        addresses=FourTuple(_word(sh, sl), sport, _word(dh, dl), dport),
        tunnel=Tunnel(tunnel),
        first=first,
        seen=seen,
        last=last if last is not None else seen,
        syns=syns,
        replied=replied,
        outer=addresses,
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
