"""Asking on a cluster: processes in the agents' pods, by `pods/exec`, between two readings of the Service's slices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import aiohttp

from analysis.facts import Service
from analysis.health.replies import AskedFrom
from analysis.health.rounds import View
from probe.cluster.capturing import Prepared, Scene, Told, Wish, installed
from probe.cluster.client import Api
from probe.cluster.installation import Placed, Roll, obituary
from probe.cluster.lister import ForbiddenError, Json
from probe.cluster.remote import Said, Socket, started
from probe.errors import ProbeError, UnavailableError
from probe.health.questions import leaving_of, questions_of
from probe.health.rounds import MOST_OUTPUT, SETTLE, SPARE, Asked, Output, Plan, ask_in_rounds, command
from probe.health.slices import SERVICE_LABEL, SLICES
from probe.objects import ObjectsError, facts_from_objects

_TOGETHER = 64  # processes that are started at the same time


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
    said, output = Said(), bytearray()

    def keep(data: bytes) -> None:
        output.extend(data[: MOST_OUTPUT - len(output)])

    try:
        async with asyncio.timeout(SPARE + 10):
            socket = await opened(scene, place, words)
            try:
                await said.read(socket, keep)
            finally:
                with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                    await socket.close()
            return Output(bytes(output), await lack(said, scene, place))
    except ProbeError as error:
        return Output(bytes(output), str(error))
    except TimeoutError:
        return Output(bytes(output), "it took too long")
    except (aiohttp.ClientError, OSError) as error:
        return Output(bytes(output), f"the stream broke off: {error}")


async def opened(scene: Scene, place: str, words: Sequence[str]) -> Socket:
    """Start a command in the agent's pod of a node. Raises UnavailableError."""
    where, pod = scene.where, scene.roll.pods[place]
    return await started(lambda: scene.api.exec(where.namespace, pod, where.container, words))


async def lack(said: Said, scene: Scene, place: str) -> str | None:
    """Why the asking in a node's pod did not end well, None where it did."""
    if said.ended_well:
        return None
    fate = await obituary(scene.api, scene.where.namespace, scene.roll.pods[place], place)
    return fate or said.complaint("it") or "the connection to the agent's pod was lost"
