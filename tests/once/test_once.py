"""Agents that somebody starts by hand on nodes, and their folders judged together, on any machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from daemonset.keeping import INDEX, file_name
from daemonset.observation import Bye, Hello, Message, Ready, Tap, TapKind, Taps
from daemonset.wire import Writer
from probe.lab import DEVNULL, PIPE, Lab, LabProcess, load_scenario
from probe.sessions.folder import Meta, SessionFolder
from tests.agent.scene import scene
from tests.cli.helpers import Ending, ended, start
from tests.lab.here import why_not

live = pytest.mark.skipif(bool(why_not()), reason=why_not())


def analyze(*arguments: str | Path) -> Ending:
    """Run `probe analyze … -o json` to its end."""
    return ended(start("analyze", *arguments, "-o", "json"))


class ByHand:
    """An agent on one node of the lab, as somebody with a shell there starts it."""

    def __init__(self, lab: Lab, node: str, folder: Path, *more: str) -> None:
        self.folder = folder
        command = [
            sys.executable,
            "-m",
            "daemonset.agent",
            "--once",
            "--output",
            str(folder),
            "--node",
            node,
            *more,
        ]
        self.process: LabProcess = lab.spawn(node, command, stdout=DEVNULL, stderr=PIPE)
        self.said: list[str] = []

    def until(self, words: str) -> None:
        """Wait until it says a line with these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.decode())
            if words in self.said[-1]:
                return
        raise AssertionError(f"it never said {words!r}, but: {self.said}")

    def end(self) -> int:
        """End it as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.until("kept in")
        assert self.process.stderr is not None
        self.process.stderr.close()
        return self.process.wait(20)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    if why_not():
        pytest.skip(why_not())
    with Lab.start(load_scenario("cluster-remote")) as started:
        (tmp_path / "objects.json").write_text(json.dumps(started.objects()))
        yield started


def watched(lab: Lab, folder: Path, places: Sequence[str]) -> list[Path]:
    """Watch these nodes by hand while the scenario's requests are sent; the folders."""
    agents = [ByHand(lab, place, folder / place) for place in places]
    for agent in agents:
        agent.until("watching as")
    answers = lab.send()
    assert not any(answer.wrong for answer in answers)
    assert [agent.end() for agent in agents] == [0] * len(agents)
    return [agent.folder for agent in agents]


@live
def test_folders_of_all_nodes_together_say_what_a_capture_would(lab: Lab, tmp_path: Path) -> None:
    folders = watched(lab, tmp_path, ["node1", "node2", "node3"])
    ending = analyze(*folders, "--objects", tmp_path / "objects.json")
    assert ending.code == 3, ending.err
    report = ending.json
    assert report["capture"]["complete"] is True, report["capture"]["reasons"]
    assert {journey["verdict"] for journey in report["journeys"]} == {"lost"}
    assert len(report["journeys"]) == 3
    assert {journey["crossNode"]["to"] for journey in report["journeys"]} == {"node2"}
    assert "clocks of these 3 sessions were not compared" in ending.err


@live
def test_the_folder_of_one_node_alone_says_no_more_than_it_saw(lab: Lab, tmp_path: Path) -> None:
    (folder,) = watched(lab, tmp_path, ["node2"])
    ending = analyze(folder, "--objects", tmp_path / "objects.json")
    assert ending.code in {3, 4}, ending.err
    report = ending.json
    assert report["capture"]["complete"] is False
    assert any("node1 has no tap" in reason for reason in report["capture"]["reasons"])
    assert "preserved" not in {journey["verdict"] for journey in report["journeys"]}
    assert analyze(folder).code in {3, 4}, "it is read without the cluster's objects, too"


@live
def test_a_node_under_another_name_is_not_taken_for_one_of_the_clusters(lab: Lab, tmp_path: Path) -> None:
    agent = ByHand(lab, "node1", tmp_path / "somewhere", "--node", "worker-1")
    agent.until("watching as worker-1")
    agent.end()
    analyze(agent.folder, "--objects", tmp_path / "objects.json").complains(
        2, "no node worker-1", "--node NAME"
    )


# ── the folder, by what an agent does with it ────────────────────────────────────────────────────────────────────


def once(*arguments: str | Path) -> Sequence[str]:
    return ["-m", "daemonset.agent", "--once", *map(str, arguments)]


def test_it_ends_by_itself_and_says_what_it_kept(tmp_path: Path) -> None:
    with ExitStack() as stack:
        place = stack.enter_context(scene())
        done = place.start(
            place.python,
            *once("--output", tmp_path / "s", "--node", "a/b", "--duration", "500ms"),
            stderr=subprocess.PIPE,
        )
        _, said = done.communicate(timeout=30)
    assert done.returncode == 0, said
    assert b"watching as a/b for 0.5 s" in said
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [file_name("a/b"), INDEX]
    index = json.loads((tmp_path / "s" / INDEX).read_text())
    assert index["complete"] is True
    assert index["places"] == ["a/b"]
    assert index["streams"] == {file_name("a/b"): (tmp_path / "s" / file_name("a/b")).stat().st_size}


def test_a_kill_leaves_a_session_that_is_known_as_cut_off(tmp_path: Path) -> None:
    with scene() as place:
        process = place.start(
            place.python, *once("--output", tmp_path / "s", "--node", "n"), stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        assert b"watching" in process.stderr.readline()
        process.kill()
        process.communicate()
    assert any("cut off" in reason for reason in analyze(tmp_path / "s").json["capture"]["reasons"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--once"], "name it with --output DIR"),
        (["--node", "n", "--output", "x"], "give --once too"),
        (["--once", "--output", "x", "--lifeline"], "--lifeline is for"),
        (["--once", "--output", "x", "--duration", "soon"], "not a duration"),
        (["--once", "--output", "{full}"], "is not empty; name a new folder"),
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "something").touch()
    ending = ended(start("agent", *(each.format(full=tmp_path) for each in arguments)))
    assert ending.code == 2
    assert words in ending.err
    assert "Traceback" not in ending.err


def test_without_the_right_to_watch_no_folder_is_left(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("who is not root has no such right anyway; as root it can be taken away")
    take_away = ["setpriv", "--bounding-set", "-net_raw,-net_admin,-sys_admin"]
    done = subprocess.run(
        [*take_away, sys.executable, *once("--output", tmp_path / "s")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert "NET_RAW" in done.stderr
    assert not (tmp_path / "s").exists()


# ── folders together ─────────────────────────────────────────────────────────────────────────────────────────────


def folder_of(
    path: Path, place: str, *, begin: int = 0, meta: Meta | None = None, sample: str | None = None
) -> Path:
    """A session of one place that was watched for ten seconds."""
    folder = SessionFolder(path, meta or Meta())
    folder.stream(place)
    writer = Writer(lambda data: folder.write(place, data))
    seconds = 1_000_000_000
    words: Sequence[Message] = (
        Hello(place, time=begin * seconds, features={"sample": sample} if sample else {}),
        Taps((Tap(place, TapKind.NIC, "eth0"),)),
        Ready(begin * seconds),
        Bye("over", (begin + 10) * seconds),
    )
    for message in words:
        writer.message(message)
    folder.finish()
    return path


def test_two_folders_of_one_node_are_refused(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path / "1", "node1"), folder_of(tmp_path / "2", "node1")
    analyze(first, second).complains(2, "both watched node1", "--node NAME")
    analyze(first, first).complains(2, "is given twice")


def test_sessions_of_different_times_did_not_see_the_same(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "1", "node1", begin=100)
    meets, misses = (
        folder_of(tmp_path / "2", "node2", begin=109),
        folder_of(tmp_path / "3", "node3", begin=170),
    )
    assert analyze(first, meets).json["capture"]["complete"] is True
    reasons = analyze(first, misses).json["capture"]["reasons"]
    assert any("node3: session: it was watched 60.0 s away from node1" in reason for reason in reasons)


def test_different_shares_of_the_connections_are_not_mixed(tmp_path: Path) -> None:
    whole, fourth, other = (
        folder_of(tmp_path / "1", "node1"),
        folder_of(tmp_path / "2", "node2", sample="4"),
        folder_of(tmp_path / "3", "node3", sample="4"),
    )
    analyze(whole, fourth).complains(2, "every connection was watched on node1, 1 of 4 connections on node2")
    assert analyze(fourth, other).json["capture"]["sample"] == 4


def test_a_folder_that_is_no_session_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    analyze(folder_of(tmp_path / "1", "node1"), tmp_path / "empty").complains(
        2, "empty is not a recorded session"
    )
