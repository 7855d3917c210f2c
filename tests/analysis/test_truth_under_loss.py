"""Whatever is taken away from a recording, a verdict stays what it was or becomes inconclusive."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.analyze import analyze
from analysis.facts import Facts
from analysis.recording import Recording
from analysis.report import Report, Verdict
from probe.objects import facts_from_objects
from prove.degrading import HARMS, lessened, without
from prove.verdicts import NO_TRUTH, Name, another, settled
from tests.analysis.captures import load_flow
from tests.analysis.story import Story, cluster
from tests.analysis.test_chain import CHAIN_STORIES, shared_connection
from tests.analysis.test_proxies_in_a_row import EDGE, IN_A_ROW
from tests.analysis.test_stories import BEHIND, HTTP, LB, LOCAL, MASQUERADED, NODE_PORT, POD, REMOTE, C, v1

FLOWS = [
    "kubernetes-1.36-iptables/cluster-nodeport-via-node1",
    "kubernetes-1.36-iptables/cluster-nodeport-via-node2",
    "kubernetes-1.36-iptables/cluster-vip-via-node1",
    "kubernetes-1.36-iptables/local-nodeport-via-node1",
    "kubernetes-1.36-iptables/local-nodeport-via-node2",
    "kubernetes-1.36-proxy-iptables/lb-9001-plain",
    "kubernetes-1.36-proxy-iptables/lb-9002-v2",
    "kubernetes-1.36-proxy-iptables/lb-9004-v2-to-plain",
    "kubernetes-1.36-proxy-iptables/hairpin-pod-node1-to-clustervip-proxy",
]
ROUNDS = 12


def assert_never_another(
    full: Report,
    partial: Report,
    unless: frozenset[str] = frozenset(),
    truth: Mapping[Name, Verdict] = NO_TRUTH,
) -> None:
    """Each verdict of `partial` is one of the same client's in `full`, or inconclusive with a reason."""
    assert list(another(full, partial, unless, truth)) == []


@pytest.mark.parametrize("flow", FLOWS)
def test_no_loss_turns_one_verdict_of_a_real_cluster_into_another(evidence: Path, flow: str) -> None:
    folder = evidence / flow
    facts = facts_from_objects(json.loads((folder.parent / "objects.json").read_text()))
    recording = load_flow(folder)
    full = analyze(recording, facts)
    for seed in range(ROUNDS):
        assert_never_another(full, analyze(lessened(recording, random.Random(seed)), facts))


def told() -> dict[str, tuple[Recording, Facts]]:
    """One recording for each way in which a connection can go."""
    lost = Story(cluster()).connection(REMOTE).conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD))
    kept = Story(cluster("Local")).watch("nic:node1/eth0").connection(LOCAL)
    header = Story(cluster("Local", balancer=LB)).connection(BEHIND, data=v1(C) + HTTP)
    bare = Story(cluster("Local", balancer=LB)).connection(BEHIND)
    under = [(tap, src.replace(C, f"{LB}:50000"), dst) for tap, src, dst in REMOTE]
    beneath = Story(cluster("Cluster", balancer=LB)).connection(under, data=v1(C) + HTTP)
    silent = Story(cluster("Local")).watch("bridge:node1/cni0", "nic:node2/eth0")
    for attempt in range(3):
        silent.syn(
            [("client:c/eth0", C, NODE_PORT), ("nic:node1/eth0", C, NODE_PORT)], 7_000, 1_000 + attempt
        ).wait(1)
    rejected = (
        Story(cluster(endpoints=())).watch("bridge:node1/cni0").syn([("nic:node1/eth0", C, NODE_PORT)], isn=7)
    )
    rejected.packet("nic:node1/eth0", C, NODE_PORT, seq=7, icmp=3 << 8 | 3, sender="172.30.0.11")
    stories = {
        "lost": lost, "kept": kept, "header": header, "bare": bare, "beneath": beneath, "silent": silent,
        "rejected": rejected, "shared": shared_connection(),
    }  # fmt: skip
    # A balancer whose header lies is believed where nothing is left to contradict it.
    stories |= {code: told() for code, told in CHAIN_STORIES.items() if code != "SIP313"}
    stories |= IN_A_ROW
    return {name: (story.recording(), story.facts) for name, story in stories.items()}


TOLD = told()

#: A proxy in front of the balancer that nobody names, and of which neither its own tap nor a client's is left, is a
#: client as far as can be known (docs/limitations.md): what comes of its own address then.
UNKNOWN_PROXIES: dict[str, Mapping[Name, Verdict]] = {
    "passed through twice": {(EDGE, 7000): Verdict.LOST},
    "named by the edge": {(EDGE, 7000): Verdict.PRESERVED},
}


def test_a_proxy_that_nobody_knows_is_a_client_whose_address_is_lost_too() -> None:
    recording, facts = TOLD["passed through twice"]
    edge = {number for number, tap in enumerate(recording.taps) if tap.node in {"c", "edge"}}
    every = np.ones(len(recording.packets), dtype=bool)
    partial = analyze(without(recording, every, np.ones(len(recording.nat), dtype=bool), edge), facts)
    assert [(j.client and j.client.address, j.verdict) for j in partial.journeys] == [(EDGE, Verdict.LOST)]


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(sorted(TOLD)), data=st.data())
def test_any_subset_of_a_told_recording_keeps_its_verdict_or_doubts_it(
    name: str, data: st.DataObject
) -> None:
    recording, facts = TOLD[name]
    rows = data.draw(
        st.lists(st.booleans(), min_size=len(recording.packets), max_size=len(recording.packets))
    )
    records = data.draw(st.lists(st.booleans(), min_size=len(recording.nat), max_size=len(recording.nat)))
    taps = data.draw(st.sets(st.integers(0, len(recording.taps) - 1), max_size=len(recording.taps) - 1))
    partial = without(recording, np.array(rows, dtype=bool), np.array(records, dtype=bool), taps)
    assert_never_another(
        analyze(recording, facts), analyze(partial, facts), truth=UNKNOWN_PROXIES.get(name, {})
    )


@pytest.mark.parametrize(
    "harm", ["packets doubled", "any order", "clocks off by up to 5 s", "clocks stepped by up to 5 s"]
)
def test_what_takes_nothing_away_costs_no_verdict(harm: str) -> None:
    """Where a clock is put right while packets are captured, something may be in doubt; nothing may be another."""
    for name, (recording, facts) in TOLD.items():
        full = analyze(recording, facts)
        partial = analyze(*HARMS[harm](recording, facts, random.Random(name)))
        assert_never_another(full, partial)
        if "stepped" not in harm:
            assert settled(partial) == settled(full), name
