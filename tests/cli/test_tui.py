"""The interactive view: what it shows, what its keys do, and that the capture ends in order however it is left."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("textual")

from textual.widgets import DataTable, Static

from daemonset.observation import Loss, Tap, TapKind, Taps
from probe.cluster.interrupts import Terminated, deferred, interrupt
from probe.errors import UnavailableError
from probe.live.board import Board
from probe.live.tui import LiveApp, beside
from tests import hostile
from tests.cli.helpers import Probe
from tests.cli.reports import blackholed_journey, lost_journey, report
from tests.cli.terminal import OnTerminal
from tests.lab.here import why_not

values = pytest.mark.parametrize("value", hostile.VALUES.values(), ids=hostile.VALUES.keys())


def watched(board: Board) -> Board:
    """Three places: one drops, one is not watched; two findings."""
    board.take("node1", Taps((Tap("node1", TapKind.NIC, "eth0"),)))
    board.take("node2", Loss(0, 9, 4))
    board.missing("node3", "its pod is Pending")
    board.judged(report(lost_journey()))
    board.judged(report(lost_journey(), blackholed_journey()))
    return board


def looked_at(board: Board, script: Callable[[LiveApp, Any], Awaitable[None]]) -> None:
    """Run the app without a terminal, with a capture that goes on until somebody has seen enough."""
    app = LiveApp(board, lambda: board.ending.wait(60) and None)

    async def run() -> None:
        async with app.run_test(size=(100, 30)) as pilot:
            await pilot.pause()
            await script(app, pilot)
        board.ending.set()

    asyncio.run(run())
    app.join()
    assert app.failure is None


def column(app: LiveApp, table: str, number: int = 0) -> list[str]:
    told = app.query_one(f"#{table}", DataTable)
    return [str(told.get_row_at(row)[number]) for row in range(told.row_count)]


def test_places_with_trouble_come_first_and_s_sorts_them_otherwise() -> None:
    async def script(app: LiveApp, pilot: Any) -> None:
        assert column(app, "places") == ["node3", "node2", "node1"]
        assert column(app, "places", 5)[0] == "its pod is Pending"
        await pilot.press("s")
        assert column(app, "places") == ["node1", "node2", "node3"]

    looked_at(watched(Board("svc/web")), script)


def test_a_finding_explains_itself() -> None:
    async def script(app: LiveApp, pilot: Any) -> None:
        _, oldest = column(app, "findings")
        assert oldest.endswith("SIP101")
        await pilot.press("tab", "down", "enter")
        await pilot.pause()
        text = str(app.screen.query_one(Static).render())
        assert "SIP101" in text
        assert "externalTrafficPolicy: Local" in text
        app._board.missing("node4", "what comes meanwhile goes on to be shown below")
        app._look()
        await pilot.press("escape")
        await pilot.pause()
        assert len(app.screen_stack) == 1
        assert "node4" in column(app, "places")

    looked_at(watched(Board("svc/web")), script)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_who_has_seen_enough_ends_the_watching(key: str) -> None:
    board = Board("svc/web")

    async def script(app: LiveApp, pilot: Any) -> None:
        assert not board.ending.is_set()
        await pilot.press(key)
        assert board.ending.is_set()
        assert not app.terminated

    looked_at(board, script)


def test_a_second_interruption_leaves_at_once_and_what_was_placed_is_taken_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board, placed, never = Board("svc/web"), ["an agent"], threading.Event()

    def work() -> None:
        try:
            board.ending.wait(60)
            while not never.wait(0.01):  # agents that do not say goodbye
                pass
        finally:
            with deferred():
                placed.clear()

    def run(app: LiveApp) -> None:
        async def go() -> None:
            async with app.run_test() as pilot:
                await pilot.pause()
                await pilot.press("ctrl+c")
                assert not app.given_up
                await pilot.press("ctrl+c")

        asyncio.run(go())

    monkeypatch.setattr(LiveApp, "run", run)
    with pytest.raises(Terminated):
        beside(board, work)
    assert not placed


def test_what_takes_things_away_is_not_interrupted_before_it_has() -> None:
    begun, go_on, told = threading.Event(), threading.Event(), list[str]()

    def work() -> None:
        try:
            with deferred():
                begun.set()
                go_on.wait(60)
                told.append("taken away")
            told.append("went on")
        except Terminated:
            told.append("ended")

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(60)
    interrupt(thread)
    go_on.set()
    thread.join()
    assert told == ["taken away", "ended"]


@values
def test_no_name_is_markup_or_speaks_to_the_terminal(value: bytes) -> None:
    text = value[:500].decode("utf-8", "surrogateescape")
    board = Board(text)
    board.doing(text)
    board.missing(text, text)

    async def script(app: LiveApp, pilot: Any) -> None:
        app.taker.note("· a note")
        hostile.safe_text("".join(column(app, "places") + column(app, "places", 5)))
        hostile.safe_text(str(app.query_one("#places", DataTable).get_row_at(0)[5]))

    looked_at(board, script)


def test_what_the_work_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise UnavailableError("there is no cluster")

    def run(app: LiveApp) -> None:
        async def go() -> None:
            async with app.run_test() as pilot:
                await pilot.pause()
                app.join()

        asyncio.run(go())

    monkeypatch.setattr(LiveApp, "run", run)
    with pytest.raises(UnavailableError, match="no cluster"):
        beside(Board("svc/web"), fails)
    assert beside(Board("svc/web"), lambda: 42) == 42


def test_a_view_that_ends_by_itself_waits_for_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the app breaks: the capture is told to end, and what it placed is taken away by itself."""
    board, over = Board("svc/web"), []

    def run(app: LiveApp) -> None:
        async def go() -> None:
            async with app.run_test() as pilot:
                await pilot.pause()

        asyncio.run(go())

    monkeypatch.setattr(LiveApp, "run", run)
    assert beside(board, lambda: over.append(board.ending.wait(60))) is None
    assert over == [True]


def test_without_a_terminal_it_is_refused(probe: Probe) -> None:
    probe("capture", "svc/web", "--tui").complains(2, "--tui needs a terminal")


@pytest.mark.lab
@pytest.mark.skipif(bool(why_not()), reason=why_not())
class TestOnATerminal:
    def test_q_ends_it_and_the_report_follows(self) -> None:
        running = OnTerminal("capture", "--lab", "cluster-remote", "--duration", "120s", "--tui", rows=30)
        running.until("watching for")
        running.type("q")
        code, written = running.ending()
        assert code == 3
        inside, _, after = written.rpartition("\x1b[?1049l")
        assert "node2" in inside
        assert "LOST" in after
        assert "\x1b[?25h" in written, "the cursor is there again"

    def test_two_interruptions_leave_at_once_and_leave_nothing(self) -> None:
        running = OnTerminal("capture", "--lab", "cluster-remote", "--duration", "120s", "--tui", rows=30)
        running.until("watching for")
        running.type("\x03\x03")
        code, written = running.ending()
        after = written.rpartition("\x1b[?1049l")[2]
        assert code == 130
        assert "given up" in after
        assert "LOST" not in after

    def test_sigterm_ends_it_without_a_report(self) -> None:
        running = OnTerminal("capture", "--lab", "cluster-remote", "--duration", "120s", "--tui", rows=30)
        running.until("watching for")
        running.process.send_signal(signal.SIGTERM)
        code, written = running.ending()
        assert code == 130
        assert "LOST" not in written.rpartition("\x1b[?1049l")[2]
