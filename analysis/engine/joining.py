"""Openings and datagrams → the tables `legs` and `sightings`: which rows are one connection, and where it was seen.

    sightings  one row for each tuple of a leg at each tap, in the client's direction
    legs       one row for each leg: when, its sequence numbers, and between which addresses it was seen
    exchanges  the datagrams of UDP legs, one by one; only where there are any

A leg's number is its sequence number, nearly always; where legs share one, and for UDP, it lies above all of these.
"""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import numpy as np

from analysis.engine.gathering import Rows
from analysis.engine.interning import Interned
from analysis.engine.load import HALF_TRANSLATED, Loaded

SILENCE = 90_000_000_000  # ns; Linux and others wait at most 64 s between two SYNs of one connection
TIMESTAMP_SPAN = 300_000  # ticks of the timestamp clock, 1 ms or slower on every stack known
UDP_SILENCE = 30_000_000_000  # ns; nf_conntrack_udp_timeout

#: Decides whether (protocol, address words, port) is where a Service listens; tells the ways of UDP apart.
IsServer = Callable[[int, int, int], bool]

# The tuple's columns, in the client's direction, and mirrored for packets of the server.
_TUPLE = "src, sport, dst, dport"
SAME_TUPLE = "a.src = b.src and a.sport = b.sport and a.dst = b.dst and a.dport = b.dport"
SAME_MIRRORED = "a.src = b.dst and a.sport = b.dport and a.dst = b.src and a.dport = b.sport"

_PLACE = f"tap, tunnel, {_TUPLE}"
#: Address and port of a destination in one.
DESTINATION = "(dst::ubigint << 16 | dport)"

_TCP, _UDP = 6, 17
_NUMBERED_FROM = 1 << 32  # legs whose number is not their sequence number

#: Packets of which the openings are joined at once, so that what is joined stays within bounds, and near the processor.
_PART = 2_500_000

_TABLES = """
    create temp table sightings (
        leg bigint, protocol utinyint, tap uinteger, tunnel utinyint, src uinteger, sport usmallint, dst uinteger,
        dport usmallint, first bigint, seen bigint, last bigint, syns uinteger, replied boolean,
        outer_src uinteger, outer_dst uinteger
    );
    create temp table legs (
        leg bigint, isn uinteger, protocol utinyint, row uinteger, start bigint, finish bigint, answered boolean,
        server_isn uinteger, first_stamp uinteger, last_stamp uinteger, least_src uinteger, most_src uinteger,
        least_dst ubigint, most_dst ubigint
    )
"""
_KEPT = f"leg, protocol, {_PLACE}, first, seen, last, syns, replied, outer_src, outer_dst"


def join(database: duckdb.DuckDBPyConnection, loaded: Loaded, is_server: IsServer) -> None:
    """Make the tables from what is loaded."""
    database.execute(_TABLES)
    _follow_tcp(database, loaded)
    if loaded.datagrams:
        _follow_udp(database, is_server, loaded.addresses)
        _add(database, "exchanges", _UDP, loaded)


def _follow_tcp(database: duckdb.DuckDBPyConnection, loaded: Loaded) -> None:
    """Nearly always all rows of a sequence number are one leg: nothing has to be sorted to know it."""
    parts = loaded.packets // _PART + 1
    for number in range(parts):
        of = f"where isn % {parts} = {number}" if parts > 1 else ""
        _add(database, f"(select *, isn::bigint as leg from openings {of})", _TCP, loaded)  # noqa: S608 - two numbers
        loaded.release()
    database.execute(f"""
        create temp table shared as select leg, isn from legs
        where finish - start > {SILENCE} or last_stamp::bigint - first_stamp > {TIMESTAMP_SPAN}
           or (first_stamp = 0 and last_stamp <> 0)
    """)  # noqa: S608 - only constants of this module are put into the text
    if not _any(database, "shared"):
        return
    database.execute(f"""
        create temp table apart as
        with timed as (
            select *, (time - lag(time, 1, time) over by_time > {SILENCE})::int as pause
            from openings semi join shared using (isn)
            window by_time as (partition by isn order by time, row)
        ),
        bursts as (
            select *, sum(pause) over (partition by isn order by time, row) as burst from timed
        ),
        stamped as (
            select *, (stamp::bigint - lag(stamp::bigint, 1, stamp::bigint) over by_stamp > {TIMESTAMP_SPAN}
                       or (stamp <> 0 and lag(stamp, 1, stamp) over by_stamp = 0))::int as jump from bursts
            window by_stamp as (partition by isn, burst order by stamp, row)
        ),
        clustered as (
            select *, sum(jump) over (partition by isn, burst order by stamp, row) as cluster from stamped
        )
        select * exclude (pause, jump, burst, cluster),
               {_NUMBERED_FROM} + min(row) over (partition by isn, burst, cluster) as leg
        from clustered
    """)  # noqa: S608 - only constants of this module are put into the text
    for table in ("sightings", "legs"):
        database.execute(f"delete from {table} where leg in (select leg from shared)")  # noqa: S608 - the same
    _add(database, "apart", _TCP, loaded)
    database.execute("drop table apart")


def _follow_udp(database: duckdb.DuckDBPyConnection, is_server: IsServer, addresses: Interned) -> None:
    """Table `exchanges`: the datagrams of clients, their answers, and the number of their leg."""
    database.register("servers", _servers(database, is_server, addresses))
    # Labels travel from datagram to tuple and back three times: enough for an exchange seen on any number of
    # taps, since one shared datagram or one shared tuple joins two groups at once.
    label = "partition by digest, burst"
    tuples = f"partition by tap, {_TUPLE}, burst"
    database.execute(f"""
        create temp table exchanges as
        with asked as (
            select p.* from packets p join servers s
              on p.dst = s.address and p.dport = s.port
            where p.protocol = 17 and p.icmp = 0 and p.digest <> 0
        ),
        timed as (
            select *, (time - lag(time, 1, time) over by_time > {UDP_SILENCE})::int as pause from asked
            window by_time as (partition by digest order by time, row)
        ),
        l0 as (select *, sum(pause) over (partition by digest order by time, row) as burst from timed),
        l1 as (select *, min(row) over ({label}) as l from l0),
        l2 as (select * replace (min(l) over ({tuples}) as l) from l1),
        l3 as (select * replace (min(l) over ({label}) as l) from l2),
        l4 as (select * replace (min(l) over ({tuples}) as l) from l3),
        client as (select * replace (min(l) over ({label}) as l) from l4)
        select row, tap, time, {_TUPLE}, outer_src, outer_dst, tunnel, true as forward, {_NUMBERED_FROM} + l as leg,
               0::uinteger as isn, 0::uinteger as stamp, null::uinteger as server_isn
        from client
    """)  # noqa: S608 - only constants of this module are put into the text
    database.execute(f"""
        insert into exchanges by name
        select b.row, b.tap, b.time, b.dst as src, b.dport as sport, b.src as dst, b.sport as dport,
               b.outer_src, b.outer_dst, b.tunnel | case when t.exact then 0 else {HALF_TRANSLATED} end as tunnel,
               false as forward, a.leg, 0 as isn, 0 as stamp
        from packets b join taps t using (tap) join (
            select leg, tap, {_TUPLE}, min(time) as first, max(time) as last
            from exchanges group by all
        ) a on a.tap = b.tap and {SAME_MIRRORED}
           and b.time between a.first and a.last + {UDP_SILENCE}
        where b.protocol = 17 and b.icmp = 0
        qualify row_number() over (partition by b.row order by a.first desc, a.leg) = 1
    """)  # noqa: S608 - only constants of this module are put into the text


def _servers(
    database: duckdb.DuckDBPyConnection, is_server: IsServer, addresses: Interned
) -> dict[str, Rows]:
    """Where UDP servers are, among the destinations seen: by facts through `is_server`."""
    found = database.execute("""
        select distinct dst, dport from packets where protocol = 17 and icmp = 0
    """).fetchall()
    kept = [(dst, port) for dst, port in found if is_server(17, addresses[dst], port)]
    return {
        "address": np.array([dst for dst, _ in kept], dtype=np.uint32),
        "port": np.array([port for _, port in kept], dtype=np.uint16),
    }


def _add(database: duckdb.DuckDBPyConnection, source: str, protocol: int, loaded: Loaded) -> None:
    """Add the legs of these rows: first their sightings, and from these the legs.

    Answers count as sightings only where the tap shows them as they are on the wire.
    """
    database.execute(f"create or replace temp table part as {_sightings(source, protocol, loaded)}")
    shown = f"tunnel < {HALF_TRANSLATED}" if loaded.half_translated else "true"
    database.execute(f"insert into legs by name {_legs(shown)}")
    database.execute(f"insert into sightings by name select {_KEPT} from part where {shown}")  # noqa: S608 - the same
    database.execute("drop table part")
    _count_copies(database, source)


def _sightings(source: str, protocol: int, loaded: Loaded) -> str:
    """Rows of `source` by leg and place. Of a SYN that was seen twice at a place, the copies are counted here."""
    outer = "arg_min({0}, row) filter (forward)" if loaded.tunnels or protocol != _TCP else "null::uinteger"
    return f"""
        select * exclude (rows), case rows when 2 then 1 + (last > first)::int else rows end::uinteger as syns from (
            select leg, any_value(isn) as isn, {protocol}::utinyint as protocol, {_PLACE},
                   min(time) filter (forward) as first, min(time) as seen, max(time) filter (forward) as last,
                   count(*) filter (forward) as rows, bool_or(not forward) as replied,
                   {outer.format("outer_src")} as outer_src, {outer.format("outer_dst")} as outer_dst,
                   min(row) as row, max(time) as until, min(stamp) as first_stamp, max(stamp) as last_stamp,
                   min(server_isn) filter (not forward) as server_isn
            from {source} group by leg, {_PLACE}
        )
    """  # noqa: S608 - only constants of this module are put into the text


def _legs(shown: str) -> str:
    """The legs of a part. Between which addresses a leg was seen, in short: the least and the greatest."""
    return f"""
        select leg, any_value(isn) as isn, any_value(protocol) as protocol, min(row) as row, min(seen) as start,
               max(until) as finish, bool_or(replied) as answered, min(server_isn) as server_isn,
               min(first_stamp) as first_stamp, max(last_stamp) as last_stamp,
               min(src) filter ({shown}) as least_src, max(src) filter ({shown}) as most_src,
               min({DESTINATION}) filter ({shown}) as least_dst, max({DESTINATION}) filter ({shown}) as most_dst
        from part group by leg
    """  # noqa: S608 - only constants of this module are put into the text


def _count_copies(database: duckdb.DuckDBPyConnection, source: str) -> None:
    """Copies of one SYN count once. There are few of them, and counting distinct times is dear."""
    if not _any(database, "sightings where syns > 2"):
        return
    key = f"leg, {_PLACE}"
    database.execute(f"""
        update sightings set syns = again.times from (
            select {key}, count(distinct time) as times
            from {source} semi join (from sightings where syns > 2) using ({key})
            where forward group by all
        ) again
        where {" and ".join(f"sightings.{name} = again.{name}" for name in key.split(", "))}
    """)  # noqa: S608 - only constants of this module are put into the text


def _any(database: duckdb.DuckDBPyConnection, rows: str) -> bool:
    return bool(database.execute(f"select 1 from {rows} limit 1").fetchall())  # noqa: S608 - texts of this module
