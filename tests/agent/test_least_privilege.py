"""The agent's four capabilities are enough, and each is needed: without it something is missing, and is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from daemonset.observation import Bye, Gap, Hello, TapKind, Taps
from daemonset.wire import Reader
from probe.lab import PIPE, Lab, load_scenario
from tests.lab.here import why_not

pytestmark = pytest.mark.lab

#: As the DaemonSet's container has them (daemonset/manifests).
FOUR = ("net_raw", "net_admin", "sys_admin", "sys_ptrace")


class Said(NamedTuple):
    """What an agent said in its stream and beside it."""

    code: int
    taps: set[TapKind]
    gaps: dict[str, str]
    features: dict[str, str]
    ended: bool
    err: str


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if reason := why_not():
        pytest.skip(reason)
    with Lab.start(load_scenario("proxy-v2-ok")) as lab:
        yield lab


def agent(lab: Lab, *without: str) -> Said:
    """An agent on a node, with the four capabilities but for these, none to inherit and no way to get more."""
    kept = ",".join(f"+{each}" for each in FOUR if each not in without)
    bounds = ["setpriv", "--bounding-set", f"-all,{kept}", "--inh-caps", "-all", "--no-new-privs"]
    command = [
        sys.executable,
        "-m",
        "daemonset.agent",
        "--node",
        "node2",
        "--port",
        "80",
        "--duration",
        "0.5",
    ]
    process = lab.spawn("node2", [*bounds, *command], stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        frames = Reader().feed(process.stdout.read())
        err = process.stderr.read().decode()
    hello = next((frame for frame in frames if isinstance(frame, Hello)), None)
    return Said(
        code=process.wait(),
        taps={tap.kind for frame in frames if isinstance(frame, Taps) for tap in frame.taps},
        gaps={frame.what: frame.detail for frame in frames if isinstance(frame, Gap)},
        features=hello.features if hello is not None else {},
        ended=any(isinstance(frame, Bye) for frame in frames),
        err=err,
    )


def test_the_four_are_enough(lab: Lab) -> None:
    said = agent(lab)
    assert (said.code, said.ended, said.gaps, said.err) == (0, True, {}, "")
    assert said.taps == {TapKind.NIC, TapKind.BRIDGE, TapKind.VETH, TapKind.POD}
    assert said.features["conntrack"] == "events"


def test_without_net_raw_there_is_no_capture_and_one_line(lab: Lab) -> None:
    said = agent(lab, "net_raw")
    assert (said.code, said.taps) == (5, set())
    assert said.err.count("\n") == 1
    assert "NET_RAW" in said.err


def test_without_net_admin_the_kernels_records_are_a_gap(lab: Lab) -> None:
    said = agent(lab, "net_admin")
    assert (said.code, said.ended) == (0, True)
    assert TapKind.POD in said.taps
    assert "NET_ADMIN" in said.gaps["conntrack"]


def test_without_sys_admin_pods_are_not_entered(lab: Lab) -> None:
    said = agent(lab, "sys_admin")
    assert (said.code, said.ended) == (0, True)
    assert said.taps == {TapKind.NIC, TapKind.BRIDGE, TapKind.VETH}
    assert "not entered" in said.gaps["namespace"]


def test_without_sys_ptrace_namespaces_of_other_processes_are_not_found(lab: Lab) -> None:
    said = agent(lab, "sys_ptrace")
    assert (said.code, said.ended) == (0, True)
    assert "do not let us see which network namespace" in said.gaps["namespaces"]
