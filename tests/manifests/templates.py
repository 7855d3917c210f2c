"""As much of Helm's templates as the chart uses: enough to hold what Helm would make of it against the source.

Known are the actions `{{ pipeline }}`, if, else if, else, with, range and end, trimmed on the left (`{{-`), and
the functions in `_FUNCTIONS`. Anything else is an error, so the chart cannot grow past what is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from textwrap import indent
from typing import Any

import msgspec

_ACTION = re.compile(r"(\s*)\{\{(-?) (.*?) \}\}", re.DOTALL)
_WORD = re.compile(r'"[^"]*"|\(|\)|\||[^\s()|]+')


@dataclass
class Block:
    """An if, with or range: its branches in order, each with the pipeline that decides."""

    kind: str
    branches: list[tuple[str, list[Any]]] = field(default_factory=list)


def render(template: str, values: dict[str, Any], kubernetes: str) -> str:
    """The text that the template gives for these values on a server of this version."""
    parts = iter(list(_parts(template)))
    top = {"Values": values, "Capabilities": {"KubeVersion": {"Version": kubernetes}}}
    nodes, ended = _parse(parts)
    assert ended is None, f"{ended} without a beginning"
    return "".join(_run(nodes, top, top))


def _parts(template: str) -> Iterator[tuple[str, str]]:
    at = 0
    for found in _ACTION.finditer(template):
        space, trims, action = found.groups()
        yield "text", template[at : found.start()] + ("" if trims else space)
        yield "action", action
        at = found.end()
    yield "text", template[at:]


def _parse(parts: Iterator[tuple[str, str]]) -> tuple[list[Any], str | None]:
    """Nodes up to the action that ends them."""
    nodes: list[Any] = []
    for kind, content in parts:
        word = content.split(" ", 1)[0]
        if kind == "text":
            nodes.append(content)
        elif word in {"end", "else"}:
            return nodes, content
        elif word in {"if", "with", "range"}:
            nodes.append(_parse_block(word, content, parts))
        else:
            nodes.append(("print", content))
    return nodes, None


def _parse_block(kind: str, opening: str, parts: Iterator[tuple[str, str]]) -> Block:
    block, condition = Block(kind), opening.removeprefix(kind)
    while True:
        nodes, ended = _parse(parts)
        block.branches.append((condition.strip(), nodes))
        assert ended is not None, f"{opening} without an end"
        if ended == "end":
            return block
        condition = ended.removeprefix("else").strip().removeprefix("if") or "true"


def _run(nodes: list[Any], top: dict[str, Any], dot: Any) -> Iterator[str]:
    for node in nodes:
        match node:
            case str():
                yield node
            case ("print", pipeline):
                value = _evaluate(pipeline, top, dot)
                yield value if isinstance(value, str) else str(value)
            case Block(kind="range", branches=[(pipeline, body)]):
                for item in _evaluate(pipeline, top, dot):
                    yield from _run(body, top, item)
            case Block(kind=kind, branches=branches):
                for pipeline, body in branches:
                    value = True if pipeline == "true" else _evaluate(pipeline, top, dot)
                    if value:
                        yield from _run(body, top, value if kind == "with" else dot)
                        break


def _evaluate(pipeline: str, top: dict[str, Any], dot: Any) -> Any:
    words = iter(_WORD.findall(pipeline))
    return _pipeline(words, top, dot)


def _pipeline(words: Iterator[str], top: dict[str, Any], dot: Any) -> Any:
    """A value, or a function with its arguments; each `|` hands the result on as the last argument."""
    passed: list[Any] = []
    command: list[Any] = []
    for word in words:
        if word == ")":
            break
        if word == "|":
            passed, command = [_call(command + passed)], []
        else:
            command.append(_pipeline(words, top, dot) if word == "(" else _value(word, top, dot))
    return _call(command + passed)


def _call(command: list[Any]) -> Any:
    first, *arguments = command
    return first(*arguments) if callable(first) else first


def _value(word: str, top: dict[str, Any], dot: Any) -> Any:
    if word == ".":
        return dot
    if word.startswith("."):
        found: Any = top
        for key in word[1:].split("."):
            found = found[key]  # a value that values.yaml does not have is an error
        return found
    if word.startswith('"'):
        return word[1:-1]
    return int(word) if word.isdecimal() else _FUNCTIONS[word]


def _semver_compare(constraint: str, version: str) -> bool:
    """Of Masterminds' constraints, `>=A.B-0` alone."""
    wanted = re.fullmatch(r">=(\d+)\.(\d+)-0", constraint)
    found = re.match(r"v?(\d+)\.(\d+)", version)
    assert wanted is not None
    assert found is not None
    return [*map(int, found.groups())] >= [*map(int, wanted.groups())]


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "quote": lambda value: msgspec.json.encode(str(value)).decode(),
    "toYaml": lambda value: msgspec.yaml.encode(value).decode().rstrip("\n"),
    "nindent": lambda spaces, text: "\n" + indent(text, " " * spaces),
    "not": lambda value: not value,
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "semverCompare": _semver_compare,
}
