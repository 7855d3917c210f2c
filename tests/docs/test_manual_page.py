"""docs/probe.1 is the command line's own help, and the tools that show manual pages have nothing against it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess

import pytest
import typer

from probe.cli import app
from tests.docs.documents import REPOSITORY

PAGE = REPOSITORY / "docs" / "probe.1"


def written() -> str:
    """What docs/manual.py makes, which is a script and no part of any package."""
    spec = importlib.util.spec_from_file_location("docs_manual", REPOSITORY / "docs" / "manual.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text: str = module.manual()
    return text


def test_it_is_current() -> None:
    assert written() == PAGE.read_text(encoding="ascii"), "the command line has changed; run make docs"


def test_every_command_and_option_is_in_it() -> None:
    text = PAGE.read_text(encoding="ascii").replace("\\-", "-")
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        if not command.hidden:
            assert f"probe {name}" in text
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or option in text or parameter.hidden


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
def test_mandoc_has_no_complaint() -> None:
    told = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", PAGE], capture_output=True, text=True, check=False
    )
    complaints = [line for line in told.stdout.splitlines() if "missing date" not in line]
    assert complaints == [], "a date would change with every build, so there is none"


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man")
def test_man_shows_it_without_warnings() -> None:
    told = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", PAGE],
        capture_output=True, text=True, check=False, env={"MANWIDTH": "80", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
    )  # fmt: skip
    if told.returncode != 0:
        pytest.skip(f"this man shows no local page: {told.stderr.strip()}")
    assert told.stderr == ""
    assert "probe capture [OPTIONS]" in told.stdout
