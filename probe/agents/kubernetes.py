"""Agents in the pods of a DaemonSet, started through `pods/exec`: all their streams on one thread.

Each agent's standard input is its lifeline (`daemonset.lifeline`). It is given a beat every few seconds, which it
answers with its node's time; when we go away, or fall silent, it ends by itself. Its standard output is its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future

import aiohttp

from daemonset.lifeline import BEAT, END
from daemonset.observation import Hello, Message, Ready
from probe.agents.source import PushedAgent, Receiver
from probe.cluster import channels
from probe.cluster.client import Api
from probe.cluster.installation import Placed, Roll
from probe.cluster.remote import Said, Socket, started
from probe.cluster.timing import Clock, ClockGauge
from probe.errors import ProbeError

#: Seconds between beats, and of silence after which an agent ends; it may take 10 s more to say goodbye, so that what
#: was abandoned is over within 30 s.
BEAT_EVERY = 5.0
SILENCE = 20

_QUICK_BEATS = 4  # round trips at the beginning, one after the other, for the clock
_SEND_WITHIN = 10.0
_TOGETHER = 64  # agents that are being started at the same time
_DESCRIPTORS = 256  # beside one for each stream
_WHO = "the agent"

#: Asks what became of a pod whose stream broke off; None where nothing is known.
Obituary = Callable[[str], Awaitable[str | None]]


class NodeAgent:
    """The agent on one node. All but `start`, `stop` and `close` happens on the loop of the API's connection."""

    def __init__(self, api: Api, place: str, run: _Run) -> None:
        self.place = place
        self.received = 0  # bytes
        self._api = api
        self._run = run
        self._gauge = ClockGauge()
        self._beat_sent: int | None = None  # ns; of a beat that is not answered yet
        self._beats = 0
        self._socket: Socket | None = None
        self._receiver: Receiver | None = None
        self._task: Future[None] | None = None
        self._stopping = False
        self._said = Said()

    @property
    def clock(self) -> Clock | None:
        """How far the node's clock is ahead of ours."""
        return self._gauge.clock

    def follow(self, receiver: Receiver) -> None:
        """Start the agent, and hand over its stream."""
        self._receiver = receiver
        self._task = self._api.submit(self._live(receiver))

    def heard(self, message: Message) -> None:
        """Compare clocks, where the message answers to something."""
        if self._beat_sent is None or not isinstance(message, Hello | Ready):
            return
        self._gauge.exchanged(self._beat_sent, message.time, time.time_ns())
        if isinstance(message, Ready):
            self._beat_sent = None
            if self._beats < _QUICK_BEATS and self._socket is not None and not self._stopping:
                self._api.submit(self.beat())

    async def beat(self) -> None:
        """Tell the agent that it is still wanted."""
        if self._socket is None or self._stopping:
            return
        if self._beat_sent is None:
            self._beat_sent = time.time_ns()
            self._beats += 1
        await self._send(channels.pack(channels.STDIN, BEAT))

    def stop(self) -> None:
        """Ask it to say goodbye."""
        self._stopping = True
        self._api.submit(self._ask_to_end())

    def close(self) -> str | None:
        """End its stream. What it complained of, where it ended badly."""
        self._stopping = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
        return self._said.complaint(_WHO)

    # ── on the loop ──────────────────────────────────────────────────────────────────────────────────────────

    async def _live(self, receiver: Receiver) -> None:
        lack: str | None = "the stream was given up"
        try:
            async with self._run.starting:
                self._beat_sent = time.time_ns()  # the request itself is what Hello answers to
                self._socket = await started(lambda: self._run.open(self.place))

            def take(content: bytes) -> None:
                self.received += len(content)
                receiver.take(content)

            await self._said.read(self._socket, take)
            lack = await self._lack()
        except ProbeError as error:
            lack = str(error)
        except (aiohttp.ClientError, OSError) as error:
            lack = f"the stream broke off: {error}"
        finally:
            receiver.over(lack)
            if self._socket is not None:
                socket, self._socket = self._socket, None
                await socket.close()

    async def _lack(self) -> str | None:
        """What is to be said of a stream that is over; nothing where the agent ended well."""
        if self._said.ended_well:
            return None
        what = self._said.complaint(_WHO)
        fate = await self._run.obituary(self.place)
        return fate or what or "the stream broke off: the connection to the agent was lost"

    async def _ask_to_end(self) -> None:
        await self._send(channels.pack(channels.STDIN, END))
        if self._socket is not None and self._socket.protocol == channels.V5:
            await self._send(channels.close_of(channels.STDIN))

    async def _send(self, data: bytes) -> None:
        """Send, where that goes in time; a stream that takes nothing any more is told of when it breaks."""
        if self._socket is None or self._socket.closed:
            return
        with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
            await asyncio.wait_for(self._socket.send_bytes(data), _SEND_WITHIN)


class AbsentAgent:
    """A node without an agent: its stream is over before it begins."""

    clock: Clock | None = None

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        self._reason = reason

    def follow(self, receiver: Receiver) -> None:
        """Say why there is none."""
        receiver.over(self._reason)

    def heard(self, message: Message) -> None:
        """It has nothing to say."""

    def stop(self) -> None:
        """There is nothing to stop."""

    def close(self) -> str | None:
        """Why there is none."""
        return self._reason


class _Run:
    """What the agents of one session have in common."""

    def __init__(self, open_: Callable[[str], Awaitable[Socket]], obituary: Obituary) -> None:
        self.open = open_
        self.obituary = obituary
        self.starting = asyncio.Semaphore(_TOGETHER)


class KubernetesSource:
    """Agents for the nodes of a cluster, in the pods of `roll`; nodes that it misses have one that says why.

    `command`: how an agent is started on a node. `obituary`: what became of a node's pod whose stream broke off.
    """

    def __init__(
        self,
        api: Api,
        where: Placed,
        roll: Roll,
        *,
        command: Callable[[str], Sequence[str]],
        obituary: Obituary,
    ) -> None:
        self._api = api
        self._roll = roll
        self._agents: list[NodeAgent] = []
        self._beating: Future[None] | None = None

        async def start(place: str) -> Socket:
            return await api.exec(where.namespace, roll.pods[place], where.container, command(place))

        self._run = _Run(start, obituary)

    @property
    def received(self) -> int:
        """Bytes of all streams so far."""
        return sum(agent.received for agent in self._agents)

    @property
    def clocks(self) -> dict[str, Clock]:
        """What is known of the nodes' clocks so far."""
        return {agent.place: clock for agent in self._agents if (clock := agent.clock) is not None}

    def start(self) -> Sequence[PushedAgent]:
        """One agent for each node; they start when they are followed."""
        _make_room(len(self._roll.pods))
        self._agents = [NodeAgent(self._api, place, self._run) for place in self._roll.pods]
        self._beating = self._api.submit(self._beat())
        absent = [AbsentAgent(place, reason) for place, reason in self._roll.missing.items()]
        return [*self._agents, *absent]

    def close(self) -> None:
        """Let the agents fall silent."""
        if self._beating is not None:
            self._beating.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY)
            await asyncio.gather(*(agent.beat() for agent in self._agents))


def _make_room(streams: int) -> None:
    """Allow as many open files as there are streams; many systems begin with 1,024 or 256, and allow more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = streams + _DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
