"""Streams may hold anything: a node may lie, a file may have been made by hand. Then there is a report all the same.

Rows have the widths of their columns and nothing else in common with packets: times at the ends of their range, ports
that nobody has, sequence numbers that wrap, kinds that do not exist.
"""

from __future__ import annotations

import dataclasses
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.analyze import analyze
from analysis.recording import Recording
from daemonset.observation import (
    NAT,
    PACKET,
    ConntrackCounts,
    CountedChain,
    CountedRule,
    Gap,
    Head,
    Interface,
    Layout,
    PodNamespace,
    Route,
    Rule,
    RuleCounts,
    RuleHit,
    Tap,
    Topology,
    Tracing,
)
from probe.sessions.folder import check_addresses
from tests.analysis.story import Story, cluster
from tests.analysis.test_stories import BEHIND, HTTP, LB, MASQUERADED, NODE_PORT, POD, REMOTE, C, v1
from tests.fuzz.odd import Base

Rows = np.ndarray


def told() -> Recording:
    story = Story(cluster(balancer=LB)).connection(REMOTE).connection(BEHIND, isn=99, data=v1(C) + HTTP)
    return story.conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD)).recording()


TOLD = told()
FACTS = cluster(balancer=LB)

#: What no stream can bring, because its reader refuses it (daemonset.wire, rule 3).
_REFUSED = {"tap", "head", "node", "direction", "tunnel", "payload"}


def spoiled(rows: Rows, layout: Layout, dice: random.Random) -> Rows:
    """The rows with some values replaced by extremes, by each other's, or by anything."""
    rows = rows[[dice.randrange(len(rows)) for _ in range(dice.randrange(1, 2 * len(rows)))]].copy()
    for column in layout.columns:
        if column.name in _REFUSED or dice.random() < 0.6:
            continue
        most = int(np.iinfo(rows.dtype[column.name]).max)
        for at in range(len(rows)):
            if dice.random() < 0.4:
                rows[column.name][at] = dice.choice(
                    [0, 1, most, most - 1, most >> 1, (most >> 1) + 1, dice.randint(0, most)]
                )
    return rows


@settings(max_examples=80)
@given(seed=st.integers(0, 1 << 32))
def test_whatever_rows_say_there_is_a_report(seed: int) -> None:
    dice = random.Random(seed)
    recording = dataclasses.replace(
        TOLD, packets=spoiled(TOLD.packets, PACKET, dice), nat=spoiled(TOLD.nat, NAT, dice)
    )
    report = analyze(recording, FACTS, limit=dice.choice([1, 5_000]))
    assert msgspec.json.encode(report)
    assert report.summary.journeys >= len(report.journeys)


@pytest.mark.parametrize("time", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_times_at_the_ends_of_their_range(time: int) -> None:
    packets, nat = TOLD.packets.copy(), TOLD.nat.copy()
    for rows in (packets, nat):
        rows["time"][0] = time
    for given_packets, given_nat in ((packets, TOLD.nat), (TOLD.packets, nat), (packets, nat)):
        report = analyze(dataclasses.replace(TOLD, packets=given_packets, nat=given_nat), FACTS)
        assert msgspec.json.encode(report)


class Said(msgspec.Struct):
    """What nodes say beside rows."""

    taps: tuple[Tap, ...]
    heads: tuple[Head, ...]
    gaps: tuple[tuple[str, Gap], ...]
    topologies: dict[str, Topology]
    tracings: tuple[tuple[str, Tracing], ...]
    rules: tuple[tuple[str, Rule], ...]
    rule_hits: tuple[tuple[str, RuleHit], ...]
    rule_counts: tuple[tuple[str, RuleCounts], ...]
    conntrack_counts: tuple[tuple[str, ConntrackCounts], ...]
    expected_nodes: tuple[str, ...]


def _counted(action: str, *conditions: str, target: str = "", does: str = "") -> CountedRule:
    return CountedRule(1, 3, conditions, does or action, action, target, "a comment")


_TRUE_ADDRESSES = ("192.0.2.11/24", "2001:db8::1/64")
SAID = Base(
    msgspec.to_builtins(
        Said(
            taps=TOLD.taps,
            heads=TOLD.heads,
            gaps=(("node1", Gap("conntrack", "7 events unreadable", 1)),),
            topologies={
                "node1": Topology(
                    interfaces=(Interface(2, "eth0", addresses=_TRUE_ADDRESSES),),
                    routes=(Route("default", "192.0.2.1", "eth0"),),
                    pods=(PodNamespace("4026532000", ("10.244.1.7",), "veth1"),),
                )
            },
            tracings=(("node1", Tracing(mechanism="nftables trace", packets=3)), ("node2", Tracing())),
            rules=(
                (
                    "node1",
                    Rule("ip", "nat", "KUBE-EXT-X", 1, "jump", "masquerade traffic for a/b:http", "jump"),
                ),
                ("node1", Rule("ip", "nat", "KUBE-POSTROUTING", 2, "masquerade", "", "masquerade")),
            ),
            rule_hits=(
                ("node1", RuleHit(1, 7, "ip", "nat", "KUBE-EXT-X", 1, "jump", "M", 0, 6, C, NODE_PORT, 7000)),
                (
                    "node1",
                    RuleHit(2, 7, "ip", "nat", "KUBE-POSTROUTING", 2, "accept", "", 0, 6, C, POD, 7000),
                ),
            ),
            rule_counts=(
                (
                    "node2",
                    RuleCounts(
                        tables=("ip nat",),
                        chains=(
                            CountedChain(
                                "ip",
                                "nat",
                                "PREROUTING",
                                "prerouting",
                                "accept",
                                rules=(
                                    _counted("jump", "-p tcp", "-m tcp --dport 30080", target="KUBE-EXT-X"),
                                    _counted("dnat", does=f"-j DNAT --to-destination {POD}"),
                                ),
                            ),
                            CountedChain(
                                "ip",
                                "nat",
                                "KUBE-EXT-X",
                                rules=(_counted("mark", does="-j MARK --set-xmark 0x4000/0x4000"),),
                            ),
                            CountedChain(
                                "ip",
                                "nat",
                                "POSTROUTING",
                                "postrouting",
                                "accept",
                                rules=(_counted("masquerade"),),
                            ),
                        ),
                        began=1,
                        time=2,
                    ),
                ),
            ),
            conntrack_counts=(("node1", ConntrackCounts(9, 9, 9, 9, 7, 1, 2, 3, 4, 1, 2)),),
            expected_nodes=("node1", "node2"),
        )
    )
)


def sound(said: Said) -> bool:
    """Whether a stream's reader and the session let it through (`probe.sessions.session`)."""
    texts = [text for each in said.topologies.values() for one in each.interfaces for text in one.addresses]
    texts += [text for each in said.topologies.values() for one in each.pods for text in one.addresses]
    try:
        check_addresses(texts)
    except ValueError:
        return False
    return len(said.taps) == len(TOLD.taps) and len(said.heads) >= len(TOLD.heads)


@settings(max_examples=60)
@given(orders=st.binary(min_size=3, max_size=24))
def test_whatever_else_nodes_say_there_is_a_report(orders: bytes) -> None:
    try:
        said = msgspec.convert(SAID.changed(orders), Said)
    except msgspec.ValidationError:
        return
    if not sound(said):
        return
    fields = {name: getattr(said, name) for name in said.__struct_fields__}
    fields["rules"] = {
        (node, rule.namespace, rule.family, rule.table, rule.handle): rule for node, rule in said.rules
    }
    report = analyze(dataclasses.replace(TOLD, **fields), FACTS)
    assert msgspec.json.encode(report)
