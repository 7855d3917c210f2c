"""The documentation as tests read it."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"(?ms)^```(?P<language>\w*)\n(?P<body>.*?)^```$")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"(?m)^(?P<level>#+) (?P<title>.+)$")


def _generator() -> ModuleType:
    """docs/generate.py, which is a script and no part of any package."""
    spec = importlib.util.spec_from_file_location("docs_generate", REPOSITORY / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = _generator()

#: By path within the repository.
DOCUMENTS: dict[str, str] = {
    str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in generate.documents()
}


class Fence(NamedTuple):
    """A fenced block, and the line that stands before it."""

    language: str
    body: str
    before: str


def fences(text: str) -> Iterator[Fence]:
    for match in _FENCE.finditer(text):
        yield Fence(match["language"], match["body"], text[: match.start()].rstrip("\n").rpartition("\n")[2])


def prose(text: str) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> Iterator[str]:
    return (match["target"] for match in _LINK.finditer(prose(text)))


def anchors(text: str) -> set[str]:
    """What can be linked to, as GitHub makes it: headings, and ids that are written down."""
    titles = (match["title"] for match in _HEADING.finditer(prose(text)))
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def inline_code(text: str) -> Iterator[str]:
    return iter(re.findall(r"`([^`\n]+)`", prose(text)))


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, header and rule left out."""
    _, found, after = text.partition(f"# {heading}\n")
    assert found, f"there is no heading {heading!r}"
    section = re.split(r"(?m)^#+ ", after)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert rows, f"there is no table under {heading!r}"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def names(cell: str) -> list[str]:
    """The names in code within a cell."""
    return re.findall(r"`([^`]+)`", cell)
