"""`probe health --lab`: ports asked for real, from nodes' namespaces and from outside, and what came of the traffic."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from probe.lab import Scenario, list_scenarios, load_scenario

pytestmark = pytest.mark.lab

PORT, HEALTHZ = 32100, 10256

#: What asking finds where a scenario's health ports are not as they must be, whatever packets show besides.
ASKED = {"hc-lies": "SIP601", "hc-never": "SIP602", "hc-failing": "SIP603", "hc-body-only": "SIP608"}

ALL = sorted(name for name in list_scenarios() if name.startswith("hc-"))


def health(*arguments: str, python: list[str] | None = None) -> tuple[int, dict[str, Any]]:
    command = [*(python or [sys.executable]), "-m", "probe", "health", "-o", "json", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, cwd="/" if python else None)
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def expected(scenario: Scenario, node: str) -> tuple[str, int | None, int | None]:
    """Outcome, status and count of a node's own port, as the scenario is built."""
    endpoints = sum(
        pod.node == node and pod.ready and not pod.terminating and pod.role in {"echo", "ingress"}
        for pod in scenario.pods
    )
    odd = {port.node: port for port in scenario.health_ports}.get(node)
    if odd is not None and not odd.served:
        return "refused", None, None
    status = (odd.status if odd is not None else None) or (200 if endpoints else 503)
    count = odd.local_endpoints if odd is not None and odd.local_endpoints is not None else endpoints
    return "answered", status, count


def check(name: str, code: int, report: dict[str, Any]) -> None:
    scenario = load_scenario(name)
    assert scenario.health_expect is not None
    nodes = {each["node"]: each for each in report["asking"]["nodes"]}
    assert set(nodes) == {f"node{number + 1}" for number in range(scenario.cluster.nodes)}
    for node, told in nodes.items():
        own = {each["askedFrom"]: each for each in told["replies"] if each["port"] == PORT}
        assert set(own) == {"itself", "peer", "operator"}
        assert own["itself"]["asker"] == node
        assert own["operator"]["asker"] == "client1"
        for each in own.values():
            assert (each["outcome"], each["status"], each["localEndpoints"]) == expected(scenario, node)
        general = [each for each in told["replies"] if each["port"] == HEALTHZ]
        assert [(each["status"], each["nodeEligible"]) for each in general] == [(200, True)] * 3
        assert (told["standing"] == "wrong") is (name in ASKED and node == "node1")
    found = {each["code"] for each in report["findings"]}
    wanted = {*scenario.health_expect.findings, *([ASKED[name]] if name in ASKED else [])}
    wanted |= set() if wanted - {"SIP609", "SIP610"} else {"SIP618"}
    assert found == wanted
    assert (report["health"]["lost"], report["health"]["saved"]) == (
        scenario.health_expect.lost,
        scenario.health_expect.saved,
    )
    assert {each["address"] for each in report["health"]["checkers"]} == {"172.30.0.150"}, (
        "what we asked is ours"
    )
    assert code == (
        3 if found & {"SIP601", "SIP602", "SIP603", "SIP604", "SIP605", "SIP606", "SIP608"} else 0
    )


@pytest.mark.parametrize("name", ALL)
def test_every_scenario_is_asked_and_watched(name: str) -> None:
    check(name, *health("--lab", name))


@pytest.mark.parametrize("name", ["hc-ok", "hc-lies"])
def test_without_privileges(name: str, as_nobody: list[str]) -> None:
    check(name, *health("--lab", name, "--proxy-mode", "nftables", python=as_nobody))


def test_nodes_own_health_under_policy_cluster() -> None:
    code, report = health("--lab", "cluster-remote")
    assert code == 0
    assert [finding["code"] for finding in report["findings"]] == ["SIP618"]
    assert {each["port"] for node in report["asking"]["nodes"] for each in node["replies"]} == {HEALTHZ}


@pytest.mark.parametrize("name", ["hc-lag", "hc-draining", "hc-ignored"])
def test_a_watch_through_an_endpoints_end(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.health_expect is not None
    code, report = health("--lab", name, "--watch")
    told = report["health"]
    assert {each["code"] for each in report["findings"]} == set(scenario.health_expect.findings)
    assert (told["lost"], told["saved"]) == (scenario.health_expect.lost, scenario.health_expect.saved)
    assert code == (3 if name == "hc-ignored" else 0)
    (outage,) = next(node for node in told["nodes"] if node["node"] == "node1")["outages"]
    assert outage["endpointsGone"] <= outage["first"] <= outage["lastConnection"]
    assert outage["stopped"] is (name != "hc-ignored")
    events = [(each["kind"], each["text"]) for each in told["timeline"] if each["node"] == "node1"]
    gone = "0 ready endpoints" + (", 1 terminating and still serving" if name == "hc-draining" else "")
    order = [
        ("answer", "health check: 200, 1 local endpoint"),
        ("endpoints", gone),
        ("answer", "health check: 503, 0 local endpoints"),
    ]
    assert [event for event in events if event in order] == order
    assert events[-1][0] == "last"
    assert {each["address"] for each in told["checkers"]} == {"172.30.0.150"}
    idle = next(node for node in told["nodes"] if node["node"] == "node3")
    assert list(idle["answers"]) == ["503"], "no balancer asks there; its own agent does"
    assert idle["connections"] == 0


def test_ctrl_c_ends_a_watch_with_what_is_known_so_far(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "probe", "health", "-o", "json", "--lab", "hc-draining", "--watch"]
    command += ["--duration", "600s", "--record", str(tmp_path / "session")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        words = []
        for line in running.stderr:
            words.append(line.decode())
            if "watching for 600 s more" in words[-1]:
                break
        running.send_signal(signal.SIGINT)
        report = json.loads(running.stdout.read())
    assert running.returncode == 0
    assert (report["health"]["saved"], report["health"]["lost"]) == (4, 0)
    assert any("node1  0 ready endpoints, 1 terminating" in word for word in words)
    assert any("node1  health check: 503" in word for word in words)
    code, later = health(str(tmp_path / "session"))
    assert code == 0
    assert later["health"] == report["health"], "the folder says the same"
