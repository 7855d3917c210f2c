"""Events of a watch of EndpointSlices → how many endpoints each node had of a Service, and since when.

The events are a watch's own (`{"type": "MODIFIED", "object": {…}}`), each with the time at which it came. From a file
they are JSON lines with that time as `t`, seconds since the epoch; `kubectl get endpointslices -A -w -o json
--output-watch-events` does not write when they came, so there the slice's own note of its last change is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from analysis.health.changes import EndpointChange
from probe.errors import UsageError, os_error

_SERVICE = "kubernetes.io/service-name"
_CHANGED = "endpoints.kubernetes.io/last-change-trigger-time"
_LIMIT = 64 * 1024 * 1024  # bytes of a file that are read
_SECOND = 1_000_000_000


class EndpointState:
    """The EndpointSlices of all Services as far as a watch has told; tells what each event changes."""

    def __init__(self) -> None:
        self._slices: dict[tuple[str, str], dict[str, dict[str, tuple[bool, bool]]]] = {}
        self._told: dict[tuple[str, str], tuple[int, int]] = {}

    def take(self, event: dict[str, Any], time: int) -> list[EndpointChange]:
        """The changes that one event brings, at `time` ns; none where it is about no EndpointSlice."""
        slice_ = event.get("object")
        kind = slice_.get("kind") if isinstance(slice_, dict) else ""
        if not isinstance(slice_, dict) or (kind is not None and kind != "EndpointSlice"):
            return []
        meta = _dict(slice_.get("metadata"))
        namespace, name = str(meta.get("namespace", "")), str(meta.get("name", ""))
        service = _dict(meta.get("labels")).get(_SERVICE)
        if not isinstance(service, str) or not name:
            return []
        slices = self._slices.setdefault((namespace, service), {})
        if event.get("type") == "DELETED":
            slices.pop(name, None)
        else:
            slices[name] = dict(_endpoints(slice_))
        return self._changes(f"{namespace}/{service}", slices, time)

    def _changes(
        self, service: str, slices: dict[str, dict[str, tuple[bool, bool]]], time: int
    ) -> list[EndpointChange]:
        ready: Counter[str] = Counter()
        draining: Counter[str] = Counter()
        for key, (is_ready, drains) in {k: v for each in slices.values() for k, v in each.items()}.items():
            node = key.partition(" ")[0]
            ready[node] += is_ready
            draining[node] += drains
        nodes = sorted(set(ready) | {node for known, node in self._told if known == service})
        found = []
        for node in nodes:
            now = (ready[node], draining[node])
            if self._told.get((service, node), (0, 0)) != now:
                found.append(EndpointChange(time, node, *now, service))
            self._told[service, node] = now
        return found


_FORM = "give the events of a watch of EndpointSlices, one JSON object a line (docs/health.md)"


def read_changes(path: Path) -> tuple[EndpointChange, ...]:
    """The changes that a file of events tells, in order of time. Raises ProbeError."""
    try:
        if path.stat().st_size > _LIMIT:
            raise UsageError(
                f"{path} is larger than {_LIMIT // 1024 // 1024} MiB; give the events of one rollout"
            )
        data = path.read_bytes()
    except OSError as error:
        raise os_error(error, f"read {path}") from error
    return parse_changes(data, str(path))


def parse_changes(data: bytes, name: str) -> tuple[EndpointChange, ...]:
    """The same of the file's bytes; `name` is what errors call it. Raises UsageError."""
    state = EndpointState()
    found: list[EndpointChange] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        event = _event(line, f"{name}, line {number}")
        found += state.take(event, _time(event, f"{name}, line {number}"))
    if not found:
        raise UsageError(f"{name} tells of no endpoint; {_FORM}")
    return tuple(sorted(found, key=lambda change: change.time))


def _event(line: bytes, where: str) -> dict[str, Any]:
    try:
        event = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON ({error}); {_FORM}") from error
    if not isinstance(event, dict):
        raise UsageError(f"{where} is not an event of a watch; {_FORM}")
    return event


def _time(event: dict[str, Any], where: str) -> int:
    """When an event came, ns: as noted beside it, or by the slice's own annotation."""
    noted = event.get("t")
    if (
        isinstance(noted, int | float)
        and not isinstance(noted, bool)
        and math.isfinite(noted)
        and 0 < noted < 2**33
    ):
        return int(noted * _SECOND)
    annotated = _dict(_dict(_dict(event.get("object")).get("metadata")).get("annotations")).get(_CHANGED)
    try:
        return int(datetime.fromisoformat(str(annotated)).timestamp() * _SECOND)
    except (ValueError, OverflowError) as error:
        raise UsageError(f'{where} does not say when it came; put the time beside it as "t"') from error


def _endpoints(slice_: dict[str, Any]) -> Iterator[tuple[str, tuple[bool, bool]]]:
    """`NODE ADDRESS` with whether it is ready, and whether it is terminating and still serves."""
    entries = slice_.get("endpoints")
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("nodeName"), str):
            continue
        conditions = _dict(entry.get("conditions"))
        ready = conditions.get("ready") is not False
        drains = (
            conditions.get("terminating") is True and conditions.get("serving") is not False and not ready
        )
        addresses = entry.get("addresses")
        for address in addresses if isinstance(addresses, list) else []:
            yield f"{entry['nodeName']} {address}", (ready, drains)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
