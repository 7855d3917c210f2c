"""A release: the same wheel from the same sources whoever builds it, and a workflow that runs our own commands."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from probe import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOW = REPOSITORY / ".github/workflows/release.yml"

#: What a wheel is made of.
FOLDERS = ("analysis", "daemonset", "probe")
FILES = ("LICENSE", "README.md", "docs/probe.1", "pyproject.toml")


def copied(folder: Path, *, backwards: bool, mode: int, time: int) -> Path:
    """The sources as another machine may hold them: in another order, with other modes and times."""
    sources = [path for name in FOLDERS for path in (REPOSITORY / name).rglob("*")]
    sources += [REPOSITORY / name for name in FILES]
    for path in sorted(sources, reverse=backwards):
        if path.is_dir() or "__pycache__" in path.parts:
            continue
        target = folder / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(mode)
        os.utime(target, (time, time))
    return folder


def wheel(source: Path, folder: Path, date: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": date}
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


def test_two_builds_of_the_same_sources_are_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    here = copied(tmp_path / "here", backwards=False, mode=0o644, time=1_700_000_000)
    there = copied(tmp_path / "there" / "deeper", backwards=True, mode=0o600, time=1_600_000_000)
    first = wheel(here, tmp_path / "first", "1767225600").read_bytes()
    assert wheel(there, tmp_path / "second", "1767225600").read_bytes() == first
    assert wheel(there, tmp_path / "third", "1767312000").read_bytes() != first, "the date is not kept"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of a release that is no image."""
    folder = tmp_path_factory.mktemp("release") / "files"
    options = ["--uri", "https://example.org/client-ip.tar.gz", "--homepage", "https://example.org/"]
    command = [sys.executable, REPOSITORY / "packaging/release.py", *options, folder]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd="/")
    return folder


def test_what_is_written_is_all_there_and_each_digest_is_right(made: Path) -> None:
    lines = dict(reversed(line.split("  ")) for line in (made / "SHA256SUMS").read_text().splitlines())
    assert {path.name for path in made.iterdir()} == {*lines, "SHA256SUMS"}
    assert {"operator.cdx.json", "agent.cdx.json", "client-ip.tar.gz", "client-ip.yaml"} < lines.keys()
    assert any(name.endswith("-py3-none-any.whl") for name in lines)
    for name, digest in lines.items():
        assert hashlib.sha256((made / name).read_bytes()).hexdigest() == digest


def test_what_is_there_already_is_not_mixed_with(made: Path) -> None:
    command = [sys.executable, REPOSITORY / "packaging/release.py", made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr == f"release: {made} is not empty; name a new folder\n"


class TestTheWorkflow:
    @pytest.fixture
    def workflow(self) -> dict[Any, Any]:
        return yaml.safe_load(WORKFLOW.read_text())

    def test_it_begins_with_a_tag_and_may_do_nothing_by_itself(self, workflow: dict[Any, Any]) -> None:
        assert workflow[True] == {"push": {"tags": ["v*.*.*"]}}  # YAML 1.1 takes `on` for true
        assert workflow["permissions"] == {}
        for job in workflow["jobs"].values():
            assert job["permissions"].get("contents") in {"read", "write"}
            assert "write-all" not in str(job["permissions"])

    def test_actions_are_named_by_commit_with_the_version_beside_it(self) -> None:
        uses = re.findall(r"(?m)^.*\buses: .*$", WORKFLOW.read_text())
        assert uses
        for line in uses:
            assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line

    def test_what_is_published_has_been_tested_and_is_attested(self, workflow: dict[Any, Any]) -> None:
        jobs = workflow["jobs"]
        assert set(jobs["publish"]["needs"]) == {"build", "image"}
        assert jobs["image"]["needs"] == "build"
        assert ".ci/run" in [step.get("run") for step in jobs["build"]["steps"]]
        for name in ("build", "image"):
            actions = [step.get("uses", "").partition("@")[0] for step in jobs[name]["steps"]]
            assert {"actions/attest-build-provenance", "actions/attest-sbom"} <= set(actions)
            assert jobs[name]["permissions"]["attestations"] == "write"
        for name in ("image", "publish"):  # what leaves the repository waits for its reviewers
            assert jobs[name]["environment"] == "release"

    def test_values_from_outside_reach_a_shell_as_variables_only(self, workflow: dict[Any, Any]) -> None:
        for script in self._scripts(workflow):
            assert "${{" not in script, "an expression in a script is executed with whatever it holds"

    def test_our_own_commands_in_it_exist(self, workflow: dict[Any, Any]) -> None:
        targets = set(re.findall(r"(?m)^([a-z-]+):", (REPOSITORY / "Makefile").read_text()))
        run = 0
        for script in self._scripts(workflow):
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)
            for target in re.findall(r"\bmake ([a-z-]+)", script):
                assert target in targets
                run += 1
            for path in re.findall(r"(?:^|\s)((?:packaging|\.ci)/[\w./-]+)", script):
                assert (REPOSITORY / path).is_file(), path
                run += 1
        assert run >= 4

    def test_the_tag_is_held_against_the_version(self, workflow: dict[Any, Any]) -> None:
        (script,) = (each for each in self._scripts(workflow) if each.startswith("test "))
        for tag, code in ((f"v{__version__}", 0), ("v9.9.9", 1)):
            done = subprocess.run(
                ["sh", "-c", script], cwd=REPOSITORY, env={**os.environ, "TAG": tag}, check=False
            )
            assert done.returncode == code

    @staticmethod
    def _scripts(workflow: dict[Any, Any]) -> list[str]:
        return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
