"""What both sides said on a leg, as far as it was decoded, and how each side ended it.

A kept-alive connection carries many requests, a PROXY header may come in two segments, and a server that refuses
says so by an answer or by ending the connection without one. All of that is told by sequence numbers: an offset is
the number of bytes that the same side had sent before, so offset 0 of the server's end means that it sent nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from daemonset.observation import Head, Payload, TcpFlag

#: Rows of one leg that are looked at, on either side; a connection with more is told by its beginning.
SAID_LIMIT = 1000

#: ns by which a segment may be seen after the end that its sender sent behind it.
REORDERED = 1_000_000


@dataclass(frozen=True, slots=True)
class Said:
    """A segment that begins with something which could be decoded.

    offset: bytes that this side had sent before. times: ns at each tap that showed it, by that tap's clock.
    """

    offset: int
    length: int
    payload: Payload
    head: Head | None
    digest: int
    times: tuple[tuple[int, int], ...]

    def at(self, taps: frozenset[int]) -> int | None:
        """When it was first seen at one of these taps, ns; None where it was not."""
        return min((time for tap, time in self.times if tap in taps), default=None)


@dataclass(frozen=True, slots=True)
class End:
    """The first FIN or RST of one side at one tap. `offset` is how much that side had sent by then."""

    tap: int
    time: int
    client: bool
    reset: bool
    offset: int


@dataclass(frozen=True, slots=True)
class Stream:
    """One leg's conversation. `requests` are the client's segments with a head, `answers` the server's."""

    requests: tuple[Said, ...] = ()
    answers: tuple[Said, ...] = ()
    ends: tuple[End, ...] = ()

    @property
    def closed_unanswered(self) -> bool:
        """Whether the server ended the connection without having sent a byte, and before the client ended it."""
        for end in self.ends:
            if end.client or end.offset != 0:
                continue
            client = [other.time for other in self.ends if other.client and other.tap == end.tap]
            if not client or end.time <= min(client):
                return True
        return False

    @property
    def reset(self) -> bool:
        """Whether the server ended it by RST."""
        return any(end.reset for end in self.ends if not end.client)


SILENT = Stream()

#: Packets that begin with something which could be decoded, and ends.
_SAYING = f"(head > 0 or payload in ({int(Payload.H2_PREFACE)}, {int(Payload.TLS_OTHER)}))"
_TELLING = f"protocol = 6 and icmp = 0 and ({_SAYING} or (flags & 5) <> 0)"

#: What only the side that opened a connection says.
_SPEAKS_FIRST = ", ".join(
    str(int(payload))
    for payload in (
        Payload.PROXY_V1, Payload.PROXY_V2, Payload.TLS_CLIENT_HELLO, Payload.HTTP_REQUEST, Payload.H2_PREFACE,
    )
)  # fmt: skip

#: Every address that may have opened a connection: was seen to, or to speak first, or the kernel says so.
ASKERS = f"""
    select src from sightings union select orig_src from nat
    union select src from packets where payload in ({_SPEAKS_FIRST})
"""  # noqa: S608 - only constants of this module are put into the text

_SAME = "b.src = a.src and b.sport = a.sport and b.dst = a.dst and b.dport = a.dport"
_MIRRORED = "b.src = a.dst and b.sport = a.dport and b.dst = a.src and b.dport = a.sport"


def collect_streams(
    database: duckdb.DuckDBPyConnection, heads: tuple[Head, ...], sampled: bool
) -> dict[int, Stream]:
    """The conversations of the legs in table `chosen`; reads `packets`, `legs`, `sightings`, `taps`.

    A packet belongs to the leg that used its tuple last before it: ports are used again. Of a sample not all legs are
    there: then only an answered leg has a conversation, and what a side says after it has ended is another's.
    """
    if not database.execute(f"select 1 from packets where {_TELLING} limit 1").fetchall():  # noqa: S608 - a constant
        return {}
    _surround(database, "chosen")
    found: dict[int, tuple[dict[int, Said], dict[int, Said], list[End]]] = {}
    for leg, client, offset, length, payload, head, digest, times in _said(database, sampled):
        sides = found.setdefault(leg, ({}, {}, []))
        side = sides[0] if client else sides[1]
        if len(side) < SAID_LIMIT:
            decoded = heads[head - 1] if head else None
            side[offset] = Said(offset, length, Payload(payload), decoded, digest, tuple(map(tuple, times)))
    for leg, tap, time, client, flags, offset in _ends(database):
        end = End(tap, time, client, bool(flags & TcpFlag.RST), offset)
        found.setdefault(leg, ({}, {}, []))[2].append(end)
    return {
        leg: Stream(tuple(said.values()), tuple(answers.values()), tuple(ends))
        for leg, (said, answers, ends) in found.items()
    }


def speak(database: duckdb.DuckDBPyConnection, condition: str) -> None:
    """Table `spoken`: of the legs whose first bytes are of this kind, where which of their bytes were read.

    As `collect_streams` has it, but for what is each leg's own: offsets other than the first, and names.
    """
    database.execute(f"""
        create or replace temp table speaking as select distinct leg from first_bytes where client and {condition}
    """)  # noqa: S608 - a condition of this package
    _surround(database, "speaking")
    database.execute(f"""
        create or replace temp table spoken as
        with owned as (
            {_owned(_SAME, "l.isn", _SAYING, "true")}
            union all
            {_owned(_MIRRORED, "l.server_isn", _SAYING, "false")}
        )
        select distinct leg, client, position = 0 as first, tap, payload, code
        from owned semi join speaking using (leg) join head_codes using (head)
        where position < 2147483648
    """)  # noqa: S608 - only constants of this module are put into the text


def _surround(database: duckdb.DuckDBPyConnection, legs: str) -> None:
    """Tables `rivals` and `around`: sightings and packets that have a tuple of one of these legs."""
    database.execute(f"""
        create or replace temp table rivals as
        from sightings
        semi join (from sightings semi join {legs} using (leg)) using (tap, src, sport, dst, dport)
        where protocol = 6
    """)
    database.execute(f"""
        create or replace temp table around as
        from packets
        semi join (
            select tap, src, sport, dst, dport from rivals union select tap, dst, dport, src, sport from rivals
        ) using (tap, src, sport, dst, dport)
        where {_TELLING}
    """)  # noqa: S608 - only constants of this module are put into the text


def _owned(condition: str, isn: str, rows: str, client: str, sampled: bool = False) -> str:
    """Rows of `around` with their leg and their offset in one side's bytes.

    A packet is its tuple's last leg's before it. A plain join would pair it with every leg that ever had the tuple.
    """
    answered = "l.server_isn is not null" if sampled or isn == "l.server_isn" else "true"
    ended = _BEFORE if sampled else ""
    going_on = "(e.ended is null or e.ended <= a.seen)" if sampled else "true"
    return f"""
        select a.leg, {client} as client, b.row, b.tap, b.time, b.flags, b.length, b.payload, b.head, b.digest,
               ((b.seq::bigint - {isn}::bigint - 1 + (b.flags & 2) // 2) & 4294967295) as position
        from (select * from around b where {rows}) b
        asof join rivals a on a.tap = b.tap and {condition} and b.time >= a.seen
        join legs l on l.leg = a.leg {ended}
        where {answered} and {going_on}
    """  # noqa: S608 - only constants of this module are put into the text


#: The last end that the same side had sent before, whichever leg's it was.
_BEFORE = f"""
    asof left join (
        select tap, src, sport, dst, dport, time as ended, time + {REORDERED} as surely
        from around where (flags & 5) <> 0
    ) e on e.tap = b.tap and b.src = e.src and b.sport = e.sport and b.dst = e.dst and b.dport = e.dport
        and b.time >= e.surely
"""  # noqa: S608 - only constants of this module are put into the text


def _said(database: duckdb.DuckDBPyConnection, sampled: bool) -> list[Any]:
    """One row for each segment; of several readings the one that could be decoded, from the innermost tap."""
    return database.execute(f"""
        with owned as (
            {_owned(_SAME, "l.isn", _SAYING, "true", sampled)}
            union all
            {_owned(_MIRRORED, "l.server_isn", _SAYING, "false", sampled)}
        )
        select leg, client, position, arg_max(length, rank), arg_max(payload, rank), arg_max(head, rank),
               arg_max(digest, rank), list([tap, time] order by time, tap)
        from (select *, (((head > 0)::bigint * 100 + depth) << 32) - row as rank from owned join taps using (tap))
        join chosen using (leg)
        where position < 2147483648
        group by leg, client, position order by leg, client, position
    """).fetchall()  # noqa: S608 - only constants of this module are put into the text


def _ends(database: duckdb.DuckDBPyConnection) -> list[Any]:
    rows = "(b.flags & 5) <> 0 and (b.flags & 2) = 0"
    return database.execute(f"""
        with owned as (
            {_owned(_SAME, "l.isn", rows, "true")}
            union all
            {_owned(_MIRRORED, "l.server_isn", rows, "false")}
        )
        select leg, tap, min(time), client, arg_min(flags, (time, row)), arg_min(position + length, (time, row))
        from owned join chosen using (leg)
        group by leg, tap, client order by leg, tap, client
    """).fetchall()  # noqa: S608 - only constants of this module are put into the text
