"""The manual page, docs/probe.1, made from the command line itself: `make docs`, or `python docs/manual.py`.

In the language of man(7). Nothing but the help of commands and options stands in it, and what they share.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from probe import __version__
from probe.cli import EPILOG, app

PAGE = Path(__file__).resolve().parent / "probe.1"

_NAME = "probe"
_SAID = "say where a client's IP address is lost on its way into Kubernetes"

_ENVIRONMENT = {
    "KUBECONFIG": "The kubeconfig, where --kubeconfig does not name one.",
    "NO_COLOR": "Any value: no colours.",
    "PROBE_DEBUG": "Show the traceback of a defect, as --debug does.",
}


def manual() -> str:
    """The whole page."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name=_NAME)
    lines = [
        f'.\\" Made from the command line by docs/manual.py; {_NAME} {__version__}.',
        f'.TH PROBE 1 "" "client-ip-probe {__version__}" "User Commands"',
        ".SH NAME",
        f"{_NAME} \\- {_text(_SAID)}",
        ".SH SYNOPSIS",
        f".B {_NAME}",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]...",
        ".br",
        ".B kubectl client\\-ip",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]...",
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
        ".SH OPTIONS",
        *_parameters(command, context),
        ".SH COMMANDS",
    ]
    for path, inner, within in _commands(command, context, _NAME):
        lines += [f'.SS "{_text(path)}"', *_command(inner, within)]
    lines += [".SH ENVIRONMENT"]
    for name, said in _ENVIRONMENT.items():
        lines += [".TP", f".B {name}", *_filled(said)]
    codes = EPILOG.removeprefix("Exit codes: ").rstrip(".")
    lines += [".SH EXIT STATUS"]
    for part in codes.split(" · "):
        code, _, said = part.partition(" ")
        lines += [".TP", f".B {code}", *_filled(said)]
    lines += [".SH SEE ALSO", ".BR kubectl (1),", ".BR tshark (1),", ".BR conntrack (8),", ".BR nft (8)"]
    return "\n".join(lines) + "\n"


def _commands(group: Any, context: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Every command that is shown, with its path; those of a group after it."""
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        within = typer.Context(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            yield from _commands(command, within, f"{path} {name}")
        else:
            yield f"{path} {name}", command, within


def _command(command: Any, context: Any) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield from _filled(f"{context.command_path} {usage}")
    yield ".PP"
    yield from _paragraphs(command.help or "")
    yield from _parameters(command, context)


def _parameters(command: Any, context: Any) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        names, said = record
        yield ".TP"
        yield f".B {_text(re.sub(r' <.*>$', '', ' '.join(names.split())))}"
        yield from _filled(said) or ["\\&"]


def _paragraphs(help_: str) -> Iterator[str]:
    """Paragraphs of a help text; a line that is a command is shown as one."""
    for number, paragraph in enumerate(help_.strip().split("\n\n")):
        words = " ".join(paragraph.replace("\b", "").split())
        if number:
            yield ".PP"
        if words.startswith("probe "):
            yield from (".RS", ".nf", _text(words), ".fi", ".RE")
        else:
            yield from _filled(words)


def _filled(text: str) -> list[str]:
    """A text in lines of the source; the page fills them anew."""
    words = " ".join(text.split())
    return [_text(line) for line in textwrap.wrap(words, 72, break_long_words=False, break_on_hyphens=False)]


def _text(text: str) -> str:
    """Text that roff does not obey: backslashes, leading dots and quotes, hyphens that are meant as such."""
    shown = text.replace("\\", "\\e").replace("-", "\\-")
    shown = re.sub(r"([^\x00-\x7e])", lambda found: f"\\[u{ord(found[1]):04X}]", shown)
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown


def main() -> int:
    """Write the page; say whether it has changed."""
    text = manual()
    if not PAGE.exists() or PAGE.read_text(encoding="ascii") != text:
        PAGE.write_text(text, encoding="ascii")
        sys.stdout.write("docs/probe.1 has changed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
