"""B7: how long a person waits for `probe --help` and for a small recorded session to be judged.

The peers are Python with the libraries that each of the two stands on, and nothing of ours: what is above them
is our own share. That neither loads scapy or kubernetes is read from the interpreter's own list of imports.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.row import Row, interleaved, skipped

ROUNDS = 7
SCENARIO = "local-preserved"
_PROBE = [sys.executable, "-c", "import sys; from probe.cli import main; sys.exit(main())"]
_FOREIGN = ("scapy", "kubernetes", "pyroute2")


def rows() -> Iterator[Row]:
    """Both rows."""
    yield _row("probe --help", [*_PROBE, "--help"], "import typer, rich.console, rich.table", 0.3)
    with tempfile.TemporaryDirectory() as folder:
        session = Path(folder) / "session"
        recorded = subprocess.run(
            [*_PROBE, "capture", "--lab", SCENARIO, "--record", str(session), "-o", "json"],
            capture_output=True,
            text=True,
            check=False,
        )
        what = f"probe analyze ({SCENARIO})"
        if recorded.returncode not in {0, 3}:
            last = (recorded.stderr.strip().splitlines() or ["nothing said"])[-1]
            yield skipped("B7", what, f"no session could be recorded: {last}", "≤ 1.0 s")
            return
        command = [*_PROBE, "analyze", str(session), "-o", "json"]
        same = (
            subprocess.run(command, capture_output=True, text=True, check=False).returncode
            == recorded.returncode
        )
        note = "" if same else "another verdict than live: figure invalid"
        yield _row(what, command, "import typer, rich.console, duckdb, numpy, msgspec", 1.0, note)


def _row(what: str, command: Sequence[str], imports: str, limit: float, note: str = "") -> Row:
    seconds = interleaved(ROUNDS, {"ours": _timed(command), "peer": _timed([sys.executable, "-c", imports])})
    loaded = _foreign(command)
    note = note or (f"imports {', '.join(loaded)}" if loaded else "")
    return Row(
        "B7",
        what,
        f"{seconds['ours'] * 1000:.0f} ms",
        f"{seconds['peer'] * 1000:.0f} ms",
        seconds["ours"] / seconds["peer"],
        f"≤ {limit} s; peer: {imports}",
        seconds["ours"] <= limit and not note,
        note,
    )


def _timed(command: Sequence[str]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return time.perf_counter() - start

    return run


def _foreign(command: Sequence[str]) -> list[str]:
    """Which of the packages that belong to other processes are imported all the same."""
    said = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]], capture_output=True, text=True, check=False
    ).stderr
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in said.splitlines() if "|" in line}
    return sorted(modules.intersection(_FOREIGN))
