"""The whole way with real agents: command → API → exec stream → agent in a node's namespace → verdict."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.helpers import ended, start
from tests.cluster.conftest import Stage

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    ("scenario", "code", "verdict"), [("cluster-remote", 3, "lost"), ("local-preserved", 0, "preserved")]
)
def test_a_capture_on_a_cluster_judges_as_the_lab_does(
    lab_stage: Callable[[str], Stage], tmp_path: Path, scenario: str, code: int, verdict: str
) -> None:
    stage = lab_stage(scenario)
    running = stage.start(
        "capture", "svc/web", "--duration", "60s", "--record", tmp_path / "session", "-o", "json",
        "-w", tmp_path / "all.pcapng",
    )  # fmt: skip
    running.until("watching for")
    answers = stage.lab.send()
    assert not any(answer.wrong for answer in answers)
    running.until(f"{len(answers)} connections")
    told = running.until("so far: ", f"{len(answers)} {verdict}")
    assert verdict != "lost" or "(node1, kube-proxy masquerade)" in told
    running.interrupt()
    ending = running.ending()
    assert ending.code == code, ending.err
    report = ending.json
    assert report["capture"] == {**report["capture"], "complete": True, "reasons": []}
    assert {journey["verdict"] for journey in report["journeys"]} == {verdict}
    assert len(report["journeys"]) == len(answers)
    assert stage.double.left() == [], "something is left on the cluster"
    later = ended(start("analyze", tmp_path / "session", "-o", "json"))
    assert later.json == report, "the recording is judged as the capture was"
    packets = (tmp_path / "all.pcapng").read_bytes()
    for journey in report["journeys"]:
        assert packets.count(f"journey {journey['id']}: {verdict}".encode()) > 10
    session = json.loads((tmp_path / "session" / "session.json").read_text())
    assert set(session["clocks"]) == {"node1", "node2", "node3"}


def test_a_sample_of_one_client_is_the_same_on_all_nodes_and_judged_as_the_whole(
    lab_stage: Callable[[str], Stage], tmp_path: Path
) -> None:
    stage = lab_stage("cluster-remote")
    running = stage.start(
        "capture", "svc/web", "--sample", "1/2", "--from-ip", "172.30.0.0/16", "--duration", "60s",
        "--record", tmp_path / "session", "-o", "json",
    )  # fmt: skip
    running.until("watching for")
    rounds = 8
    answers = [answer for _ in range(rounds) for answer in stage.lab.send()]
    running.until("connections", "packets")
    running.interrupt()
    ending = running.ending()
    report = ending.json
    assert report["capture"]["sample"] == 2
    assert report["capture"]["clients"] == ["172.30.0.0/16"]
    assert report["capture"]["complete"] is True, report["capture"]["reasons"]
    journeys = report["journeys"]
    assert len(journeys) < len(answers), "about half of them; that it is all has a chance of one in 2^24"
    sockets = {(answer.result.source, answer.result.source_port) for answer in answers}
    ways = {tuple((hop["node"], hop["point"], hop["interface"]) for hop in each["hops"]) for each in journeys}
    for journey in journeys:
        assert (journey["client"]["address"], journey["client"]["port"]) in sockets
        assert (journey["verdict"], journey["answered"], journey["requests"]) == ("lost", True, 1)
    assert len(ways) <= 1, "none of them is seen in part"
    later = ended(start("analyze", tmp_path / "session", "-o", "json"))
    assert later.json == report
    others = ended(start("analyze", tmp_path / "session", "--from-ip", "192.0.2.0/24", "-o", "json"))
    assert (others.code, others.json["summary"]["journeys"]) == (4, 0)
    assert others.json["capture"]["otherClients"] == len(journeys)


def test_the_kernels_of_a_cluster_name_the_rules(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("cluster-remote")
    running = stage.start("capture", "svc/web", "--duration", "60s", "--trace-rules", "-o", "json")
    running.until("watching for")
    answers = stage.lab.send()
    running.until(f"{len(answers)} connections")
    running.interrupt()
    ending = running.ending()
    assert ending.code == 3, ending.err
    rules = [snat["rule"] for journey in ending.json["journeys"] for snat in journey["snat"]]
    assert len(rules) == len(answers)
    assert all("chain KUBE-POSTROUTING handle" in rule for rule in rules)
    assert all("marked by table ip nat chain KUBE-EXT-" in rule for rule in rules)
    assert "SIP423" not in {finding["code"] for finding in ending.json["findings"]}


def test_real_agents_end_when_whoever_started_them_is_killed(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("cluster-remote")
    running = stage.start("capture", "svc/web", "--duration", "60s")
    running.until("watching for")
    running.interrupt(signal.SIGKILL)
    running.ending()
    for command in stage.double.server.commands.values():
        assert stage.double.wait_for(command) == 0


def test_an_operator_that_sleeps_and_wakes_up_says_that_its_agents_have_ended(
    lab_stage: Callable[[str], Stage],
) -> None:
    stage = lab_stage("cluster-remote")
    running = stage.start("capture", "svc/web", "--duration", "60s", "-o", "json")
    running.until("watching for")
    running.interrupt(signal.SIGSTOP)  # as a lid that is closed
    for command in list(stage.double.server.commands.values()):
        assert stage.double.wait_for(command) == 0, "agents end by themselves within 30 s"
    running.interrupt(signal.SIGCONT)
    running.interrupt()
    ending = running.ending()
    assert ending.code == 4, ending.err
    reasons = " | ".join(ending.json["capture"]["reasons"])
    for node in ("node1", "node2", "node3"):
        assert f"{node}: the agent ended before the capture did: lifeline silent" in reasons
    assert stage.double.left() == []


def test_an_operator_that_sleeps_for_a_while_has_missed_nothing(
    lab_stage: Callable[[str], Stage], tmp_path: Path
) -> None:
    stage = lab_stage("cluster-remote")
    running = stage.start(
        "capture", "svc/web", "--duration", "60s", "--record", tmp_path / "session", "-o", "json"
    )
    running.until("watching for")
    running.interrupt(signal.SIGSTOP)  # as a lid that is closed, and opened before agents miss anybody
    answers = stage.lab.send()
    running.interrupt(signal.SIGCONT)
    running.until(f"{len(answers)} connections")
    running.interrupt()
    ending = running.ending()
    assert ending.code == 3, ending.err
    report = ending.json
    assert report["capture"] == {**report["capture"], "complete": True, "reasons": []}
    assert [journey["verdict"] for journey in report["journeys"]] == ["lost"] * len(answers)
    clocks = json.loads((tmp_path / "session" / "session.json").read_text())["clocks"]
    for node, clock in clocks.items():
        assert clock["least"] <= 0 <= clock["most"], f"{node} has our clock, whatever answers waited for"
        assert not clock.get("wasSet")
    assert stage.double.left() == []


def test_a_real_agent_that_is_killed_makes_the_capture_incomplete(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("cluster-remote")
    running = stage.start("capture", "svc/web", "--duration", "60s", "-o", "json")
    running.until("watching for")
    stage.double.kill("node2")
    answers = stage.lab.send()
    assert len(answers) == 3
    running.until("connections")
    running.interrupt()
    ending = running.ending()
    assert ending.code in {3, 4}, ending.err
    report = ending.json
    assert report["capture"]["complete"] is False
    assert any("node2: the agent ended with code 137" in reason for reason in report["capture"]["reasons"])
    assert "preserved" not in {journey["verdict"] for journey in report["journeys"]}
