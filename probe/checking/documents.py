"""Kubernetes objects out of files and folders: YAML of many documents, JSON, and lists of objects.

A document that cannot be read does not hide the others: it is left out and named among the problems. Files are
somebody's: their size, their number and what aliases make of them are bounded.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from probe.cluster.fields import Json, plain
from probe.errors import UsageError, os_error
from probe.render.escape import file_text

#: Endings by which files of objects are known in a folder.
ENDINGS = (".yaml", ".yml", ".json")

#: Largest file, in bytes; most files of a folder; most values of one document, aliases written out.
LARGEST, MOST_FILES, MOST_VALUES = 64 << 20, 10_000, 2_000_000

_MARK = re.compile(r"^---(?:[ \t#][^\n]*)?$", re.MULTILINE)
_TEMPLATE = re.compile(r"\{\{-?\s")
_PLACE = re.compile(r", line (\d+), column \d+")


@dataclass(slots=True)
class Documents:
    """Objects in the order of their files, and what could not be read, in words."""

    items: list[Json] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_documents(paths: Sequence[Path]) -> Documents:
    """The objects of files and of all files in folders; `-` is standard input. Raises ProbeError."""
    found = Documents()
    for path in _files(paths, found):
        shown = "standard input" if str(path) == "-" else file_text(path)
        text = _text(path, found, shown)
        if text is not None:
            read_text(text, shown, found)
    return found


def _files(paths: Iterable[Path], found: Documents) -> Iterator[Path]:
    for path in paths:
        if str(path) == "-" or not path.is_dir():
            yield path
            continue
        listed = sorted(_inside(path))
        if not listed:
            raise UsageError(f"{path} holds no file that ends in {', '.join(ENDINGS)}; give another with -f")
        if len(listed) > MOST_FILES:
            found.problems.append(f"{path} holds {len(listed)} files; {MOST_FILES} of them are read")
        yield from listed[:MOST_FILES]


def _inside(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in names if name.endswith(ENDINGS))


def _text(path: Path, found: Documents, shown: str) -> str | None:
    try:
        if str(path) == "-":
            raw = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with path.open("rb") as stream:
                raw = stream.read(LARGEST + 1)
    except OSError as error:
        raise os_error(error, f"read {path}") from error
    if len(raw) > LARGEST:
        raise UsageError(f"{shown} is larger than {LARGEST >> 20} MiB; give the objects that matter alone")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        found.problems.append(f"{shown} is no text")
        return None


def read_text(text: str, shown: str, found: Documents) -> None:
    """Add the objects of one file's text to what was found; `shown` is what the file is called."""
    if text.lstrip()[:1] in {"{", "["}:
        try:
            _take(msgspec.json.decode(text), shown, found)
            return
        except (msgspec.DecodeError, RecursionError) as error:
            if text.lstrip()[:1] == "[" or not _MARK.search(text):
                found.problems.append(f"{shown} is not JSON: {plain(str(error), 120)}")
                return
    start = 0
    for number, mark in enumerate([*_MARK.finditer(text), None], start=1):
        part = text[start : mark.start() if mark else len(text)]
        if part.strip():
            _document(part, f"{shown}, document {number}", text.count("\n", 0, start), found)
        start = mark.end() if mark else start


def _document(text: str, shown: str, before: int, found: Documents) -> None:
    try:
        value = msgspec.yaml.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError, ArithmeticError, TypeError) as error:
        told = str(error).split("\n")
        what = ([each for each in told if not each.startswith(" ")] or told)[-1]
        lines = [int(met[1]) for each in told if (met := _PLACE.search(each))]
        place = f" (line {before + lines[-1]})" if lines else ""
        hint = "; it is a template: give what `helm template` renders" if _TEMPLATE.search(text) else ""
        found.problems.append(f"{shown} is not YAML{place}: {plain(what, 120)}{hint}")
        return
    if value is not None:
        _take(value, shown, found)


def _take(value: Any, shown: str, found: Documents) -> None:
    """The objects in one value: itself, the items of a List, or the entries of an array."""
    if not _bounded(value):
        found.problems.append(f"{shown} holds more than {MOST_VALUES:,} values and is left out")
        return
    items = value.get("items") if isinstance(value, dict) and "items" in value else value
    listed = items if isinstance(items, list) else [items]
    for at, item in enumerate(listed):
        where = shown if len(listed) == 1 else f"{shown}, item {at + 1}"
        if problem := _unfit(item):
            found.problems.append(f"{where} {problem}")
        else:
            found.items.append(item)


def _unfit(item: Any) -> str:
    """Why a value is no object of Kubernetes, "" where it is one."""
    if not isinstance(item, dict) or not all(isinstance(key, str) for key in item):
        return "is no object of Kubernetes"
    if not isinstance(item.get("kind"), str) or not item["kind"]:
        return "has no kind"
    metadata = item.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return f"({plain(item['kind'])}) has no metadata.name"
    return ""


def _bounded(value: Any) -> bool:
    """Whether a value is of a size to be walked through, with what aliases repeat."""
    waiting, seen = [value], 0
    while waiting:
        one = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            return False
        if isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return True
