"""`make prove` in its shortest form: each proof tries something, finds nothing wrong, and would say if it did."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.analyze import analyze
from analysis.report import Verdict
from prove import kills
from prove.degrading import HARMS, disturbed, forgetful, lessened
from prove.row import Row, markdown
from prove.truth import shared_out
from prove.verdicts import another
from tests.analysis.story import Story, cluster
from tests.analysis.test_stories import REMOTE
from tests.lab.here import REPOSITORY

SHORTEST = {
    "truth": ("--sessions", "4", "--scenario", "proxy-v2-ok"),
    "kills": ("--kills", "1"),
    "hostile": ("--inputs", "400"),
    "soak": ("--seconds", "3"),
}


@pytest.mark.lab
@pytest.mark.parametrize("proof", SHORTEST)
def test_each_proof_tries_something_and_finds_nothing(proof: str, tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    done = subprocess.run(
        [sys.executable, "-m", "prove", proof, *SHORTEST[proof], "--markdown", str(table)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table.read_text().splitlines()[2:]
    assert rows
    for row in rows:
        _, _, tried, wrong, found, again, _ = map(str.strip, row.split("|"))
        assert tried == "-" or int(tried.replace(",", "")) > 0, row
        assert wrong == ("-" if tried == "-" else "0"), row
        assert ("not tried" in found) == (tried == "-"), row
        assert again == f"`python -m prove {proof}`"


@pytest.mark.lab
def test_one_harm_can_be_tried_alone(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    asked = ("--harm", "any order", "--sessions", "2", "--tried", "1", "--scenario", "proxy-v2-ok")
    done = subprocess.run(
        [sys.executable, "-m", "prove", "truth", *asked, "--markdown", str(table)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = table.read_text().splitlines()[2:]
    assert row.startswith("| sessions: any order | 2 | 0 | 100%")


@pytest.mark.parametrize("harm", HARMS)
def test_sessions_that_are_tried_in_pieces_are_those_of_one_run(harm: str) -> None:
    def draws(sessions: range) -> set[tuple[int, int]]:
        shares = shared_out(sessions, 7, harm)
        return {(original, draw) for original, those in shares.items() for draw in those}

    whole = draws(range(40))
    assert len(whole) == 40
    assert draws(range(9)) | draws(range(9, 30)) | draws(range(30, 40)) == whole
    assert len({original for original, _ in draws(range(7))}) == 7, "each has its turn before one comes again"


@pytest.mark.lab
def test_a_scenario_that_is_not_there_is_said_in_a_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prove", "truth", "--scenario", "cluster-remot", "--sessions", "1"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    told = done.stderr.splitlines()[-1]
    assert told.startswith("prove: there is no scenario 'cluster-remot'; did you mean cluster-remote")
    assert "Traceback" not in done.stderr


def test_another_verdict_is_noticed() -> None:
    story = Story(cluster()).connection(REMOTE)
    full = story.report()
    (journey,) = full.journeys
    assert list(another(full, full)) == []
    for verdict in (Verdict.PRESERVED, Verdict.BLACKHOLED):
        (wrong,) = another(full, _with(full, verdict=verdict))
        assert wrong.verdict is verdict
    assert list(another(full, _with(full, verdict=Verdict.INCONCLUSIVE, reason="a tap is missing"))) == []
    assert list(another(full, _with(full, verdict=Verdict.INCONCLUSIVE, reason=None))), "it does not say why"
    assert journey.client is not None
    told = {(journey.client.address, journey.client.port): Verdict.PRESERVED}
    assert list(another(full, _with(full, verdict=Verdict.PRESERVED), truth=told)) == []


def _with(report: object, **changes: object) -> object:
    import msgspec

    (journey,) = report.journeys  # type: ignore[attr-defined]
    return msgspec.structs.replace(report, journeys=(msgspec.structs.replace(journey, **changes),))  # type: ignore[type-var]


def test_degrading_changes_what_it_says_and_can_be_made_again() -> None:
    recording, facts = Story(cluster()).connection(REMOTE).recording(), cluster()
    for seed in range(20):
        one, other = (lessened(recording, random.Random(seed)) for _ in range(2))
        assert one.packets.tobytes() == other.packets.tobytes()
        assert len(one.packets) <= len(recording.packets)
        assert len(disturbed(recording, random.Random(seed)).packets) >= len(recording.packets)
        assert len(forgetful(facts, random.Random(seed)).pods) <= len(facts.pods)
    assert dataclasses.is_dataclass(recording)
    assert analyze(recording, facts).summary.lost == 1


@pytest.mark.lab
def test_what_a_kill_leaves_is_named() -> None:
    """A victim that starts a process which outlives it: the proof has to find that one."""

    left: list[subprocess.Popen[bytes]] = []

    def careless(capture: kills.Capture, _: random.Random) -> int | None:
        marked = os.environ | {"PROBE_PROVE": capture.mark}
        left.append(subprocess.Popen(["sleep", "300"], env=marked))
        return capture.process.pid

    within, kills._WITHIN = kills._WITHIN, 1.0
    try:
        found = kills.once(careless, "a seed", 0.5)
    finally:
        kills._WITHIN = within
    for process in left:
        process.wait()
    assert any("sleep 300" in each for each in found)


def test_the_table_says_what_was_not_tried() -> None:
    table = markdown(
        [Row("a thing", 7, 1, "7 of 8", "python -m prove"), Row("another", 0, 0, skipped="no lab here")]
    )
    assert "| a thing | 7 | 1 | 7 of 8 | `python -m prove` |" in table
    assert "not tried: no lab here" in table
