"""B5, B8: a reader that stalls, and how much memory the agent has meanwhile and at rest.

As in `bench.capture`, SYNs cross a veth pair; here the program that captures writes to a pipe, and whoever reads that
does not read for a while.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from bench.capture import AGENT, FAST, TCPDUMP, Receiver, Stage, private_network
from bench.row import Row, skipped

RATE, SECONDS, STALL = 60_000, 4.0, 1.0
AT_REST, UNDER_LOAD = 80, 160  # MiB
LIMIT_OF_POD = 256  # MiB, what the manifests allow
_LONG = 8.0
_FAR = "right"
_LIBRARIES = "import numpy, msgspec, scapy.sendrecv, pyroute2"
_SETTLE = 1.5
_CHUNK = 1 << 18
_PATIENCE = 20.0


class Strained(NamedTuple):
    """What came through, and the memory of the process in MiB: before, and at most."""

    sent: int
    received: int
    rest: float
    most: float


def stalled() -> Iterator[Row]:
    """The row of B5."""
    yield from _inside("B5")


def memory() -> Iterator[Row]:
    """The rows of B8."""
    yield from _inside("B8")


def _inside(row: str) -> Iterator[Row]:
    if missing := [tool for tool in ("unshare", "nsenter", "ip", "tcpdump") if shutil.which(tool) is None]:
        yield skipped(row, "the agent under strain", f"{', '.join(missing)} not installed")
        return
    yield from private_network("bench.strain", row, "the agent under strain", row)


def main(row: str) -> None:
    """Inside of a private network namespace: measure, print rows as JSON lines."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        stage = Stage(Path(folder))
        try:
            found = [_stalled(stage)] if row == "B5" else _memory(stage)
            for one in found:
                print(json.dumps(asdict(one)), flush=True)
        finally:
            stage.close()


def _stalled(stage: Stage) -> Row:
    writes_to_pipe = TCPDUMP.command(Path("-"))
    tcpdump = Receiver("tcpdump", lambda _: writes_to_pipe, TCPDUMP.ready, TCPDUMP.count)
    ours, peer = (_strain(stage, receiver, RATE, SECONDS, STALL) for receiver in (AGENT, tcpdump))
    return Row(
        "B5",
        f"reader stalls for {STALL:.0f} s at {RATE // 1000}k packets/s: lost",
        f"{ours.sent - ours.received} of {ours.sent}",
        f"{peer.sent - peer.received} of {peer.sent}",
        None,
        "none; peer: tcpdump into a pipe",
        ours.sent == ours.received,
    )


def _memory(stage: Stage) -> Iterator[Row]:
    bare = subprocess.run(
        [sys.executable, "-c", f"{_LIBRARIES}; print(open('/proc/self/statm').read().split()[1])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    libraries = int(bare.stdout) * os.sysconf("SC_PAGESIZE") / 2**20
    free = _strain(stage, AGENT, FAST, _LONG, 0.0)
    stuck = _strain(stage, AGENT, FAST, _LONG, _LONG + 2 * _SETTLE)
    yield Row(
        "B8",
        "agent's resident memory at rest",
        f"{free.rest:.0f} MiB",
        f"{libraries:.0f} MiB",
        free.rest / libraries,
        f"≤ {AT_REST} MiB; peer: {_LIBRARIES}",
        free.rest <= AT_REST,
    )
    for what, run in (("", free), (", nobody reading", stuck)):
        yield Row(
            "B8",
            f"agent's resident memory at most, {FAST // 1000}k SYN/s for {_LONG:.0f} s{what}",
            f"{run.most:.0f} MiB",
            f"{run.rest:.0f} MiB",
            run.most / run.rest,
            f"≤ {UNDER_LOAD} MiB, a pod may have {LIMIT_OF_POD}; peer: at rest",
            run.most <= UNDER_LOAD,
            f"{run.received} of {run.sent} packets told",
        )


def _strain(stage: Stage, receiver: Receiver, rate: int, seconds: float, stall: float) -> Strained:
    """Send at a rate to a receiver whose reader does not read for `stall` seconds after the first half."""
    path, said = stage.folder / "piped", stage.folder / "said"
    path.write_bytes(b"")
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            [*stage.inside, *receiver.command(path)], stdout=subprocess.PIPE, stderr=stderr
        )
    assert process.stdout is not None
    reads = threading.Event()
    reads.set()
    reader = threading.Thread(target=_read, args=(process.stdout.fileno(), path, reads))
    reader.start()
    try:
        _await(lambda: receiver.ready(path, said), f"{receiver.name} did not start")
        time.sleep(_SETTLE)
        rest = _resident(process.pid, "VmRSS")
        sender = subprocess.Popen(
            [sys.executable, "-m", "bench.syn_sender", "left", str(rate), str(seconds)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        if stall:
            time.sleep(0.5)
            reads.clear()
            time.sleep(stall)
            reads.set()
        sent = int(sender.communicate()[0])
        time.sleep(_SETTLE)
        most = _resident(process.pid, "VmHWM")
    finally:
        reads.set()
        process.send_signal(signal.SIGTERM)
        reader.join(_PATIENCE)
        process.wait(_PATIENCE)
        process.stdout.close()
    return Strained(sent, receiver.count(path, ""), rest, most)


def _read(descriptor: int, path: Path, reads: threading.Event) -> None:
    with path.open("ab") as copy:
        while reads.wait() and (data := os.read(descriptor, _CHUNK)):
            copy.write(data)
            copy.flush()


def _await(holds: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > until:
            raise RuntimeError(otherwise)
        time.sleep(0.05)


def _resident(pid: int, field: str) -> float:
    """MiB (proc(5), /proc/pid/status)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
