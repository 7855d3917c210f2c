"""The grammar of haproxy.cfg: text in, sections of words out (HAProxy's configuration manual, section 2).

A line is words between white space; quotes and backslashes keep spaces, "#" begins a comment. A line that begins with
a section's keyword opens that section; every other line is a setting of the section above it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from probe.ingress.errors import ConfigError

#: Keywords that open a section, of every version from 1.8 to 3.2.
SECTIONS = frozenset({
    "acme", "backend", "cache", "crt-store", "defaults", "dynamic-update", "fcgi-app", "frontend", "global",
    "http-errors", "listen", "log-forward", "log-profile", "mailers", "peers", "program", "resolvers", "ring",
    "traces", "userlist",
})  # fmt: skip

#: Preprocessor words (section 2.4): what they guard may or may not be in force.
_CONDITIONS = frozenset({".if", ".elif", ".else", ".endif", ".diag", ".notice", ".warning", ".alert"})

_PIECE = re.compile(
    r"""(?P<space>\s+)|(?P<comment>\#.*)|'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|\\(?P<kept>.)"""
    r"""|(?P<bare>[^\s#'"\\]+)|(?P<open>.)""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of a section. `conditional`: it stands between .if and .endif."""

    words: tuple[str, ...]
    line: int
    conditional: bool = False


@dataclass(slots=True)
class Section:
    """A section; `name` is "" where it has none, `base` the defaults section named by `from`."""

    kind: str
    name: str
    line: int
    base: str = ""
    settings: list[Setting] = field(default_factory=list)


def parse(text: str) -> list[Section]:
    """All sections in their order. Raises ConfigError with the line."""
    sections: list[Section] = []
    depth = 0
    for number, raw in enumerate(text.split("\n"), 1):
        words = split_words(raw, number)
        if not words:
            continue
        if words[0] in _CONDITIONS:
            depth += (words[0] == ".if") - (words[0] == ".endif")
        elif words[0] in SECTIONS:
            sections.append(_section(words, number))
        elif not sections:
            raise ConfigError(
                f'"{words[0][:40]}" stands before any section (global, defaults, …)', line=number
            )
        else:
            sections[-1].settings.append(Setting(words, number, depth > 0))
    return sections


def _section(words: tuple[str, ...], line: int) -> Section:
    kind, *rest = words
    name = rest[0] if rest and rest[0] != "from" else ""
    base = rest[rest.index("from") + 1 :] if "from" in rest else []
    return Section(kind, name, line, base[0] if base else "")


def split_words(line: str, number: int = 0) -> tuple[str, ...]:
    """The words of a line. Raises ConfigError where a quote is not closed."""
    words: list[str] = []
    pieces: list[str] | None = None  # of the word that is being read
    for found in _PIECE.finditer(line):
        kind, text = found.lastgroup, found[found.lastgroup or 0]
        if kind == "open":
            raise ConfigError(f"a text that begins with {text} is not closed", line=number)
        if kind in {"space", "comment"}:
            if pieces is not None:
                words.append("".join(pieces))
            pieces = None
            if kind == "comment":
                break
            continue
        pieces = pieces if pieces is not None else []
        pieces.append(re.sub(r"\\(.)", r"\1", text) if kind == "double" else text)
    if pieces is not None:
        words.append("".join(pieces))
    return tuple(words)
