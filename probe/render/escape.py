"""Text that may come from the wire, a file or a cluster, made safe for one line of a terminal.

Rules:

1. Nothing that moves the cursor, changes colours, reorders or hides text passes: control and format
   characters (bidi among them), separators other than the space, surrogates, private and unassigned code
   points, stacked marks. They are shown as backslash escapes: nothing is dropped.
2. What is cut says so.
3. Where the terminal cannot write a character, it is spelled in ASCII (`plain`).
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import PurePath

#: Longest piece of text shown, in characters.
TEXT_LIMIT = 1000

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

_ASCII = str.maketrans({
    "→": "->", "←": "<-", "—": "-", "–": "-", "…": "...", "·": "-", "×": "x", "✓": "+", "‼": "!",
    "│": "|", "─": "-", "├": "|", "└": "`", "≤": "<=", "≥": ">=", "“": '"', "”": '"', "’": "'",
})  # fmt: skip


def escape(text: str, limit: int = TEXT_LIMIT) -> str:
    """`text` as one safe line of at most `limit` characters and a note of how many more there were."""
    shown = "".join(map(_safe, text[:limit]))
    return shown if len(text) <= limit else f"{shown}… ({len(text) - limit} more)"


def file_text(name: str | PurePath) -> str:
    """A file's name as text that can be kept: its bytes may be no UTF-8, and Python makes surrogates of those."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def plain(text: str) -> str:
    """The nearest ASCII spelling."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def _safe(character: str) -> str:
    if " " <= character <= "~":
        return character
    category = unicodedata.category(character)
    if category == "Zs":  # a no-break or ideographic space must not pass for a column
        return " "
    if category in _UNSAFE or category in {"Mn", "Me"}:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character
