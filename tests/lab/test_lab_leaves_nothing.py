"""Whatever ends a lab, and whenever: no process, namespace, mount or interface of it is left."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probe.lab import PIPE, Lab, LabError, load_scenario
from tests.lab.here import REPOSITORY, descendants, footprint, identity

pytestmark = pytest.mark.lab

#: A caller that builds a lab, says so line by line, and then waits to be killed.
CALLER = """
import sys, time
from probe.lab import Lab, load_scenario
tell = lambda text: print(text, flush=True)
lab = Lab.start(load_scenario("proxy-v2-ok"), sys.argv[1], tell)
lab.spawn("node1", ["sleep", "600"])
tell("ready")
time.sleep(600)
"""


def processes_of(pid: int) -> dict[int, str]:
    """A process and all below it, with their identities."""
    return {found: identity(found) for found in {pid, *descendants(pid)}}


def await_gone(processes: dict[int, str]) -> None:
    """Until none of these processes is left."""
    deadline = time.monotonic() + 20
    for pid, who in processes.items():
        while who and identity(pid) == who:
            assert time.monotonic() < deadline, f"process {pid} is still there: {who}"
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                break
            select.select([handle], [], [], 1)
            os.close(handle)


def start_caller(command: list[str], stage: int) -> subprocess.Popen[str]:
    """A caller that has told its first `stage` lines of progress; all of them with 0."""
    caller = subprocess.Popen(
        [*command, "-c", CALLER, "iptables"], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert caller.stdout is not None
    for said, line in enumerate(caller.stdout, 1):
        if line.strip() == "ready" or said == stage:
            break
    return caller


@pytest.mark.parametrize("stage", [1, 2, 3, 4, 0], ids=["namespaces", "links", "rules", "servers", "ready"])
@pytest.mark.parametrize("privilege", ["root", "nobody"])
def test_killing_the_caller_at_any_stage_leaves_nothing(
    stage: int, privilege: str, request: pytest.FixtureRequest
) -> None:
    command = [sys.executable]
    if privilege == "nobody":
        command = request.getfixturevalue("as_nobody")
    before = footprint()
    caller = start_caller(command, stage)
    processes = processes_of(caller.pid)
    assert len(processes) >= 3, "the caller, the launcher and pid 1 at least"
    caller.kill()
    caller.communicate()
    await_gone(processes)
    assert_nothing_new(before, processes)


@pytest.mark.parametrize("victim", ["launcher", "pid 1"])
def test_killing_the_labs_own_processes_leaves_nothing(victim: str) -> None:
    before = footprint()
    caller = start_caller([sys.executable], 0)
    processes = processes_of(caller.pid)
    (launcher,) = children(caller.pid)
    (first,) = children(launcher)
    os.kill(launcher if victim == "launcher" else first, signal.SIGKILL)
    await_gone({pid: who for pid, who in processes.items() if pid not in {caller.pid, launcher}})
    caller.kill()
    caller.communicate()
    await_gone(processes)
    assert_nothing_new(before, processes)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def assert_nothing_new(before: dict[str, set[str]], processes: dict[int, str]) -> None:
    """Other labs may come and go beside this one; what is asked is whether anything of ours is left.

    Interfaces and mounts of a lab never show on the host at all, so for these nothing may be new, whoever made it.
    """
    after = footprint()
    for kind in ("interfaces", "mounts", "names"):
        assert after[kind] <= before[kind], f"new {kind}: {after[kind] - before[kind]}"
    assert not [pid for pid, who in processes.items() if who and identity(pid) == who]


def test_a_lab_that_is_closed_leaves_nothing() -> None:
    before = footprint()
    with Lab.start(load_scenario("cluster-remote")) as lab:
        processes = processes_of(os.getpid())
        del processes[os.getpid()]
        during = footprint()
        for kind in ("interfaces", "mounts", "names"):
            assert during[kind] == before[kind], f"the lab's {kind} show on the host"
        assert during["spaces"] - before["spaces"], (
            "the lab has namespaces of its own, or this test says nothing"
        )
        lab.close()
        await_gone(processes)
        lab.close()  # twice is once
    assert_nothing_new(before, processes)


def test_a_lab_that_has_ended_says_so() -> None:
    lab = Lab.start(load_scenario("cluster-remote"))
    sleeper = lab.spawn("node1", ["sleep", "600"])
    lab.close()
    assert sleeper.wait(10) == -signal.SIGKILL
    with pytest.raises(LabError, match="has ended"):
        lab.spawn("node1", ["true"])
    with pytest.raises(LabError, match="has ended"):
        lab.send()


def test_programs_are_run_where_they_are_told_to(tmp_path: Path) -> None:
    with Lab.start(load_scenario("cluster-remote")) as lab:
        show = lab.spawn("node2", ["ip", "-br", "addr", "show", "eth0"], stdout=PIPE)
        assert show.stdout is not None
        with show.stdout:
            assert b"172.30.0.12/24" in show.stdout.read()
        assert show.wait() == 0
        assert show.poll() == 0
        copy = lab.spawn("web-1", ["cat"], stdin=PIPE, stdout=PIPE)
        assert copy.stdin is not None
        assert copy.stdout is not None
        assert copy.poll() is None
        copy.stdin.write(b"there and back")
        copy.stdin.close()
        with copy.stdout:
            assert copy.stdout.read() == b"there and back"
        assert copy.wait(10) == 0
        failing = lab.spawn("client1", ["sh", "-c", "exit 7"])
        assert failing.wait(10) == 7
        sleeping = lab.spawn("node1", ["sleep", "600"], env={"A": "b"})
        sleeping.terminate()
        assert sleeping.wait(10) == -signal.SIGTERM
        sleeping.kill()  # it has ended: nothing happens
        with pytest.raises(LabError, match="no 'node9'; it has client1, node1"):
            lab.spawn("node9", ["true"])
        with pytest.raises(LabError, match="no-such-tool is not installed"):
            lab.spawn("node1", ["no-such-tool"])
        script = tmp_path / "not-executable"
        script.write_text("")
        with pytest.raises(LabError, match="cannot be run"):
            lab.spawn("node1", [str(script)])


def test_without_namespaces_the_error_says_what_to_do() -> None:
    # A user namespace in which no further one may be made: what a hardened system looks like to a user.
    code = (
        "from probe.lab import Lab, LabError, load_scenario\n"
        "try:\n    Lab.start(load_scenario('cluster-remote'))\n"
        "except LabError as error:\n    print(error)\n"
    )
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", sys.executable, "-c", code]
    tried = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert tried.returncode == 0, tried.stderr
    (line,) = tried.stdout.splitlines()
    assert "does not allow the namespaces" in line
    assert "sysctl" in line
