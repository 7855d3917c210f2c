"""A watch of one Service's EndpointSlices on a cluster: what changes, and when we heard of it.

After the server has forgotten where the watch was, or went away for a moment, all is listed anew; what is not there any
more was deleted meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from analysis.facts import Service
from analysis.health.changes import EndpointChange
from analysis.health.watching import ready_on
from probe.cluster.client import Api, ApiError, GoneError, UnreachableError
from probe.cluster.lister import ForbiddenError, Json
from probe.cluster.resources import Resource
from probe.errors import ProbeError
from probe.health.endpoint_changes import EndpointState

SLICES = Resource("discovery.k8s.io/v1", "endpointslices", "EndpointSlice")
SERVICE_LABEL = "kubernetes.io/service-name"

#: Changes that are kept.
MOST_CHANGES = 20_000

_AGAIN_AFTER = 0.5


class SliceWatch:
    """The changes of a Service's endpoints; `tell` hears of each. All but the plain calls happens on the API's loop."""

    def __init__(self, api: Api, service: Service, tell: Callable[[EndpointChange], None]) -> None:
        self._api = api
        self._service = service
        self._tell = tell
        self._lock = threading.Lock()
        self._changes: list[EndpointChange] = []
        self._state = EndpointState()
        self._known: dict[str, Json] = {}
        self._task: Future[None] | None = None
        self._listed = threading.Event()
        self.lack = ""  # why there is no watch, or not to the end

    def start(self, within: float) -> None:
        """Begin, and wait until the slices have been listed once."""
        self._task = self._api.submit(self._follow())
        self._listed.wait(within)

    def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()

    @property
    def changes(self) -> tuple[EndpointChange, ...]:
        """All so far."""
        with self._lock:
            return tuple(self._changes)

    async def _follow(self) -> None:
        namespace, labels = self._service.namespace, f"{SERVICE_LABEL}={self._service.name}"
        try:
            while True:
                try:
                    listed, version = await self._api.alist(SLICES, namespace, labels=labels)
                    self._take_list(listed)
                    self._listed.set()
                    async for event in self._api.watch(SLICES, namespace, version, labels=labels):
                        self._take(event)
                except (GoneError, UnreachableError):
                    await asyncio.sleep(_AGAIN_AFTER)
                except ApiError as error:
                    if error.status < 500:
                        raise
                    await asyncio.sleep(_AGAIN_AFTER)
        except (ForbiddenError, ProbeError) as error:
            self.lack = f"changes of endpoints were not watched: {error}"
        finally:
            self._listed.set()

    def _take_list(self, listed: list[Json]) -> None:
        """What is there now: the first time what there was to begin with, later what changed unseen."""
        now, first = time.time_ns(), not self._known and not self._changes
        found = {_name(item): item for item in listed}
        for name in set(self._known) - set(found):
            self._keep(self._state.take({"type": "DELETED", "object": self._known[name]}, now))
        for item in found.values():
            self._keep(self._state.take({"type": "ADDED", "object": item}, now))
        self._known = found
        if first:
            self._since_read({change.node for change in self.changes}, now)

    def _since_read(self, told: set[str], now: int) -> None:
        """Nodes that had endpoints when the objects were read, and have none any more."""
        nodes = {each.node for each in self._service.endpoints if each.node is not None and each.ready}
        gone = sorted(node for node in nodes - told if ready_on(self._service, node))
        self._keep([EndpointChange(now, node, 0, 0, self._service.key) for node in gone])

    def _take(self, event: Json) -> None:
        item = event.get("object")
        if not isinstance(item, dict) or str(event.get("type")) not in {"ADDED", "MODIFIED", "DELETED"}:
            return  # a bookmark
        if event["type"] == "DELETED":
            self._known.pop(_name(item), None)
        else:
            self._known[_name(item)] = item
        self._keep(self._state.take(event, time.time_ns()))

    def _keep(self, changes: list[EndpointChange]) -> None:
        with self._lock:
            room = MOST_CHANGES - len(self._changes)
            self._changes += changes[:room]
        if len(changes) > room:
            self.lack = f"of changes of endpoints only the first {MOST_CHANGES:,} are kept"
        for change in changes:
            self._tell(change)


def _name(item: Json) -> str:
    metadata = item.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""
