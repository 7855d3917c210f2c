"""Putting the agents' pods on a cluster, and waiting until they run, node by node.

A node whose pod does not come is no reason to wait for ever, nor to give up the others: it is named with its reason,
and what the session then says is incomplete by that node. Only where no pod runs at all is it an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from probe.cluster.client import Api, ApiError, ConflictError, GoneError, UnreachableError
from probe.cluster.lister import ForbiddenError, Json
from probe.cluster.pods import (
    PodState,
    Stage,
    complaint_about,
    fate_of,
    node_of,
    not_ready,
    refused_by_policy,
    state_of,
    unfit,
)
from probe.cluster.resources import DAEMON_SETS, EVENTS, PODS, resource_of
from probe.errors import UnavailableError
from probe.manifests.objects import PROBE_LABELS, SESSION_LABEL

#: Seconds until all pods must run; and, when nothing changes any more, until those that do not are given up.
WAIT = 120.0
STANDSTILL = 20.0

_LOOK_EVERY = 1.0
_RELIST_AFTER = 0.5

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Placed:
    """What was put on the cluster: the agents' DaemonSet by its name, and the labels of its pods.

    `name` is "" where pods stand alone.
    """

    namespace: str
    name: str
    container: str
    labels: str
    image: str


@dataclass(frozen=True, slots=True)
class Roll:
    """The name of the agent's pod by node, and why there is none, by node."""

    pods: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def install(api: Api, objects: Sequence[Json]) -> Placed:
    """Create the objects in their order. Raises UnavailableError; what was created until then stays."""
    for body in objects:
        resource = resource_of(body["apiVersion"], body["kind"])
        try:
            api.create(resource, body)
        except ConflictError as error:
            # An answer that was lost, and the same again: the session's id is in the name or among the labels.
            name, namespace = body["metadata"]["name"], body["metadata"].get("namespace")
            there = api.get(resource, name, namespace)
            if (there.get("metadata") or {}).get("labels") != body["metadata"].get("labels"):
                raise ApiError(
                    f"{resource.kind} {name} is there already and is not this session's; give another --namespace",
                    409,
                ) from error
        except ApiError as error:
            refusal = refused_by_policy(error.message, str(body["metadata"].get("namespace")))
            if refusal is None:
                raise
            raise ApiError(refusal, error.status, error.reason, error.message) from error
    return placed(objects)


def placed(objects: Sequence[Json]) -> Placed:
    """Where the agents' pods of an installation will be."""
    body = next(body for body in objects if body["kind"] in {DAEMON_SETS.kind, PODS.kind})
    daemons = body["kind"] == DAEMON_SETS.kind
    pod = body["spec"]["template"] if daemons else body
    container = pod["spec"]["containers"][0]
    labels = body["spec"]["selector"]["matchLabels"] if daemons else body["metadata"]["labels"]
    return Placed(
        namespace=body["metadata"]["namespace"],
        name=body["metadata"]["name"] if daemons else "",
        container=container["name"],
        labels=",".join(f"{key}={value}" for key, value in labels.items()),
        image=container["image"],
    )


def standing(api: Api, namespace: str) -> Placed:
    """The agents of a standing installation, which belong to no session. Raises UnavailableError, ForbiddenError."""
    ours = ",".join([*(f"{key}={value}" for key, value in PROBE_LABELS.items()), f"!{SESSION_LABEL}"])
    found = api.find(DAEMON_SETS, namespace, labels=ours)
    if len(found) != 1:
        many = "several standing installations" if found else "no standing installation"
        raise UnavailableError(
            f"namespace {namespace} has {many}; `probe manifests` prints one, and without --installed agents are "
            "placed for the time of the capture"
        )
    where = placed(found)
    # Agents of sessions in the same namespace have the labels of a standing one too, and their own.
    return replace(where, labels=f"{where.labels},!{SESSION_LABEL}")


def await_pods(
    api: Api, where: Placed, nodes: Sequence[Json], progress: Progress, wait: float = WAIT
) -> Roll:
    """Wait for a pod on each node. Raises UnavailableError where there is none at all in the end."""
    return api.run(_Waiting(api, where, nodes, progress).wait(wait))


class _Waiting:
    """The pods of a DaemonSet as they come."""

    def __init__(self, api: Api, where: Placed, nodes: Sequence[Json], progress: Progress) -> None:
        self._api = api
        self._where = where
        self._nodes = {str(node["metadata"]["name"]): node for node in nodes}
        self._unfit = {name: why for name, node in self._nodes.items() if (why := unfit(node))}
        self._pods: dict[str, Json] = {}  # by name
        self._changed = asyncio.Event()
        self._moved = time.monotonic()
        self._progress = progress
        self._told = ""

    async def wait(self, seconds: float) -> Roll:
        until = time.monotonic() + seconds
        watching = asyncio.create_task(self._watch())
        try:
            while not self._settled() and time.monotonic() < until and not self._standing_still():
                self._tell()
                if watching.done():
                    watching.result()
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._changed.wait(), min(_LOOK_EVERY, max(0.05, until - time.monotonic()))
                    )
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        return await self._roll()

    async def _watch(self) -> None:
        """Keep the list of pods fresh; begin anew where the server has forgotten what we know, or went away."""
        while True:
            try:
                pods, version = await self._api.alist(PODS, self._where.namespace, labels=self._where.labels)
                self._pods = {}
                for pod in pods:
                    self._take(pod)
                self._note_change()
                async for event in self._api.watch(
                    PODS, self._where.namespace, version, labels=self._where.labels
                ):
                    self._apply(event)
            except (GoneError, UnreachableError):
                await asyncio.sleep(_RELIST_AFTER)
            except ApiError as error:
                if error.status < 500:
                    raise
                await asyncio.sleep(_RELIST_AFTER)

    def _apply(self, event: Json) -> None:
        pod = event.get("object") or {}
        match event.get("type"):
            case "ADDED" | "MODIFIED":
                self._take(pod)
            case "DELETED":
                self._pods.pop(str((pod.get("metadata") or {}).get("name")), None)
            case _:  # a bookmark
                return
        self._note_change()

    def _take(self, pod: Json) -> None:
        self._pods[str(pod["metadata"]["name"])] = pod

    def _note_change(self) -> None:
        self._moved = time.monotonic()
        self._changed.set()

    def _states(self) -> dict[str, tuple[str, PodState]]:
        """The best pod of each node and its state."""
        found: dict[str, tuple[str, PodState]] = {}
        for name, pod in self._pods.items():
            node, state = node_of(pod), state_of(pod)
            if node is not None and (node not in found or state.stage is Stage.READY):
                found[node] = name, state
        return found

    def _wanted(self) -> list[str]:
        return [name for name in self._nodes if name not in self._unfit]

    def _settled(self) -> bool:
        states = self._states()
        return all(name in states and states[name][1].stage is not Stage.WAITING for name in self._wanted())

    def _standing_still(self) -> bool:
        """Whether all that is waited for is what may never come, and nothing has moved for long."""
        return time.monotonic() - self._moved > STANDSTILL

    def _tell(self) -> None:
        states = self._states()
        wanted = self._wanted()
        ready = sum(name in states and states[name][1].stage is Stage.READY for name in wanted)
        late = [name for name in wanted if name not in states or states[name][1].stage is not Stage.READY]
        text = f"agents' pods: {ready} of {len(wanted)} run"
        if late:
            why = states[late[0]][1].reason if late[0] in states else "has no pod yet"
            text += f"; {late[0]}: {why}" + (f" (and {len(late) - 1} more)" if len(late) > 1 else "")
        if text != self._told:
            self._told = text
            self._progress(text)

    async def _roll(self) -> Roll:
        self._tell()
        states = self._states()
        pods = {node: name for node, (name, state) in states.items() if state.stage is Stage.READY}
        pods = {node: name for node, name in pods.items() if node in self._nodes}
        missing = dict(self._unfit)
        late = [name for name in self._wanted() if name not in pods]
        events = await self._events() if late else []
        for name in late:
            missing[name] = self._why(name, states.get(name), events)
        if not pods:
            raise UnavailableError(self._nobody(missing))
        return Roll(pods, missing)

    def _nobody(self, missing: Mapping[str, str]) -> str:
        if not missing:
            return "no agent could be started: the cluster has no node for them; check --node"
        first, reason = next(iter(missing.items()))
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"no agent could be started; on {first}{more}: {reason}"

    async def _events(self) -> list[Json]:
        """What the cluster complains of; nothing where we may not know."""
        try:
            return (await self._api.alist(EVENTS, self._where.namespace))[0]
        except (ForbiddenError, ApiError, UnreachableError):
            return []

    def _why(self, node: str, state: tuple[str, PodState] | None, events: Sequence[Json]) -> str:
        if state is not None and state[1].stage is Stage.HOPELESS:
            return state[1].reason
        complaint = complaint_about(events, PODS.kind, state[0]) if state is not None else None
        if unready := not_ready(self._nodes[node]):
            return unready
        if state is not None:
            return state[1].reason + (
                f"; {complaint}" if complaint and complaint not in state[1].reason else ""
            )
        if not self._where.name:
            return "its pod is gone"
        if complaint := complaint_about(events, DAEMON_SETS.kind, self._where.name):
            return refused_by_policy(complaint, self._where.namespace) or f"no pod could be made: {complaint}"
        return "the DaemonSet made no pod for it"


async def obituary(api: Api, namespace: str, pod: str, node: str) -> str | None:
    """What became of a pod whose stream broke off, in words; None where it seems to be well."""
    try:
        found = await api.aget(PODS, pod, namespace)
    except ApiError as error:
        return f"the agent's pod on {node} was deleted while it watched" if error.status == 404 else None
    except (UnreachableError, ForbiddenError):
        return None
    fate = fate_of(found)
    return f"the agent's pod on {node} did not stay: {fate}" if fate else None
