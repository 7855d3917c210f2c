"""The tiny protocol behind which agents run: all that a session knows of where its observations come from.

Implementations: `probe.agents.lab` (processes in the lab's namespaces), `probe.agents.recorded` (streams in
the folder of a session). An agent's stream is what `daemonset.wire` describes, at any chunking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Agent(Protocol):
    """One stream of observations from one place."""

    @property
    def place(self) -> str:
        """The node, client or balancer that it watches."""
        ...

    def read(self) -> bytes:
        """The next bytes of the stream; waits for them; empty at its end. Raises OSError."""
        ...

    def stop(self) -> None:
        """Ask it to send what it still holds and to say goodbye. Harmless when it has ended."""
        ...

    def close(self) -> str | None:
        """End it whatever it does; what it complained of last, one line, where it ended badly."""
        ...


class AgentSource(Protocol):
    """Where agents come from."""

    def start(self) -> Sequence[Agent]:
        """Start one agent for every place that is to be watched. Raises ProbeError."""
        ...
