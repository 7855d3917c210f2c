"""What is said of a watch while it goes on: each change once, with its time since the beginning."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from analysis.health.changes import EndpointChange
from probe.render.escape import escape

#: Lines that are said of one node, and of all; the report has the rest.
MOST_OF_ONE, MOST_LINES = 50, 500


class Telling:
    """Words for people who wait, from any thread. `began`: seconds since the epoch."""

    def __init__(self, note: Callable[[str], None], began: float) -> None:
        self._note = note
        self._began = began
        self._lock = threading.Lock()
        self._said: dict[str, int] = {}
        self._lines = 0

    def change(self, change: EndpointChange) -> None:
        """A node's endpoints changed."""
        self._say(change.node, change.words, change.time / 1e9)

    def answer(self, node: str, words: str) -> None:
        """A node's port answers something else."""
        self._say(node, words, time.time())

    def _say(self, node: str, words: str, when: float) -> None:
        with self._lock:
            count = self._said[node] = self._said.get(node, 0) + 1
            self._lines += 1
            if count <= MOST_OF_ONE and self._lines <= MOST_LINES:
                last = count == MOST_OF_ONE or self._lines == MOST_LINES
                more = "; what follows is in the report" if last else ""
                self._note(f"· {when - self._began:+7.1f} s  {escape(node, 253)}  {escape(words, 300)}{more}")
