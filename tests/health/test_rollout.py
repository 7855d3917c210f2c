"""A rollout of a real Kubernetes, told from its packets alone: what each request met is written beside them.

The truth is the clients' own record and HAProxy's log, neither of which the analysis is given.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from analysis.analyze import analyze
from analysis.health.result import Health, NodeHealth
from analysis.recording import Recording, RecordingBuilder
from analysis.report import Report
from daemonset.decode.packet import Batch
from daemonset.taps.pcap import read_tap
from probe.health.endpoint_changes import read_changes
from probe.objects import facts_from_objects
from tests.analysis.captures import tap_of

SERVICE = "edge/ingress-local"
ALL = ("client-eth0", "lb-eth0", *(f"node{n}-{name}" for n in (1, 2, 3) for name in ("eth0", "cni0")))


@pytest.fixture(scope="module")
def folder(evidence: Path) -> Path:
    return evidence / "kubernetes-1.36-proxy-iptables" / "rollout"


@pytest.fixture(scope="module")
def truth(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "truth.json").read_text())
    return found


def recording_of(folder: Path, names: tuple[str, ...]) -> Recording:
    builder = RecordingBuilder()
    for name in names:
        tap, batch = tap_of(name), Batch()
        stream = builder.stream(tap.node)
        read_tap(folder / f"{name}.pcap", stream.tap(tap), batch)
        stream.packets(*batch.take())
    return builder.build()


def report_of(folder: Path, names: tuple[str, ...] = ALL) -> Report:
    facts = facts_from_objects(json.loads((folder / "objects-before.json").read_text()))
    return analyze(recording_of(folder, names), facts, service=SERVICE)


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return report_of(folder)


@pytest.fixture
def health(report: Report) -> Health:
    assert report.health is not None
    return report.health


def node(health: Health, name: str) -> NodeHealth:
    return next(each for each in health.nodes if each.node == name)


def test_each_lost_client_is_counted_and_put_down_to_the_node_that_it_was_sent_to(
    health: Health, truth: list[dict[str, Any]]
) -> None:
    lost = Counter(each["lb_chosen_node"] for each in truth if each["outcome"] != "ok")
    assert health.clients == len(truth)
    assert health.lost == lost.total()
    assert {each.node: each.lost for each in health.nodes if each.lost} == lost


def test_the_lag_is_what_clients_met(health: Health, truth: list[dict[str, Any]]) -> None:
    (outage,) = node(health, "node2").outages
    there = [each for each in truth if each["lb_chosen_node"] == "node2"]
    failed = [each["t_start"] for each in there if each["outcome"] != "ok"]
    assert outage.failing_since == pytest.approx(min(failed), abs=0.01)
    assert outage.last_connection == pytest.approx(max(failed), abs=0.01)
    assert outage.total_lag == pytest.approx(max(failed) - min(failed), abs=0.02)
    assert health.lag == outage.total_lag
    assert outage.stopped is True
    assert outage.lost == len(failed)
    assert health.saved == 0


def test_the_balancer_sends_its_last_client_just_before_it_marks_the_node_down(
    folder: Path, health: Health
) -> None:
    log = (folder / "summary.txt").read_text()
    start = json.loads((folder / "requests.jsonl").read_text().splitlines()[0])["t_start"]
    down = re.search(r"^ *([0-9.]+) HAPROXY Server fe9002/node2 is DOWN", log, re.MULTILINE)
    up = re.search(r"^ *([0-9.]+) HAPROXY Server fe9002/node2 is UP", log, re.MULTILINE)
    assert down
    assert up
    (outage,) = node(health, "node2").outages
    spacing = 0.2  # clients come every 50 ms and take turns between two nodes
    assert outage.last_connection is not None
    assert 0 <= float(down[1]) - (outage.last_connection - start) < spacing
    assert outage.resumed is not None
    assert 0 <= (outage.resumed - start) - float(up[1]) < spacing


def test_the_answers_of_each_node_are_those_of_its_own_record(folder: Path, health: Health) -> None:
    for name in ("node1", "node2", "node3"):
        lines = (folder / f"healthcheck-{name}.jsonl").read_text().splitlines()
        recorded = [json.loads(line) for line in lines]
        changes = [new["t"] for old, new in pairwise(recorded) if old["status"] != new["status"]]
        seen = [
            edge for outage in node(health, name).outages for edge in (outage.first, outage.until) if edge
        ]
        if not changes:
            assert set(node(health, name).answers) == {str(recorded[0]["status"])}
        else:
            # Both asked every half second at most, each by a clock of its own.
            assert seen == pytest.approx(changes, abs=0.5)


def test_who_checks_how_often(folder: Path, health: Health) -> None:
    backends = (folder / "haproxy.log").read_text()
    assert "fe9002" in backends
    right = next(each for each in health.checkers if each.port == 32190)
    assert (right.address, right.request, right.balancer) == ("172.30.0.150", "GET /", True)
    assert right.nodes == ("node1", "node2", "node3")
    assert right.interval == pytest.approx(2.0, abs=0.05)  # HAProxy's default `inter`


def test_the_findings_tell_the_lag_and_that_an_idle_node_was_left_alone(report: Report) -> None:
    codes = {finding.code for finding in report.findings if finding.code.startswith("SIP6")}
    assert codes == {"SIP607", "SIP609"}


def test_an_endpoint_that_ends_is_no_server_that_refuses_the_header(report: Report) -> None:
    assert not any(finding.severity == "error" for finding in report.findings)


def test_without_the_balancers_front_attempts_are_counted_and_clients_are_not(folder: Path) -> None:
    health = report_of(folder, tuple(f"node{n}-eth0" for n in (1, 2, 3))).health
    assert health is not None
    assert (health.clients, health.lost) == (None, None)
    assert any("clients are not counted" in reason for reason in health.reasons)
    assert node(health, "node2").failed > 65


def test_the_balancers_own_tap_is_enough(folder: Path, truth: list[dict[str, Any]]) -> None:
    health = report_of(folder, ("lb-eth0",)).health
    assert health is not None
    assert health.lost == sum(each["outcome"] != "ok" for each in truth)
    (outage,) = node(health, "node2").outages
    assert outage.lost == 65


def test_a_watch_of_endpoints_takes_its_place_in_the_timeline(folder: Path) -> None:
    facts = facts_from_objects(json.loads((folder / "objects-before.json").read_text()))
    changes = read_changes(folder / "endpointslices.jsonl")
    report = analyze(recording_of(folder, ("lb-eth0",)), facts, service=SERVICE, changes=changes)
    assert report.health is not None
    told = [(event.node, event.text) for event in report.health.timeline if event.kind == "endpoints"]
    # summary.txt has these lines as EPSLICE; the other Services' endpoints are not told here.
    assert told == [
        ("node2", "1 ready endpoint"),
        ("node3", "1 ready endpoint"),
        ("node2", "0 ready endpoints, 1 terminating and still serving"),
        ("node2", "0 ready endpoints"),
        ("node3", "2 ready endpoints"),
        ("node3", "1 ready endpoint, 1 terminating and still serving"),
        ("node3", "1 ready endpoint"),
        ("node2", "1 ready endpoint"),
    ]
