"""Rows as they are gathered: in memory while they are few, else in a file without a name that is mapped in the end.

`Gathered` keeps them as they come, `Columns` each column by itself, for an engine that reads few columns of many rows.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]

#: Bytes of one kind of rows that stay in memory.
MOST_IN_MEMORY = 64 << 20


class Gathered:
    """Rows of one layout, in the order in which they come. `share`: how many such have the memory together."""

    def __init__(self, layout: np.dtype[Any], share: int = 1) -> None:
        self._layout = layout
        self._share = share
        self._tables: list[Rows] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def add(self, table: Rows) -> None:
        """Take rows. Raises MemoryError where the folder for temporary files has no room for them."""
        self._tables.append(table)
        self._bytes += table.nbytes
        if self._bytes > MOST_IN_MEMORY // self._share:
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
                self._file.write(np.ascontiguousarray(table).data)
            self._file.flush()
        except OSError as error:
            raise MemoryError(f"{tempfile.gettempdir()}: {error.strerror or error}") from error
        self._tables.clear()
        self._bytes = 0


class Columns:
    """Columns of the same length, by name, each with the `numpy` type that `layout` gives it."""

    def __init__(self, layout: Mapping[str, str]) -> None:
        self._gathered = {name: Gathered(np.dtype(code), len(layout)) for name, code in layout.items()}
        self._mapped: list[mmap.mmap] = []

    def add(self, columns: Mapping[str, Rows]) -> None:
        """Take some rows of every column. Raises MemoryError as `Gathered` does."""
        for name, gathered in self._gathered.items():
            gathered.add(columns[name])

    def finish(self) -> dict[str, Rows]:
        """All of them, not to be written to. Raises MemoryError as `Gathered` does."""
        found = {name: gathered.rows() for name, gathered in self._gathered.items()}
        self._mapped = [each for rows in found.values() if (each := _mapping(rows)) is not None]
        return found

    def release(self) -> None:
        """Give back the memory of columns that are mapped; they are read again when they are asked for."""
        for each in self._mapped:
            each.madvise(mmap.MADV_DONTNEED)


def _mapping(rows: Rows) -> mmap.mmap | None:
    exporter: object = getattr(rows.base, "obj", None)
    return exporter if isinstance(exporter, mmap.mmap) else None


def pieces(rows: Rows, size: int = 1 << 18) -> Iterator[tuple[int, Rows]]:
    """All rows, so many at a time, each time with the index of the first; no piece where there are none.

    The memory of rows that are mapped is given back after each piece; they are read again when they are asked for.
    """
    mapped = _mapping(rows)
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]
        if mapped is not None:
            mapped.madvise(mmap.MADV_DONTNEED)
