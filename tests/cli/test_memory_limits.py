"""Too little memory, by the shell's limit or the container's: said in a line, and nothing that looks whole is left."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from daemonset.observation import Ready
from daemonset.shortage import is_shortage
from probe.cluster import so_far
from probe.cluster.so_far import SoFar
from probe.memory import Left, memory_left
from probe.sessions import room as rooms
from probe.sessions import spool
from probe.sessions.folder import read_meta
from tests.cli.helpers import Probe, ended, pcap, syn
from tests.cli.test_session import agent, run
from tests.cluster.test_so_far import SUBJECT

MIB = 1 << 20


def limited(mebibytes: int, folder: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """`probe` in a shell that gives programs no more (`ulimit -v`); `folder` takes its temporary files."""
    code = "from probe.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (mebibytes * MIB,) * 2),  # noqa: PLW1509 - no threads
    )


@pytest.mark.parametrize("mebibytes", [100, 150, 200, 250, 300, 400, 500, 700, 900])
def test_an_analysis_that_is_refused_memory_ends_in_a_line(tmp_path: Path, mebibytes: int) -> None:
    (tmp_path / "temporary").mkdir()
    capture = pcap(tmp_path / "a.pcap", syn())
    given = [
        "analyze",
        "--tap",
        f"nic:node1/eth0={capture}",
        "-o",
        "json",
        "--html",
        tmp_path / "report.html",
    ]
    ending = ended(limited(mebibytes, tmp_path / "temporary", *given))
    ending.complains(5, "memory", ";")
    assert not (tmp_path / "report.html").exists()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_capture_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    ending = ended(
        limited(700, tmp_path, "capture", "--lab", "cluster-remote", "--record", tmp_path / "session")
    )
    ending.complains(5, "too little memory to judge what was seen", "of ulimit -v", "raise the limit")
    assert list(tmp_path.iterdir()) == []


def test_what_a_limit_leaves_joins_keep_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "memory_left", lambda: [Left(900 * MIB, "ulimit -v", addresses=True)])
    assert rooms.room().memory == 132 * MIB
    monkeypatch.setattr(rooms, "memory_left", lambda: [Left(900 * MIB, "the container's limit")])
    assert rooms.room().memory == 644 * MIB
    monkeypatch.setattr(rooms, "memory_left", list)
    assert rooms.room().memory is None


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """What the kernel tells of a process of 40 pages, 10 of them resident."""
    (tmp_path / "statm").write_text("40 10 3 1 0 9 0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("group", "limits", "left"),
    [
        ("0::/", {"memory.max": "209715200\n"}, [200]),
        ("0::/", {"memory.max": "max\n"}, []),
        ("0::/pods/probe", {"pods/memory.max": "104857600\n", "pods/probe/memory.max": "max\n"}, [100]),
        ("9:pids:/\n4:cpu,memory:/a", {"memory/a/memory.limit_in_bytes": "104857600\n"}, [100]),
        ("0::/../../other", {"memory.max": "104857600\n"}, [100]),
        ("", {}, []),
    ],
)
def test_the_limit_of_a_container(kernel: Path, group: str, limits: dict[str, str], left: list[int]) -> None:
    (kernel / "cgroup").write_text(group)
    for name, limit in limits.items():
        (kernel / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (kernel / "groups" / name).write_text(limit)
    told = [each for each in memory_left(kernel, kernel / "groups") if not each.addresses]
    resident = 10 * os.sysconf("SC_PAGE_SIZE")
    assert [each.size for each in told] == [size * MIB - resident for size in left]
    assert [str(each) for each in told] == [
        f"{size - 1} MiB are left of the container's limit" for size in left
    ]


def test_without_memory_for_what_agents_send_a_capture_never_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise MemoryError

    greedy = agent("node1").says(Ready())

    def action() -> None:
        monkeypatch.setattr(spool.Spooled, "write", refused)
        greedy.sees(3)

    with pytest.raises(MemoryError):
        run(greedy, action=action, record=tmp_path / "session")
    assert not read_meta(tmp_path / "session").complete


def test_without_memory_for_verdicts_so_far_the_capture_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(so_far, "analyze", refused)
    words = SoFar(SUBJECT, dict)
    words._packets = 1
    assert words.word() == "there is no memory for verdicts so far: they come with the report"
    assert words.word() is None, "it is said once"


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(2, "No such file or directory"), False),
        (ImportError("/lib/x.so: failed to map segment from shared object"), True),
        (ImportError("No module named 'x'"), False),
        (RuntimeError("can't start new thread"), True),
        (ValueError("cannot allocate memory"), False),
    ],
)
def test_what_is_for_want_of_memory(
    probe: Probe, error: Exception, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise error

    assert is_shortage(error) is short
    monkeypatch.setattr("probe.render.catalogue.definition_text", failing)
    assert probe("explain", "SIP101").code == (5 if short else 1)


def test_an_import_that_fails_for_want_of_memory_is_known_by_its_cause() -> None:
    error = ImportError("Importing the numpy C-extensions failed")
    error.__cause__ = ImportError("failed to map segment from shared object")
    assert is_shortage(error)
