"""What every piece of terminal output agrees on: width, colours, glyphs, and that all text is made safe.

Colour is used only where the stream is a terminal and NO_COLOR (no-color.org) is unset; nothing is told by
colour alone. Markup, emoji codes and highlighting of rich stay off, so that no text is read as instruction.
"""

from __future__ import annotations

import io
import textwrap
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from analysis.report import Severity, Verdict
from probe.output import ascii_only
from probe.render.escape import escape, plain

WIDE = 200

#: Longer lines of prose are hard to read, however wide the terminal.
READABLE = 100

GLYPHS = {
    Verdict.PRESERVED: ("✓", "green"),
    Verdict.LOST: ("×", "bold red"),
    Verdict.BLACKHOLED: ("×", "bold red"),
    Verdict.INCONCLUSIVE: ("‼", "yellow"),
    Severity.ERROR: ("×", "bold red"),
    Severity.WARNING: ("‼", "yellow"),
    Severity.INFO: ("·", "cyan"),
}


class Paper:
    """What will be written to `stream`: made for its width, its colours, and what characters it takes.

    Nothing reaches the stream itself; `written` is the whole. `width` None means the terminal's, or 80.
    """

    def __init__(self, stream: TextIO, *, wide: bool = False, width: int | None = None) -> None:
        self.wide = wide
        self._ascii = ascii_only(stream)
        self._buffer = io.StringIO()
        self._console = Console(
            file=self._buffer,
            width=width,
            force_terminal=True if stream.isatty() else None,  # None leaves it to FORCE_COLOR and its kin
            highlight=False,
            markup=False,
            emoji=False,
        )
        if wide:
            self._console.width = max(self._console.width, WIDE)

    @property
    def written(self) -> str:
        """Everything printed so far."""
        return self._buffer.getvalue()

    @property
    def columns(self) -> int:
        """Width in character cells; never less than what one address needs."""
        return max(self._console.width, 24)

    def safe(self, text: str) -> str:
        """`text` as one line that this paper can take."""
        shown = escape(text)
        return plain(shown) if self._ascii else shown

    def text(self, *parts: str | tuple[str, str]) -> Text:
        """A line of parts, each a text or a (text, style), all made safe."""
        line = Text()
        for part in parts:
            words, style = (part, "") if isinstance(part, str) else part
            line.append(self.safe(words), style)
        return line

    def print(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of parts."""
        self.line(self.text(*parts))

    def line(self, line: Text) -> None:
        """Print a line; what does not fit is folded, never cut."""
        line.rstrip()
        self._console.print(line, overflow="fold", no_wrap=False)

    def verbatim(self, *parts: str | tuple[str, str]) -> None:
        """Print one line that is to be copied: never folded here, whatever the width."""
        self._console.print(self.text(*parts), soft_wrap=True)

    def glyph(self, kind: Verdict | Severity) -> tuple[str, str]:
        """The sign of a verdict or severity, with its style."""
        return GLYPHS[kind]

    def paragraph(
        self, label: str, text: str, indent: int = 2, style: str = "", label_style: str = "bold"
    ) -> None:
        """A labelled paragraph with hanging indent; line breaks in `text` are kept."""
        hang = indent + (len(label) + 2 if label else 0)
        room = max(min(self.columns - hang, READABLE), 16)
        first = True
        for block in text.split("\n"):
            wrapped = textwrap.wrap(
                self.safe(block), room, break_long_words=False, break_on_hyphens=False
            ) or [""]
            for row in wrapped:
                lead = " " * indent + (label + "  " if first and label else " " * (hang - indent))
                self.line(self.text((lead, label_style), (row, style)))
                first = False

    def sentence(
        self, label: str, text: str, indent: int = 2, style: str = "", label_style: str = "bold"
    ) -> None:
        """A labelled paragraph of a text that may hold anything: a line break in it is shown, not followed."""
        self.paragraph(label, self.safe(text), indent, style, label_style)

    def pad(self, text: str, width: int) -> str:
        """`text`, made safe, filled up to `width` cells."""
        shown = self.safe(text)
        return shown + " " * max(width - cell_len(shown), 0)


def count(number: int, noun: str) -> str:
    """`1 connection`, `1,200 connections`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
