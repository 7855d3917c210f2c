"""Soak: agents at 1,000 NATed connections a second for a long time. Memory stays flat, nothing is lost or left open."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.traffic import MOST_FAILED, Stage, Watcher, agents_missed
from probe.lab import Lab, LabError, load_scenario
from prove.row import Row
from tests.lab.here import why_not

_RATE = 1_000

#: Seconds of the short and of the long form.
_SHORT, _LONG = 120.0, 1_800.0

#: How often agents are looked at: so many times, and not more often than is worth it.
_LOOKS, _LEAST_APART = 90, 0.03
_SETTLE = 1.0

#: What an agent may grow by from the first to the last third, MiB: a batch may stand in memory at any moment.
_GROWTH = 8.0


class Look(NamedTuple):
    """An agent at one moment: resident memory in MiB, open descriptors."""

    memory: float
    descriptors: int


class _Soaked(Stage):
    """The stage of the benchmark, with agents that are looked at while they work."""

    def soak(self, seconds: float) -> tuple[dict[str, int], dict[str, list[Look]], str]:
        """What the client said, what was seen of each agent, and what is wrong ("": nothing)."""
        watchers = self._agents()
        command = [sys.executable, "-m", "bench.load", self._address, "30080", str(_RATE), str(seconds)]
        client = self._lab.spawn("client1", command, stdout=subprocess.PIPE)
        looks: dict[str, list[Look]] = {watcher.place: [] for watcher in watchers}
        try:
            while client.poll() is None:
                for watcher in watchers:
                    if (look := _look(watcher)) is not None:
                        looks[watcher.place].append(look)
                time.sleep(max(seconds / _LOOKS, _LEAST_APART))
            with client.stdout:
                told = json.loads(client.stdout.read() or b"{}")
            time.sleep(_SETTLE)
        finally:  # they are no processes of the lab's, and would outlive it
            for watcher in watchers:
                watcher.process.terminate()
        for watcher in watchers:
            watcher.process.wait()
        return told, looks, agents_missed(watchers, told["connections"], failed=told["failed"])


def _look(watcher: Watcher) -> Look | None:
    folder = Path(f"/proc/{watcher.pid}")
    try:
        status = (folder / "status").read_text()
        descriptors = len(list((folder / "fd").iterdir()))
    except OSError:
        return None  # it has ended: what it missed is told in the end
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return Look(int(resident.split()[1]) / 1024, descriptors)


def rows(*, long: bool, seconds: float | None = None) -> list[Row]:
    """One row for the agents of both nodes."""
    again = f"python -m prove soak{' --long' if long else ''}"
    length = seconds or (_LONG if long else _SHORT)
    what = f"{_RATE:,} connections/s for {length:.0f} s"
    if reason := why_not():
        return [Row(what, 0, 0, again=again, skipped=reason)]
    try:
        with (
            Lab.start(load_scenario("cluster-remote"), "iptables") as lab,
            tempfile.TemporaryDirectory() as folder,
        ):
            told, looks, missed = _Soaked(lab, Path(folder)).soak(length)
    except LabError as error:
        return [Row(what, 0, 0, again=again, skipped=str(error))]
    wrong = [missed] if missed else []
    if told["failed"] > MOST_FAILED * told["connections"]:
        wrong.append(f"{told['failed']} connections failed")
    measured = []
    for place, seen in looks.items():
        third = max(len(seen) // 3, 1)
        first, last = seen[third : 2 * third] or seen, seen[-third:]
        grown = median(look.memory for look in last) - median(look.memory for look in first)
        if grown > _GROWTH:
            wrong.append(f"the agent on {place} grew by {grown:.1f} MiB")
        # A look at the pods has some open for a moment; what leaks stays.
        opened = min(look.descriptors for look in last) - min(look.descriptors for look in first)
        if opened > 0:
            wrong.append(f"the agent on {place} has {opened} more descriptors open")
        measured.append(f"{place} {max(look.memory for look in seen):.0f} MiB, {grown:+.1f} MiB")
    return [Row(what, told["connections"], len(wrong), "; ".join(measured), again, tuple(wrong))]
