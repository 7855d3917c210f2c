"""A PROXY header tells of the end of the way only where no server behind the one that took it was asked.

nginx takes a header and goes on with its peer's address unless it is told whom to believe. Whether it does, its next
request says, its configuration, or the client that asked; where neither is known, the header's word is not the last.
"""

from __future__ import annotations

import dataclasses

import pytest

from analysis.analyze import analyze
from analysis.asked import Asked
from analysis.ingress import Listener
from analysis.report import Journey
from analysis.trust.model import NginxRealIp
from tests.analysis.story import CLIENT, START, Story, cluster
from tests.analysis.test_chain import HELLO, INGRESS, ONWARD, configured
from tests.analysis.test_samples_and_clients import marked
from tests.analysis.test_stories import BEHIND, HTTP, LB, C, v1


def taken() -> Story:
    """A balancer's header and a request, answered by the endpoint."""
    return Story(cluster("Local", balancer=LB)).connection(BEHIND, data=v1(C) + HTTP)


def nginx(*trusted: str) -> Listener:
    """A listener that reads headers, and believes these senders."""
    return Listener(
        port=8080, line=12, nginx=NginxRealIp(trusted=trusted, header="proxy_protocol", proxy_protocol=True)
    )


def verdict_and_client(journey: Journey) -> tuple[str, str | None]:
    return str(journey.verdict), journey.seen_by_app


def test_an_endpoint_that_asks_nobody_is_the_end() -> None:
    assert verdict_and_client(taken().journey()) == ("preserved", CLIENT)


def test_an_endpoint_that_asks_another_has_not_said_whom_it_believes() -> None:
    story = taken().connection(ONWARD, isn=50, tsval=50, data=HELLO, response=b"")
    journey = story.journey()
    assert verdict_and_client(journey) == ("inconclusive", None)
    assert "may have asked another" in (journey.reason or "")
    assert journey.findings == ("SIP301",)


@pytest.mark.parametrize(
    ("listener", "verdict"), [(nginx(LB), "preserved"), (nginx("192.0.2.0/24"), "inconclusive")]
)
def test_its_configuration_says_whom_it_believes(listener: Listener, verdict: str) -> None:
    story = taken().connection(ONWARD, isn=50, tsval=50, data=HELLO, response=b"")
    assert story.journey(ingress=configured(listener)).verdict == verdict


def test_that_another_was_asked_may_be_known_from_the_kernel_alone() -> None:
    story = taken().conntrack(
        "node2", (f"{INGRESS}:33000", "10.96.0.20:80"), (f"{INGRESS}:33000", "10.244.3.7:8000")
    )
    assert verdict_and_client(story.journey()) == ("inconclusive", None)


def test_that_another_was_asked_may_be_known_from_a_connection_without_a_beginning() -> None:
    story = taken()
    for tap, src, dst in ONWARD:
        story.packet(tap, src, dst, seq=77, payload=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert verdict_and_client(story.journey()) == ("inconclusive", None)


@pytest.mark.parametrize("missing", range(4), ids=["SYN", "SYN-ACK", "header", "answer"])
def test_an_endpoint_that_was_not_seen_whole_may_have_asked_unseen(missing: int) -> None:
    """At the taps of the pod's side one packet is missing: what else is missing there, nobody knows."""
    recording = taken().recording()
    rows = [
        number
        for tap in (1, 2)
        for number in [[at for at, row in enumerate(recording.packets) if row["tap"] == tap][missing]]
    ]
    kept = [number for number in range(len(recording.packets)) if number not in rows]
    recording = dataclasses.replace(recording, packets=recording.packets[kept])
    (journey,) = analyze(recording, cluster("Local", balancer=LB)).journeys
    assert verdict_and_client(journey) == ("inconclusive", None)


def test_of_a_sample_nobody_knows_whom_else_an_endpoint_asked() -> None:
    recording = marked(taken().recording(), 16)
    (journey,) = analyze(recording, cluster("Local", balancer=LB)).journeys
    assert verdict_and_client(journey) == ("inconclusive", None)


def test_the_clients_own_record_is_found_by_the_header_that_names_its_socket() -> None:
    """Neither its connection to the balancer nor its request could be read, but the application answered."""
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND, data=v1(C) + HELLO, response=b"")
    seconds = START / 1e9
    destination = v1(C).split()[3].decode() + ":" + v1(C).split()[5].decode()
    asked = Asked(C, destination, seconds, seconds + 1, "answered", status=200, saw=LB)
    assert verdict_and_client(story.journey(asked=(asked,))) == ("lost", LB)
