"""Streams of observations on disk until they are judged: what arrives does not stay in memory.

One file for all streams, without a name, so that nothing is left whatever ends us. A stream is kept as it came, in
pieces; each stream has a small piece in memory that is not written yet.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from probe.errors import os_error

#: Bytes of one stream that wait in memory until they are written; a thousand streams have no more than 64 MiB.
PIECE = 1 << 16


class Spool:
    """The file. `stream` begins one more stream in it. Several threads may write."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="probe-", buffering=0)  # noqa: SIM115 - until `close`
        self._size = 0
        self._lock = threading.Lock()

    def stream(self) -> Spooled:
        """A stream that is empty yet."""
        return Spooled(self)

    def append(self, data: bytes | bytearray) -> int:
        """Write at the end; where that is. Raises ProbeError."""
        with self._lock:
            place = self._size
            self._size += len(data)
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._file.fileno(), memoryview(data)[written:], place + written)
        except OSError as error:
            raise os_error(error, "keep what agents saw in the folder for temporary files") from error
        return place

    def read(self, place: int, size: int) -> bytes:
        """What was written there."""
        return os.pread(self._file.fileno(), size, place)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Spooled:
    """One stream, written by one thread and read back when nothing more comes."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._pieces: list[tuple[int, int]] = []  # where, and how long
        self._waiting = bytearray()

    def write(self, data: bytes) -> None:
        """The next bytes. Raises ProbeError where there is no space."""
        self._waiting += data
        if len(self._waiting) >= PIECE:
            self._pieces.append((self._spool.append(self._waiting), len(self._waiting)))
            self._waiting = bytearray()

    def __iter__(self) -> Iterator[bytes]:
        """The bytes again, in order."""
        for place, size in self._pieces:
            yield self._spool.read(place, size)
        yield bytes(self._waiting)
