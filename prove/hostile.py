"""Hostile bytes: a coverage-guided search for input that breaks a reader, hangs it, or makes it grow."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from prove.row import Row
from tests.lab.here import REPOSITORY

#: Inputs to begin with, called after the reader that each is for.
CORPUS = REPOSITORY / "tests" / "fuzz" / "corpus"

#: Inputs of the short and of the long form.
_SHORT, _LONG = 20_000, 10_000_000

_LONGEST = 3000  # bytes of one input
_WORKERS = 2
_PEAK = re.compile(r"peak_rss_mb:\s*(\d+)")
_DONE = re.compile(r"Done (\d+) runs")
_DETAILS = 3


def rows(*, long: bool, inputs: int | None = None) -> list[Row]:
    """One row for all readers; each input is for one of them."""
    again = f"python -m prove hostile{' --long' if long else ''}"
    readers = {path.name.partition(".")[0] for path in CORPUS.iterdir()}
    what = f"hostile inputs for {len(readers)} readers"
    if importlib.util.find_spec("atheris") is None:
        return [Row(what, 0, 0, again=again, skipped="atheris has no wheel for this platform")]
    wanted = inputs or (_LONG if long else _SHORT)
    with tempfile.TemporaryDirectory(prefix="prove-") as folder:
        searches = [
            _search(Path(folder, str(number)), number + 1, wanted // _WORKERS) for number in range(_WORKERS)
        ]
        said = [search.communicate()[0] for search in searches]
        found = sorted(path for path in Path(folder).glob("*/found-*"))
        kept = tuple(f"{path.name}: {path.read_bytes()[:60].hex()}" for path in found)
    tried = sum(int(done[1]) for text in said if (done := _DONE.search(text)))
    peak = max((int(size[1]) for text in said if (size := _PEAK.search(text))), default=0)
    ended = [
        f"the search ended with {search.returncode}: {text[-300:]}"
        for search, text in zip(searches, said, strict=True)
        if search.returncode
    ]
    measured = f"none over 100 ms of CPU; at most {peak} MiB"
    return [Row(what, tried, len(found) or len(ended), measured, again, (*kept, *ended)[:_DETAILS])]


def _search(folder: Path, seed: int, runs: int) -> subprocess.Popen[str]:
    corpus = shutil.copytree(CORPUS, folder / "corpus")
    command = [sys.executable, "-m", "tests.fuzz.target", str(corpus), f"-runs={runs}", f"-seed={seed}"]
    options = [
        f"-max_len={_LONGEST}",
        "-timeout=30",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/found-",
    ]
    return subprocess.Popen(
        [*command, *options], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
