"""Signals: Ctrl-C ends what it interrupts, SIGTERM and SIGHUP end all; while things are taken away, they wait."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections import Counter
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


#: Threads beside the main one that take things away, by their number, and those that are to end when they have.
_guard = threading.Lock()
_taking_away: Counter[int] = Counter()
_to_end: set[int] = set()


def interrupt(thread: threading.Thread) -> None:
    """Raise Terminated in another thread, as a signal would in the main one: at once, or when it has taken things away.

    A call that blocks is not cut short (CPython's PyThreadState_SetAsyncExc); those of a capture have bounds.
    """
    if (number := thread.ident) is None:
        return
    with _guard:
        if _taking_away[number]:
            _to_end.add(number)
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(number), ctypes.py_object(Terminated))


@contextmanager
def deferred() -> Iterator[None]:
    """Let no signal interrupt what is inside; the first that came then is taken up afterwards."""
    if threading.current_thread() is not threading.main_thread():
        with _uninterrupted(threading.get_ident()):
            yield
        return
    came: list[int] = []
    with _handled(dict.fromkeys(_ALL, lambda number, _frame: came.append(number))):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _uninterrupted(number: int) -> Iterator[None]:
    with _guard:
        _taking_away[number] += 1
    try:
        yield
    finally:
        with _guard:
            _taking_away[number] -= 1
            come = not _taking_away[number] and number in _to_end
            if come:
                _to_end.discard(number)
    if come:
        raise Terminated


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
