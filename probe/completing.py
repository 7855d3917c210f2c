"""Completion of the command line: scripts for shells, and the answers that kubectl wants for its plugin.

kubectl 1.26 and later run `kubectl_complete-client_ip WORD...` and read one completion a line, a tab before what is
said of it, and in the last line a colon and a number of cobra's ShellCompDirective.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from contextlib import redirect_stdout, suppress

import typer

VARIABLE = "_PROBE_COMPLETE"

SHELLS = ("bash", "zsh", "fish")

_DEFAULT = 0  # cobra: files too, where nothing else fits


def script(shell: str) -> str:
    """What a shell has to read to complete `probe`."""
    return _answer(f"source_{shell}", {}) + "\n"


def main() -> None:
    """Entry point of `kubectl_complete-client_ip`."""
    words = sys.argv[1:] or [""]
    told = _answer(
        "complete_bash",
        {"COMP_WORDS": shlex.join(["probe", *words]), "COMP_CWORD": str(len(words))},
    )
    lines = [line for line in told.splitlines() if line]
    sys.stdout.write("".join(f"{line}\n" for line in [*lines, f":{_DEFAULT}"]))


def _answer(instruction: str, variables: dict[str, str]) -> str:
    """What typer answers to a shell that asks so."""
    from probe.cli import app  # noqa: PLC0415 - the command line has this file among its commands

    os.environ.update({VARIABLE: instruction, **variables})
    written = io.StringIO()
    try:
        with redirect_stdout(written), suppress(SystemExit, typer.Exit):
            typer.main.get_command(app).main(
                [], prog_name="probe", standalone_mode=False, complete_var=VARIABLE
            )
    finally:
        del os.environ[VARIABLE]
    return written.getvalue().strip("\n")
