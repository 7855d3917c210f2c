"""B10: one `probe capture` over many agents. What the operator's process needs, at 100 agents and at 1,000.

The agents are simulated in a process of their own (`bench.simulated`); the command is the real one, from reading the
cluster to the report. The peer of 1,000 agents is ten times 100 agents, less what a session costs without any.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.row import Row, skipped
from bench.simulated import CONNECTIONS

FEW, MANY = 100, 1_000
MOST_MEMORY = 2 << 30

_PROBE = [sys.executable, "-c", "import sys; from probe.cli import main; sys.exit(main())"]
_DURATION = "2s"


class Cost(NamedTuple):
    """Of one session: resident memory at most, in bytes; seconds of CPU; packets that reached the report."""

    memory: int
    cpu: float
    packets: int


def rows() -> Iterator[Row]:
    """Memory and CPU time."""
    costs = {count: _session(count) for count in (1, FEW, MANY)}
    if any(cost.packets != 2 * CONNECTIONS * count for count, cost in costs.items()):
        yield skipped("B10", f"{MANY:,} agents", f"not all packets arrived: {costs}", "linear, ≤ 2 GiB")
        return
    alone, few, many = costs.values()
    for what, unit, ours, peer, ceiling in (
        ("memory at most", "MiB", many.memory / 2**20, few.memory / 2**20, many.memory <= MOST_MEMORY),
        ("CPU time", "s", many.cpu, few.cpu, True),
    ):
        base = alone.memory / 2**20 if unit == "MiB" else alone.cpu
        ratio = (ours - base) / max(peer - base, 1e-9)
        yield Row(
            "B10",
            f"{MANY:,} agents, {many.packets:,} packets: {what}",
            f"{ours:,.0f} {unit}" if unit == "MiB" else f"{ours:.1f} {unit}",
            f"{peer:,.0f} {unit}" if unit == "MiB" else f"{peer:.1f} {unit}",
            ratio,
            f"≤ {MANY / FEW * 1.2:.0f} times {FEW} agents, above one agent's {base:.1f} {unit}"
            + (", and ≤ 2 GiB" if unit == "MiB" else ""),
            ratio <= MANY / FEW * 1.2 and ceiling,
        )


def _session(count: int) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig, report = Path(folder) / "kubeconfig", Path(folder) / "report.json"
        cluster = subprocess.Popen(
            [sys.executable, "-m", "bench.simulated", str(count), str(kubeconfig)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        try:
            cluster.stdout.readline()
            with report.open("wb") as out:
                ours = subprocess.Popen(
                    [*_PROBE, "capture", "svc/web", "--duration", _DURATION, "-o", "json",
                     "--kubeconfig", str(kubeconfig)],
                    stdout=out,
                )  # fmt: skip
                _, _, used = os.wait4(ours.pid, 0)
            return Cost(used.ru_maxrss << 10, used.ru_utime + used.ru_stime, _packets(report))
        finally:
            cluster.stdin.close()
            cluster.wait()
            cluster.stdout.close()


def _packets(report: Path) -> int:
    import msgspec

    try:
        return int(msgspec.json.decode(report.read_bytes())["capture"]["observations"])
    except (msgspec.DecodeError, KeyError):
        return 0
