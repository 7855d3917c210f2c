"""What an analysis puts on the disk for want of memory: where it has to, and nothing stays, whatever ends us."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from analysis.analyze import analyze
from analysis.engine import legs
from daemonset.observation import Bye, Hello, Ready, Taps
from daemonset.wire import Writer
from probe.errors import ProbeError
from probe.sessions import keeper
from probe.sessions.folder import Meta, SessionFolder
from probe.sessions.spill import spill_folder
from tests.analysis.story import Story, cluster
from tests.analysis.test_scale import repeated
from tests.analysis.test_stories import REMOTE

CONNECTIONS = 10_000

#: Bytes in which so many can be joined with the disk, and not without.
LITTLE = 48 << 20

#: `probe` with the memory of a much smaller machine; it tells what is in its folder as soon as something is, and stops.
SHORT_OF_MEMORY = """
import os, signal, threading
from analysis.engine import legs
from probe.cli import main

legs._MEMORY_ROW, legs._MEMORY_LEAST, legs._FEW = 0, LITTLE, 0
connect = legs.duckdb.connect


def look(folder):
    while not (files := [name for name in os.listdir(folder) if not name.startswith(".")]):
        pass
    print(folder, *files, flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)


def connected(*given, config, **more):
    threading.Thread(target=look, args=[config["temp_directory"]], daemon=True).start()
    return connect(*given, config=config, **more)


legs.duckdb.connect = connected
main()
""".replace("LITTLE", str(LITTLE // 2))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded session of many connections."""
    story = Story(cluster()).connection(REMOTE)
    recording = repeated(story.recording(), CONNECTIONS)
    path = tmp_path_factory.mktemp("recorded") / "session"
    folder = SessionFolder(path, Meta())
    for node in recording.nodes:
        folder.stream(node)
        writer = Writer(lambda data, node=node: folder.write(node, data))
        writer.message(Hello(node, time=1))
        writer.message(Taps(tuple(tap for tap in recording.taps if tap.node == node)))
        writer.message(Ready(1))
        taps = [number for number, tap in enumerate(recording.taps) if tap.node == node]
        rows = recording.packets[np.isin(recording.packets["tap"], taps)]
        rows["tap"], rows["head"] = np.searchsorted(taps, rows["tap"]), 0
        for start in range(0, len(rows), 1000):
            writer.packets(rows[start : start + 1000].tobytes())
        writer.message(Bye("over", int(rows["time"].max())))
    folder.finish(facts=story.facts)
    return path


def short_of_memory(session: Path, place: Path) -> subprocess.Popen[str]:
    """`probe analyze` of the session; files that are temporary go into `place`."""
    return subprocess.Popen(
        [sys.executable, "-c", SHORT_OF_MEMORY, "analyze", str(session), "-o", "json"],
        env={**os.environ, "TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_kill_9_amid_an_analysis_leaves_nothing_of_what_it_had_put_on_the_disk(
    session: Path, tmp_path: Path
) -> None:
    with short_of_memory(session, tmp_path) as process:
        assert process.stdout is not None
        folder, *files = process.stdout.readline().split()
        assert Path(folder).parent == tmp_path
        assert Path(folder).stat().st_mode & 0o777 == 0o700, "what is captured is for our user alone"
        assert files, "it needed no disk, so this test says nothing"
        (keeping,) = children(process.pid)
        ending = os.pidfd_open(keeping)
        process.kill()
    select.select([ending], [], [])
    os.close(ending)
    assert list(tmp_path.iterdir()) == []


def test_few_connections_need_no_folder() -> None:
    @contextmanager
    def nowhere() -> Iterator[str]:
        raise AssertionError("no folder is needed")
        yield ""

    story = Story(cluster()).connection(REMOTE)
    assert analyze(story.recording(), story.facts, room=legs.Room(nowhere)).summary.lost == 1


@pytest.mark.parametrize("few", [0, legs._FEW], ids=["many", "few that take much memory"])
def test_what_needs_the_disk_is_judged_as_what_does_not_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, few: int
) -> None:
    story = Story(cluster()).connection(REMOTE)
    recording = repeated(story.recording(), CONNECTIONS)
    in_memory = analyze(recording, story.facts, limit=10)
    made = []

    @contextmanager
    def here() -> Iterator[str]:
        with spill_folder() as folder:
            made.append(Path(folder).parent)
            yield folder

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name, value in {"_MEMORY_LEAST": LITTLE, "_MEMORY_ROW": 0, "_FEW": few}.items():
        monkeypatch.setattr(legs, name, value)
    with pytest.raises(MemoryError):
        analyze(recording, story.facts, limit=10)
    assert analyze(recording, story.facts, limit=10, room=legs.Room(here)) == in_memory
    assert made == [tmp_path]
    assert list(tmp_path.iterdir()) == []


def test_the_keeper_goes_even_where_nobody_reads_what_it_says(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-I", "-S", keeper.__file__]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(
        command, env=environment, stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert list(tmp_path.iterdir()) == []


def test_no_folder_for_temporary_files_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "__file__", os.devnull)  # as where it ends at once
    with (
        pytest.raises(ProbeError, match="no folder for temporary files that can be written; set TMPDIR"),
        spill_folder(),
    ):
        pass
