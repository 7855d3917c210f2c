"""What else is tied to a leg: the tables `first_bytes`, `refusals` and `translations`.

first_bytes   the packet in which each side of a leg first said something
refusals      packets that refuse a leg: a RST, or an ICMP error that quotes it
translations  the kernels' NAT records of a leg
"""

from __future__ import annotations

import duckdb

from analysis.engine.joining import SAME_MIRRORED, SAME_TUPLE
from analysis.engine.load import Loaded
from daemonset.observation import Payload

CLOCK_SLACK = 60_000_000_000  # ns by which the clocks of two nodes may differ

#: From so many packets on, first bytes are looked for where they count most, and further out only what is missing.
_MANY = 200_000


def attach(database: duckdb.DuckDBPyConnection, loaded: Loaded, *, sampled: bool) -> None:
    """Make the tables.

    `sampled`: that no other leg has a record's tuple says nothing, since not all are there; the leg must have both.
    """
    _first_bytes(database, loaded)
    loaded.release()
    _refusals(database)
    if loaded.nat:
        _translations(database, sampled)
    else:
        database.execute("create temp table translations (leg bigint, record uinteger)")
    loaded.release()


def _first_bytes(database: duckdb.DuckDBPyConnection, loaded: Loaded) -> None:
    """The first bytes of either side: sequence number ISN + 1 and a tuple that the leg has at that tap.

    A capture may show the same segment with less of it; the reading that could be decoded counts, else the innermost.
    """
    database.execute("""
        create temp table first_bytes (leg bigint, client boolean, row uinteger, payload utinyint, head uinteger)
    """)
    for number, which in enumerate(_readings(database, loaded)):
        legs = {side: f"({_silent('legs', side)})" if number else "legs" for side in ("client", "not client")}
        datagrams = _datagrams(_silent("exchanges", "client"), which) if loaded.datagrams else ""
        database.execute(f"""
            insert into first_bytes
            select leg, client, arg_max(row, rank), arg_max(payload, rank), arg_max(head, rank)
            from (select *, ((head > 0)::bigint << 60) + (depth::bigint << 50) - row as rank from (
                select l.leg, true as client, b.row, b.tap, b.payload, b.head
                from packets b
                join {legs["client"]} l
                  on l.isn = ((b.seq::bigint - 1 + (b.flags & 2) // 2) & 4294967295)::uinteger and l.protocol = 6
                join sightings a on a.leg = l.leg and a.tap = b.tap and {SAME_TUPLE}
                where b.protocol = 6 and b.icmp = 0 and b.length > 0 and ((b.flags & 6) = 0 or (b.flags & 22) = 2)
                  and {which}
                union all
                select l.leg, false, b.row, b.tap, b.payload, b.head
                from packets b
                join {legs["not client"]} l on l.server_isn = ((b.seq::bigint - 1) & 4294967295)::uinteger
                join sightings a on a.leg = l.leg and a.tap = b.tap and {SAME_MIRRORED}
                where b.protocol = 6 and b.icmp = 0 and b.length > 0 and (b.flags & 6) = 0 and {which}
                {datagrams}
            ) join taps using (tap))
            group by leg, client
        """)  # noqa: S608 - only constants of this module are put into the text


def _readings(database: duckdb.DuckDBPyConnection, loaded: Loaded) -> list[str]:
    """Conditions on packets, one after the other: those that count most are looked at first."""
    if loaded.packets < _MANY:
        return ["true"]
    depths = database.execute("""
        select array_to_string(list(tap), ', ') from taps group by depth order by depth desc
    """).fetchall()
    at = [f"b.tap in ({taps}) and a.tap in ({taps})" for (taps,) in depths]
    return [
        f"{each} and b.head {head}" for head in (["> 0", "= 0"] if loaded.heads else ["= 0"]) for each in at
    ]


def _silent(rows: str, side: str) -> str:
    """Those of which first bytes of this side were not found yet."""
    return f"from {rows} anti join (from first_bytes where {side}) using (leg)"


def _datagrams(exchanges: str, which: str) -> str:
    """Datagrams have no first bytes, but for a PROXY header."""
    proxy = f"{int(Payload.PROXY_V1)}, {int(Payload.PROXY_V2)}"
    return f"""
        union all
        select a.leg, true, a.row, a.tap, b.payload, b.head from ({exchanges}) a join packets b using (row)
        where a.forward and b.payload in ({proxy}) and {which}
    """  # noqa: S608 - only constants of this module are put into the text


def _refusals(database: duckdb.DuckDBPyConnection) -> None:
    database.execute(f"""
        create temp table refusals as
        select l.leg, b.row from packets b
        join legs l on l.protocol = 6 and l.isn = ((b.ack::bigint - 1) & 4294967295)::uinteger
        join sightings a on a.leg = l.leg and a.tap = b.tap and {SAME_MIRRORED}
        where b.protocol = 6 and b.icmp = 0 and (b.flags & 20) = 20
        union
        select l.leg, b.row from packets b
        join legs l on l.protocol = b.protocol and l.isn = b.seq
        where b.icmp <> 0 and b.protocol = 6
          and b.time between l.start - {CLOCK_SLACK} and l.finish + {CLOCK_SLACK}
        union
        select a.leg, b.row from packets b
        join sightings a on a.protocol = b.protocol and a.tap = b.tap and {SAME_TUPLE}
        where b.icmp <> 0 and b.protocol = 17
    """)  # noqa: S608 - only constants of this module are put into the text


def _translations(database: duckdb.DuckDBPyConnection, sampled: bool) -> None:
    # Ports are used again, so the tuples of a record can stand in several legs. It is of the leg that has both; else
    # of one that no other record can be about alone; then of one that leaves the node as the record says, or came as
    # it says; and of several, of the last. A record that puts a source of its node's in the place of another is also of
    # the one leg that was seen so elsewhere: no kernel gives out a tuple twice at a time.
    original = (
        "a.src = n.orig_src and a.sport = n.orig_sport and a.dst = n.orig_dst and a.dport = n.orig_dport"
    )
    translated = (
        "a.src = n.reply_dst and a.sport = n.reply_dport and a.dst = n.reply_src and a.dport = n.reply_sport"
    )
    database.execute(f"""
        create temp table translations as
        with placed as (
            select s.*, t.node from sightings s join taps t using (tap)
        ),
        went as materialized (
            select a.*, n.record, n.time from nat n
            join placed a on a.node = n.node and a.protocol = n.protocol and {translated}
        ),
        last as (
            select leg, node, max_by(
                {{src: src, dst: dst, sport: sport, dport: dport}}, (seen, tap, src, sport, dst, dport)
            ) as way from placed semi join went using (leg, node) group by leg, node
        ),
        matched as (
            select a.leg, n.record, a.seen, n.time, a.node, true as came, false as went, false as left_so from nat n
            join placed a on a.node = n.node and a.protocol = n.protocol and {original}
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
        settled as (select distinct leg, node, true as settled from candidates where rivals = 1),
        elsewhere as (
            select a.leg, n.record, hash(n.node, orig_src, orig_sport, orig_dst, orig_dport) as said
            from nat n
            join placed a on a.node <> n.node and a.protocol = n.protocol and {translated}
            anti join candidates using (record)
            anti join placed p on p.leg = a.leg and p.node = n.node
            where orig_src <> reply_dst and (n.time = 0 or abs(a.seen - n.time) <= {CLOCK_SLACK}) and {not sampled}
        )
        select leg, record from candidates left join settled using (leg, node)
        qualify row_number() over (
            partition by record
            order by came and went desc, coalesce(settled, false), left_so desc, came desc, seen desc, leg
        ) = 1
        union
        select leg, record from elsewhere
        qualify min(leg) over (partition by record) = max(leg) over (partition by record)
            and min(said) over (partition by leg) = max(said) over (partition by leg)
    """)  # noqa: S608 - only constants of this module are put into the text
