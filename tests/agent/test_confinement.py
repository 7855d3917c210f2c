"""What an agent may not do any more once its taps are open, and that it goes on where that cannot be had.

That it captures nevertheless, in every way, is what all other tests of agents say: each of theirs is confined.
"""

from __future__ import annotations

import errno
import json
import struct
import subprocess
from pathlib import Path

import pytest

from daemonset.capabilities import NEEDED
from daemonset.confined_calls import ABSENT, FILES, LOOKED_AT, REFUSED
from daemonset.confinement import ConfinementError, listing
from daemonset.observation import Bye, Hello, Topology
from daemonset.taps import bpf
from daemonset.taps.bpf import Program
from tests.agent.scene import NOBODY, ROOT, as_root, python_for, python_path, scene, why_not
from tests.agent.test_agent import Agent

ALLOWED, EPERM, ENOSYS = 0x7FFF_0000, 0x5_0000 | errno.EPERM, 0x5_0000 | errno.ENOSYS
X86_64, AARCH64 = 0xC000_003E, 0xC000_00B7
MACHINES = {"x86_64": (X86_64, 0), "aarch64": (AARCH64, 1)}
PROCESS = 4711
NEEDS_A_SCENE = pytest.mark.skipif(bool(why_not()), reason=why_not())
OUR_MACHINE = pytest.mark.skipif(
    not Path("/proc/self/status").read_text().count("Seccomp:"), reason="a kernel without seccomp"
)

#: What every capture does all the time, on both machines.
EVERYDAY = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "mmap": (9, 222), "futex": (202, 98), "recvfrom": (45, 207),
    "recvmsg": (47, 212), "recvmmsg": (299, 243), "sendto": (44, 206), "bind": (49, 200), "setsockopt": (54, 208),
    "getsockopt": (55, 209), "epoll_pwait": (281, 22), "ppoll": (271, 73), "getdents64": (217, 61),
    "newfstatat": (262, 79), "exit_group": (231, 94), "rt_sigreturn": (15, 139), "clock_nanosleep": (230, 115),
}  # fmt: skip


def answer(program: Program, architecture: int, number: int, *arguments: int) -> int:
    """What the filter says to a call; the interpreter reads big-endian words, so these are."""
    halves = [half for each in (*arguments, 0, 0, 0) for half in (each & 0xFFFF_FFFF, each >> 32)]
    return bpf.run(program, struct.pack(f">IIQ{len(halves)}I", number, architecture, 0, *halves), protocol=0)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("writes", [False, True])
def test_what_is_never_needed_is_refused_on_every_machine(machine: str, *, writes: bool) -> None:
    architecture, column = MACHINES[machine]
    program = listing(machine, PROCESS, writes=writes, loads=True)
    for calls, expected in ((REFUSED, EPERM), (FILES, ALLOWED if writes else EPERM), (ABSENT, ENOSYS)):
        for name, numbers in calls.items():
            if (number := numbers[column]) is not None:
                assert answer(program, architecture, number) == expected, name
    for name, both in EVERYDAY.items():
        assert answer(program, architecture, both[column]) == ALLOWED, name


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide_of_some(machine: str) -> None:
    architecture, column = MACHINES[machine]
    program = listing(machine, PROCESS, writes=False, loads=True)
    threads, new_network = 0x3D0F00, 0x4000_0000
    for name, arguments, expected in (
        ("setns", (5, new_network), ALLOWED),
        ("setns", (5, 0), EPERM),
        ("setns", (5, 0x2000_0000), EPERM),
        ("clone", (threads,), ALLOWED),
        ("clone", (17,), EPERM),  # SIGCHLD: a process
        ("clone", (threads | new_network,), EPERM),
        ("tgkill", (PROCESS, 1, 6), ALLOWED),
        ("tgkill", (1, 1, 9), EPERM),
        ("bpf", (5,), ALLOWED),
        ("bpf", (0,), EPERM),
        ("socket", (17, 2, 0), ALLOWED),
        ("socket", (40, 1, 0), EPERM),
        ("ioctl", (1, 0x8933), ALLOWED),
        ("ioctl", (1, 0x5412), EPERM),
        ("openat", (0, 0, 0o2000000), ALLOWED),  # O_CLOEXEC
        ("openat", (0, 0, 1), EPERM),
        ("openat", (0, 0, 2), EPERM),
        ("openat", (0, 0, 0o100), EPERM),
        ("openat", (0, 0, 0o1000), EPERM),
    ):
        number = LOOKED_AT[name][column]
        assert number is not None
        assert answer(program, architecture, number, *arguments) == expected, (name, arguments)
    bare = listing(machine, PROCESS, writes=True, loads=False)
    opening, loading = LOOKED_AT["openat"][column], LOOKED_AT["bpf"][column]
    assert opening is not None
    assert loading is not None
    assert answer(bare, architecture, opening, 0, 0, 0o101) == ALLOWED
    assert answer(bare, architecture, loading, 5) == EPERM


def test_calls_in_another_machines_way_are_refused() -> None:
    program = listing("x86_64", PROCESS, writes=False, loads=False)
    assert answer(program, 0x4000_0003, 3) == EPERM, "32 bits, whose numbers mean others"
    assert answer(program, X86_64, 0x4000_0000 | 3) == EPERM, "x32"
    assert answer(program, AARCH64, 63) == EPERM


def test_a_machine_whose_calls_are_not_known_is_told() -> None:
    with pytest.raises(ConfinementError, match="s390x"):
        listing("s390x", PROCESS, writes=False, loads=False)


@OUR_MACHINE
@pytest.mark.parametrize("who", ["root", "nobody"])
def test_the_kernel_refuses_what_the_filter_says(who: str) -> None:
    if who == "root" and not as_root():
        pytest.skip("needs root")
    prefix = NOBODY if who == "nobody" and as_root() else []
    python = python_for(prefix)
    if python is None:
        pytest.skip("no Python that nobody may execute")
    done = subprocess.run(
        [*prefix, "env", *(f"{name}={value}" for name, value in python_path().items()), python, "-m",
         "tests.agent.forbidden"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    allowed = {"read", "start a thread", "raise a signal", "packets"}
    assert {name: said[name] for name in allowed} == dict.fromkeys(allowed, "done")
    # The filter lets it pass; nothing is there to be loaded, or it is not for everybody.
    assert said.pop("a program of eBPF") in {"EINVAL", "EPERM", "EACCES", "EFAULT", "E2BIG"}
    assert said.pop("size") > 100
    assert {said[name] for name in said.keys() - allowed} == {"EPERM"}, said


@NEEDS_A_SCENE
@OUR_MACHINE
def test_an_agent_says_how_far_it_is_confined_and_the_kernel_says_the_same() -> None:
    with scene() as here:
        agent = Agent(here.module("daemonset.agent", "--node", "n", stdout=subprocess.PIPE))
        agent.until_ready()
        features = agent.of(Hello)[0].features
        assert features["seccomp"].endswith(" instructions")
        assert features["capabilities"].split() == list(NEEDED.values())
        tasks = [task / "status" for task in Path(f"/proc/{agent.process.pid}/task").iterdir()]
        said = [dict(line.split(":\t", 1) for line in task.read_text().splitlines()) for task in tasks]
        assert {one["Seccomp"] for one in said} == {"2"}
        assert {one["NoNewPrivs"] for one in said} == {"1"}
        needed, none = sum(1 << number for number in NEEDED), 0
        assert {int(one["CapPrm"], 16) for one in said} == {needed, none}, "the one that decodes has none"
        assert {int(one["CapBnd"], 16) for one in said} == {needed}
        assert {int(one[kind], 16) for one in said for kind in ("CapInh", "CapAmb")} == {none}
        assert agent.stop() == 0


@NEEDS_A_SCENE
@OUR_MACHINE
def test_where_seccomp_is_refused_it_says_so_and_goes_on() -> None:
    with scene() as here:
        agent = Agent(
            here.module("tests.agent.forbidden", "unconfinable", "--node", "n", stdout=subprocess.PIPE)
        )
        agent.until_ready()
        here.ip(
            "link add name left type veth peer name right",
            "addr add 10.9.0.1/24 dev left",
            "link set left up",
        )
        agent.until(lambda: any(frame.interfaces for frame in agent.of(Topology)))
        assert agent.stop() == 0
    assert agent.of(Hello)[0].features["seccomp"] == "none: Operation not permitted"
    assert isinstance(agent.frames[-1], Bye)


@NEEDS_A_SCENE
@OUR_MACHINE
def test_an_agent_that_keeps_a_folder_may_write_it_to_its_end(tmp_path: Path) -> None:
    with scene() as here:
        kept = here.module(
            "daemonset.agent", "--once", "--output", str(tmp_path / "kept"), "--duration", "0.2", stderr=subprocess.PIPE
        )  # fmt: skip
        _, err = kept.communicate(timeout=60)
    assert kept.returncode == 0, err
    assert json.loads((tmp_path / "kept" / "session.json").read_text())["complete"]
