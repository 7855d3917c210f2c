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
        "capture", "svc/web", "--duration", "60s", "--record", tmp_path / "session", "-o", "json"
    )
    running.until("watching for")
    answers = stage.lab.send()
    assert not any(answer.wrong for answer in answers)
    running.until(f"{len(answers)} connections")
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
    session = json.loads((tmp_path / "session" / "session.json").read_text())
    assert set(session["clocks"]) == {"node1", "node2", "node3"}


def test_real_agents_end_when_whoever_started_them_is_killed(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("cluster-remote")
    running = stage.start("capture", "svc/web", "--duration", "60s")
    running.until("watching for")
    running.interrupt(signal.SIGKILL)
    running.ending()
    for command in stage.double.server.commands.values():
        assert stage.double.wait_for(command) == 0


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
