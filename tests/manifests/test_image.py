"""The agents' image, built by its Dockerfile's own steps, and an agent that runs from it with the pod's rights."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pickle
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemonset.observation import Hello, TapKind, TcpFlag
from probe import __version__
from probe.manifests.objects import installation
from tests.agent.scene import Scene, scene, why_not
from tests.agent.test_agent import PATIENCE, Agent, add_pod, talk
from tests.manifests.dockerfile import Image, build, read
from tests.manifests.objects import pod_of
from tests.test_floors import LIBRARIES, REPOSITORY

needs_namespaces = pytest.mark.skipif(bool(why_not()), reason=why_not())

#: What pip says where it cannot reach its index.
_NO_INDEX = ("No matching distribution", "Connection", "Temporary failure", "Max retries")

_MIB = 1 << 20

#: Inside the image: keep of root's rights what the DaemonSet's container has, then become the command.
_AS_IN_THE_POD = """
import ctypes, os, sys
libc, kept = ctypes.CDLL(None), {12, 13, 19, 21}  # NET_ADMIN, NET_RAW, SYS_PTRACE, SYS_ADMIN: capability.h
for capability in set(range(64)) - kept:
    libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """The built stages; made once for all processes that run tests."""
    shared = (
        tmp_path_factory.getbasetemp().parent
        if "PYTEST_XDIST_WORKER" in os.environ
        else (tmp_path_factory.mktemp("image"))
    )
    with (shared / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = shared / "image.pickle"
        if not record.exists():
            record.write_bytes(pickle.dumps(_built(shared / "image")))
        outcome = pickle.loads(record.read_bytes())
    if isinstance(outcome, str):
        pytest.skip(outcome)
    assert isinstance(outcome, dict)
    return outcome


def _built(folder: Path) -> dict[str, Image] | str:
    folder.mkdir()
    try:
        return build(REPOSITORY, folder)
    except subprocess.CalledProcessError as error:
        if any(words in error.stderr for words in _NO_INDEX):
            return "needs the package index, as pip does"
        raise AssertionError(f"a step failed: {error.stderr}") from error


@pytest.fixture
def image(stages: dict[str, Image]) -> Image:
    return stages[""]


def inside(image: Image, *command: str) -> list[str]:
    """A command line that runs a command from the image, read-only, beside this machine's processes."""
    root = shlex.quote(str(image.root))
    variables = [f"{key}={value}" for key, value in image.variables.items()]
    script = f"""
    mount --rbind {root} {root}
    mount --rbind /proc {root}/proc
    mount -o remount,bind,ro {root}
    exec {shlex.join(["env", "-i", *variables, "/usr/sbin/chroot", str(image.root), *command])}
    """
    return ["unshare", "--mount", "sh", "-ec", script]


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_base_is_a_named_release_and_the_rest_is_ours() -> None:
    instructions = read(REPOSITORY / "Dockerfile")
    assert instructions[0].keyword == "ARG"
    assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-slim-[a-z]+", instructions[0].rest)
    assert [step.rest for step in instructions if step.keyword == "FROM"] == ["${BASE} AS build", "scratch"]


def test_only_what_the_ground_floor_imports_is_installed() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    (listed,) = re.findall(r"\^\\\(([\w\\|]+)\\\)==", text)
    assert set(listed.split(r"\|")) == LIBRARIES["daemonset"]


def test_it_names_the_version() -> None:
    assert any(step.rest == f"VERSION={__version__}" for step in read(REPOSITORY / "Dockerfile"))


# ── what comes of it ─────────────────────────────────────────────────────────────────────────────────────────


@needs_namespaces
def test_there_is_nothing_in_it_but_an_interpreter_and_the_agent(image: Image) -> None:
    site = image.root / "agent"
    installed = {path.name.partition("-")[0] for path in site.glob("*.dist-info")}
    assert installed == LIBRARIES["daemonset"]
    assert not {"pip", "kubernetes", "typer", "duckdb", "rich", "probe", "analysis"} & names(site)
    assert {re.sub(r"[\d.]+", "", name) for name in names(image.root / "usr/local/bin")} == {"python"}
    assert not [name for name in ("bin", "sbin", "usr/bin", "usr/sbin") if (image.root / name).exists()]
    assert not (site / "daemonset" / "manifests").exists()
    assert not (site / "daemonset" / "image").exists()


@needs_namespaces
def test_its_bill_of_materials_names_the_interpreter_and_what_lies_outside_of_packages(
    image: Image, tmp_path: Path
) -> None:
    file = tmp_path / "image.cdx.json"
    command = [sys.executable, REPOSITORY / "packaging/sbom.py", "agent", "--root", image.root, file]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    components = {each["name"]: each for each in json.loads(file.read_text())["components"]}
    version = ".".join(map(str, sys.version_info[:3]))
    assert components["python"]["version"] == version
    assert {name for name, each in components.items() if each["type"] == "library"} == LIBRARIES["daemonset"]
    system = {name: each for name, each in components.items() if each["type"] == "file"}
    assert any("/libc.so" in name for name in system)
    for name, each in system.items():
        held = hashlib.sha256((image.root / name.lstrip("/")).read_bytes()).hexdigest()
        assert each["hashes"] == [{"alg": "SHA-256", "content": held}]


@needs_namespaces
def test_no_file_in_it_raises_privileges(image: Image) -> None:
    for path in image.root.rglob("*"):
        assert not path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID), path


@needs_namespaces
def test_it_is_small(image: Image) -> None:
    size = sum(path.lstat().st_size for path in image.root.rglob("*") if not path.is_dir())
    assert size < 160 * _MIB, f"{size / _MIB:.0f} MiB; docs/install.md states the size"


@needs_namespaces
def test_the_same_input_gives_the_same_files(stages: dict[str, Image]) -> None:
    (step,) = [step.rest for step in read(REPOSITORY / "Dockerfile") if "collect.py" in step.rest]
    stages["build"].run(re.sub("/image$", "/again", step))
    assert digest(stages["build"].path("/again")) == digest(stages["build"].path("/image"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def digest(root: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time and content of every file."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, int(path.lstat().st_mtime), content(path))
        for path in root.rglob("*")
    }


def content(path: Path) -> str:
    if path.is_symlink():
        return str(path.readlink())
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


# ── how it runs ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def node() -> Iterator[Scene]:
    """A node with a client in front of it and a pod behind it, to which port 80 is forwarded."""
    with scene() as made:
        client = made.add("client")
        made.ip("link set lo up", f"link add name eth0 type veth peer name eth0 netns {client}")
        made.ip("addr add 10.0.0.1/24 dev eth0", "link set eth0 up")
        made.ip("addr add 10.0.0.2/24 dev eth0", "link set eth0 up", name="client")
        made.ip("link add name br0 type bridge", "addr add 10.1.0.1/24 dev br0", "link set br0 up")
        add_pod(made, "pod", "10.1.0.2")
        made.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        made.run(
            "nft",
            "add table ip t; add chain ip t pre { type nat hook prerouting priority dstnat; };"
            "add rule ip t pre tcp dport 80 dnat to 10.1.0.2:8080",
        )
        yield made


@needs_namespaces
def test_an_agent_from_the_image_sees_the_node_and_the_pod_with_the_pods_four_capabilities(
    image: Image, node: Scene
) -> None:
    command = ["python3", "-m", "daemonset.agent", "--node", "n1", "--port", "80", "8080", "--lifeline"]
    process = node.start(
        *inside(image, "python3", "-c", _AS_IN_THE_POD, *command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    agent = Agent(process)
    agent.until_ready()
    talk(node)
    assert process.stdin is not None
    process.stdin.close()  # the lifeline
    assert agent.rest() == 0
    (hello,) = agent.of(Hello)
    assert hello.features["ring"] == "v2"
    assert hello.features["conntrack"] == "events"
    syns = {packet.tap: packet.destination for packet in agent.packets() if packet.flags == TcpFlag.SYN}
    assert syns[TapKind.NIC] == "10.0.0.1:80"
    assert syns[TapKind.POD] == "10.1.0.2:8080", "the pod's namespace was not entered"


@needs_namespaces
def test_between_sessions_the_image_sleeps_as_nobody_until_it_is_told_to_end(image: Image) -> None:
    uid, _, gid = image.user.partition(":")
    assert uid != "0"
    become = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    if os.geteuid() == 0:  # anybody else is somebody other than root in there anyway
        become = f"import os; os.setgroups([]); os.setgid({gid}); os.setuid({uid}); {become}"
    prefix = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    command = inside(image, "python3", "-c", become, *image.entry, *image.command)
    # Blocked from the very first on, so that a signal that comes early waits, too.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        process = subprocess.Popen([*prefix, *command])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        until_it_sleeps(process)
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0


def until_it_sleeps(process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + PATIENCE
    about = Path(f"/proc/{process.pid}")
    while (
        b"daemonset.idle" not in (about / "cmdline").read_bytes().split(b"\0")[1:3]
        or "S (sleeping)" not in (about / "status").read_text()
    ):
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < give_up, "it does not sleep"


@needs_namespaces
def test_the_daemonset_runs_what_the_image_has(image: Image) -> None:
    (container,) = pod_of(installation("a1"))["containers"]
    assert container["command"] == [*image.entry, *image.command]
    assert image.variables["PATH"] == "/usr/local/bin"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert (image.root / "usr/local/bin/python3").readlink() == Path(version)
