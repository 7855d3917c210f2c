"""Signals: Ctrl-C ends what it interrupts, SIGTERM and SIGHUP end all; while things are taken away, they wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """We were asked to end (SIGTERM, SIGHUP): at once, and without a report."""


@contextmanager
def termination() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does: with everything taken away."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    with _handled({signal.SIGTERM: end, signal.SIGHUP: end}):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """Let no signal interrupt what is inside; the first that came then is taken up afterwards."""
    came: list[int] = []
    with _handled(dict.fromkeys(_ALL, lambda number, _frame: came.append(number))):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _handled(handlers: dict[signal.Signals, signal._HANDLER]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only there can signals be handled
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
