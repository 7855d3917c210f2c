"""Part of what happened, on purpose: a sample of the connections, or those of some clients alone."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest

from analysis.analyze import analyze
from analysis.chain.claims import address_in
from analysis.chain.clients import Clients
from analysis.recording import Recording, Stream
from analysis.report import Verdict
from daemonset.observation import Hello, TcpFlag
from probe.objects import facts_from_objects
from tests.analysis.captures import load_flow
from tests.analysis.story import Story, cluster
from tests.analysis.test_stories import BEHIND, HTTP, LB, MASQUERADED, NODE_PORT, POD, REMOTE, C, v1
from tests.analysis.test_truth_under_loss import FLOWS, TOLD, assert_never_another

SYN, ACK = TcpFlag.SYN, TcpFlag.ACK


def marked(recording: Recording, sample: int = 2) -> Recording:
    """The recording as agents that were told to sample say of it."""
    hello = Hello("somewhere", features={"sample": str(sample)})
    return dataclasses.replace(
        recording, streams=(*recording.streams, Stream("somewhere", hello, None, None))
    )


def sampled(recording: Recording, kept: set[int]) -> Recording:
    """What is left when only connections with these initial sequence numbers are kept, as an agent would."""
    table = recording.packets
    tcp = (table["protocol"] == 6) & (table["icmp"] == 0)
    opening = tcp & (table["flags"] & SYN != 0)
    isn = np.where(table["flags"] & ACK, table["ack"] - np.uint32(1), table["seq"])
    picked = opening & np.isin(isn, list(kept))
    seen = {ends(row) for row in table[picked]} | {ends(row, back=True) for row in table[picked]}
    followed = np.array([ends(row) in seen for row in table], dtype=bool)
    return marked(dataclasses.replace(recording, packets=table[~tcp | picked | (followed & ~opening)]))


def ends(row: np.void, *, back: bool = False) -> tuple[int, ...]:
    """The tap and the tuple of a row, or those of what answers to it."""
    names = ["src_hi", "src_lo", "sport", "dst_hi", "dst_lo", "dport"]
    names = names[3:] + names[:3] if back else names
    return (int(row["tap"]), *(int(row[name]) for name in names))


def isns(recording: Recording) -> list[int]:
    table = recording.packets
    first = table[(table["protocol"] == 6) & (table["flags"] & (SYN | ACK) == SYN) & (table["icmp"] == 0)]
    return sorted(set(first["seq"].tolist()))


@pytest.mark.parametrize("name", sorted(TOLD))
def test_a_sample_of_a_told_recording_keeps_its_verdicts_or_doubts_them(name: str) -> None:
    recording, facts = TOLD[name]
    full = analyze(recording, facts)
    dice = random.Random(name)
    for _ in range(3):
        kept = {isn for isn in isns(recording) if dice.random() < 0.5}
        part = analyze(sampled(recording, kept), facts)
        assert part.capture.sample == 2
        assert_never_another(full, part)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_sample_of_a_real_cluster_keeps_its_verdicts_or_doubts_them(evidence: Path, flow: str) -> None:
    folder = evidence / flow
    facts = facts_from_objects(json.loads((folder.parent / "objects.json").read_text()))
    recording = load_flow(folder)
    full = analyze(recording, facts)
    for seed in range(3):
        dice = random.Random(seed)
        kept = {isn for isn in isns(recording) if dice.random() < 0.5}
        assert_never_another(full, analyze(sampled(recording, kept), facts))


def test_connections_without_a_balancer_lose_nothing_by_being_sampled() -> None:
    story = Story(cluster())
    for number in range(6):
        path = [(tap, src.replace("40000", f"4000{number}"), dst) for tap, src, dst in REMOTE]
        path = [(tap, src.replace(MASQUERADED, f"172.30.0.11:5000{number}"), dst) for tap, src, dst in path]
        story.connection(path, isn=7_000 + number)
        original = (C.replace("40000", f"4000{number}"), NODE_PORT)
        story.conntrack("node1", original, (f"172.30.0.11:5000{number}", POD))
    recording = story.recording()
    full = {journey.client: journey for journey in analyze(recording, story.facts).journeys}
    part = analyze(sampled(recording, {7_001, 7_004}), story.facts)
    assert len(part.journeys) == 2, "what is not chosen is no half connection"
    for journey in part.journeys:
        whole = full[journey.client]
        assert (journey.verdict, journey.snat, journey.hops) == (whole.verdict, whole.snat, whole.hops)


def test_a_port_that_others_used_again_adds_nothing_to_the_connection_that_was_chosen() -> None:
    """The second connection of one port went elsewhere; of a sample only its NAT record and requests are seen."""
    story = Story(cluster(endpoints=("node1", "node2"))).connection(REMOTE, isn=7_000)
    story.conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD)).wait(1)
    story.packet(REMOTE[0][0], C, NODE_PORT, flags=TcpFlag.FIN | ACK, seq=7_100).wait(5)
    forged = b"GET /debug/ip HTTP/1.1\r\nX-Forwarded-For: 198.51.100.66\r\n\r\n"
    again = [(tap, src, dst) for tap, src, dst in REMOTE[:1]]
    story.connection(again, isn=90_000, data=forged, response=b"")
    story.conntrack("node1", (C, NODE_PORT), ("172.30.0.11:62000", "10.244.1.5:8080"))
    recording = sampled(story.recording(), {7_000})
    (journey,) = analyze(recording, story.facts).journeys
    assert journey.requests == 1, "the request of the other connection is not this one's"
    assert [snat.to for snat in journey.snat] == [MASQUERADED]
    assert all("62000" not in hop.source for hop in journey.hops)


def test_the_only_one_in_time_is_not_the_only_one_of_a_sample() -> None:
    """A connection through a balancer without a header is tied by order; in a sample others may have been there."""
    front = [("lb:lb/eth0", "203.0.113.9:40000", f"{LB}:80")]
    back = [("lb:lb/eth0", f"{LB}:50000", NODE_PORT), *((t, f"{LB}:50000", d) for t, _, d in REMOTE[:1])]
    story = Story(cluster("Local", balancer=LB)).relayed((front, 7_000, HTTP), (back, 8_000, HTTP))
    (tied,) = analyze(story.recording(), story.facts).journeys
    assert tied.client is not None
    assert tied.client.address == "203.0.113.9"
    part = analyze(marked(story.recording()), story.facts)
    assert all(journey.client is None for journey in part.journeys)


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────


def two_clients(more: int = 0) -> Story:
    """One masqueraded connection each of 203.0.113.9 and 198.51.100.7, and more of the latter."""
    story = Story(cluster())
    for number, address in enumerate(["203.0.113.9", *["198.51.100.7"] * (1 + more)]):
        at_node, behind = f"{address}:{40_000 + number}", f"172.30.0.11:{50_000 + number}"
        path = [(tap, at_node if src == C else behind, dst) for tap, src, dst in REMOTE]
        story.connection(path, isn=7_000 + number)
        story.conntrack("node1", (at_node, NODE_PORT), (behind, POD))
    return story


@pytest.mark.parametrize("limit", [5_000, 2])
def test_connections_of_a_client_are_told_whole_although_nat_hides_whose_they_are(limit: int) -> None:
    story = two_clients(more=3)
    full = {journey.client.address: journey for journey in story.report().journeys if journey.client}
    report = story.report(clients=Clients.of(["203.0.113.0/24"]), limit=limit)
    (journey,) = report.journeys
    assert (journey.verdict, report.summary.lost, report.summary.journeys) == (Verdict.LOST, 1, 1)
    assert journey.hops == full["203.0.113.9"].hops
    assert report.capture.clients == ("203.0.113.0/24",)
    assert report.journeys_omitted == 0
    if limit == 5_000:
        assert report.capture.other_clients == 4


def test_a_client_that_only_a_header_names_is_found() -> None:
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND, data=v1(C) + HTTP)
    others = [(tap, src.replace("50000", "50001"), dst) for tap, src, dst in BEHIND]
    story.connection(others, isn=9_000, data=v1("192.0.2.66:1") + HTTP)
    for limit in (5_000, 1):
        wanted = story.report(clients=Clients.of([C.rpartition(":")[0]]), limit=limit)
        assert [journey.verdict for journey in wanted.journeys] == [Verdict.PRESERVED]
    other = story.report(clients=Clients.of(["192.0.2.0/26", "2001:db8::/32"]))
    assert (other.journeys, other.capture.other_clients, other.exit_code) == ((), 2, 4)


def test_what_nobody_knows_the_client_of_is_counted_and_left_out() -> None:
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND)
    report = story.report(clients=Clients.of(["203.0.113.9"]))
    assert (report.summary.journeys, report.capture.unknown_clients) == (0, 1)


def test_ranges_of_both_families() -> None:
    clients = Clients.of(["10.0.0.0/8", "2001:db8::/48", "2001:db8:1::7"])
    assert clients.texts == ("10.0.0.0/8", "2001:db8::/48", "2001:db8:1::7")
    for text, holds in (
        ("10.9.9.9", True),
        ("11.0.0.1", False),
        ("2001:db8::9", True),
        ("2001:db8:1::8", False),
    ):
        assert (address_in(text) in clients) is holds
    assert not Clients.of([])
