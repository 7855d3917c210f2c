"""A file that is asked for is there whole or not at all, with nothing beside it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from probe import whole
from probe.whole import write_whole

STUCK = """
import sys
from pathlib import Path
from probe.whole import write_whole

def write(file):
    file.write(b"half of it")
    file.flush()
    print("amid", flush=True)
    sys.stdin.read()

write_whole(Path(sys.argv[1]), write)
"""


def test_kill_9_amid_writing_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("the last one")
    command = [sys.executable, "-c", STUCK, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"amid\n"
        process.kill()
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"report.html": "the last one"}


@pytest.fixture(params=["without a name", "hidden"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the draft is made; not every file system has files without names."""
    if request.param == "hidden":
        monkeypatch.setattr(whole, "_nameless", lambda *_: None)
    return str(request.param)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("before", [None, "the last one"])
def test_it_is_there_in_place_of_what_was(tmp_path: Path, before: str | None) -> None:
    file = tmp_path / "report.html"
    if before is not None:
        file.write_text(before)
    was = os.umask(0o022)
    try:
        write_whole(file, lambda out: out.write(b"all of it"))
        write_whole(tmp_path / "packets", lambda out: out.write(b"all"), 0o600)
    finally:
        os.umask(was)
    found = {each.name: (each.read_text(), stat.S_IMODE(each.stat().st_mode)) for each in tmp_path.iterdir()}
    assert found == {"report.html": ("all of it", 0o644), "packets": ("all", 0o600)}


@pytest.mark.usefixtures("kind")
def test_an_error_amid_writing_leaves_what_was_there(tmp_path: Path) -> None:
    def broken(out: BinaryIO) -> None:
        out.write(b"half")
        raise OSError(28, "No space left on device")

    file = tmp_path / "report.html"
    file.write_text("the last one")
    with pytest.raises(OSError, match="No space"):
        write_whole(file, broken)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"report.html": "the last one"}
