"""The interactive view of a capture (`--tui`): places and findings to walk through, and what a finding means.

    the terminal, keys, signals: the main thread       the capture: a thread of its own
                        └──── Board: counts one way, "seen enough" the other ────┘

The capture is never interrupted in the middle of something: who has seen enough sets an event that it looks at while it
waits. So what it placed on a cluster is taken away as ever. A signal that asks us to end does the same, and no report
comes of it. A second Ctrl-C leaves at once: the terminal is given back, the capture is interrupted wherever it is, and
what it does in the end, taking away what it placed, is waited for.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import ClassVar, TypeVar

from rich.console import Group
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Static

from analysis.catalogue.findings import CATALOGUE
from probe.cluster.interrupts import Terminated, interrupt
from probe.live.board import Board
from probe.output import note, screen
from probe.render.escape import escape
from probe.render.live import Found, Seen, State, summary_lines
from probe.render.style import GLYPHS

_EVERY = 0.25  # seconds

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: By what places are sorted, in the order in which `s` goes through it.
_SORTS: dict[str, Callable[[Seen], tuple[object, ...]]] = {
    "trouble first": lambda seen: (not seen.trouble, -seen.dropped, seen.name),
    "name": lambda seen: (seen.name,),
    "packets": lambda seen: (-seen.packets, seen.name),
    "connections": lambda seen: (-seen.connections, seen.name),
}

T = TypeVar("T")


def beside(board: Board, work: Callable[[], T]) -> T:
    """Do `work` on a thread of its own while its board is shown.

    Raises what it raises, and Terminated where a signal asked us to end.
    """
    done: SimpleQueue[T] = SimpleQueue()
    app = LiveApp(board, lambda: done.put(work()))
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    with screen(app.taker):
        try:
            app.run()
        finally:
            board.ending.set()
            if not app.given_up:
                app.join()
            for number, handler in handlers.items():
                signal.signal(number, handler)
    for line in app.taker.notes:
        note(line)
    if app.given_up:
        note("· given up; what was placed is taken away")
        app.join()
    if app.terminated or app.given_up:
        raise Terminated
    if app.failure is not None:
        raise app.failure
    if done.empty():
        raise RuntimeError("the view ended before the capture began")
    return done.get_nowait()


class _Taker:
    """Takes what would be written to the terminal meanwhile: notes are kept for afterwards, and shown."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)

    def progress(self, line: str) -> None:
        self._board.doing(line)

    def close(self) -> None:
        """The app gives the terminal back by itself."""


class _Explanation(ModalScreen[None]):
    """What a finding means, and what to do."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q", "dismiss", "Back")]

    def __init__(self, code: str) -> None:
        super().__init__()
        self._code = code

    def compose(self) -> ComposeResult:
        definition = CATALOGUE[self._code]
        glyph, style = GLYPHS[definition.severity]
        text = Text(f"{glyph} {definition.code}  {definition.title}\n\n", style)
        text.append(f"{definition.explanation}\n\n", "default")
        text.append("Fix  ", "bold default")
        text.append(definition.fix, "default")
        with VerticalScroll(id="explanation"):
            yield Static(text, markup=False)
        yield Footer()


class LiveApp(App[None]):
    """The app. `failure` is what the work raised."""

    CSS = """
    #summary { height: auto; padding: 0 1; }
    #places { height: 2fr; }
    #findings { height: 1fr; min-height: 4; }
    #notes { height: auto; max-height: 4; padding: 0 1; color: $text-muted; }
    _Explanation { align: center middle; }
    #explanation { width: 80%; max-width: 100; height: 80%; border: round $primary; padding: 1 2; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "enough", "End and report"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("s", "sort", "Sort places"),
        Binding("tab", "app.focus_next", "Next table"),
    ]

    def __init__(self, board: Board, work: Callable[[], None]) -> None:
        super().__init__()
        self.taker = _Taker(board)
        self.failure: BaseException | None = None
        self.terminated = False
        self.given_up = False
        self._board = board
        self._work = work
        self._sort = next(iter(_SORTS))
        self._shown: tuple[tuple[Seen, ...], tuple[Found, ...], str] | None = None
        self._thread = threading.Thread(target=self._at_work, name="capture", daemon=True)

    def compose(self) -> ComposeResult:
        """The parts, from top to bottom."""
        yield Static(id="summary", markup=False)
        yield DataTable(id="places", cursor_type="row", zebra_stripes=True)
        yield DataTable(id="findings", cursor_type="row")
        yield Static(id="notes", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to work and to look."""
        self._there = asyncio.get_running_loop()
        for number in _SIGNALS:
            self._there.add_signal_handler(number, self._signalled, number)
        self.query_one("#places", DataTable).add_columns(
            "Place", "Taps", "Packets", "Connections", "Dropped", ""
        )
        self.query_one("#findings", DataTable).add_columns("Finding", "Connections", "What")
        self._look()
        self.set_interval(_EVERY, self._look)
        self._thread.start()

    def join(self) -> None:
        """Wait until the work is done; what it takes away in the end is not left in the middle by a further Ctrl-C."""
        while self._thread.ident is not None and self._thread.is_alive():
            with suppress(KeyboardInterrupt):
                self._thread.join()

    def action_enough(self) -> None:
        """End the watching; the report follows."""
        self._board.ending.set()
        self._board.doing("ending the capture; Ctrl-C again gives up")

    def action_interrupt(self) -> None:
        """The first time as `q`; the second time leave at once, and let the capture clean up."""
        if not self._board.ending.is_set():
            self.action_enough()
            return
        self.given_up = True
        interrupt(self._thread)
        self.exit()

    def action_sort(self) -> None:
        """Sort places by the next thing."""
        names = list(_SORTS)
        self._sort = names[(names.index(self._sort) + 1) % len(names)]
        self._shown = None
        self._look()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Explain the finding that was chosen."""
        code = event.row_key.value
        if event.data_table.id == "findings" and code in CATALOGUE:
            self.push_screen(_Explanation(code))

    def _signalled(self, number: int) -> None:
        if number == signal.SIGINT:
            self.action_interrupt()
            return
        self.terminated = True
        self.action_enough()

    def _at_work(self) -> None:
        try:
            self._work()
        except BaseException as error:  # it is raised where the app was started
            self.failure = error
        with suppress(RuntimeError):  # the app has ended before, and its loop is closed
            # Not `call_from_thread`, which waits for an answer that a loop at its end never gives.
            self._there.call_soon_threadsafe(self.exit)

    def _look(self) -> None:
        if not self.screen_stack or not (under := self.screen_stack[0]).query("#summary"):
            return  # it is being taken down
        state = self._board.state()
        lines = summary_lines(state, max(self.size.width - 2, 20))
        under.query_one("#summary", Static).update(Group(*lines))
        under.query_one("#notes", Static).update(Text("\n".join(self.taker.notes[-4:])))
        now = (state.places, state.findings, self._sort)
        if now != self._shown:
            self._shown = now
            # Not of the screen on top, which may explain a finding meanwhile.
            self._tables(
                state, under.query_one("#places", DataTable), under.query_one("#findings", DataTable)
            )

    def _tables(self, state: State, places: DataTable[Text], findings: DataTable[Text]) -> None:
        at = places.cursor_row, findings.cursor_row
        places.clear()
        for seen in sorted(state.places, key=_SORTS[self._sort]):
            numbers = (seen.taps, seen.packets, seen.connections, seen.dropped)
            style = "bold red" if seen.trouble else "yellow" if seen.dropped else ""
            cells = [Text(f"{number:,}", justify="right") for number in numbers]
            places.add_row(Text(escape(seen.name, 60), style), *cells, Text(escape(seen.trouble, 120), style))
        findings.clear()
        for found in state.findings:
            glyph, style = GLYPHS[found.severity]
            number = Text(f"{found.connections:,}", justify="right")
            findings.add_row(
                Text(f"{glyph} {found.code}", style), number, Text(escape(found.title)), key=found.code
            )
        for table, row in ((places, at[0]), (findings, at[1])):
            table.move_cursor(row=min(row, max(table.row_count - 1, 0)))
