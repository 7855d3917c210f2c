"""Legs that took the same path have the same shape, and are judged once: the table `shaped`.

A leg's shape is a sum of hashes of everything that a judgement of it may look at: each sighting with its place in the
leg's order, the owners of its addresses and which of them are the same; NAT records; first bytes; ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from analysis.engine.gathering import Rows
from analysis.engine.interning import Interned
from analysis.engine.joining import DESTINATION
from analysis.engine.streams import ASKERS, speak
from daemonset.observation import Head, Payload

#: Legs that begin with a PROXY header which could be read.
_HEADED = f"client and payload in ({int(Payload.PROXY_V1)}, {int(Payload.PROXY_V2)}) and head > 0"


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
class Shape:
    """Legs that took the same path: same taps, owners, translations, order, answers and kinds of first bytes."""

    key: int
    count: int
    sample: tuple[int, ...]  # numbers of some of its legs, the earliest first


def shape(
    database: duckdb.DuckDBPyConnection, classify: Classify, addresses: Interned, heads: Sequence[Head]
) -> int:
    """Make the table from what was joined; answers with how many shapes there are."""
    _register_classes(database, classify, addresses, heads)
    spoken = bool(database.execute(f"select 1 from first_bytes where {_HEADED} limit 1").fetchall())  # noqa: S608
    if spoken:
        _register_askers(database)
        speak(database, _HEADED)
    for_two = _shaped(_OF_TWO, spoken=spoken)
    database.execute(f"create or replace temp table shaped as {for_two}")
    database.execute("create or replace temp table many as select leg from shaped where crowded")
    if database.execute("select 1 from many limit 1").fetchall():
        for_many = _shaped(_OF_MANY, "semi join many using (leg)", spoken=spoken)
        database.execute("delete from shaped where crowded")
        database.execute(f"insert into shaped by name {for_many}")
    return int(database.execute("select count(distinct shape) from shaped").fetchall()[0][0])


def shapes(database: duckdb.DuckDBPyConnection, sample: int) -> list[Shape]:
    """All shapes, in order of their first legs, with up to `sample` legs of each."""
    samples: dict[int, list[int]] = {}
    for key, leg in database.execute(
        """
        select shape, leg from shaped
        qualify row_number() over (partition by shape order by start, row) <= ?
        order by start, row
        """,
        [sample],
    ).fetchall():
        samples.setdefault(key, []).append(leg)
    counts = database.execute(
        "select shape, count(*) from shaped group by shape order by min(start), min(row)"
    )
    return [Shape(key, count, tuple(samples.get(key, ()))) for key, count in counts.fetchall()]


def _register_classes(
    database: duckdb.DuckDBPyConnection, classify: Classify, addresses: Interned, heads: Sequence[Head]
) -> None:
    owners = classify.owners(addresses.high, addresses.low)
    database.register("owners", {"address": np.arange(len(addresses), dtype=np.uint32), "code": owners})
    asked = database.execute("""
        select distinct protocol, dst, dport from sightings
        union select n.protocol, orig_dst, orig_dport from translations join nat n using (record)
    """).fetchall()
    targets = [
        (protocol, dst, port, classify.targets(protocol, addresses[dst], port))
        for protocol, dst, port in asked
    ]
    columns = [("protocol", "u1"), ("address", "u4"), ("port", "u2"), ("code", "i4")]
    database.register("targets", _columns(np.array(targets, dtype=columns)))
    said = [(0, 0), *((number, classify.heads(head)) for number, head in enumerate(heads, start=1))]
    database.register("head_codes", _columns(np.array(said, dtype=[("head", "u4"), ("code", "i4")])))


def _register_askers(database: duckdb.DuckDBPyConnection) -> None:
    """Addresses differ also by whether they may have opened a connection: what a server asks says whom it believes."""
    database.execute(f"""
        create or replace temp view asking as
        select address, code * 2 + (address in (select src from ({ASKERS})))::int as code from owners
    """)  # noqa: S608 - a constant of this package


def _columns(table: Rows) -> dict[str, Rows]:
    return {name: np.ascontiguousarray(table[name]) for name in table.dtype.names or ()}


#: Which addresses of a leg are the same. Most legs have two sources and two destinations at most, and of two the least
#: says which; nothing has to be sorted for that.
_OF_TWO = f"""
    select p.*, (src > least_src)::int + 1 as source, ({DESTINATION} > least_dst)::int + 1 as destination,
           src not in (least_src, most_src) or {DESTINATION} not in (least_dst, most_dst) as crowded
    from placed p join legs using (leg)
"""  # noqa: S608 - only constants of this package are put into the text
_OF_MANY = """
    select *, dense_rank() over (partition by leg order by src) as source,
           dense_rank() over (partition by leg order by dst, dport) as destination, false as crowded
    from placed
"""


def _shaped(numbered: str, only: str = "", *, spoken: bool) -> str:
    """The shapes of legs; `only`: of which. `spoken`: with what was said where, and who asks."""
    owners = "asking" if spoken else "owners"
    said = f"""
        union all
        select leg, false, hash('spoken', client, first, tap, payload, code) from spoken {only}
    """  # noqa: S608 - only constants of this package are put into the text
    return f"""
        with placed as (
            select *, row_number() over (
                partition by leg order by coalesce(first, seen), seen, tap, tunnel, src, sport, dst, dport
            ) as place
            from sightings {only}
        ),
        token as (
            select n.leg, n.crowded, hash(
                n.place, n.source, n.destination, n.tap, n.tunnel, n.first is null, n.replied,
                n.syns > 1 and n.last - n.first >= 500000000, a.code, b.code, t.code
            ) as token
            from ({numbered}) n
            join {owners} a on a.address = n.src
            join {owners} b on b.address = n.dst
            join targets t on t.protocol = n.protocol and t.address = n.dst and t.port = n.dport
            union all
            select leg, false, hash('nat', n.node, o.code, t.code, a.code, b.code,
                             n.orig_src = n.reply_dst,
                             n.orig_sport = n.reply_dport,
                             exists(from sightings s where s.leg = translations.leg and s.sport = n.reply_dport
                                    and s.src = n.reply_dst and s.dst = n.reply_src),
                             exists(from sightings s where s.leg = translations.leg and s.sport = n.orig_sport
                                    and s.src = n.orig_src and s.dst = n.orig_dst))
            from translations {only} join nat n using (record)
            join {owners} o on o.address = n.orig_src
            join {owners} a on a.address = n.reply_src
            join {owners} b on b.address = n.reply_dst
            join targets t on t.protocol = n.protocol and t.address = n.orig_dst and t.port = n.orig_dport
            union all
            select leg, false, hash('bytes', client, payload, code)
            from first_bytes {only} join head_codes using (head)
            union all
            select distinct leg, false, hash('refused', p.icmp) from refusals {only} join packets p using (row)
            {said if spoken else ""}
        ),
        summed as (
            select leg, sum(token::hugeint) as tokens, bool_or(crowded) as crowded from token group by leg
        )
        select leg, start, row, coalesce(crowded, false) as crowded, hash(tokens, protocol, answered) as shape
        from legs {only} left join summed using (leg)
    """  # noqa: S608 - only constants of this package are put into the text
