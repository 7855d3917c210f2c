"""Connections of which only the middle was seen: they began before the capture did, or their beginning was missed.

They are no legs. But they may be what a proxy carries on, so where a tie rests on there being nobody else, as the order
of events does, nobody unknown may be in question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import duckdb

from analysis.engine.interning import Interned

PASSING = 5_000_000_000  # ns within which a proxy is taken to pass on what came in

#: What one connection said that is looked at; one that says more counts as always saying something.
_SAID_LIMIT = 1000

Socket = tuple[int, int]  # address as a 128-bit integer, port


@dataclass(slots=True)
class Stranger:
    """One such connection at one tap: its two ends, its last packet, and when each end sent bytes; ns."""

    tap: int
    ends: frozenset[Socket]
    last: int = 0
    said: dict[Socket, list[int]] = field(default_factory=dict)

    def may_wait(self, client: Socket, now: int, begin: int) -> bool:
        """Whether `client` may at this time wait for what it asked of the other end."""
        if now > self.last:
            return False
        asked = self.said.get(client, [])
        recent = any(time <= now <= time + PASSING for time in asked)
        return recent or now <= begin + PASSING or len(asked) >= _SAID_LIMIT


class Strangers:
    """Those of a recording. `begun`: by tap, when its first packet was seen, ns.

    `whole` is false where not every leg was collected: then anybody may always be in question.
    """

    def __init__(
        self, seen: Iterable[Stranger] = (), begun: dict[int, int] | None = None, *, whole: bool = True
    ) -> None:
        self._begun = begun or {}
        self._whole = whole
        self._of: dict[int, list[tuple[Stranger, Socket]]] = defaultdict(list)
        self._at: dict[Socket, list[tuple[Stranger, Socket]]] = defaultdict(list)
        for stranger in seen:
            one, *others = stranger.ends
            other = others[0] if others else one
            for client, server in ((one, other), (other, one)):
                self._of[client[0]].append((stranger, client))
                self._at[server].append((stranger, client))

    def ask(self, servers: Iterable[Socket], now: int, taps: frozenset[int]) -> bool:
        """Whether an unknown client of one of these servers may wait at this time, by the clock of these taps."""
        return not self._whole or any(self._wait(self._at.get(server, ()), now, taps) for server in servers)

    def ask_from(self, address: int, now: int, taps: frozenset[int]) -> bool:
        """Whether an unknown connection that this address made may wait for an answer."""
        return not self._whole or self._wait(self._of.get(address, ()), now, taps)

    def _wait(self, found: Sequence[tuple[Stranger, Socket]], now: int, taps: frozenset[int]) -> bool:
        return any(
            stranger.may_wait(client, now, self._begun.get(stranger.tap, 0))
            for stranger, client in found
            if stranger.tap in taps
        )


def find_strangers(database: duckdb.DuckDBPyConnection, addresses: Interned) -> Strangers:
    """Reads `packets`, `sightings`, `taps`: packets that no leg had the tuple of until then.

    Only where a tap shows answers as they are on the wire; elsewhere half of every connection would look strange.
    """
    sent = "a.src = b.src and a.sport = b.sport and a.dst = b.dst and a.dport = b.dport"
    answered = "a.src = b.dst and a.sport = b.dport and a.dst = b.src and a.dport = b.sport"
    rows = database.execute(f"""
        with bare as (
            select b.* from packets b join taps t using (tap)
            where t.exact and b.protocol = 6 and b.icmp = 0 and (b.flags & 2) = 0
        ), unsent as (
            select b.* from bare b asof left join sightings a on a.tap = b.tap and {sent} and b.time >= a.seen
            where a.leg is null
        )
        select b.tap, b.src, b.sport, b.dst, b.dport, max(b.time),
               list_slice(list(b.time order by b.time) filter (b.length > 0), 1, {_SAID_LIMIT})
        from unsent b asof left join sightings a on a.tap = b.tap and {answered} and b.time >= a.seen
        where a.leg is null
        group by all order by all
    """).fetchall()  # noqa: S608 - only constants of this module are put into the text
    found: dict[tuple[int, frozenset[Socket]], Stranger] = {}
    for tap, src, sport, dst, dport, last, said in rows:
        source, destination = (addresses[src], sport), (addresses[dst], dport)
        ends = frozenset({source, destination})
        stranger = found.setdefault((tap, ends), Stranger(tap, ends))
        stranger.last = max(stranger.last, last)
        stranger.said[source] = said or []
    begun = database.execute("""
        select tap, min(time)
        from (select tap, time from packets union all select tap, seen from sightings) group by tap
    """).fetchall()
    return Strangers(found.values(), dict(begun))
