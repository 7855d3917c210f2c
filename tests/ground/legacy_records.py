"""Runs inside a private network namespace: counts what rules of iptables-legacy do with what it sends itself.

Arguments: what to do, then its own. Output: lines of JSON.
"""

from __future__ import annotations

import sys

import msgspec

from daemonset.node.legacy_counters import CountsRefusedError, LegacyCounters
from daemonset.node.namespaces import call_inside
from daemonset.node.tracers import Tracers
from daemonset.observation import RuleCounts
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


def pods(process: str) -> None:
    """Count on a node and in a pod, as a node's tracers do; knock in the pod, which goes then."""
    said: list[RuleCounts] = []
    tracers = Tracers([80], 20, lambda each: said.append(each) if isinstance(each, RuleCounts) else None)
    tracers.add_node()
    with open(f"/proc/{process}/ns/net") as namespace:  # noqa: PTH123 - its descriptor is what counts
        call_inside(namespace.fileno(), tracers.add_pod)
        call_inside(namespace.fileno(), lambda: knock("10.9.9.9", 80))
    tracers.keep([])
    tracers.finish()
    tracers.close()
    tell(counts=msgspec.to_builtins(said))


def refused() -> None:
    """Try to count; what is said against it?"""
    try:
        LegacyCounters().close()
    except CountsRefusedError as error:
        tell(said=str(error))
    else:
        tell(said=None)


if __name__ == "__main__":
    {
        "saved": saved, "count": count, "hold": hold, "changed": changed, "pods": pods, "refused": refused,
    }[sys.argv[1]](*sys.argv[2:])  # fmt: skip
