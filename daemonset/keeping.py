"""The folder of a session, as far as a node by itself can write one: its index, and the stream of one place.

`probe/sessions/folder.py` says what else may be in such a folder and when it may be believed; what both write is here.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import msgspec

from daemonset import __version__
from daemonset.observation import SCHEMA_VERSION

FORMAT = "client-ip-probe session"
VERSION = 1
INDEX = "session.json"


def file_name(place: str) -> str:
    """The file of a place's stream; a name from a cluster or a file never leaves its folder."""
    return f"{quote(place, safe='')}.probe"


def new_id() -> str:
    """What tells a session from all others."""
    return secrets.token_hex(8)


def write_index(folder: Path, values: object) -> None:
    """Write `session.json` in one step, or not at all. Raises OSError."""
    target, draft = folder / INDEX, folder / f".{INDEX}"
    with draft.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(values), indent=1))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(target)


class OccupiedError(Exception):
    """The folder has something in it already."""


class Keeping:
    """A session of one place, being written. Raises OSError for what cannot be written, OccupiedError."""

    def __init__(self, folder: Path, place: str) -> None:
        self.folder = folder
        self.stream = folder / file_name(place)
        self._made = not folder.exists()
        self._index: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "complete": False,
            "created": time.time(),
            "program": __version__,
            "id": new_id(),
            "schema": SCHEMA_VERSION,
            "kernels": {place: os.uname().release},
            "title": f"one agent on {place}",
        }
        self._place = place
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OccupiedError
        write_index(folder, self._index)
        self.descriptor = os.open(self.stream, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)

    def finish(self) -> int:
        """Mark the session as whole; answers with the size of its stream, in bytes."""
        os.fsync(self.descriptor)
        size = os.fstat(self.descriptor).st_size
        self._index.update(complete=True, places=[self._place], streams={self.stream.name: size})
        write_index(self.folder, self._index)
        return size

    def discard(self) -> None:
        """Take away what was written, where nothing could begin."""
        for path in (self.stream, self.folder / INDEX):
            path.unlink(missing_ok=True)
        if self._made:
            self.folder.rmdir()
