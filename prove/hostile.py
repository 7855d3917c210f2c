"""Hostile bytes: a coverage-guided search for input that breaks a reader, hangs it, or makes it grow."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from prove.row import Row
from tests.fuzz.reader import GROUPS, Reader
from tests.lab.here import REPOSITORY

#: Inputs to begin with, and those that once broke something; each is called after the reader that it is for.
FOLDERS = (REPOSITORY / "tests" / "fuzz" / "corpus", REPOSITORY / "tests" / "fuzz" / "found")

#: Inputs of the short and of the long form.
_SHORT, _LONG = 20_000, 10_000_000

_WORKERS = 2
_READER = re.compile(r"^READER (\w+)$", re.MULTILINE)
_PEAK = re.compile(r"peak_rss_mb:\s*(\d+)")
_DONE = re.compile(r"number_of_executed_units:\s*(\d+)")
_DETAILS = 3


class _Search(NamedTuple):
    """What became of one group: inputs by reader, the most memory in MiB, what was found, how it ended."""

    tried: dict[str, int]
    peak: int
    found: tuple[str, ...]
    ended: str


def rows(*, long: bool, inputs: int | None = None) -> list[Row]:
    """One row for each group of readers; each input is for one reader."""
    again = f"python -m prove hostile{' --long' if long else ''}"
    if importlib.util.find_spec("atheris") is None:
        return [Row("hostile inputs", 0, 0, again=again, skipped="atheris has no wheel for this platform")]
    wanted = inputs or (_LONG if long else _SHORT)
    with (
        tempfile.TemporaryDirectory(prefix="prove-") as folder,
        ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as workers,
    ):
        searches = list(workers.map(lambda group: _search(Path(folder), group, wanted), GROUPS))
    return [_row(group, search, again) for group, search in zip(GROUPS, searches, strict=True)]


def readers_of(group: str) -> tuple[Reader, ...]:
    """The readers of a group."""
    readers: tuple[Reader, ...] = importlib.import_module(f"tests.fuzz.of_{group}").READERS
    return readers


def _row(group: str, search: _Search, again: str) -> Row:
    wrong = (*search.found, *([search.ended] if search.ended else []))
    measured = f"{len(search.tried)} readers; none over 100 ms of CPU; at most {search.peak} MiB"
    return Row(
        f"hostile inputs: {group}", sum(search.tried.values()), len(wrong), measured, again, wrong[:_DETAILS]
    )


def _search(folder: Path, group: str, inputs: int) -> _Search:
    place = folder / group
    for name, path in _seeds(group):
        (place / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / name)
    command = [sys.executable, "-m", "tests.fuzz.target", group, str(place), str(inputs), "-seed=1"]
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        errors="replace",
    )  # fmt: skip
    _, *said = _READER.split(done.stdout)
    told = dict(zip(said[::2], said[1::2], strict=True))
    found = sorted(place.glob("found-*"))
    return _Search(
        {name: sum(map(int, _DONE.findall(text))) for name, text in told.items()},
        max(map(int, _PEAK.findall(done.stdout)), default=0),
        tuple(f"{path.name}: {path.read_bytes()[:60].hex()}" for path in found),
        f"the search ended with {done.returncode}: {done.stdout[-300:]}"
        if done.returncode and not found
        else "",
    )


def _seeds(group: str) -> Iterator[tuple[str, Path]]:
    names = {reader.name for reader in readers_of(group)}
    for folder in FOLDERS:
        for path in sorted(folder.iterdir()):
            if (name := path.name.partition(".")[0]) in names:
                yield name, path
