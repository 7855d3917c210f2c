"""`probe health svc/NAME --watch`: a capture, and beside it the health ports and the EndpointSlices, to the end.

What is gathered here goes into the capture's own analysis (`analysis.health.watching`); nothing is judged here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

import aiohttp
import msgspec

from analysis.health.changes import EndpointChange
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.ingress import IngressRecord
from analysis.report import Report
from daemonset.lifeline import BEAT, END
from probe.agents.kubernetes import BEAT_EVERY, SILENCE
from probe.cluster import channels
from probe.cluster.capturing import Prepared, Scene, Told, Wish, run
from probe.cluster.client import Api
from probe.cluster.remote import Said
from probe.cluster.timing import Clock
from probe.errors import ProbeError
from probe.health.answers import FIRST_WITHIN, Answers, Lines
from probe.health.on_cluster import ask_there, lack, opened
from probe.health.questions import Question, own_questions, ports_of
from probe.health.report import HealthReport, about_health, with_asking
from probe.health.rounds import Asked, command, read_answer
from probe.health.slices import SliceWatch
from probe.health.so_far import health_words
from probe.health.telling import Telling
from probe.live.board import Board

#: Seconds from one question to a node's port to the next.
EVERY = 1.0

_END_WITHIN = 5.0
_LIST_WITHIN = 15.0


def watch(
    api: Api, wish: Wish, prepared: Prepared, told: Told, *, settle: float, board: Board | None = None
) -> HealthReport:
    """Capture, ask and watch; the answer of both. `board` is told how it goes.

    Raises UnavailableError; KeyboardInterrupt where it was given up.
    """
    ports = sorted({*prepared.ports, *(port for port, _ in ports_of(prepared.gathered.service))})
    companion = WatchOnCluster(settle=settle)
    report = run(
        api,
        wish,
        replace(prepared, ports=tuple(ports)),
        told,
        asking=None,
        ingress=IngressRecord,
        companion=companion,
        board=board,
    )
    watched = about_health(report)
    return (
        watched
        if companion.asked is None
        else with_asking(companion.asked.asking, companion.asked.codes, watched)
    )


class WatchOnCluster:
    """Asks once in rounds, then goes on asking each node by itself, and watches the slices (`capturing.Companion`)."""

    def __init__(self, *, settle: float, every: float = EVERY) -> None:
        self._settle = settle
        self._every = every
        self._clocks: Callable[[], Mapping[str, Clock]] = dict
        self._slices: SliceWatch | None = None
        self._answers: Answers | None = None
        self._asking: list[_Asker] = []
        self.asked: Asked | None = None

    def begin(self, scene: Scene, clocks: Callable[[], Mapping[str, Clock]]) -> None:
        """Ask in rounds, and start both watches. Raises UnavailableError."""
        self._clocks = clocks
        service = scene.prepared.gathered.service
        telling = Telling(scene.told.note, time.time())
        self._slices = SliceWatch(scene.api, service, telling.change)
        self._slices.start(_LIST_WITHIN)
        if self._slices.lack:
            scene.told.note(f"· {self._slices.lack}")
        self.asked = ask_there(scene, settle=self._settle, from_here=False)
        self._answers = Answers(telling.answer)
        names = set(scene.roll.pods)
        nodes = [node for node in scene.prepared.gathered.facts.nodes if node.name in names]
        own = own_questions(service, scene.prepared.gathered.facts, names)
        for node in nodes:
            questions = [question for question in own if question.node == node.name]
            self._asking.append(_Asker(scene, node.name, questions, self._answers, self._every))
        for asker in self._asking:
            asker.start()
        self._answers.await_first(len(self._asking), FIRST_WITHIN)
        scene.told.progress("asking and watching; begin what is to be watched")

    def so_far(self) -> tuple[tuple[EndpointChange, ...], OwnChecks]:
        """What is known by now."""
        changes = self._slices.changes if self._slices is not None else ()
        if self.asked is None:
            return changes, NONE_OWN
        own = OwnChecks(sources=tuple(sorted(self.asked.sources)))
        if self._answers is not None:
            own = self._answers.so_far(self._clocks(), self.asked.sources)
        return changes, msgspec.structs.replace(own, asked=self.asked.kept)

    def end(self) -> tuple[tuple[EndpointChange, ...], OwnChecks]:
        """End both watches, whatever they do; what they have told."""
        for asker in self._asking:
            asker.ask_to_end()
        until = time.monotonic() + _END_WITHIN
        for asker in self._asking:
            asker.close(until - time.monotonic())
        if self._slices is not None:
            self._slices.stop()
        changes, own = self.so_far()
        if self._slices is not None and self._slices.lack:
            own = msgspec.structs.replace(own, reasons=(*own.reasons, self._slices.lack))
        return changes, own

    def summary(self, report: Report) -> str:
        """What became of clients so far."""
        return health_words(report)


class _Asker:
    """The asking process on one node."""

    def __init__(
        self, scene: Scene, node: str, questions: Sequence[Question], answers: Answers, every: float
    ) -> None:
        self._scene = scene
        self._node = node
        self._questions = questions
        self._answers = answers
        self._every = every
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._task: Future[None] | None = None
        self._stopping = False
        self._lines = Lines()

    def start(self) -> None:
        """Begin."""
        if self._questions:
            self._task = self._scene.api.submit(self._live())

    def ask_to_end(self) -> None:
        """Say that nobody wants to know any more."""
        self._stopping = True
        self._scene.api.submit(self._send(END))

    def close(self, within: float) -> None:
        """Wait for the end, or make it."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            self._task.result(max(within, 0.0))
        self._task.cancel()

    async def _live(self) -> None:
        words = command(
            "python3",
            [question.text for question in self._questions],
            *("--every", f"{self._every:g}", "--lifeline", str(SILENCE)),
        )
        said = Said()
        why: str | None = None
        beating = asyncio.create_task(self._beat())
        try:
            self._socket = await opened(self._scene, self._node, words)
            await said.read(self._socket, self._take)
            why = await lack(said, self._scene, self._node) or "the asking ended by itself"
        except ProbeError as error:
            why = str(error)
        except (aiohttp.ClientError, OSError) as error:
            why = f"the stream broke off: {error}"
        finally:
            beating.cancel()
            if self._socket is not None:
                with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                    await self._socket.close()
            if why is not None and not self._stopping:
                self._answers.lack(self._node, why)

    def _take(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            answered = read_answer(line)
            if answered is not None and 0 <= answered.target < len(self._questions):
                self._answers.take(self._node, self._questions[answered.target].port, answered)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY)
            await self._send(BEAT)

    async def _send(self, data: bytes) -> None:
        if self._socket is None or self._socket.closed:
            return
        with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
            await asyncio.wait_for(self._socket.send_bytes(channels.pack(channels.STDIN, data)), _END_WITHIN)
