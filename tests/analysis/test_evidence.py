"""Captures of a real Kubernetes: the verdict is what the endpoint itself answered."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from analysis.analyze import analyze
from analysis.ingress import IngressRecord
from analysis.report import Report, Verdict
from probe.ingress import read_ingress
from probe.objects import facts_from_objects
from tests.analysis.captures import load_flow

PLAIN = "kubernetes-1.36-iptables"
FLOWS = {
    # flow: node that was asked
    "cluster-nodeport-via-node1": "node1",
    "cluster-nodeport-via-node2": "node2",
    "cluster-vip-via-node1": "node1",
    "local-nodeport-via-node1": "node1",
    "local-nodeport-via-node2": "node2",
}


@dataclass(frozen=True)
class Answer:
    """What one request got: the address that the endpoint saw, or None where nothing came back."""

    address: str | None
    port: int | None


def told(folder: Path, flow: str) -> list[Answer]:
    """The endpoint's own answers, out of results.txt."""
    answers: list[Answer] = []
    here = False
    for line in (folder / "results.txt").read_text().splitlines():
        if line.startswith("== "):
            here = line.startswith(f"== {flow}:")
        elif here:
            found = re.match(r"(\S+):(\d+) \[http 200", line)
            answers.append(Answer(found[1], int(found[2])) if found else Answer(None, None))
    return answers


@pytest.fixture(params=sorted(FLOWS))
def flow(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def report(evidence: Path, flow: str) -> Report:
    objects = json.loads((evidence / PLAIN / "objects.json").read_text())
    return analyze(load_flow(evidence / PLAIN / flow), facts_from_objects(objects))


def test_the_journeys_are_exactly_the_clients_three(report: Report) -> None:
    assert len(report.journeys) == 3
    assert {journey.client.address for journey in report.journeys if journey.client} == {"172.30.0.101"}


def test_each_verdict_is_what_the_endpoint_answered(evidence: Path, report: Report, flow: str) -> None:
    for journey, answer in zip(report.journeys, told(evidence / PLAIN, flow), strict=True):
        assert journey.client is not None
        assert journey.seen_by_app == answer.address
        if answer.address is None:
            assert journey.verdict is Verdict.BLACKHOLED
        elif answer.address == journey.client.address:
            assert journey.verdict is Verdict.PRESERVED
            assert journey.snat == ()
        else:
            assert journey.verdict is Verdict.LOST
            [snat] = journey.snat
            assert snat.to == f"{answer.address}:{answer.port}"
            assert snat.node == FLOWS[flow]
            assert "kube-proxy masquerade" in snat.mechanism


def test_a_node_is_crossed_exactly_where_the_endpoint_is_on_another(report: Report, flow: str) -> None:
    for journey in report.journeys:
        if journey.endpoint is None:
            assert journey.cross_node is None
            continue
        home = {"10.244.2.3": "node2", "10.244.3.3": "node3"}[journey.hops[-1].destination.rpartition(":")[0]]
        crossed = (
            (journey.cross_node.from_, journey.cross_node.to, journey.cross_node.via)
            if journey.cross_node
            else None
        )
        assert crossed == (None if home == FLOWS[flow] else (FLOWS[flow], home, "routed"))


def test_the_whole_path_is_told(report: Report) -> None:
    for journey in report.journeys:
        points = [hop.point for hop in journey.hops]
        assert points[:2] == ["client", "nic"]
        if journey.verdict is not Verdict.BLACKHOLED:
            assert "dnat" in points
            assert points[-1] == "pod"


PROXIED = "kubernetes-1.36-proxy-iptables"


Requests = list[dict[str, object]]


def proxied(evidence: Path, flow: str, *, words: bool = False) -> tuple[Report, Requests]:
    """The report of a flow, from packets alone or with nginx's configuration and the servers' logs; and the truth."""
    folder = evidence / PROXIED
    objects = json.loads((folder / "objects.json").read_text())
    recording = load_flow(folder / flow)
    truth = json.loads((folder / flow / "truth.json").read_text())
    logs = [path for path in sorted((folder / flow).glob("log-*.txt")) if path.stat().st_size]
    given = read_ingress([folder / "nginx.conf"], logs) if words else IngressRecord()
    return analyze(recording, facts_from_objects(objects), ingress=given), truth


def findings(report: Report) -> dict[str, str]:
    """Codes and how sure each is."""
    return {finding.code: finding.confidence for finding in report.findings}


@pytest.mark.parametrize("words", [False, True], ids=["packets", "with words"])
@pytest.mark.parametrize(
    "flow", ["lb-9001-plain", "lb-9002-v2", "lb-9004-v2-to-plain", "lb-9005-none-to-proxy"]
)
def test_each_request_through_the_balancer_has_its_client_and_its_fate(
    evidence: Path, flow: str, words: bool
) -> None:
    report, truth = proxied(evidence, flow, words=words)
    for journey, request in zip(report.journeys, truth, strict=True):
        assert journey.client is not None
        assert (journey.client.address, journey.client.port) == (request["client_ip"], request["client_port"])
        answer = request["app_answer"]
        saw = answer["client_host"] if isinstance(answer, dict) else None
        assert journey.seen_by_app == saw
        if saw is None:
            assert journey.verdict is not Verdict.PRESERVED
        else:
            assert (journey.verdict is Verdict.PRESERVED) is (saw == request["client_ip"])
        assert len({hop.leg for hop in journey.hops}) == (3 if saw else 2)
        if flow == "lb-9002-v2":
            assert "tied by PROXY header" in {hop.note for hop in journey.hops}


@pytest.mark.parametrize("flow", ["lb-9005-none-to-proxy", "hairpin-pod-node1-to-clustervip-proxy"])
def test_a_header_that_is_missing_is_named_and_sure_once_the_server_says_so(
    evidence: Path, flow: str
) -> None:
    report, truth = proxied(evidence, flow)
    assert [request["status"] for request in truth] == [0, 0, 0]
    assert all("SIP307" in journey.findings and journey.seen_by_app is None for journey in report.journeys)
    assert findings(report)["SIP307"] == "medium"
    told, _ = proxied(evidence, flow, words=True)
    assert findings(told)["SIP307"] == "high"


def test_a_header_that_nobody_expects_is_sure_once_the_server_says_so(evidence: Path) -> None:
    report, _ = proxied(evidence, "lb-9004-v2-to-plain")
    assert findings(report) == {"SIP302": "medium"}
    told, _ = proxied(evidence, "lb-9004-v2-to-plain", words=True)
    assert findings(told) == {"SIP302": "high"}


@pytest.mark.parametrize("flow", ["lb-9001-plain", "lb-9002-v2"])
def test_what_the_configuration_makes_of_a_request_is_what_the_server_said(evidence: Path, flow: str) -> None:
    report, truth = proxied(evidence, flow, words=True)
    for journey, request in zip(report.journeys, truth, strict=True):
        answer = request["app_answer"]
        assert isinstance(answer, dict)
        assert [(entry.client, entry.agrees) for entry in journey.resolved] == [(answer["client_host"], True)]


def test_a_balancer_without_a_header_loses_the_client_at_the_balancer(evidence: Path) -> None:
    report, truth = proxied(evidence, "lb-9001-plain")
    for journey, request in zip(report.journeys, truth, strict=True):
        assert journey.client is not None
        assert (journey.client.address, journey.client.port) == (request["client_ip"], request["client_port"])
        assert journey.verdict is Verdict.LOST
        assert "SIP104" in journey.findings
        assert journey.snat[0].node == "lb"


def test_a_header_that_the_server_takes_preserves_the_client(evidence: Path) -> None:
    report, truth = proxied(evidence, "lb-9002-v2")
    for journey, request in zip(report.journeys, truth, strict=True):
        answer = request["app_answer"]
        assert isinstance(answer, dict)
        assert journey.verdict is Verdict.PRESERVED
        assert journey.seen_by_app == answer["client_host"]
        assert journey.proxy_protocol is not None
        assert journey.proxy_protocol.source == f"{request['client_ip']}:{request['client_port']}"


def test_a_header_that_the_server_refuses_is_no_preserved_client(evidence: Path) -> None:
    report, truth = proxied(evidence, "lb-9004-v2-to-plain")
    assert [request["status"] for request in truth] == [400, 400, 400]
    for journey in report.journeys:
        assert journey.verdict is Verdict.INCONCLUSIVE
        assert "SIP302" in journey.findings


def test_a_pod_that_asks_the_balancers_address_is_short_circuited(evidence: Path) -> None:
    report, truth = proxied(evidence, "hairpin-pod-node1-to-clustervip-proxy")
    assert len(report.journeys) == len(truth)
    for journey in report.journeys:
        assert "SIP402" in journey.findings
        assert journey.proxy_protocol is None
        assert journey.client is not None
        assert journey.client.address == "10.244.1.3"


def test_every_request_that_succeeded_during_a_rollout_is_preserved_and_no_failed_one_is(
    evidence: Path,
) -> None:
    report, _ = proxied(evidence, "rollout")
    lines = (evidence / PROXIED / "rollout" / "requests.jsonl").read_text().splitlines()
    requests = {("172.30.0.101", r["local_port"]): r for r in map(json.loads, lines)}
    judged = {(j.client.address, j.client.port): j for j in report.journeys if j.client}
    succeeded = {key for key, request in requests.items() if request["status"] == 200}
    preserved = {key for key, journey in judged.items() if journey.verdict is Verdict.PRESERVED}
    assert preserved == succeeded
    assert not any(journey.verdict is Verdict.LOST for journey in report.journeys)
