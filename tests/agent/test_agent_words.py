"""What an agent tells a person: complaints with a remedy, and what it could not see, by the house's rules for words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemonset.agent import _refusal
from tests.cli.test_words import JARGON, REMEDY, REPOSITORY, VALUE, Message, spoken

#: Calls whose text an agent ends with, on the stderr of whoever started it; and where in the call the text stands.
COMPLAINTS = {"_complain": 0, "error": 0, "ArgumentTypeError": 0}

#: What the report says was not seen, and why; the text of an error becomes that of a gap.
NOTES = {"Gap": 1, "ConntrackError": 0, "TraceRefusedError": 0, "CountsRefusedError": 0, "ConfinementError": 0,
         "WireError": 0, "TruncatedError": 0, "LegacyTableError": 0, "complain": 0, "say": 0}  # fmt: skip

#: Said where the command line is wrong: the parser adds where to look.
PARSED = {"error", "ArgumentTypeError"}


def said(kinds: dict[str, int]) -> Iterator[Message]:
    for path in sorted((REPOSITORY / "daemonset").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            kind = ast.unparse(node.func).rpartition(".")[2]
            if kind not in kinds or len(node.args) <= (at := kinds[kind]):
                continue
            given = node.args[at]
            if isinstance(given, ast.Name):
                given = constants.get(given.id, given)
            if (text := spoken(given)) != VALUE:
                yield Message(f"{path.relative_to(REPOSITORY)}:{node.lineno}", kind, text)


def contradictions() -> Iterator[Message]:
    """What these functions answer with becomes a complaint."""
    path = REPOSITORY / "daemonset" / "agent.py"
    for function in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(function, ast.FunctionDef) and function.name in {"_contradiction", "_refusal"}:
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and node.value is not None and spoken(node.value) != VALUE:
                    yield Message(f"daemonset/agent.py:{node.lineno}", "_complain", spoken(node.value))


COMPLAINED = [*said(COMPLAINTS), *contradictions()]
NOTED = list(said(NOTES))


def by_place(message: Message) -> str:
    return message.place


def test_they_are_found() -> None:
    assert len(COMPLAINED) > 14
    assert len(NOTED) > 30


@pytest.mark.parametrize("message", [*COMPLAINED, *NOTED], ids=by_place)
def test_what_an_agent_says_is_one_line_in_plain_words(message: Message) -> None:
    text = message.text
    assert "\n" not in text
    assert not text.endswith("."), "it is no paragraph"
    assert text[0] == text[0].lower(), "it follows `probe agent: ` or the name of a node"
    words = re.sub(r"`[^`]*`", "", text)
    assert not (found := JARGON.search(words)), f"{found[0] if found else ''} is no word of an operator"
    assert "  " not in text


@pytest.mark.parametrize("message", [each for each in COMPLAINED if each.kind not in PARSED], ids=by_place)
def test_a_complaint_of_an_agent_says_what_to_do(message: Message) -> None:
    assert REMEDY.search(message.text), message.text


def complained(*arguments: str | Path) -> str:
    """The one line that an agent ends with at once, where it may not watch."""
    command = [sys.executable, "-m", "daemonset.agent", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode in {2, 5}
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("probe agent: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--node", "n1", "--port", "many"], "not a port: 'many'; see 'probe agent --help'"),
        (["--node", "n1", "--sample", "1/3"], "not 1/N with a power of two up to 65536: '1/3'; see"),
        ([], "the following arguments are required: --node; see"),
        (["--node", "n1", "--output", "x"], "--output keeps what --once sees; give --once too"),
        (["--once"], "--once keeps what it sees in a new folder; name it with --output DIR"),
        (
            ["--once", "--output", "/proc/nowhere"],
            "cannot write /proc/nowhere: No such file or directory; name",
        ),
        (["--once", "--output", "."], ". is not empty; name a new folder"),
    ],
)
def test_a_mistake_at_a_node_is_told_in_one_line(arguments: list[str], words: str) -> None:
    assert words in complained(*arguments)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(1, "Operation not permitted"),
            "packet sockets need the capability NET_RAW; run as root",
        ),
        (
            PermissionError(1, "Operation not permitted", "setns"),
            "cannot watch this node: setns: Operation not",
        ),
        (
            OSError(105, "No buffer space available"),
            "cannot watch this node: No buffer space available; put that",
        ),
        (
            OSError(28, "No space left on device", "kept/n1.probe"),
            "cannot write kept/n1.probe: No space left on",
        ),
        (
            PermissionError(13, "Permission denied", "kept"),
            "cannot write kept: Permission denied; name another",
        ),
    ],
)
def test_what_the_system_refuses_is_told_by_what_it_was(error: OSError, line: str) -> None:
    assert _refusal(error, "kept").startswith(line)
