"""The live view on the terminal under stderr: redrawn a few times a second, and gone at the end.

It stands below what was on the terminal and never takes over the whole of it, so that a process that is killed leaves
nothing worse than its last picture; for the same reason the cursor stays visible.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from probe import output
from probe.errors import UnavailableError, UsageError
from probe.live.board import Board
from probe.render.live import LEAST_COLUMNS, LEAST_ROWS, State, draw

_A_SECOND = 4  # pictures

T = TypeVar("T")


class _Terminal(Console):
    """The terminal, whose cursor is left alone."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002 - the signature is rich's
        """Do nothing."""
        return False


class LiveScreen:
    """Shows a board, with notes above it."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._console = console
        self._ascii = output.ascii_only(sys.stderr)
        self._closed = threading.Event()
        self._live = Live(
            get_renderable=self._picture,
            console=console,
            refresh_per_second=_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._live.start()

    def note(self, line: str) -> None:
        """A line that stays, above the view."""
        self._console.print(Text(line), soft_wrap=True)

    def progress(self, line: str) -> None:
        """What is going on, in the view."""
        self._board.doing(line)

    def close(self) -> None:
        """Take the view away."""
        if not self._closed.is_set():
            self._closed.set()
            self._live.stop()

    def _picture(self) -> Group:
        if self._closed.is_set():
            return Group()
        size = self._console.size
        return Group(*draw(self._board.state(), size.width - 1, size.height - 1, ascii_only=self._ascii))


class View:
    """A board that somebody looks at, None where nobody does; and how to do what it tells of meanwhile."""

    def __init__(self, board: Board | None, *, tui: bool = False) -> None:
        self.board = board
        self._tui = tui

    def during(self, work: Callable[[], T]) -> T:
        """Do the work; raises what it raises."""
        if self._tui and self.board is not None:
            from probe.live.tui import beside  # noqa: PLC0415 - an extra of its own

            return beside(self.board, work)
        return work()


def check_tui(wanted: bool) -> None:
    """Refuse `--tui` where it cannot be, before anything is done. Raises ProbeError."""
    if not wanted:
        return
    if not (sys.stdin is not None and sys.stdin.isatty() and output.overwrites()):
        raise UsageError("--tui needs a terminal to read keys from and to show it on; leave it out")
    try:
        import probe.live.tui  # noqa: F401, PLC0415 - an extra of its own
    except ImportError as error:
        raise UnavailableError(
            f"--tui takes the package {error.name}, which is not here; install client-ip-probe[tui]"
        ) from error


@contextmanager
def live_view(
    title: str,
    tell: Callable[[State], None] | None = None,
    *,
    tui: bool = False,
    words: Callable[[str], str] = str,
) -> Iterator[View]:
    """A board that is shown meanwhile, where stderr is a terminal with room for it; `tell` hears what is known so far.

    `tui`: by an app that takes the keyboard too (`check_tui`). `words`: what names and texts are called there.
    """
    heard = tell or (lambda _: None)
    if tui:
        yield View(Board(title, tell=heard, words=words), tui=True)
        return
    console = _Terminal(file=sys.stderr, highlight=False, markup=False, emoji=False)
    room = console.size.width >= LEAST_COLUMNS and console.size.height >= LEAST_ROWS
    if not (output.overwrites() and console.is_terminal and room):
        yield View(None if tell is None else Board(title, tell=heard, shown=False, words=words))
        return
    board = Board(title, tell=heard, words=words)
    with output.screen(LiveScreen(board, console)):
        yield View(board)
