"""The search for bytes that break a decoder, as far as a test has time for it; see target.py for more."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.invariants import CHECKS, check
from tests.fuzz.seeds import CORPUS, seeds

REPOSITORY = Path(__file__).resolve().parents[2]

#: Inputs that are tried. The seed is fixed, so that a failure comes again.
RUNS = 4000

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="needs atheris, which has no wheel for this platform"
)


def test_the_corpus_is_what_its_script_writes() -> None:
    found = {path.name: path.read_bytes() for path in CORPUS.iterdir()}
    assert found == seeds(), "run python -m tests.fuzz.seeds"


def test_every_seed_holds_and_every_check_has_one() -> None:
    for data in seeds().values():
        check(data)
    assert {data[0] for data in seeds().values()} == set(range(len(CHECKS)))


@needs_atheris
def test_the_search_finds_nothing(tmp_path: Path) -> None:
    corpus = shutil.copytree(CORPUS, tmp_path / "corpus")
    done = search(str(corpus), f"-runs={RUNS}", "-seed=1", "-max_len=2048", folder=tmp_path)
    left = [f"{path.name}: {path.read_bytes().hex()}" for path in tmp_path.glob("found-*")]
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{left}"
    assert f"Done {RUNS} runs" in done.stderr


@needs_atheris
def test_the_search_would_find_something(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import tests.fuzz.target as target\n"
        "import atheris, sys\n"
        "def one(data):\n"
        "    target.check(data)\n"
        "    if data[2:].startswith(b'PROXY'):\n"
        "        raise ValueError('a defect')\n"
        "atheris.Setup(sys.argv, one)\n"
        "atheris.Fuzz()\n"
    )
    corpus = shutil.copytree(CORPUS, tmp_path / "corpus")
    done = search(str(corpus), "-runs=500", "-seed=1", folder=tmp_path, program=[str(broken)])
    assert done.returncode != 0
    assert "a defect" in done.stdout + done.stderr
    assert list(tmp_path.glob("found-*"))


def search(
    *arguments: str, folder: Path, program: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the search; what breaks an invariant is left in `folder`."""
    command = [sys.executable, *(program or ["-m", "tests.fuzz.target"]), *arguments]
    return subprocess.run(
        [*command, "-timeout=30", f"-artifact_prefix={folder}/found-"],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
