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

from analysis.clients import Clients
from analysis.gathering import Rows
from analysis.interning import Interned
from analysis.load import load
from analysis.recording import Recording
from analysis.strangers import Strangers, find_strangers
from analysis.streams import SILENT, Stream, collect_streams
from daemonset.observation import Head, Payload, Tunnel, address_words

SILENCE = 90_000_000_000  # ns; Linux and others wait at most 64 s between two SYNs of one connection
TIMESTAMP_SPAN = 300_000  # ticks of the timestamp clock, 1 ms or slower on every stack known
UDP_SILENCE = 30_000_000_000  # ns; nf_conntrack_udp_timeout
CLOCK_SLACK = 60_000_000_000  # ns by which the clocks of two nodes may differ

#: What a join may put on the disk: some times the recording itself. More would be a defect, and fill the disk.
_SPILL_FACTOR, _SPILL_LEAST = 8, 1 << 30

#: What a join may keep in memory: bytes for each row, and for few rows.
_MEMORY_ROW, _MEMORY_LEAST = 60, 600 << 20

#: What only the side that opened a connection says.
_SPEAKS_FIRST = ", ".join(
    str(int(payload))
    for payload in (
        Payload.PROXY_V1, Payload.PROXY_V2, Payload.TLS_CLIENT_HELLO, Payload.HTTP_REQUEST, Payload.H2_PREFACE,
    )
)  # fmt: skip

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
        memory = max(_MEMORY_LEAST, _MEMORY_ROW * (len(recording.packets) + len(recording.nat)))
        self._database = duckdb.connect(
            ":memory:",
            config={
                "temp_directory": self._spill.name,
                "max_temp_directory_size": f"{most >> 20}MiB",
                "memory_limit": f"{memory >> 20}MiB",
                "preserve_insertion_order": False,
            },
        )
        try:
            self._database.execute("set threads to 2")
            # After two seconds it would stand in the middle of the report.
            self._database.execute("set enable_progress_bar_print = false")
            self._addresses = load(self._database, recording)
            _follow_tcp(self._database)
            _follow_udp(self._database, is_server, self._addresses)
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
        rows = self._database.execute(f"""
            select src from sightings union select orig_src from nat
            union select src from packets where payload in ({_SPEAKS_FIRST})
        """).fetchall()  # noqa: S608 - only constants of this module are put into the text
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

    def shapes(self, classify: Classify, sample: int) -> list[Shape]:
        """All shapes, with up to `sample` legs of each."""
        _register_classes(self._database, classify, self._recording, self._addresses)
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
                join sightings a on a.tap = b.tap and b.time >= a.seen and {_SAME_TUPLE}
            )
            select leg from legs semi join touching using (leg) order by start, leg
        """).fetchall()  # noqa: S608 - columns of this module and numbers are put into the text
        return [leg for (leg,) in rows]

    def collect(self, numbers: Sequence[int]) -> list[Leg]:
        """These legs in full, in order of their first packet."""
        self._database.register("chosen", {"leg": np.array(numbers, dtype=np.int64)})
        return _collect(self._database, self._recording, self._addresses, self._sampled)


def _columns(table: Rows) -> dict[str, Rows]:
    return {name: np.ascontiguousarray(table[name]) for name in table.dtype.names or ()}


# The tuple's columns, in the client's direction, and mirrored for packets of the server.
_FORWARD = "src, sport, dst, dport"
_MIRRORED = "dst as src, dport as sport, src as dst, sport as dport"
_OUTER = "outer_src, outer_dst"
_SAME_TUPLE = " and ".join(f"a.{column} = b.{column}" for column in _FORWARD.split(", "))
_SAME_MIRRORED = "a.src = b.dst and a.sport = b.dport and a.dst = b.src and a.dport = b.sport"


def _follow_tcp(database: duckdb.DuckDBPyConnection) -> None:
    """Tables `alone` and `apart`: the number of the leg for each sequence number, or for each row where that is not
    enough."""
    # Nearly always all rows of a number are one leg: nothing has to be sorted to know it.
    database.execute(f"""
        create temp table alone as
        select isn, min(row) as leg from openings group by isn
        having max(time) - min(time) <= {SILENCE} and max(stamp)::bigint - min(stamp) <= {TIMESTAMP_SPAN}
           and (min(stamp) <> 0 or max(stamp) = 0)
    """)  # noqa: S608 - only constants of this module are put into the text
    database.execute(f"""
        create temp table apart as
        with timed as (
            select *, (time - lag(time, 1, time) over by_time > {SILENCE})::int as pause
            from openings anti join alone using (isn)
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


def _follow_udp(database: duckdb.DuckDBPyConnection, is_server: IsServer, addresses: Interned) -> None:
    """Table `exchanges`: the datagrams of clients, their answers, and the number of their leg."""
    database.register("servers", _servers(database, is_server, addresses))
    # Labels travel from datagram to tuple and back three times: enough for an exchange seen on any number of
    # taps, since one shared datagram or one shared tuple joins two groups at once.
    label = "partition by digest, burst"
    tuples = f"partition by tap, {_FORWARD}, burst"
    database.execute(f"""
        create temp table exchanges as
        with asked as (
            select p.* from packets p join servers s
              on p.dst = s.address and p.dport = s.port
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
        select row, tap, time, {_FORWARD}, {_OUTER}, tunnel, true as forward, l as leg from client
    """)  # noqa: S608 - only constants of this module are put into the text
    database.execute(f"""
        insert into exchanges by name
        select b.row, b.tap, b.time, b.dst as src, b.dport as sport, b.src as dst, b.sport as dport,
               b.outer_src, b.outer_dst, b.tunnel, false as forward, a.leg
        from packets b join (
            select leg, tap, {_FORWARD}, min(time) as first, max(time) as last
            from exchanges group by all
        ) a on a.tap = b.tap and {_SAME_MIRRORED}
           and b.time between a.first and a.last + {UDP_SILENCE}
        where b.protocol = 17 and b.icmp = 0
        qualify row_number() over (partition by b.row order by a.first desc) = 1
    """)  # noqa: S608 - only constants of this module are put into the text


def _servers(
    database: duckdb.DuckDBPyConnection, is_server: IsServer, addresses: Interned
) -> dict[str, Rows]:
    """Where UDP servers are, among the destinations seen: by facts through `is_server`."""
    found = database.execute("""
        select distinct dst, dport from packets where protocol = 17 and icmp = 0
    """).fetchall()
    kept = [(dst, port) for dst, port in found if is_server(17, addresses[dst], port)]
    table = np.array(kept, dtype=[("address", "<u4"), ("port", "<u2")])
    return _columns(table)


def _sight(database: duckdb.DuckDBPyConnection) -> None:
    """Table `sightings`: one row for each tuple of a leg at each tap; and `legs`. Nobody asks for single SYNs then.

    Answers count as sightings only where the tap shows them as they are on the wire.
    """
    database.execute("""
        create temp view handshake as
        select 6::utinyint as protocol, o.*, leg from openings o join alone using (isn)
        union all by name
        select 6::utinyint as protocol, * from apart
        union all by name
        select 17::utinyint as protocol, *, 0::uinteger as isn from exchanges
    """)
    key = f"leg, tap, tunnel, {_FORWARD}"
    # Copies of one SYN count once. There are few of them, and counting distinct times is dear.
    database.execute(f"""
        create temp table sightings as
        with grouped as materialized (
            select {key}, any_value(t.node) as node,
                   min(time) filter (forward) as first, min(time) as seen, max(time) filter (forward) as last,
                   count(*) filter (forward) as rows, bool_or(not forward) as replied,
                   arg_min(outer_src, row) filter (forward) as outer_src,
                   arg_min(outer_dst, row) filter (forward) as outer_dst
            from handshake join taps t using (tap)
            where forward or t.exact
            group by {key}
        ),
        again as (
            select {key}, count(distinct time) as times
            from handshake semi join (from grouped where rows > 1) using ({key})
            where forward group by {key}
        )
        select grouped.* exclude (rows), coalesce(times, rows) as syns from grouped left join again using ({key})
    """)  # noqa: S608 - only constants of this module are put into the text
    database.execute("""
        create temp table legs as
        select leg, any_value(protocol) as protocol, any_value(isn) as isn, min(time) as start, max(time) as finish,
               bool_or(not forward) as answered, min(server_isn) as server_isn
        from handshake group by leg
    """)
    database.execute("drop view handshake; drop table openings; drop table alone; drop table apart")


def _attach(database: duckdb.DuckDBPyConnection, sampled: bool) -> None:
    """Tables `first_bytes`, `refusals` and `translations`: what else is tied to a leg.

    `sampled`: that no other leg has a record's tuple says nothing, since not all are there; the leg must have both.
    """
    # The first bytes of either side: sequence number ISN + 1 and a tuple that the leg has at that tap.
    # A capture may show the same segment with less of it; the reading that could be decoded counts.
    database.execute(f"""
        create temp table first_bytes as
        select leg, client,
               arg_max(row, ((packets.head > 0)::bigint << 60) + (depth::bigint << 50) - row) as row
        from (
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
        select h.leg, h.row, true from exchanges h join packets b using (row)
        where h.forward and b.payload in ({int(Payload.PROXY_V1)}, {int(Payload.PROXY_V2)})
        ) join packets using (row) join taps using (tap)
        group by leg, client
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
    original = (
        "a.src = n.orig_src and a.sport = n.orig_sport and a.dst = n.orig_dst and a.dport = n.orig_dport"
    )
    translated = (
        "a.src = n.reply_dst and a.sport = n.reply_dport and a.dst = n.reply_src and a.dport = n.reply_sport"
    )
    database.execute(f"""
        create temp table translations as
        with went as materialized (
            select a.*, n.record, n.time from nat n
            join sightings a on a.node = n.node and {translated}
            join legs l on l.leg = a.leg and l.protocol = n.protocol
        ),
        last as (
            select leg, node, max_by({{src: src, dst: dst, sport: sport, dport: dport}}, seen) as way
            from sightings semi join went using (leg, node) group by leg, node
        ),
        matched as (
            select a.leg, n.record, a.seen, n.time, a.node, true as came, false as went, false as left_so from nat n
            join sightings a on a.node = n.node and {original}
            join legs l on l.leg = a.leg and l.protocol = n.protocol
            union all
            select leg, record, seen, time, node, false, true,
                   way = {{src: src, dst: dst, sport: sport, dport: dport}}
            from went join last using (leg, node)
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


def _register_classes(
    database: duckdb.DuckDBPyConnection, classify: Classify, recording: Recording, addresses: Interned
) -> None:
    owners = classify.owners(addresses.high, addresses.low)
    database.register("owners", {"address": np.arange(len(addresses), dtype=np.uint32), "code": owners})
    asked = database.execute("""
        select distinct l.protocol, s.dst, s.dport from sightings s join legs l using (leg)
        union select n.protocol, orig_dst, orig_dport from translations join nat n using (record)
    """).fetchall()
    targets = [
        (protocol, dst, port, classify.targets(protocol, addresses[dst], port))
        for protocol, dst, port in asked
    ]
    columns = [("protocol", "u1"), ("address", "u4"), ("port", "u2"), ("code", "i4")]
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
               dense_rank() over (partition by leg order by src) as source,
               dense_rank() over (partition by leg order by dst, dport) as destination
        from sightings s
    ),
    token as (
        select n.leg, hash(n.place, n.source, n.destination, n.tap, n.tunnel, n.first is null, n.replied,
                           n.syns > 1 and n.last - n.first >= 500000000, a.code, b.code, t.code) as token
        from numbered n join legs l using (leg)
        join owners a on a.address = n.src
        join owners b on b.address = n.dst
        join targets t on t.protocol = l.protocol and t.address = n.dst and t.port = n.dport
        union all
        select leg, hash('nat', n.node, o.code, t.code, a.code, b.code,
                         n.orig_src = n.reply_dst,
                         n.orig_sport = n.reply_dport,
                         exists(from sightings s where s.leg = translations.leg and s.sport = n.reply_dport
                                and s.src = n.reply_dst and s.dst = n.reply_src),
                         exists(from sightings s where s.leg = translations.leg and s.sport = n.orig_sport
                                and s.src = n.orig_src and s.dst = n.orig_dst))
        from translations join nat n using (record)
        join owners o on o.address = n.orig_src
        join owners a on a.address = n.reply_src
        join owners b on b.address = n.reply_dst
        join targets t on t.protocol = n.protocol and t.address = n.orig_dst and t.port = n.orig_dport
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


def _collect(
    database: duckdb.DuckDBPyConnection, recording: Recording, addresses: Interned, sampled: bool
) -> list[Leg]:
    legs: dict[int, Leg] = {}
    for leg, protocol, isn, start, answered in database.execute("""
        select leg, protocol, isn, start, answered from legs join chosen using (leg) order by start, leg
    """).fetchall():
        legs[leg] = Leg(leg, protocol, isn, start, answered=answered)
    for row in database.execute("""
        select leg, tap, tunnel, src, sport, dst, dport, first, seen, last, syns, replied, outer_src, outer_dst
        from sightings join chosen using (leg) order by leg, seen, tap
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
