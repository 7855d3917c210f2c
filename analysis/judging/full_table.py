"""Nodes whose kernel had no room for more connections: what conntrack's counters say, and what they do not.

The kernel keeps a record of each connection, at most nf_conntrack_max of them. Where one more would begin, it evicts
records that are not assured (`early_drop`), or drops the packet where it finds none (`drop`). After that it removes
such records by itself while there are 95 % of the most, and does not count them (net/netfilter/nf_conntrack_core.c).

Rules of this file:

1. A table is called full only with proof: it held as many records as it may when it was looked at, or the kernel
   evicted, which it does at no other time. From 95 % on it is called nearly full. Of any other, nothing is said.
2. `drop` counts packets that were dropped for another reason too: their record clashed with another one, which is
   counted as `insert_failed` as well. As many are left out: what is told is the least that it can have been.
3. The counters do not say which packets they were. So none of this is told of a connection as its fate, and no verdict
   rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from analysis.recording import Recording
from daemonset.observation import ConntrackCounts

_FULL_FROM = 95  # percent; nf_conntrack_max95


@dataclass(frozen=True, slots=True)
class FullTable:
    """What is known of a place whose table of connections was full, or nearly."""

    dropped: int  # packets, the least that it can have been
    failed: int  # records that were not put in for another reason
    evicted: int  # records
    entries: int  # at the moment when it was fuller
    maximum: int
    entries_before: int
    entries_after: int

    @property
    def reason(self) -> str:
        """The same as the end of a sentence about the node; empty where nothing was dropped."""
        if not self.dropped:
            return ""
        least = "at least " if self.failed else ""
        return (
            f"the node's kernel dropped {least}{_packets(self.dropped)} in the capture, "
            f"and its table of connections was {self._how_full}"
        )

    @property
    def evidence(self) -> str:
        """All of it in one line."""
        besides = f" besides {self.failed:,} insertions that failed" if self.failed else ""
        return (
            f"conntrack dropped {_packets(self.dropped)}{besides} and evicted {self.evicted:,} records; its table held "
            f"{self.entries_before:,} records at the beginning and {self.entries_after:,} at the end, of at most "
            f"{self.maximum:,}"
        )

    @property
    def _how_full(self) -> str:
        held = f"{self.entries:,} of {self.maximum:,}"
        if self.entries >= self.maximum:
            return f"full ({held})"
        return f"full at times ({held} when it was read)" if self.evicted else f"nearly full ({held})"


def full_tables(recording: Recording) -> dict[str, FullTable]:
    """The places whose table was full or nearly, with what was dropped or evicted there. Others are not named."""
    found: dict[str, FullTable] = {}
    for place, table in _tables(recording):
        known = found.get(place)
        # Who was watched twice may have been watched twice at once, so that what was counted cannot be added up.
        if known is None or (table.dropped, table.evicted) > (known.dropped, known.evicted):
            found[place] = table
    return found


def codes_of(tables: Mapping[str, FullTable]) -> dict[str, list[str]]:
    """Findings by their codes: evidence for each place."""
    lines: dict[str, list[str]] = {}
    for place, table in sorted(tables.items()):
        lines.setdefault("SIP426" if table.dropped else "SIP427", []).append(f"{place}: {table.evidence}")
    return lines


def _tables(recording: Recording) -> Iterator[tuple[str, FullTable]]:
    for place, counts in recording.conntrack_counts:
        if (table := full_table(counts)) is not None:
            yield place, table


def full_table(counts: ConntrackCounts) -> FullTable | None:
    """What counters say of a table that was full or nearly; None where it was not, or where that did no harm."""
    moments = ((counts.entries_before, counts.maximum_before), (counts.entries, counts.maximum))
    known = [(entries, maximum) for entries, maximum in moments if maximum > 0]
    if not known:
        return None
    entries, maximum = max(known, key=lambda each: each[0] / each[1])
    evicted = max(counts.early_drop, 0)
    failed = min(max(counts.insert_failed, 0), max(counts.drop, 0))
    dropped = max(counts.drop, 0) - failed
    full = evicted or entries * 100 >= maximum * _FULL_FROM
    if not full or not (dropped or evicted):
        return None
    return FullTable(dropped, failed, evicted, entries, maximum, counts.entries_before, counts.entries)


def _packets(count: int) -> str:
    return f"{count:,} packet" if count == 1 else f"{count:,} packets"
