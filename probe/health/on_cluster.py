"""Asking on a cluster: processes in the agents' pods, by `pods/exec`, between two readings of the Service's slices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import aiohttp

from analysis.facts import Service
from analysis.health.asking import View
from analysis.health.replies import AskedFrom
from probe.cluster import channels
from probe.cluster.capturing import Prepared, Scene, Told, Wish, installed
from probe.cluster.client import Api, ApiError
from probe.cluster.installation import Placed, Roll, obituary
from probe.cluster.lister import ForbiddenError, Json
from probe.errors import ProbeError, UnavailableError
from probe.health.questions import leaving_of, questions_of
from probe.health.rounds import MOST_OUTPUT, SETTLE, SPARE, Asked, Output, Plan, ask_in_rounds, command
from probe.health.slices import SERVICE_LABEL, SLICES
from probe.objects import ObjectsError, facts_from_objects
from probe.render.escape import escape

_TOGETHER = 64  # processes that are started at the same time
_AGAIN = (0.5, 1.0, 2.0)  # seconds between attempts to start one
_KILLED = 137
_WORDS = 4096


def run(api: Api, wish: Wish, prepared: Prepared, told: Told, *, settle: float = SETTLE) -> Asked:
    """Place agents, ask by them and from here, take them away. Raises UnavailableError where nobody could ask."""
    with installed(api, wish, prepared, told) as (where, roll):
        return ask_there(Scene(api, wish, prepared, told, where, roll), settle=settle)


def run_from_here(api: Api, wish: Wish, prepared: Prepared, told: Told, *, settle: float = SETTLE) -> Asked:
    """Ask from the operator's side alone, and place nothing. Raises UnavailableError."""
    names = [str(node["metadata"]["name"]) for node in prepared.nodes]
    roll = Roll({}, dict.fromkeys(names, "no agents were wanted (--from-here)"))
    return ask_there(Scene(api, wish, prepared, told, Placed("", "", "", "", ""), roll), settle=settle)


def ask_there(scene: Scene, *, settle: float = SETTLE, from_here: bool = True) -> Asked:
    """Ask in rounds. Raises UnavailableError where agents were there and not one of them could ask."""
    api, prepared, told = scene.api, scene.prepared, scene.told
    gathered = prepared.gathered
    names = {str(node["metadata"]["name"]) for node in prepared.nodes}
    nodes = [node for node in gathered.facts.nodes if node.name in names]
    slices = Slices(api, gathered.service)
    plan = Plan(
        service=gathered.service,
        questions=lambda turn: questions_of(
            gathered.service,
            nodes,
            list(scene.roll.pods),
            turn,
            operator="" if from_here else None,
            ranges=gathered.facts.node_port_addresses,
        ),
        hands=KubernetesHands(scene),
        view=slices.view,
        leaving=leaving_of(gathered.facts, _deleted(prepared.nodes)),
        unasked=dict(scene.roll.missing),
        settle=settle,
    )
    asked = ask_in_rounds(plan, told.progress)
    replies = [
        reply
        for node in asked.asking.nodes
        for reply in node.replies
        if reply.asked_from is not AskedFrom.OPERATOR
    ]
    if scene.roll.pods and not any(reply.asked for reply in replies):
        why = next(
            (reply.reason for reply in replies if reply.asker in scene.roll.pods), "it does not say why"
        )
        raise UnavailableError(f"no agent could ask: {why}; --from-here asks without them")
    if slices.forbidden:
        told.note(f"· {slices.forbidden}")
    return asked


def _deleted(nodes: Sequence[Json]) -> list[str]:
    return [str(node["metadata"]["name"]) for node in nodes if node["metadata"].get("deletionTimestamp")]


class Slices:
    """The EndpointSlices of one Service, read anew each time."""

    def __init__(self, api: Api, service: Service) -> None:
        self._api = api
        self._service = service
        self.forbidden = ""

    def view(self) -> View | None:
        """What they say now; None where they may not be read. Raises UnavailableError."""
        labels = f"{SERVICE_LABEL}={self._service.name}"
        try:
            found = self._api.find(SLICES, self._service.namespace, labels=labels)
        except ForbiddenError as error:
            self.forbidden = str(error)
            return None
        return view_of(self._service, found)


def view_of(service: Service, slices: Sequence[Json]) -> View | None:
    """What slices say of a Service; None where they cannot be read."""
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "namespace": service.namespace},
    }
    try:
        facts = facts_from_objects([body, *slices])
    except ObjectsError:
        return None
    return View.of(facts.services[0])


class KubernetesHands:
    """Runs asking processes in the agents' pods."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def run(self, orders: Mapping[str, Sequence[str]]) -> Mapping[str, Output]:
        """All at once, as far as is bearable."""
        return self._scene.api.run(self._all(orders))

    async def _all(self, orders: Mapping[str, Sequence[str]]) -> dict[str, Output]:
        together = asyncio.Semaphore(_TOGETHER)

        async def one(place: str, targets: Sequence[str]) -> Output:
            async with together:
                return await run_there(self._scene, place, command("python3", targets))

        outputs = await asyncio.gather(*(one(place, targets) for place, targets in orders.items()))
        return dict(zip(orders, outputs, strict=True))


async def run_there(scene: Scene, place: str, words: Sequence[str]) -> Output:
    """Run a command in the agent's pod of a node to its end, bounded in bytes and time."""
    talk = Talk()
    try:
        async with asyncio.timeout(SPARE + 10):
            socket = await opened(scene, place, words)
            try:
                await talk.read(socket, talk.keep)
            finally:
                with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                    await socket.close()
            return Output(bytes(talk.output), await talk.lack(scene, place))
    except ProbeError as error:
        return Output(bytes(talk.output), str(error))
    except TimeoutError:
        return Output(bytes(talk.output), "it took too long")
    except (aiohttp.ClientError, OSError) as error:
        return Output(bytes(talk.output), f"the stream broke off: {error}")


async def opened(scene: Scene, place: str, words: Sequence[str]) -> aiohttp.ClientWebSocketResponse:
    """Start a command in the agent's pod of a node. Raises UnavailableError."""
    where, pod = scene.where, scene.roll.pods[place]
    for pause in (*_AGAIN, None):
        try:
            return await scene.api.exec(where.namespace, pod, where.container, words)
        except ApiError as error:
            if pause is None or error.status < 500:
                raise
        await asyncio.sleep(pause)
    raise AssertionError("the last try answers or raises")


class Talk:
    """What a command in a pod says, channel by channel."""

    def __init__(self) -> None:
        self.output = bytearray()
        self._words = b""
        self._ended: channels.Ended | None = None

    def keep(self, data: bytes) -> None:
        """Keep standard output, as much of it as may be."""
        self.output += data[: MOST_OUTPUT - len(self.output)]

    async def read(self, socket: aiohttp.ClientWebSocketResponse, take: Callable[[bytes], None]) -> None:
        """To its end."""
        async for message in socket:
            if message.type not in {aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT}:
                continue
            data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
            channel, content = channels.unpack(data)
            match channel:
                case channels.STDOUT:
                    take(content)
                case channels.STDERR:
                    self._words = (self._words + content)[-_WORDS:]
                case channels.ERROR if content:
                    self._ended = channels.ended(content)

    async def lack(self, scene: Scene, place: str) -> str | None:
        """Why it did not end well, None where it did."""
        ended = self._ended
        if ended is not None and ended.code == 0:
            return None
        if fate := await _fate(scene, place):
            return fate
        if ended is None:
            return "the connection to the agent's pod was lost"
        if ended.code is None:
            return escape(ended.message, 300) or "it was not run, and the server does not say why"
        lines = self._words.decode("utf-8", "backslashreplace").strip().splitlines()
        if lines:
            return escape(lines[-1], 300)
        return f"it ended with code {ended.code}{', killed' if ended.code == _KILLED else ''}"


async def _fate(scene: Scene, place: str) -> str | None:
    return await obituary(scene.api, scene.where.namespace, scene.roll.pods[place], place)
