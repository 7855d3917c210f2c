"""`probe completion`: what a shell reads to complete `probe`, as `kubectl completion` prints it."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from probe.output import put


class Shell(enum.StrEnum):
    """Shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print a script that lets a shell complete commands, options and scenarios.

    source <(probe completion bash)
    """
    from probe.completing import script

    put(script(shell.value))
