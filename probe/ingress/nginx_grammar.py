"""The grammar of nginx.conf: text in, a tree of directives out.

The rules are those of nginx's own reader (src/core/ngx_conf_file.c):

1. A directive is words up to ";", or words and a block in braces. Words end at white space, ";" or "{".
2. A quote counts only at the beginning of a word, and after the closing one the word is over. A backslash keeps the
   next character; \\t, \\r and \\n stand for control characters. "${" does not open a block. "#" begins a comment only
   where a word could begin.
3. Blocks that hold Lua (lua-nginx-module's `*_by_lua_block`) end at the brace that is theirs by Lua's rules for
   strings and comments, and their contents are nobody's directives.

The parser neither knows which directives exist nor opens included files: see `probe.ingress.nginx_files`. Published
parsers of this grammar read from paths only, so neither a dump of `nginx -T` nor a ConfigMap, and recurse with the
depth of the blocks; so this is one of our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from probe.ingress.errors import ConfigError

#: Deeper blocks than any real configuration has.
DEPTH_LIMIT = 64

_WORD_END = frozenset(" \t\r\n;{")
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"}
_LUA = re.compile(
    r"--\[(?P<c>=*)\[.*?\](?P=c)\]|--[^\n]*|\[(?P<s>=*)\[.*?\](?P=s)\]"
    r"""|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}]""",
    re.DOTALL,
)


@dataclass(slots=True)
class Directive:
    """One directive; `block` is None where it ends with a semicolon. `line` counts from 1."""

    name: str
    args: tuple[str, ...]
    line: int
    block: list[Directive] | None = None
    file: str = ""


@dataclass(slots=True)
class _Open:
    """A block that is being read."""

    into: list[Directive]
    line: int
    words: list[str] = field(default_factory=list)
    begun: int = 0  # the line of the first word


def parse(text: str, file: str = "", first_line: int = 1) -> list[Directive]:
    """The directives of a file, as they stand. Raises ConfigError with the line."""
    top = _Open([], first_line)
    stack = [top]
    tokens = _Tokens(text, first_line)
    for word, line, quoted in tokens:
        here = stack[-1]
        if quoted or word not in {";", "{", "}"}:
            here.begun = here.begun if here.words else line
            here.words.append(word)
        elif word == "}":
            _close(stack, file, line)
        elif not here.words:
            raise ConfigError(f'unexpected "{word}"', file=file, line=line)
        else:
            directive = Directive(here.words[0], tuple(here.words[1:]), here.begun, None, file)
            here.into.append(directive)
            here.words = []
            if word == "{":
                directive.block = []
                if directive.name.endswith("_by_lua_block"):
                    tokens.skip_lua(file, line)
                elif len(stack) > DEPTH_LIMIT:
                    raise ConfigError(
                        f"more than {DEPTH_LIMIT} blocks within each other", file=file, line=line
                    )
                else:
                    stack.append(_Open(directive.block, line))
    here = stack[-1]
    if here.words:
        raise ConfigError(
            f'"{here.words[0][:40]}" is not ended by ";" before the end of the file',
            file=file,
            line=here.begun,
        )
    if len(stack) > 1:
        raise ConfigError('the block that begins here has no closing "}"', file=file, line=here.line)
    return top.into


def _close(stack: list[_Open], file: str, line: int) -> None:
    here = stack[-1]
    if here.words:
        raise ConfigError(
            f'"{here.words[0][:40]}" is not ended by ";" before the "}}" of line {line}',
            file=file,
            line=here.begun,
        )
    if len(stack) == 1:
        raise ConfigError('unexpected "}"', file=file, line=line)
    stack.pop()


class _Tokens:
    """Words and the marks ; { } with their lines; `skip_lua` takes the source of a Lua block out of the way."""

    def __init__(self, text: str, first_line: int) -> None:
        self._text = text
        self._at = 0
        self._line = first_line

    def __iter__(self) -> Iterator[tuple[str, int, bool]]:
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char in " \t\r\n":
                self._line += char == "\n"
                self._at += 1
            elif char == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            elif char in ";{}":
                self._at += 1
                yield char, self._line, False
            else:
                line = self._line
                quoted = char in "\"'"
                yield (self._quoted(char) if quoted else self._bare()), line, quoted

    def _quoted(self, quote: str) -> str:
        begun, parts = self._line, []
        at = self._at + 1
        text = self._text
        while at < len(text) and text[at] != quote:
            if text[at] == "\\" and at + 1 < len(text):
                at += 1
                parts.append(_escaped(text[at]))
            else:
                parts.append(text[at])
            self._line += text[at] == "\n"
            at += 1
        if at >= len(text):
            raise ConfigError(f"the text that begins with {quote} here is not closed", line=begun)
        self._at = at + 1
        if self._at < len(text) and text[self._at] not in " \t\r\n;{)":
            raise ConfigError(f'unexpected "{text[self._at]}" after a closing {quote}', line=self._line)
        return "".join(parts)

    def _bare(self) -> str:
        text, at, parts = self._text, self._at, []
        while at < len(text):
            char = text[at]
            if char == "\\" and at + 1 < len(text):
                at += 1
                parts.append(_escaped(text[at]))
                self._line += text[at] == "\n"
            elif char == "$" and text.startswith("{", at + 1):
                parts.append("${")
                at += 1
            elif char in _WORD_END:
                break
            else:
                parts.append(char)
            at += 1
        self._at = at
        return "".join(parts)

    def skip_lua(self, file: str, begun: int) -> None:
        """Go behind the brace that ends the Lua block whose opening brace was just read."""
        depth = 1
        for found in _LUA.finditer(self._text, self._at):
            depth += {"{": 1, "}": -1}.get(found.group(), 0)
            if depth == 0:
                self._line += self._text.count("\n", self._at, found.end())
                self._at = found.end()
                return
        raise ConfigError('the Lua block that begins here has no closing "}"', file=file, line=begun)


def _escaped(char: str) -> str:
    """What a backslash and `char` stand for; before most characters the backslash stays."""
    if char in {'"', "'", "\\"}:
        return char
    return _ESCAPES.get(char, "\\" + char)
