"""Captures around two balancers in a row, IPv6, and servers that take other headers than they get.

The verdict is the servers' own answer. Which findings there must be follows from how each cluster is built, and others
are as wrong as a wrong verdict.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.lab import Lab, load_scenario
from tests.field.directed import Direction, Recorded, false_from_the_middle, false_without_taps, record
from tests.field.judging import judge
from tests.field.proxied import (
    BALANCER,
    CLIENTS,
    EDGE,
    NODE2,
    NODE_PORT,
    TRUSTING,
    Ask,
    crowd,
    lying,
    way,
    wish,
)
from tests.field.recorded import once
from tests.field.talking import Spoken, held, talk

pytestmark = pytest.mark.lab

CLIENT = CLIENTS["client1"]

#: nginx believes the whole way in, from the edge on.
ALL = 'real_ip_from = ["balancer", "edge", "nodes", "pods"], recursive = true'
KEPT = "keepalive = true"
BOTH = ("node2", "node3")
FORGED = "203.0.113.9"


def lying_crowd(target: str = BALANCER, *, each: int = 4, **more: object) -> Ask:
    return lambda lab: crowd(lab, each=each, fields=lying, target=target, **more)


def honest_crowd(target: str = BALANCER, *, each: int = 4, **more: object) -> Ask:
    return lambda lab: crowd(lab, each=each, target=target, **more)


def own_header(target: str = BALANCER, port: int = 80) -> Ask:
    """A client that puts a PROXY header of its own in front, three times; and once none."""
    header = f"PROXY TCP4 {FORGED} {target} 1 80\r\n".encode().hex()

    def ask(lab: Lab) -> list[Spoken]:
        return talk(
            lab,
            "client1",
            CLIENT,
            *[wish(target=target, port=port, prefix=header)] * 3,
            wish(target=target, port=port),
        )

    return ask


def in_two_segments(lab: Lab) -> list[Spoken]:
    """Half a header first: nginx at the one port hangs up, gunicorn at the other waits, and answers."""
    asked = [wish(port=port, at_once=True) for port in (80, 81, 81)]
    return talk(lab, "client1", CLIENT, *asked)


def codes(*numbers: int) -> frozenset[str]:
    return frozenset(f"SIP{number}" for number in numbers)


DIRECTIONS: dict[str, Direction] = {
    "edge v1, balancer v2": Direction(
        way(header="v2", edge=("tcp", "v1"), takes_header=True), lying_crowd(EDGE), codes=codes(301, 506)
    ),
    "edge http, balancer http": Direction(
        way("http", edge=("http", "none"), nginx=f"{ALL}, {KEPT}"),
        lying_crowd(EDGE, requests=2),
        silent=12,
        codes=codes(505, 506),
    ),
    "edge http, balancer http, balancer trusted alone": Direction(
        way("http", edge=("http", "none"), nginx='real_ip_from = ["balancer"], recursive = true'),
        lying_crowd(EDGE),
        "nftables",
        silent=12,
        codes=codes(502),
    ),
    "edge http, balancer v2": Direction(
        way(header="v2", edge=("http", "none")), lying_crowd(EDGE), silent=12, codes=codes(316)
    ),
    "edge http, balancer tcp": Direction(
        way(edge=("http", "none"), nginx=ALL), lying_crowd(EDGE), "nftables", silent=12, codes=codes(505, 506)
    ),
    "edge v2, balancer http": Direction(
        way("http", edge=("tcp", "v2"), takes_header=True, nginx=TRUSTING),
        lying_crowd(EDGE),
        silent=12,
        codes=codes(505, 506),
    ),
    "edge v2, balancer http, nobody trusted": Direction(
        way("http", edge=("tcp", "v2"), takes_header=True), lying_crowd(EDGE), silent=12, codes=codes(502)
    ),
    "edge http, balancer http, kept open, above Cluster": Direction(
        way(
            "http", edge=("http", "none"), policy="Cluster", nginx=f"{ALL}, {KEPT}", nodes=BOTH, targets=BOTH
        ),
        lying_crowd(EDGE, requests=3),
        "nftables",
        silent=12,
        codes=codes(505, 506),
    ),
    "some past the edge": Direction(
        way("http", edge=("http", "none"), nginx=ALL),
        lambda lab: lying_crowd(EDGE, each=3)(lab) + lying_crowd(each=3)(lab),
        silent=18,
        codes=codes(505, 506),
    ),
    "edge tcp, balancer tcp": Direction(
        way(edge=("tcp", "none")), honest_crowd(EDGE), "nftables", silent=12, codes=codes(104)
    ),
    "edge v1, balancer v1": Direction(
        way(header="v1", edge=("tcp", "v1")), lying_crowd(EDGE), codes=codes(311)
    ),
    "v2, nginx expects none": Direction(
        way(header="v2", expects_header=False), lying_crowd(), codes=codes(302)
    ),
    "v1, nginx expects none": Direction(
        way(header="v1", expects_header=False), lying_crowd(), "nftables", codes=codes(302)
    ),
    "none, nginx expects one": Direction(
        way(expects_header=True), honest_crowd(), silent=12, codes=codes(104, 307)
    ),
    "v1, gunicorn expects v1": Direction(
        way(header="v1", apps=(), server="gunicorn"), honest_crowd(), "nftables", codes=codes(301)
    ),
    "v2, gunicorn expects v1": Direction(
        way(header="v2", apps=(), server="gunicorn"), honest_crowd(), codes=codes(302)
    ),
    "v2 before TLS, nginx expects none": Direction(
        way(header="v2", expects_header=False, tls=True), honest_crowd(tls=True), codes=codes(308)
    ),
    "own header behind the balancer's": Direction(way(header="v2"), own_header(), codes=codes(301, 311)),
    "own header, passed on": Direction(way(), own_header(), "nftables", codes=codes(104, 506)),
    "own header, passed on and believed": Direction(
        way(expects_header=True, nginx='real_ip_from = ["everyone"]'),
        own_header(),
        codes=codes(104, 305, 307),
    ),
    "own header, past the balancer": Direction(
        way(expects_header=True, nginx='real_ip_from = ["everyone"]'),
        own_header(NODE2, NODE_PORT),
        codes=codes(305, 307),
    ),
    "a header in two segments": Direction(
        load_scenario("proxy-split"), in_two_segments, codes=codes(301, 310)
    ),
    "IPv6, http": Direction(
        way("http", nginx=TRUSTING, family="ipv6"),
        lying_crowd(family="ipv6"),
        silent=12,
        codes=codes(505, 506),
    ),
    "IPv6, v2 above Cluster": Direction(
        way(
            header="v2",
            policy="Cluster",
            nginx=f"{TRUSTING}, {KEPT}",
            nodes=BOTH,
            targets=BOTH,
            family="ipv6",
        ),
        lying_crowd(family="ipv6", requests=2),
        "nftables",
        codes=codes(301, 315, 506),
    ),
    "IPv6, v1": Direction(way(header="v1", family="ipv6"), lying_crowd(family="ipv6"), codes=codes(301, 506)),
    "IPv6, tcp": Direction(
        way(family="ipv6"), honest_crowd(family="ipv6"), "nftables", silent=12, codes=codes(104)
    ),
}


@pytest.fixture(params=DIRECTIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recorded(tmp_path_factory: pytest.TempPathFactory, worker_id: str, name: str) -> Recorded:
    number = list(DIRECTIONS).index(name)
    return once(
        tmp_path_factory, worker_id, f"chains-{number}", lambda folder: record(DIRECTIONS[name], folder)
    )


def test_what_is_said_of_a_request_is_what_the_servers_said(recorded: Recorded, name: str) -> None:
    report = judge(recorded.captures, recorded.objects)
    result = held(report, recorded.spoken)
    assert result.wrong + result.beyond == []
    assert len(result.silent) <= DIRECTIONS[name].silent, result.silent
    told = {finding.code for finding in report.findings if finding.code[:4] in {"SIP1", "SIP3", "SIP5"}}
    if not result.silent:  # what is not known of one request may be the only one with its finding
        assert told == DIRECTIONS[name].codes
    assert told <= (DIRECTIONS[name].codes or told)


def test_taps_that_are_missing_make_nothing_false(recorded: Recorded) -> None:
    assert false_without_taps(recorded) == []


def test_a_capture_that_begins_in_the_middle_makes_nothing_false(recorded: Recorded, tmp_path: Path) -> None:
    assert false_from_the_middle(recorded, tmp_path) == []
