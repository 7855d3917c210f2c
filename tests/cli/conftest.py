"""Running the command line as a person would."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from probe import cli
from tests.cli.helpers import Ending, Probe


@pytest.fixture
def probe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Probe:
    """Run `probe ARGUMENTS…` in this process, on a plain terminal of 80 columns."""
    for name in ("PROBE_DEBUG", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str | Path) -> Ending:
        monkeypatch.setattr(sys, "argv", ["probe", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        written = capsys.readouterr()
        code = ended.value.code
        return Ending(code if isinstance(code, int) else 1, written.out, written.err)

    return run
