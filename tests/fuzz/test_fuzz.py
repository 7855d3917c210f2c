"""The search for bytes that break a reader, as far as a test has time for it; see target.py for more."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prove.hostile import readers_of
from tests.fuzz.reader import GROUPS, Reader
from tests.fuzz.seeds import CORPUS, seeds

REPOSITORY = Path(__file__).resolve().parents[2]

#: Inputs that once broke something, smaller ones that break the same where there are; called as seeds are.
FOUND = CORPUS.parent / "found"

#: Inputs that are tried. The seed is fixed, so that a failure comes again.
INPUTS = 4000

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="needs atheris, which has no wheel for this platform"
)


def readers() -> Iterator[Reader]:
    for group in GROUPS:
        yield from readers_of(group)


def test_the_corpus_is_what_its_script_writes() -> None:
    found = {path.name: path.read_bytes() for path in CORPUS.iterdir()}
    assert found == seeds(), "run python -m tests.fuzz.seeds"


def test_every_reader_has_seeds_and_its_share() -> None:
    known = {reader.name for reader in readers()}
    assert {name.partition(".")[0] for name in seeds()} == known
    assert {path.name.partition(".")[0] for path in FOUND.iterdir()} <= known
    assert sum(reader.share for reader in readers()) == 10_000
    assert all(len(data) <= reader.longest + 1 for reader in readers() for data in inputs_of(reader, CORPUS))


def test_the_page_names_every_reader() -> None:
    page = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    for group in GROUPS:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {group} | ")]
        told = ", ".join(f"{reader.name} {reader.share:,}" for reader in readers_of(group))
        assert line.endswith(f"| {told} |"), told


@pytest.mark.parametrize("group", GROUPS)
def test_every_seed_holds_and_what_was_found_is_mended(group: str) -> None:
    for reader in readers_of(group):
        for data in (*inputs_of(reader, CORPUS), *inputs_of(reader, FOUND)):
            reader(data)


def inputs_of(reader: Reader, folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob(f"{reader.name}.*")):
        yield path.read_bytes()


@needs_atheris
@pytest.mark.parametrize("group", GROUPS)
def test_the_search_finds_nothing(group: str, tmp_path: Path) -> None:
    for path in (*CORPUS.iterdir(), *FOUND.iterdir()):
        place = tmp_path / path.name.partition(".")[0]
        place.mkdir(exist_ok=True)
        shutil.copy(path, place)
    done = search(group, tmp_path)
    left = [f"{path.name}: {path.read_bytes().hex()}" for path in tmp_path.glob("found-*")]
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{left}"
    tried = re.findall(r"number_of_executed_units:\s*(\d+)", done.stderr)
    wanted = [reader.share for reader in readers_of(group)]
    assert len(tried) == len(wanted)
    assert all(int(runs) >= INPUTS * share // 10_000 for runs, share in zip(tried, wanted, strict=True))


BROKEN = """
import sys, time
import tests.fuzz.of_packets as group
from tests.fuzz import target
from tests.fuzz.reader import Reader

def crash(data, size):
    if data.startswith(b"PROXY"):
        raise ValueError("a defect")

def hang(data, size):
    if data.startswith(b"PROXY"):
        sum(range(20_000_000))

def grow(data, size):
    if data.startswith(b"PROXY"):
        b"x" * (len(data) << 22)

readers = {each.__name__: Reader(each, 10_000) for each in (crash, hang, grow)}
target.readers_of = lambda named: (readers[sys.argv[1]],)
sys.exit(target.main("packets", sys.argv[2], "500", "-seed=1"))
"""


@needs_atheris
@pytest.mark.parametrize(
    ("what", "says"), [("crash", "a defect"), ("hang", "takes longer than 0.1 s"), ("grow", "MiB")]
)
def test_the_search_would_find_something(what: str, says: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN)
    place = tmp_path / what
    place.mkdir()
    shutil.copy(CORPUS / "payloads.begun", place)
    (place / "seed").write_bytes(b"\7PROXY TCP4")
    done = search(what, tmp_path, program=[str(broken), what, str(tmp_path)])
    assert done.returncode != 0
    assert says in done.stdout + done.stderr
    assert list(tmp_path.glob(f"found-{what}-*"))


def search(group: str, folder: Path, *, program: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the search; what breaks an invariant is left in `folder`."""
    ours = ["-m", "tests.fuzz.target", group, str(folder), str(INPUTS), "-seed=1"]
    return subprocess.run(
        [sys.executable, *(program or ours)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
