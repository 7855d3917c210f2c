"""What waits to be written to a reader that may be slow, stalled or gone.

Many threads put bytes in, one takes them out whenever the descriptor has room. A put never fails and never
blocks; a producer that can wait asks `wait_for_room` first, so that what a stalled reader costs is bounded and
packets pile up in the kernel's ring, where a loss is counted.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

#: Bytes that may wait before producers do: about a million rows, deflated.
ROOM = 16 << 20

_PIECE = 1 << 20


class Outbox:
    """Bytes in order. `wake` is called by a thread that put something in where nothing waited before.

    Where something did, the writer is writing, or waits for the descriptor.
    """

    def __init__(self, wake: Callable[[], None], room: int = ROOM) -> None:
        self._wake = wake
        self._room = room
        self._waiting: deque[memoryview] = deque()
        self._size = 0
        self.written = 0  # bytes, so far
        self._open = True
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Bytes that wait."""
        return self._size

    def put(self, data: bytes) -> None:
        """Add bytes at the end."""
        with self._changed:
            first = not self._waiting
            self._waiting.append(memoryview(data))
            self._size += len(data)
        if first:
            self._wake()

    def has_room(self) -> bool:
        """Whether less waits than there is room for."""
        return self._size < self._room or not self._open

    def wait_for_room(self) -> None:
        """Block until the reader has caught up, or until nobody shall wait any more."""
        with self._changed:
            self._changed.wait_for(self.has_room)

    def release(self) -> None:
        """Let nobody wait any more: the end is near, and what comes now is little."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def write_to(self, descriptor: int) -> None:
        """Write what the descriptor takes now. Raises OSError, BrokenPipeError where the reader is gone."""
        while self._waiting:
            piece = self._waiting[0]
            try:
                written = os.write(descriptor, piece[:_PIECE])
            except BlockingIOError:
                return
            self.written += written
            with self._changed:
                if written == len(piece):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = piece[written:]
                self._size -= written
                self._changed.notify_all()
