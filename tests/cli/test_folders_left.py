"""A folder for temporary files whose keeper was ended together with the analysis: the next one takes it away, no other.

What else lies in the place may have been put there by anybody, and looks as much like one of ours as it can.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probe.sessions import keeper
from probe.sessions.keeper import MARK, MARKED
from probe.sessions.spill import spill_folder

#: Somebody who needs a folder until he is killed; says which it is.
NEEDING = """
import sys
from probe.sessions.spill import spill_folder

with spill_folder() as folder:
    open(folder + "/rows", "wb").write(b"x" * 100_000)
    print(folder, flush=True)
    sys.stdin.read()
"""


class Needing:
    """A process that needs a folder, and the process that keeps it."""

    def __init__(self, place: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NEEDING],
            env={**os.environ, "TMPDIR": str(place)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.folder = Path(self.process.stdout.readline().strip())
        pid = self.process.pid
        (self.keeper,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def kill_keeper(self) -> None:
        ending = os.pidfd_open(self.keeper)
        os.kill(self.keeper, signal.SIGKILL)
        select.select([ending], [], [])
        os.close(ending)

    def kill(self) -> None:
        with self.process:
            self.process.kill()


@contextmanager
def needing(place: Path) -> Iterator[Needing]:
    each = Needing(place)
    try:
        yield each
    finally:
        each.kill()


def next_run(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """One more that needs a folder, whose keeper has ended when this returns."""
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(place))
    with spill_folder() as folder:
        assert Path(folder).parent == place


def left(place: Path, name: str = "probe-left0000") -> Path:
    """A folder as a keeper leaves it that is killed."""
    folder = place / name
    folder.mkdir(mode=0o700)
    (folder / MARK).write_bytes(MARKED)
    (folder / "rows").write_bytes(b"x" * 1000)
    return folder


def test_the_next_run_takes_away_what_a_kill_of_both_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with needing(tmp_path) as killed:
        killed.kill_keeper()
        killed.kill()
        assert (killed.folder / "rows").exists(), "both were ended, so somebody else has to take it away"
    next_run(monkeypatch, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_needed_stays_even_where_its_keeper_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with needing(tmp_path) as whole, needing(tmp_path) as without:
        without.kill_keeper()
        next_run(monkeypatch, tmp_path)
        assert {each.name for each in tmp_path.iterdir()} == {whole.folder.name, without.folder.name}
        assert all((each.folder / "rows").stat().st_size == 100_000 for each in (whole, without))
        without.kill()
        next_run(monkeypatch, tmp_path)
        assert list(tmp_path.iterdir()) == [whole.folder]


def test_a_folder_whose_keeper_was_killed_goes_at_the_end(tmp_path: Path) -> None:
    with needing(tmp_path) as one:
        one.kill_keeper()
        assert one.process.stdin is not None
        one.process.stdin.close()
        assert one.process.wait() == 0
    assert list(tmp_path.iterdir()) == []


def _symlink(place: Path, elsewhere: Path) -> None:
    left(elsewhere, "treasure")
    (place / "probe-link0000").symlink_to(elsewhere / "treasure")


def _open_to_others(place: Path, _: Path) -> None:
    left(place).chmod(0o755)


def _unmarked(place: Path, _: Path) -> None:
    (left(place) / MARK).unlink()


def _marked_otherwise(place: Path, _: Path) -> None:
    (left(place) / MARK).write_bytes(MARKED + b"more")


def _mark_elsewhere(place: Path, elsewhere: Path) -> None:
    (elsewhere / "mark").write_bytes(MARKED)
    mark = left(place) / MARK
    mark.unlink()
    mark.symlink_to(elsewhere / "mark")


def _mark_of_two_names(place: Path, elsewhere: Path) -> None:
    os.link(left(place) / MARK, elsewhere / "mark")


def _mark_that_never_answers(place: Path, _: Path) -> None:
    mark = left(place) / MARK
    mark.unlink()
    os.mkfifo(mark)


def _mark_of_another(place: Path, _: Path) -> None:
    os.chown(left(place) / MARK, 65534, 65534)


def _of_another(place: Path, _: Path) -> None:
    folder = left(place)
    for each in (*folder.iterdir(), folder):
        os.chown(each, 65534, 65534)


def _file(place: Path, _: Path) -> None:
    (place / "probe-0123456789abcdef.pcapng").write_bytes(b"packets of --open")
    os.mkfifo(place / "probe-fifo0000")


def _of_another_name(place: Path, _: Path) -> None:
    left(place, "prober")


by_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.mark.parametrize(
    "plant",
    [
        _symlink, _open_to_others, _unmarked, _marked_otherwise, _mark_elsewhere, _mark_of_two_names,
        _mark_that_never_answers, _file, _of_another_name,
        pytest.param(_mark_of_another, marks=by_root), pytest.param(_of_another, marks=by_root),
    ],
)  # fmt: skip
def test_nothing_else_is_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    place.mkdir()
    elsewhere.mkdir()
    plant(place, elsewhere)
    before = sorted(tmp_path.rglob("*"))
    next_run(monkeypatch, place)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_folder_points_to_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    place.mkdir()
    elsewhere.mkdir()
    (elsewhere / "file").write_text("precious")
    folder = left(place)
    (folder / "to-a-folder").symlink_to(elsewhere)
    (folder / "to-a-file").symlink_to(elsewhere / "file")
    (folder / "below").mkdir()
    (folder / "below" / "to-a-folder").symlink_to(elsewhere)
    next_run(monkeypatch, place)
    assert list(place.iterdir()) == []
    assert (elsewhere / "file").read_text() == "precious"


def test_a_name_that_is_another_folders_by_now_stays(tmp_path: Path) -> None:
    mine = left(tmp_path)
    held = keeper.hold(str(mine))
    mine.rename(tmp_path / "moved")
    other = left(tmp_path)
    keeper.remove(str(mine), held)
    os.close(held)
    assert (other / "rows").exists()
    assert list((tmp_path / "moved").iterdir()) == []


def test_what_is_ended_amid_removing_is_known_by_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = left(tmp_path)
    (folder / "below").mkdir()
    removed: list[str] = []

    def once(name: str, *, dir_fd: int) -> None:
        if removed:
            raise OSError(5, "ended here")
        removed.append(name)
        unlink(name, dir_fd=dir_fd)

    unlink = os.unlink
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", once)
        keeper.sweep(str(tmp_path))
    assert (folder / MARK).exists()
    keeper.sweep(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
