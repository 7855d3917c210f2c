"""A laptop that is closed while its lab is watched, and opened again: what is said is right, or says what it lacks."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.cli.helpers import ended, start
from tests.lab.here import descendants, why_not

pytestmark = [pytest.mark.lab, pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")]


@pytest.mark.parametrize("sleepers", ["the command alone", "all that it has started, too"])
def test_a_capture_in_the_lab_that_sleeps_amid_its_requests(sleepers: str) -> None:
    command = start("capture", "--lab", "cluster-remote", "-o", "json")
    until(command, "sending 3 requests")
    asleep = [command.pid]
    if sleepers != "the command alone":
        asleep += sorted(descendants(command.pid))
    tell(asleep, signal.SIGSTOP)
    for pid in asleep:
        while state(pid) not in {"T", "Z", ""}:
            os.sched_yield()
    tell(reversed(asleep), signal.SIGCONT)
    ending = ended(command)
    report = ending.json
    verdicts = {journey["verdict"] for journey in report["journeys"]}
    assert verdicts <= {"lost", "inconclusive"}
    assert ending.code == (3 if "lost" in verdicts else 4), ending.err
    assert report["capture"]["complete"] or report["capture"]["reasons"]
    assert "Traceback" not in ending.err


def until(command: subprocess.Popen[bytes], words: str) -> None:
    assert command.stderr is not None
    while words not in (line := command.stderr.readline().decode()):
        assert line, f"it ended and never said {words}"


def tell(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it has ended meanwhile


def state(pid: int) -> str:
    """One letter of proc(5); "" where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""
