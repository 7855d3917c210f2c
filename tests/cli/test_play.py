"""The commands that play the lab, end to end: real packets, real NAT, and what a person is shown of them."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.helpers import Ending, ended, start
from tests.lab.here import why_not

pytestmark = [pytest.mark.lab, pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")]


def run(*arguments: str | Path) -> Ending:
    """Run a command to its end."""
    return ended(start(*arguments))


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_the_demo_loses_the_address_and_keeps_it(mode: str) -> None:
    ending = run("demo", "--proxy-mode", mode)
    assert ending.code == 0, ending.err
    words = " ".join(ending.out.split())
    told = [
        "Where does the client's IP address get lost?",
        'called 172.30.0.11:30080: "you are 172.30.0.11"',
        "× LOST all 3 connections to default/web lost the client's address",
        "source replaced: kube-proxy masquerade",
        "Who node1, kube-proxy masquerade (externalTrafficPolicy: Cluster): 172.30.0.101:",
        "Fix Set spec.externalTrafficPolicy: Local",
        'called 172.30.0.11:30080: "you are 172.30.0.101"',
        "✓ PRESERVED all 3 connections to default/web kept the client's address",
        "sees 172.30.0.101: the client's own address",
        "probe lab list",
    ]
    positions = [words.find(part) for part in told]
    assert -1 not in positions, [part for part, position in zip(told, positions, strict=True) if position < 0]
    assert positions == sorted(positions), "the story is told in another order"
    assert "complete" in words
    assert "Traceback" not in ending.err


def test_one_scenario_as_json_is_the_report_alone_and_exits_with_its_code() -> None:
    ending = run("demo", "--scenario", "cluster-remote", "-o", "json")
    assert ending.code == 3
    report = ending.json
    assert report["capture"]["complete"] is True
    assert report["summary"]["lost"] == report["summary"]["crossNode"] == 3
    assert {journey["seenByApp"] for journey in report["journeys"]} == {"172.30.0.11"}
    assert {snat["node"] for journey in report["journeys"] for snat in journey["snat"]} == {"node1"}
    assert "sending 3 requests" in ending.err, "progress is told, on stderr"


def test_a_preserved_scenario_exits_with_0() -> None:
    assert run("capture", "--lab", "local-preserved", "-o", "jsonl").code == 0


def test_a_recorded_capture_is_judged_the_same_later(tmp_path: Path) -> None:
    live = run("capture", "--lab", "cluster-same-node", "--record", tmp_path / "s", "-o", "json")
    assert live.code == 3
    later = ended(start("analyze", tmp_path / "s", "-o", "json"))
    assert later.code == 3
    assert later.json == live.json
    session = json.loads((tmp_path / "s" / "session.json").read_text())
    assert session["complete"] is True
    assert session["scenario"] == "cluster-same-node"
    answers = [answer["result"]["seen"] for answer in session["answers"]]
    assert answers == ["10.244.1.1"] * 3, "what the application itself answered is kept as truth"


def test_lab_run_holds_a_scenario_against_its_expectation() -> None:
    ending = run("lab", "run", "local-no-endpoint", "--proxy-mode", "nftables")
    assert (ending.code, ending.out) == (0, "✓  local-no-endpoint, nftables: 3 requests, all as expected\n")


def test_lab_run_says_what_is_not_as_expected(tmp_path: Path) -> None:
    scenario = tmp_path / "wrong.toml"
    scenario.write_text(
        """
        title = "An expectation that cannot be met"
        story = "The endpoint is on the node that is called, under policy Local."
        service = { type = "LoadBalancer", external_policy = "Local" }
        pods = [{ name = "web-1", node = "node1" }]
        [[requests]]
        to = "node1"
        count = 1
        expect = { verdict = "lost", seen = "node:node1", snat = "node1" }
        """
    )
    ending = run("lab", "run", scenario)
    assert ending.code == 1
    words = " ".join(ending.out.split())
    assert "wrong, iptables: 1 request, not as expected" in words
    assert "the verdict is preserved" in words
    assert "expected lost" in words
    assert "the application saw 172.30.0.101, expected 172.30.0.11" in words
    assert "the source was replaced at no place, expected node1" in words


def wait_for(process: subprocess.Popen[bytes], words: bytes) -> None:
    """Wait until the process tells of its progress with these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"it ended without a word of {words!r}")


def test_ctrl_c_ends_the_capture_and_reports() -> None:
    process = start("capture", "--lab", "cluster-remote", "--duration", "600", "-o", "json")
    wait_for(process, b"watching for 600 s more")
    process.send_signal(signal.SIGINT)
    ending = ended(process)
    assert ending.code == 3
    assert ending.json["summary"]["lost"] == 3
    assert ending.json["capture"]["complete"] is True


def test_ctrl_c_while_the_lab_is_built_is_130_and_says_nothing() -> None:
    process = start("demo")
    wait_for(process, b"links, addresses and routes")
    process.send_signal(signal.SIGINT)
    ending = ended(process)
    assert ending.code == 130
    assert "Traceback" not in ending.err
    assert "defect" not in ending.err


def test_a_shell_in_the_lab() -> None:
    process = start("lab", "shell", "cluster-remote", "node2", stdin=subprocess.PIPE)
    out, err = process.communicate(
        b"echo $PROBE_LAB_PLACE; cat /sys/class/net/cni0/address; exit 7\n", timeout=60
    )
    assert process.returncode == 7, err
    assert out.startswith(b"node2\n")
