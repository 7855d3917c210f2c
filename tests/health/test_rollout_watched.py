"""The rollout of a real Kubernetes once more, with two more witnesses that were recorded beside the captures.

They are what each node's port answered twice a second, and a watch of the slices. What became of requests must not
change by them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.analyze import analyze
from analysis.health.own import OwnChecks
from analysis.health.result import Health, Outage
from analysis.report import Report
from daemonset.node.health_port import Answered
from daemonset.observation import HealthAnswer
from probe.health.answers import Answers
from probe.health.endpoint_changes import read_changes
from probe.objects import facts_from_objects
from tests.health.test_rollout import ALL, SERVICE, recording_of

PORT = 32190
NODES = ("node1", "node2", "node3")


def recorded(folder: Path, node: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"healthcheck-{node}.jsonl").read_text().splitlines()]


def own_checks(folder: Path) -> OwnChecks:
    """The record of a node's port, taken as an agent there would have brought it."""
    answers = Answers()
    for node in NODES:
        for each in recorded(folder, node):
            body, weight = each["body"], int(each["headers"]["X-Load-Balancing-Endpoint-Weight"])
            said = HealthAnswer(body["localEndpoints"], body["serviceProxyHealthy"], SERVICE, weight)
            time = int(each["t"] * 1e9)
            answers.take(node, PORT, Answered(0, time, "answered", each["status"], said=said))
    return answers.so_far()


@pytest.fixture(scope="module")
def folder(evidence: Path) -> Path:
    return evidence / "kubernetes-1.36-proxy-iptables" / "rollout"


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    facts = facts_from_objects(json.loads((folder / "objects-before.json").read_text()))
    changes = read_changes(folder / "endpointslices.jsonl")
    return analyze(recording_of(folder, ALL), facts, service=SERVICE, changes=changes, own=own_checks(folder))


@pytest.fixture
def health(report: Report) -> Health:
    assert report.health is not None
    return report.health


@pytest.fixture
def outage(health: Health) -> Outage:
    (found,) = next(each for each in health.nodes if each.node == "node2").outages
    return found


def test_what_became_of_clients_is_what_their_own_record_says(folder: Path, health: Health) -> None:
    truth = json.loads((folder / "truth.json").read_text())
    failed = [each for each in truth if each["outcome"] != "ok"]
    assert (health.clients, health.lost, health.saved) == (len(truth), len(failed), 0)
    assert len(failed) == 66


def test_the_first_refusal_is_known_to_the_half_second(folder: Path, outage: Outage) -> None:
    answers = recorded(folder, "node2")
    first = next(each["t"] for each in answers if each["status"] == 503)
    last = max(each["t"] for each in answers if each["status"] == 200 and each["t"] < first)
    # Whoever asked at that time, the balancer or the recorder, is the first that was refused.
    assert last < outage.first <= first + 0.05
    assert outage.healthy_before is not None
    assert outage.first - outage.healthy_before < 0.6


def test_the_slices_tell_when_the_last_ready_endpoint_went(folder: Path, outage: Outage) -> None:
    events = [json.loads(line) for line in (folder / "endpointslices.jsonl").read_text().splitlines()]
    gone = [
        event["t"]
        for event in events
        if event["object"]["metadata"]["labels"]["kubernetes.io/service-name"] == "ingress-local"
        and not any(
            each["nodeName"] == "node2" and each["conditions"]["ready"]
            for each in event["object"]["endpoints"] or []
        )
    ]
    assert outage.endpoints_gone == pytest.approx(min(gone), abs=0.001)
    assert outage.endpoints_gone < outage.first


def test_the_balancer_is_told_only_what_it_asked(folder: Path, outage: Outage, health: Health) -> None:
    facts = facts_from_objects(json.loads((folder / "objects-before.json").read_text()))
    alone = analyze(recording_of(folder, ALL), facts, service=SERVICE).health
    assert alone is not None
    (before,) = next(each for each in alone.nodes if each.node == "node2").outages
    assert outage.answers == before.answers
    assert health.checkers == alone.checkers
    assert outage.first <= before.first, "who asks more often knows earlier"
    assert (outage.lost, outage.total_lag) == (before.lost, before.total_lag)


def test_the_findings_are_those_of_the_packets(report: Report) -> None:
    codes = {finding.code for finding in report.findings if finding.code.startswith("SIP6")}
    assert codes == {"SIP607", "SIP609"}


def test_each_change_is_told_once(folder: Path, health: Health) -> None:
    for node in NODES:
        told = [(each["status"], each["body"]["localEndpoints"]) for each in recorded(folder, node)]
        runs = [new for old, new in zip([None, *told], told, strict=False) if old != new]
        events = [each.text for each in health.timeline if each.node == node and each.kind == "answer"]
        assert len(events) == len(runs)
        for text, (status, count) in zip(events, runs, strict=True):
            status_only = (
                f"health check: {status}"  # the balancer's own checks were seen without their bodies
            )
            assert text in {status_only, f"{status_only}, {count} local endpoint{'' if count == 1 else 's'}"}
