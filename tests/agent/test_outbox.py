"""What waits for a reader: in order, bounded for those who can wait, never blocking for those who cannot."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemonset.outbox import Outbox


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    yield reading, writing
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_bytes_leave_in_order_as_the_reader_takes_them(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    outbox = Outbox(lambda: None)
    sent = [os.urandom(50_000) for _ in range(20)]
    for piece in sent:
        outbox.put(piece)
    got = b""
    while len(got) < 1_000_000:
        outbox.write_to(writing)
        got += os.read(reading, 70_000)
    assert got == b"".join(sent)
    assert len(outbox) == 0


def test_whoever_can_wait_waits_for_the_reader(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    outbox = Outbox(lambda: None, room=100_000)
    outbox.put(bytes(200_000))
    assert not outbox.has_room()
    waiting = threading.Thread(target=outbox.wait_for_room)
    waiting.start()
    while not outbox.has_room():
        outbox.write_to(writing)
        os.read(reading, 70_000)
    waiting.join(10)
    assert not waiting.is_alive()


def test_at_the_end_nobody_waits() -> None:
    outbox = Outbox(lambda: None, room=10)
    outbox.put(bytes(11))
    waiting = threading.Thread(target=outbox.wait_for_room)
    waiting.start()
    outbox.release()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_put_wakes_a_writer_that_has_nothing_to_do() -> None:
    woken: list[bool] = []
    outbox = Outbox(lambda: woken.append(True))
    outbox.put(b"a")
    outbox.put(b"b")
    assert len(woken) == 1  # it has not come yet, and will write both
    with Path(os.devnull).open("wb") as nothing:
        outbox.write_to(nothing.fileno())
    outbox.put(b"c")
    assert len(woken) == 2
