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
from daemonset.observation import NAT, PACKET, Layout
from tests.analysis.story import Story, cluster
from tests.analysis.test_stories import BEHIND, HTTP, LB, MASQUERADED, NODE_PORT, POD, REMOTE, C, v1

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
