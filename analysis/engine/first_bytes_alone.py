"""Places where a leg's handshake was missed and its first bytes were not: further rows of `sightings`.

NAT changes no sequence number. A client's bytes with number ISN + 1 are the leg's where they have a tuple that the leg
has at another tap, or acknowledge the first number of the leg's server, whatever their tuple. A server's, with the
number after its own first, are the leg's by the tuple alone.
"""

from __future__ import annotations

import duckdb

from analysis.engine.joining import SAME_MIRRORED, SAME_TUPLE

_BYTES = "b.protocol = 6 and b.icmp = 0 and b.length > 0 and (b.flags & 6) = 0"


def add_places(database: duckdb.DuckDBPyConnection) -> None:
    """Add them; reads `packets`, `taps`, `legs`, `sightings`.

    Of a client's handshake nothing was seen there (`first` is null). Answers count only where a tap shows them as they
    are on the wire.
    """
    database.execute(f"""
        insert into sightings by name
        with asking as (
            select b.* from packets b anti join sightings a on a.tap = b.tap and {SAME_TUPLE} where {_BYTES}
        ),
        answering as (
            select b.* from packets b semi join (from taps where exact) using (tap)
            anti join sightings a on a.tap = b.tap and {SAME_MIRRORED} where {_BYTES}
        ),
        ways as (select distinct leg, src, sport, dst, dport from sightings where protocol = 6),
        missed as (
            select l.leg, b.tap, b.tunnel, b.src, b.sport, b.dst, b.dport, b.time, b.outer_src, b.outer_dst,
                   false as replied
            from asking b
            join legs l on l.protocol = 6 and l.isn = ((b.seq::bigint - 1) & 4294967295)::uinteger
            left join ways a on a.leg = l.leg and {SAME_TUPLE}
            where a.leg is not null or l.server_isn = ((b.ack::bigint - 1) & 4294967295)::uinteger
            union all
            select l.leg, b.tap, b.tunnel, b.dst, b.dport, b.src, b.sport, b.time, null, null, true
            from answering b
            join legs l on l.protocol = 6 and l.server_isn = ((b.seq::bigint - 1) & 4294967295)::uinteger
            join ways a on a.leg = l.leg and {SAME_MIRRORED}
        )
        select leg, 6::utinyint as protocol, tap, tunnel, src, sport, dst, dport, null::bigint as first,
               min(time) as seen, null::bigint as last, 0::uinteger as syns, bool_or(replied) as replied,
               any_value(outer_src) as outer_src, any_value(outer_dst) as outer_dst
        from missed group by leg, tap, tunnel, src, sport, dst, dport
    """)  # noqa: S608 - only constants of this package are put into the text
