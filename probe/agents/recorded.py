"""Recorded streams as agents: a session's folder read back by the code that first recorded it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from probe.agents.source import Agent
from probe.errors import os_error

_CHUNK = 1 << 20


class RecordedAgent:
    """One recorded stream."""

    def __init__(self, place: str, path: Path) -> None:
        self.place = place
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise os_error(error, f"read {path}") from error

    def read(self) -> bytes:
        """The next part of the file."""
        return self._file.read(_CHUNK)

    def stop(self) -> None:
        """A recording ends by itself."""

    def close(self) -> str | None:
        """Close the file."""
        self._file.close()
        return None


class RecordedSource:
    """The streams of a folder, by the place that each came from."""

    def __init__(self, streams: Mapping[str, Path]) -> None:
        self._streams = dict(streams)

    def start(self) -> Sequence[Agent]:
        """Open all of them. Raises ProbeError where one is missing."""
        return [RecordedAgent(place, path) for place, path in self._streams.items()]
