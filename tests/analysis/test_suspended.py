"""A machine that sleeps amid a connection: its clock leaps, and what was one connection may look like two."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from analysis.analyze import analyze
from analysis.report import Verdict
from daemonset.observation import Payload
from tests.analysis.story import CLIENT, Story, cluster
from tests.analysis.test_chain import get
from tests.analysis.test_stories import BEHIND, HTTP, LB, LOCAL, MASQUERADED, NODE_PORT, POD, REMOTE, C

HOUR = 3_600 * 1_000_000_000  # ns

ENTRY = [("nic:node1/eth0", C, NODE_PORT)]

STORIES = {
    "lost": lambda: (
        Story(cluster()).connection(REMOTE).conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD))
    ),
    "preserved": lambda: Story(cluster("Local")).connection(LOCAL, data=HTTP),
    "blackholed": lambda: (
        Story(cluster("Local"))
        .watch("bridge:node1/cni0")
        .syn(ENTRY, 7_000, 1_000)
        .wait(1)
        .syn(ENTRY, 7_000, 2_000)
        .wait(2)
        .syn(ENTRY, 7_000, 4_000)
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_no_verdict_turns_into_another_wherever_the_sleep_falls(name: str) -> None:
    story = STORIES[name]()
    recording = story.recording()
    awake = {journey.verdict for journey in analyze(recording, story.facts).journeys}
    assert awake == {Verdict(name)}
    for asleep in range(1, len(recording.packets)):
        rows = recording.packets.copy()
        rows["time"][np.argsort(rows["time"], kind="stable")[asleep:]] += np.uint64(HOUR)
        slept = analyze(dataclasses.replace(recording, packets=rows), story.facts)
        told = {journey.verdict for journey in slept.journeys}
        assert told <= {*awake, Verdict.INCONCLUSIVE}, f"asleep before packet {asleep}: {told}"


def test_a_request_that_seems_to_come_before_its_handshake_still_says_whom_it_names() -> None:
    """The clock was put back between the two. That nothing names the client would not be true."""
    request = get(X_Forwarded_For=CLIENT)
    recording = Story(cluster("Local", balancer=LB)).connection(BEHIND, data=request).recording()
    packets = recording.packets.copy()
    packets["time"][packets["payload"] == Payload.HTTP_REQUEST] -= np.uint64(4_000_000_000)
    (journey,) = analyze(
        dataclasses.replace(recording, packets=packets), cluster("Local", balancer=LB)
    ).journeys
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert "the field that names a client" in (journey.reason or "")
