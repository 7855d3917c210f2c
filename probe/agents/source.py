"""The tiny protocol behind which agents run: all that a session knows of where its observations come from.

Implementations: `probe.agents.lab` (processes in the lab's namespaces), `probe.agents.recorded` (streams in
the folder of a session), `probe.agents.kubernetes` (pods of a cluster). An agent's stream is what `daemonset.wire`
describes, at any chunking. It is read by whoever wants it (`Agent`), on a thread for each; or it is handed over as it
comes, by one thread for all (`PushedAgent`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from daemonset.observation import Message
from probe.cluster.timing import Clock


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


class Receiver(Protocol):
    """Takes a stream as it comes. Its calls do not wait and do not raise."""

    def take(self, data: bytes) -> None:
        """The next bytes of the stream."""
        ...

    def over(self, lack: str | None) -> None:
        """The stream has ended; with `lack`, not as it should have."""
        ...


@runtime_checkable
class PushedAgent(Protocol):
    """One stream of observations that comes by itself."""

    @property
    def place(self) -> str:
        """The node that it watches."""
        ...

    @property
    def clock(self) -> Clock | None:
        """How far its clock is ahead of ours, as far as is known."""
        ...

    def follow(self, receiver: Receiver) -> None:
        """Hand over the stream from now on."""
        ...

    def heard(self, message: Message) -> None:
        """A message has arrived in its stream: what it says of the time tells of its clock."""
        ...

    def stop(self) -> None:
        """Ask it to send what it still holds and to say goodbye. Harmless when it has ended."""
        ...

    def close(self) -> str | None:
        """End it whatever it does; what it complained of last, one line, where it ended badly."""
        ...


class AgentSource(Protocol):
    """Where agents come from."""

    def start(self) -> Sequence[Agent | PushedAgent]:
        """Start one agent for every place that is to be watched. Raises ProbeError."""
        ...
