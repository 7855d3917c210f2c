"""What docs/captures.md says that each verdict needs: so much is enough, and less is not."""

from __future__ import annotations

import pytest

from analysis.facts import Facts
from analysis.report import Verdict
from tests.analysis.story import CLIENT, NODES, PODS, Story, cluster

Path = list[tuple[str, str, str]]

C, LB = f"{CLIENT}:40000", "172.30.0.150:50000"
ASKED, POD = f"{NODES['node2']}:30080", f"{PODS['node2']}:8080"
MASKED = "10.244.2.1:61000"

LOST, PRESERVED, INCONCLUSIVE = Verdict.LOST, Verdict.PRESERVED, Verdict.INCONCLUSIVE
NO_FACTS = Facts(known=False)


def kept(source: str = C) -> Path:
    """Policy Local, endpoint on the node that is asked."""
    return [
        ("client:me/eth0", source, ASKED),
        ("nic:node2/eth0", source, ASKED),
        ("bridge:node2/cni0", source, POD),
        ("veth:node2/veth1", source, POD),
        ("pod:node2/web", source, POD),
    ]


def masked() -> Path:
    """Policy Cluster, endpoint on the node that is asked."""
    return [
        (tap, MASKED if destination == POD else source, destination) for tap, source, destination in kept()
    ]


def judged(facts: Facts, path: Path, watched: str, *, table: bool = False) -> Verdict:
    """The verdict where only these kinds of taps, and perhaps node2's conntrack table, were there."""
    kinds = watched.split()
    story = Story(facts).connection([place for place in path if place[0].partition(":")[0] in kinds])
    if table:
        story.conntrack("node2", (path[0][1], ASKED), (path[-1][1], POD))
    (journey,) = story.report().journeys
    return journey.verdict


@pytest.mark.parametrize(
    ("watched", "table", "verdict"),
    [("nic bridge", False, LOST), ("nic", True, LOST), ("nic", False, INCONCLUSIVE)],
)
def test_lost_on_the_endpoints_own_node(watched: str, table: bool, verdict: Verdict) -> None:
    assert judged(cluster(), masked(), watched, table=table) is verdict


@pytest.mark.parametrize(
    ("watched", "table", "verdict"),
    [
        ("nic bridge", False, LOST),
        ("nic pod", False, LOST),
        ("nic", True, LOST),
        ("nic", False, INCONCLUSIVE),
    ],
)
def test_lost_at_a_load_balancer(watched: str, table: bool, verdict: Verdict) -> None:
    facts = cluster("Local", balancer="172.30.0.150")
    assert judged(facts, kept(LB)[1:], watched, table=table) is verdict


@pytest.mark.parametrize(
    ("facts", "watched", "verdict"),
    [
        (cluster("Local"), "nic pod", PRESERVED),
        (cluster("Local"), "nic veth", PRESERVED),
        (cluster("Local"), "nic bridge", PRESERVED),
        (cluster("Local"), "client bridge", PRESERVED),
        (cluster("Local"), "nic", INCONCLUSIVE),
        (cluster("Local"), "pod", INCONCLUSIVE),
        (NO_FACTS, "client pod", PRESERVED),
        (NO_FACTS, "client bridge", INCONCLUSIVE),
        (NO_FACTS, "nic pod", INCONCLUSIVE),
    ],
)
def test_preserved_needs_the_entry_and_the_endpoint(facts: Facts, watched: str, verdict: Verdict) -> None:
    assert judged(facts, kept(), watched) is verdict


@pytest.mark.parametrize(
    ("also", "attempts", "verdict"),
    [
        ("bridge", 2, Verdict.BLACKHOLED),
        ("pod", 2, Verdict.BLACKHOLED),
        ("bridge", 1, INCONCLUSIVE),
        ("nic", 2, INCONCLUSIVE),
    ],
)
def test_blackholed_needs_the_ways_out_and_a_repetition(also: str, attempts: int, verdict: Verdict) -> None:
    story = Story(cluster("Local", ("node1",))).watch(f"{also}:node2/x")
    for attempt in range(attempts):
        story.syn([("nic:node2/eth0", C, ASKED)], isn=7_000, tsval=1_000 + attempt * 1_000).wait(1)
    (journey,) = story.report().journeys
    assert journey.verdict is verdict
