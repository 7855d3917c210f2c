"""The live view of a capture on a cluster: nodes that are watched, one that is not, and nothing left behind."""

from __future__ import annotations

import re
import signal

from tests.cli.terminal import Grid, OnTerminal
from tests.cluster.conftest import Stage


def test_it_shows_the_nodes_and_leaves_the_report_alone(stage: Stage) -> None:
    stage.faults.pods = {"node2": "unschedulable"}
    running = OnTerminal(
        "capture",
        "svc/web",
        "--duration",
        "60s",
        "--wait",
        "3s",
        "--kubeconfig",
        stage.kubeconfig,
        columns=100,
    )
    running.until("watching for")
    running.process.send_signal(signal.SIGINT)
    code, written = running.ending()
    assert code == 4
    shown = re.sub(r"\x1b\[[0-9;]*m", "", written)
    assert "node1     1" in shown, "its tap"
    assert "node2  × " in shown
    assert "1 place not watched" in shown
    left = Grid().feed(written).text
    assert "\n· no agent on node2: " in left, "what is noted stays"
    assert "TAPS" not in left
    assert "INCONCLUSIVE" in left
    assert stage.double.left() == []


def test_sigterm_takes_the_view_away_too(stage: Stage) -> None:
    running = OnTerminal("capture", "svc/web", "--duration", "60s", "--kubeconfig", stage.kubeconfig)
    running.until("watching for")
    running.process.send_signal(signal.SIGTERM)
    code, written = running.ending()
    assert code == 130
    left = [line for line in Grid().feed(written).text.splitlines() if line.strip()]
    assert all(line.startswith("· who") for line in left), "only what was noted before stays"
    assert stage.double.left() == []


def test_an_error_stands_alone_on_the_terminal(stage: Stage) -> None:
    running = OnTerminal("capture", "svc/absent", "--kubeconfig", stage.kubeconfig, columns=200)
    code, written = running.ending()
    assert code == 5
    assert Grid().feed(written).text.startswith("probe: ")
