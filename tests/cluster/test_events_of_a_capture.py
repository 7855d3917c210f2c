"""`--events`: what is known so far as JSON lines, for programs that look on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.report import Severity, Verdict
from probe.live.events import events_to
from probe.render.live import Found, Seen, State
from tests import hostile
from tests.cluster.conftest import Stage

values = pytest.mark.parametrize("value", hostile.VALUES.values(), ids=hostile.VALUES.keys())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


@pytest.mark.lab
def test_verdicts_come_while_it_goes_on_and_the_end_is_the_reports(
    lab_stage: Callable[[str], Stage], tmp_path: Path
) -> None:
    stage, path = lab_stage("cluster-remote"), tmp_path / "events.jsonl"
    running = stage.start("capture", "svc/web", "--duration", "60s", "-o", "json", "--events", path)
    running.until("watching for")
    answers = stage.lab.send()
    running.until("so far: ", f"{len(answers)} lost")
    told = lines(path)
    assert told[-1]["type"] == "so-far"
    assert told[-1]["verdicts"] == {"preserved": 0, "lost": len(answers), "blackholed": 0, "inconclusive": 0}
    assert told[-1]["blame"] == "node1, kube-proxy masquerade"
    assert {each["name"] for each in told[-1]["places"]} == {"node1", "node2", "node3"}
    assert "SIP101" in {each["code"] for each in told[-1]["findings"]}
    running.interrupt()
    ending = running.ending()
    end = lines(path)[-1]
    assert (end["type"], end["exitCode"]) == ("end", ending.code)
    assert end["verdicts"]["lost"] == ending.json["summary"]["lost"]


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_placed(
    stage: Stage, tmp_path: Path
) -> None:
    ending = stage.start("capture", "svc/web", "--events", tmp_path / "absent" / "file").ending()
    assert ending.code == 2
    assert "Traceback" not in ending.err
    assert stage.double.left() == []


def test_a_reader_that_leaves_ends_the_lines_alone() -> None:
    reader, writer = os.pipe()
    with events_to(Path(f"/dev/fd/{writer}")) as events:
        os.close(writer)
        os.close(reader)
        for _ in range(3):
            events.so_far(State("svc/web"))


def test_a_full_disk_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with events_to(Path("/dev/full")) as events:
        for _ in range(3):
            events.so_far(State("svc/web"))
    said = "· --events ends here: No space left on device; the capture goes on\n"
    assert capsys.readouterr().err == said


@values
def test_no_name_breaks_out_of_its_line(value: bytes, tmp_path: Path) -> None:
    text, path = value[:3000].decode("utf-8", "backslashreplace"), tmp_path / "events"
    state = State(
        text,
        text,
        places=(Seen(text, trouble=text),),
        verdicts=((Verdict.LOST, 1),),
        blame=text,
        findings=(Found(text, Severity.ERROR, text, 1),),
    )
    with events_to(path) as events:
        events.so_far(state)
    (told,) = lines(path)
    assert told["places"][0]["name"] == text
    hostile.safe_data(path.read_text())
