"""What docs/captures.md and docs/chain.md say that each conclusion needs: so much is enough, and less is not."""

from __future__ import annotations

import pytest

from analysis.facts import Facts
from analysis.report import Verdict
from tests.analysis.story import CLIENT, HTTP, NODES, PODS, Story, cluster
from tests.analysis.test_chain import APPENDED, BACK, FRONT, HELLO, ONWARD, behind_balancer, get
from tests.analysis.test_stories import v1

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


TOKEN, IDENTITY = get(X_Probe_Token="4f2a"), get(X_Request_Id="9b1c")


@pytest.mark.parametrize(
    ("came", "went", "by"),
    [
        (HTTP, v1(C) + HTTP, "PROXY header"),
        (HELLO, HELLO, "the same TLS ClientHello"),
        (TOKEN, get(X_Probe_Token="4f2a", Via="1.1 lb"), "the probe's token"),
        (IDENTITY, get(X_Request_Id="9b1c", Via="1.1 lb"), "the same request id"),
        (HTTP, APPENDED, "X-Forwarded-For"),
        (HTTP, HTTP, "the same first bytes, the only ones in time at the balancer"),
        (get(), get(Forwarded=f"for={CLIENT}"), "Forwarded"),
        (get(), get(X_Real_IP=CLIENT), "X-Real-IP"),
        (get(), get(Via="1.1 lb"), "the same request line, the only one in time at the balancer"),
        (HTTP, v1(C)[:20], "the order of connections at the balancer"),
    ],
)
def test_what_ties_two_connections(came: bytes, went: bytes, by: str) -> None:
    journeys = behind_balancer(went, None, front=came).report().journeys
    notes = [hop.note for journey in journeys for hop in journey.hops if hop.leg == 1]
    assert notes[:1] == [f"tied by {by}"]


def test_where_two_could_be_the_one_before_none_is_taken() -> None:
    other = [(tap, source.replace(":40000", ":40001"), asked) for tap, source, asked in FRONT]
    story = Story(cluster("Local", balancer=FRONT[1][2].partition(":")[0]))
    story.relayed((FRONT, 11, HTTP), (other, 21, HTTP), (BACK, 12, HTTP))
    assert not any("tied by" in (hop.note or "") for each in story.report().journeys for hop in each.hops)


@pytest.mark.parametrize(
    ("came", "told", "by"),
    [
        (TOKEN, get(X_Probe_Token="4f2a", X_Real_IP=CLIENT), "the probe's token"),
        (IDENTITY, get(X_Request_Id="9b1c", X_Real_IP=CLIENT), "the same request id"),
        (get(), get(X_Real_IP=CLIENT), "the addresses named in it, and time"),
        (get(), get(X_Real_IP="198.51.100.66"), None),  # nobody that it can have taken for its client
        (get(), get("/other", X_Real_IP=CLIENT), None),  # another request
    ],
)
def test_how_the_ingress_is_followed(came: bytes, told: bytes, by: str | None) -> None:
    path = [("client:c/eth0", C, ASKED), *kept()[1:]]
    story = Story(cluster("Local")).relayed((path, 11, came), (ONWARD, 13, told))
    (journey,) = story.report().journeys
    notes = [hop.note for hop in journey.hops if hop.point == "http-header"]
    assert notes == ([f"by {by}"] if by else [])
