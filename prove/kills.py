"""Nothing left behind: the command, an agent, the lab or a cluster's API is killed by SIGKILL at a random moment."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from prove import rules_left
from prove.row import Row
from tests.lab.here import REPOSITORY, descendants, footprint, identity, why_not

#: What is started, over and over: a capture with agents, servers, a balancer, rules traced, and a session kept.
_SCENARIO = "proxy-v2-ok"

#: Seconds for which a cluster is captured.
_DURATION = 5

#: Seconds within which everything has to be gone once the command is. Abandoned agents are allowed 30 s.
_WITHIN = 30.0

#: Seconds within which the command itself has to end, where it was not what was killed: on a busy machine too.
_ENDS_WITHIN = 180.0

_MARK = "PROBE_PROVE"
_DETAILS = 3


class Capture:
    """One capture in the lab, under way; every process of it carries a mark in its environment."""

    def __init__(self, folder: Path) -> None:
        self.mark = uuid4().hex
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.seen: dict[int, str] = {}
        self.standing: set[int] = set()  # what need not go when the capture does
        self.process = self._begin()

    def _begin(self) -> subprocess.Popen[bytes]:
        return self._start("probe", "capture", "--lab", _SCENARIO, "--trace-rules", *self._words())

    def _words(self) -> list[str]:
        return ["--record", str(self.folder / "session"), "-o", "json"]

    def _start(
        self, *words: str, stdin: int | None = None, stdout: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=REPOSITORY,
            env=os.environ | {_MARK: self.mark, "TMPDIR": str(self.folder)},
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
        )
        self.started.append(process)
        return process

    def look(self) -> None:
        """Remember every process that belongs to it now."""
        ours = {process.pid for process in self.started}
        below = {pid for one in ours for pid in descendants(one)}
        for pid in {*ours, *below, *_marked(self.mark)}:
            if who := identity(pid):
                self.seen[pid] = who

    def live(self) -> list[int]:
        """Those that are still there."""
        self.look()
        return [pid for pid, who in self.seen.items() if pid not in self.standing and identity(pid) == who]

    def left(self) -> list[int]:
        """What is still there when everything has to be gone; what was not killed goes on to its end first."""
        deadline = time.monotonic() + _ENDS_WITHIN
        ended = False
        while (left := self.live()) and time.monotonic() < deadline:
            if not ended and self.process.poll() is not None:
                ended = True
                deadline = time.monotonic() + _WITHIN
            _wait(left[0], 0.5)
        return left

    def end(self) -> None:
        """Collect what has ended."""
        for process in self.started:
            process.wait()


class ClusterCapture(Capture):
    """One capture on a cluster: a double of its API server, with a lab behind it."""

    def _begin(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        self.server = self._start("tests.cluster.serving", str(self.folder), stdin=pipe, stdout=pipe)
        assert self.server.stdout is not None
        self.server.stdout.readline()
        self.standing = {self.server.pid, *descendants(self.server.pid)}
        where = ["--kubeconfig", str(self.folder / "kubeconfig"), "--duration", f"{_DURATION}s"]
        return self._start("probe", "capture", "svc/web", "--trace-rules", *where, *self._words())

    def end(self) -> None:
        """Let the server go too."""
        self.server.communicate()  # without a reader it would end by itself
        super().end()


def _marked(mark: str) -> Iterator[int]:
    """Processes with this mark in their environment, whoever is their parent by now."""
    wanted = f"{_MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:
            continue  # it has just ended, or is not ours


def command(capture: Capture, _: random.Random) -> int | None:
    """The command itself."""
    return capture.process.pid


def agent(capture: Capture, dice: random.Random) -> int | None:
    """An agent, where there is one already."""
    return _one(capture, dice, lambda words: "daemonset.agent" in words)


def launcher(capture: Capture, dice: random.Random) -> int | None:
    """A process of the lab itself: its launcher, its first process, or what builds it."""
    below = descendants(capture.process.pid)
    return _one(capture, dice, lambda words: "probe.lab" in words) or (
        dice.choice(sorted(below)) if below else None
    )


def anything(capture: Capture, dice: random.Random) -> int | None:
    """Any process of all that were started: servers, clients, agents, the lab's own."""
    below = descendants(capture.process.pid)
    return dice.choice(sorted(below)) if below else None


def api(capture: Capture, _: random.Random) -> int | None:
    """The double of the API server, and with it all that stands behind it."""
    assert isinstance(capture, ClusterCapture)
    capture.standing.clear()
    return capture.server.pid


def _one(capture: Capture, dice: random.Random, wanted: Callable[[str], bool]) -> int | None:
    found = [pid for pid in sorted(descendants(capture.process.pid)) if wanted(_words(pid))]
    return dice.choice(found) if found else None


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


Victim = Callable[[Capture, random.Random], int | None]

VICTIMS: dict[str, tuple[Victim, type[Capture]]] = {
    "the command": (command, Capture),
    "an agent": (agent, Capture),
    "the lab's processes": (launcher, Capture),
    "any process": (anything, Capture),
    "the command on a cluster": (command, ClusterCapture),
    "the cluster's API server": (api, ClusterCapture),
}


def once(victim: Victim, seed: str, most: float, kind: type[Capture] = Capture) -> list[str]:
    """Start a capture, kill the victim at a moment up to `most` seconds later, and name what is left."""
    dice = random.Random(seed)  # noqa: S311 - to be made again
    before = footprint()
    with tempfile.TemporaryDirectory(prefix="prove-") as folder:
        capture = kind(Path(folder))
        moment = time.monotonic() + dice.uniform(0, most)
        while time.monotonic() < moment and capture.process.poll() is None:
            capture.look()
            _wait(capture.process.pid, min(0.1, max(0.0, moment - time.monotonic())))
        capture.look()
        if (pid := victim(capture, dice)) is not None:
            _kill(pid)
        left = capture.left()
        code = capture.process.poll()
        found = [f"process {pid}: {_words(pid)[:120]}" for pid in left]
        given = {"session", "kubeconfig"}
        found += [f"file {path.name}" for path in Path(folder).iterdir() if path.name not in given]
        if code == 1:
            found.append("the command called it a defect of its own")
        for pid in left:
            _kill(pid)
        capture.end()
    after = footprint()
    found += [
        f"{kind}: {new}"
        for kind in ("interfaces", "mounts", "names")
        for new in sorted(after[kind] - before[kind])
    ]
    return found


def _wait(pid: int, seconds: float) -> None:
    """Until a process ends, or so long."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([handle], [], [], seconds)
    os.close(handle)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def rows(*, long: bool, times: int | None = None) -> list[Row]:
    """One row for each victim."""
    again = f"python -m prove kills{' --long' if long else ''}"
    if reason := why_not():
        return [Row(f"kill -9 of {name}", 0, 0, again=again, skipped=reason) for name in VICTIMS]
    wanted = times or (100 if long else 5)
    whole = {kind: _whole_run(kind) for kind in (Capture, ClusterCapture)}
    found: list[Row] = []
    for name, (victim, kind) in VICTIMS.items():
        most = whole[kind]
        left = {number: once(victim, f"{name}/{number}", most, kind) for number in range(wanted)}
        wrong = [f"time {number}: {', '.join(each)}" for number, each in left.items() if each]
        what = f"within the {most:.1f} s of a capture"
        found.append(Row(f"kill -9 of {name}", wanted, len(wrong), what, again, tuple(wrong[:_DETAILS])))
    return [*found, rules_left.row(wanted, again)]


def _whole_run(kind: type[Capture]) -> float:
    """How long a capture takes that nobody disturbs, in seconds."""
    with tempfile.TemporaryDirectory(prefix="prove-") as folder:
        capture = kind(Path(folder))
        begun = time.monotonic()
        capture.process.wait()
        took = time.monotonic() - begun
        capture.end()
        return took
