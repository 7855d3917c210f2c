"""The watch of a Service's slices: what changed while nobody looked is told, and objects are not believed longer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from analysis.facts import Endpoint, Service
from analysis.health.changes import EndpointChange
from probe.cluster.client import GoneError, NotAllowedError, UnreachableError
from probe.health.slices import MOST_CHANGES, SliceWatch

Json = dict[str, Any]


def slice_of(name: str, *ready: tuple[str, bool]) -> Json:
    """A slice with an endpoint on each node."""
    return {
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": name,
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "endpoints": [
            {"nodeName": node, "addresses": [f"10.0.0.{number}"], "conditions": {"ready": is_ready}}
            for number, (node, is_ready) in enumerate(ready, start=1)
        ],
    }


class Scripted:
    """An API whose lists and watches are written down: a list is one entry, a watch a list of events, errors too."""

    def __init__(self, lists: list[Any], watches: list[Any]) -> None:
        self._lists = lists
        self._watches = watches
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def submit(self, work: Any) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def alist(self, *_: Any, **__: Any) -> tuple[list[Json], str]:
        found = self._lists.pop(0)
        if isinstance(found, Exception):
            raise found
        return found, "1"

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Json]:
        events = self._watches.pop(0) if self._watches else None
        for event in events or ():
            if isinstance(event, Exception):
                raise event
            yield event
        if events is None:
            await asyncio.Event().wait()

    def close(self) -> None:
        async def end() -> None:
            rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


Build = Callable[[list[Any], list[Any]], SliceWatch]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def watching(told: list[str]) -> Iterator[Build]:
    made: list[tuple[Scripted, SliceWatch]] = []

    def build(lists: list[Any], watches: list[Any]) -> SliceWatch:
        api = Scripted(lists, watches)
        service = Service("default", "web", endpoints=(Endpoint("10.0.0.1", 80, "tcp", node="node1"),))
        watch = SliceWatch(api, service, lambda change: told.append(f"{change.node}: {change.words}"))  # type: ignore[arg-type]
        made.append((api, watch))
        watch.start(30)
        return watch

    yield build
    for api, watch in made:
        watch.stop()
        api.close()


def until(
    watch: SliceWatch, holds: Callable[[tuple[EndpointChange, ...]], bool]
) -> tuple[EndpointChange, ...]:
    done = threading.Event()
    for _ in range(2000):
        if holds(watch.changes):
            return watch.changes
        done.wait(0.01)
    raise AssertionError(watch.changes)


def words(changes: tuple[EndpointChange, ...]) -> list[str]:
    return [f"{change.node}: {change.words}" for change in changes]


def test_what_there_is_to_begin_with_is_told(watching: Build, told: list[str]) -> None:
    watch = watching([[slice_of("a", ("node1", True), ("node2", True))]], [])
    assert words(watch.changes) == ["node1: 1 ready endpoint", "node2: 1 ready endpoint"] == told
    assert watch.lack == ""


def test_an_endpoint_that_went_after_objects_were_read_is_told(watching: Build) -> None:
    watch = watching([[slice_of("a", ("node2", True))]], [])
    assert words(watch.changes) == ["node2: 1 ready endpoint", "node1: 0 ready endpoints"]


def test_a_slice_that_was_deleted_while_nobody_looked(watching: Build) -> None:
    both = [slice_of("a", ("node1", True)), slice_of("b", ("node2", True))]
    watch = watching([both, both[:1]], [[GoneError("too old", 410)]])
    changes = until(watch, lambda changes: len(changes) == 3)
    assert words(changes)[-1] == "node2: 0 ready endpoints"


def test_a_server_that_goes_away_for_a_moment(watching: Build) -> None:
    there = [slice_of("a", ("node1", True))]
    change = {"type": "MODIFIED", "object": slice_of("a", ("node1", False))}
    watch = watching([there, UnreachableError("away"), there], [[UnreachableError("away")], [change]])
    assert words(until(watch, lambda changes: len(changes) == 2))[-1] == "node1: 0 ready endpoints"


@pytest.mark.parametrize("first", [True, False])
def test_what_may_not_be_watched_is_said(watching: Build, first: bool) -> None:
    refused = NotAllowedError("watch", "endpointslices", "default")
    there = [slice_of("a", ("node1", True))]
    watch = watching([refused] if first else [there], [[refused]])
    done = threading.Event()
    while not watch.lack:
        done.wait(0.01)
    assert "you may not watch endpointslices" in watch.lack


@pytest.mark.parametrize(
    "junk",
    [
        {"type": "MODIFIED"},
        {"type": "MODIFIED", "object": []},
        {"type": "MODIFIED", "object": {"metadata": None}},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}},
        {"type": "DELETED", "object": {"metadata": {"name": "x" * 10_000}}},
    ],
)
def test_junk_among_the_events_changes_nothing(watching: Build, junk: Json) -> None:
    last = {"type": "DELETED", "object": slice_of("a", ("node1", True))}
    watch = watching([[slice_of("a", ("node1", True))]], [[junk, last]])
    assert words(until(watch, lambda changes: len(changes) == 2)) == [
        "node1: 1 ready endpoint",
        "node1: 0 ready endpoints",
    ]


def test_changes_without_end_are_bounded_and_said(watching: Build) -> None:
    flapping = [
        {"type": "MODIFIED", "object": slice_of("a", ("node1", bool(number % 2)))}
        for number in range(MOST_CHANGES + 10)
    ]
    watch = watching([[slice_of("a", ("node1", True))]], [flapping])
    until(watch, lambda changes: len(changes) == MOST_CHANGES)
    done = threading.Event()
    while not watch.lack:
        done.wait(0.01)
    assert "only the first" in watch.lack
