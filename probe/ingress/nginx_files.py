"""All files of an nginx configuration as one tree: `include` resolved within a folder, a dump, or a ConfigMap.

Where an included file stands is nginx's own affair (a container, another machine). It is looked for at its own place,
and where the main file was copied from /etc/nginx to somewhere else, at the same place beside that copy first.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from probe.ingress.errors import ConfigError
from probe.ingress.nginx_grammar import Directive, parse

FILES_LIMIT = 2000
LOOKED_AT = 10_000  # names that one pattern may match
DEPTH_LIMIT = 100  # blocks and includes together
SIZE_LIMIT = 16 << 20
INCLUDED_LIMIT = 64 << 20  # of the files of one include together

#: What `nginx -T` writes before each file.
DUMP_MARK = re.compile(r"^# configuration file (?P<name>/[^\n]*):\s*$", re.MULTILINE)

#: Included files that say nothing about listeners and clients; their absence is not worth a word.
_IRRELEVANT = re.compile(
    r"(^|/)(mime\.types|(fastcgi|scgi|uwsgi|proxy)_params|fastcgi\.conf|modules-enabled/.*)$"
)


class Part(NamedTuple):
    """One file of a configuration: its own name, its text, where it is found by people and from which line on."""

    name: str
    text: str
    shown: str
    first_line: int = 1


#: The files that an include means.
Lookup = Callable[[str], Sequence[Part]]


class Tree(NamedTuple):
    """Directives with all includes in their places, and what of them is missing."""

    directives: list[Directive]
    missing: tuple[str, ...]


def read_tree(main: Part, lookup: Lookup) -> Tree:
    """The whole configuration. Raises ConfigError, with the file in which it is wrong."""
    missing: list[str] = []
    count = 0

    def load(part: Part, depth: int) -> list[Directive]:
        nonlocal count
        count += 1
        if count > FILES_LIMIT:
            raise ConfigError(f"it includes more than {FILES_LIMIT} files", file=main.shown)
        try:
            directives = parse(part.text, part.shown, part.first_line)
        except ConfigError as error:
            raise ConfigError(str(error), file=part.shown, line=error.line) from error
        return list(expand(directives, depth))

    def expand(directives: list[Directive], depth: int) -> Iterator[Directive]:
        for each in directives:
            if each.name == "include" and each.block is None and len(each.args) == 1:
                yield from include(each, depth)
                continue
            if each.block is not None:
                each.block = list(expand(each.block, depth + 1))
            yield each

    def include(directive: Directive, depth: int) -> Iterator[Directive]:
        pattern = directive.args[0]
        if depth >= DEPTH_LIMIT:
            raise ConfigError(
                "too many blocks and includes within each other", file=directive.file, line=directive.line
            )
        parts = lookup(pattern)
        if not parts and not _IRRELEVANT.search(pattern) and not set(pattern) & set("*?["):
            missing.append(f"{directive.file} line {directive.line}: the included {pattern} is not there")
        for part in parts:
            yield from load(part, depth + 1)

    return Tree(load(main, 0), tuple(missing))


def in_folder(main: Path) -> Lookup:
    """Includes on disk, relative to the folder of the main file as nginx takes them."""
    folder = main.parent

    def lookup(pattern: str) -> Sequence[Part]:
        wanted = PurePosixPath(pattern)
        if not wanted.is_absolute():
            return _files(folder, pattern)
        beside = [name for name in ("/etc/nginx", "/usr/local/nginx/conf") if pattern.startswith(name + "/")]
        copied = _files(folder, pattern[len(beside[0]) + 1 :]) if beside else ()
        return copied or _files(Path("/"), pattern[1:])

    return lookup


def _files(folder: Path, pattern: str) -> tuple[Part, ...]:
    # glob(7) knows no "**", and pathlib's would walk the whole disk.
    pattern = re.sub(r"\*{2,}", "*", pattern)
    try:
        found = folder.glob(pattern) if set(pattern) & set("*?[") else [folder / pattern]
        paths = sorted(path for path in islice(found, LOOKED_AT) if _regular(path))[: FILES_LIMIT + 1]
        if len(paths) > 1 and sum(path.stat().st_size for path in paths) > INCLUDED_LIMIT:
            raise ConfigError(f"the files that {pattern} includes are longer than {INCLUDED_LIMIT >> 20} MiB")
        return tuple(Part(str(path), _text(path), str(path)) for path in paths)
    except (
        ValueError,
        NotImplementedError,
        IndexError,
    ):  # a pattern that pathlib refuses: nothing matches it
        return ()


def _regular(path: Path) -> bool:
    """A device or pipe that is named in an include is never opened: it might have no end."""
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= SIZE_LIMIT


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror or error}", file=str(path)) from error


def in_parts(parts: Sequence[Part], main: str = "/etc/nginx/nginx.conf") -> Lookup:
    """Includes among named texts: the files of a dump, or the keys of a ConfigMap."""
    folder = str(PurePosixPath(main).parent)

    def lookup(pattern: str) -> Sequence[Part]:
        absolute = pattern if pattern.startswith("/") else f"{folder}/{pattern}"
        # A dump has whole paths, a ConfigMap the last parts of them. "*" stops at a slash, as glob(7) has it.
        return [
            part
            for part in parts
            if _matches(absolute, part.name) or _matches(absolute, f"{folder}/{part.name}")
        ]

    return lookup


def _matches(pattern: str, name: str) -> bool:
    ours, theirs = pattern.split("/"), name.split("/")
    return len(ours) == len(theirs) and all(map(fnmatchcase, theirs, ours))


def dump_parts(text: str, file: str) -> list[Part]:
    """The files in what `nginx -T` printed, the main one first; names keep their paths, lines are the dump's."""
    marks = list(DUMP_MARK.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        Part(mark["name"], text[mark.end() : end], file, 1 + text.count("\n", 0, mark.end()))
        for mark, end in zip(marks, ends, strict=True)
    ]
