"""Rows as they are gathered: in memory while they are few, else in a file without a name that is mapped in the end."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]

#: Bytes of one kind of rows that stay in memory.
MOST_IN_MEMORY = 64 << 20


class Gathered:
    """Rows of one layout, in the order in which they come."""

    def __init__(self, layout: np.dtype[Any]) -> None:
        self._layout = layout
        self._tables: list[Rows] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def add(self, table: Rows) -> None:
        """Take rows. Raises MemoryError where the folder for temporary files has no room for them."""
        self._tables.append(table)
        self._bytes += table.nbytes
        if self._bytes > MOST_IN_MEMORY:
            self._put_away()

    def rows(self) -> Rows:
        """All of them, not to be written to. Raises MemoryError as `add` does."""
        if self._file is not None:
            self._put_away()
            with self._file as file:
                mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            self._file = None
            self._tables.append(np.frombuffer(mapped, dtype=self._layout))
        if len(self._tables) == 1:
            return self._tables[0]
        return np.concatenate(self._tables) if self._tables else np.zeros(0, dtype=self._layout)

    def _put_away(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="probe-")  # noqa: SIM115 - mapped as long as it is used
            for table in self._tables:
                self._file.write(table.tobytes())
            self._file.flush()
        except OSError as error:
            raise MemoryError(f"{tempfile.gettempdir()}: {error.strerror or error}") from error
        self._tables.clear()
        self._bytes = 0


def pieces(rows: Rows, size: int = 1 << 18) -> Iterator[tuple[int, Rows]]:
    """All rows, so many at a time, each time with the index of the first; no piece where there are none.

    The memory of rows that are mapped is given back after each piece; they are read again when they are asked for.
    """
    exporter: object = getattr(rows.base, "obj", None)
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]
        if isinstance(exporter, mmap.mmap):
            exporter.madvise(mmap.MADV_DONTNEED)
