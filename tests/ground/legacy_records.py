"""Runs inside a private network namespace: counts what rules of iptables-legacy do with what it sends itself.

Arguments: what to do, then its own. Output: lines of JSON.
"""

from __future__ import annotations

import sys

import msgspec

from daemonset.node.legacy_counters import CountsRefusedError, LegacyCounters
from tests.ground.trace_records import knock, tell


def saved() -> None:
    """All rules, as iptables-legacy-save writes them, without comments."""
    counters = LegacyCounters()
    lines = {}
    for family, table, chain in counters._read():
        for rule in chain.rules:
            said = rule.read()
            words = " ".join(filter(None, ("-A", chain.name, *said.conditions, said.does)))
            lines.setdefault(f"{family} {table}", []).append([words, said.comment, rule.packets])
    tell(rules=lines, tables=bool(counters))
    counters.close()


def count(*knocks: str) -> None:
    """What knocks count, each `address,port`."""
    counters = LegacyCounters()
    for each in knocks:
        address, port = each.split(",")
        knock(address, int(port))
    tell(counts=msgspec.to_builtins(counters.counts()))
    counters.close()


def hold(stop: str) -> None:
    """Count, say so at one step of it, and wait to be killed there."""
    tell(step="before")
    if stop == "before":
        sys.stdin.read()
    counters = LegacyCounters()
    knock("10.9.9.9", 80)
    tell(step="counting")
    if stop == "counting":
        sys.stdin.read()
    counters.counts()
    tell(step="counted")
    sys.stdin.read()


def changed() -> None:
    """What is counted while somebody else writes rules, line by line of our input."""
    counters = LegacyCounters()
    tell(step="counting")
    sys.stdin.readline()
    tell(counts=msgspec.to_builtins(counters.counts()))


def refused() -> None:
    """Try to count; what is said against it?"""
    try:
        LegacyCounters().close()
    except CountsRefusedError as error:
        tell(said=str(error))
    else:
        tell(said=None)


if __name__ == "__main__":
    {"saved": saved, "count": count, "hold": hold, "changed": changed, "refused": refused}[sys.argv[1]](
        *sys.argv[2:]
    )
