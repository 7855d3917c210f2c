"""Taking everything away again: what this session placed, or what earlier ones left behind.

Everything that a session places carries its id in a label, so it is found without having been remembered. What is
gone already is no error; what does not go in time is named. A standing installation has no session and stays.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from probe.cluster.client import Api, ApiError, ConflictError, NotFoundError, UnreachableError
from probe.cluster.lister import AbsentError, ForbiddenError, Json
from probe.cluster.resources import DAEMON_SETS, INSTALLABLE, NAMESPACES, PODS, Resource, resource_of
from probe.errors import UnavailableError
from probe.manifests.objects import PROBE_LABELS, SESSION_LABEL

#: Seconds that everything may take to go; and for which an API server that does not answer is asked again.
GONE_WITHIN = 60.0
ASK_WITHIN = 30.0

_LOOK_EVERY = 0.5

Progress = Callable[[str], None]


class Item(NamedTuple):
    """One object on the cluster. `uid` is "" where it is not known."""

    resource: Resource
    namespace: str | None
    name: str
    uid: str = ""

    def __str__(self) -> str:
        where = f" -n {self.namespace}" if self.namespace else ""
        return f"{self.resource.plural}/{self.name}{where}"


class Trouble(NamedTuple):
    """Objects that stay on the cluster, at least one, and why."""

    items: tuple[Item, ...]
    why: str

    def __str__(self) -> str:
        more = f" and {len(self.items) - 1} more" if len(self.items) > 1 else ""
        return f"{self.items[0]}{more}: {self.why}"


@dataclass(frozen=True, slots=True)
class Leftover:
    """What one session has on the cluster; `age` in seconds."""

    session: str
    age: float
    items: tuple[Item, ...]

    @property
    def namespaces(self) -> str:
        """Where it is, for people."""
        names = {
            item.namespace or item.name
            for item in self.items
            if item.resource in {DAEMON_SETS, NAMESPACES, PODS}
        }
        return ", ".join(sorted(names))


def items_of(objects: Iterable[Json]) -> list[Item]:
    """The objects of an installation, as what is to be taken away."""
    return [
        Item(
            resource_of(body["apiVersion"], body["kind"]),
            body["metadata"].get("namespace"),
            body["metadata"]["name"],
        )
        for body in objects
    ]


def find(api: Api, resources: Sequence[Resource] = INSTALLABLE, session: str | None = None) -> list[Leftover]:
    """All sessions that have something on the cluster, or the one that is named. Raises ForbiddenError."""
    labels = ",".join(f"{key}={value}" for key, value in PROBE_LABELS.items())
    labels += f",{SESSION_LABEL}" + (f"={session}" if session is not None else "")
    found: dict[str, list[tuple[Item, float]]] = defaultdict(list)
    for resource in resources:
        try:
            objects = api.find(resource, labels=labels)
        except AbsentError:
            continue  # OpenShift's kinds are not everywhere
        for body in objects:
            metadata = body["metadata"]
            if resource is PODS and metadata.get("ownerReferences"):
                continue  # goes with its DaemonSet
            item = Item(resource, metadata.get("namespace"), metadata["name"], str(metadata.get("uid", "")))
            found[metadata["labels"][SESSION_LABEL]].append((item, _age(metadata.get("creationTimestamp"))))
    return [
        Leftover(session, max(age for _, age in items), tuple(item for item, _ in items))
        for session, items in sorted(found.items())
    ]


def remove(api: Api, items: Iterable[Item], progress: Progress, within: float = GONE_WITHIN) -> list[Trouble]:
    """Delete and wait until all is gone. What is still there then; raises nothing that the cluster does."""
    order = {resource: number for number, resource in enumerate(INSTALLABLE)}
    ordered = sorted(items, key=lambda item: order.get(item.resource, 0))
    troubles = request_removal(api, ordered, progress)
    staying = {item for trouble in troubles for item in trouble.items}
    progress("waiting until everything is gone")
    return troubles + await_gone(api, [item for item in ordered if item not in staying], within)


def request_removal(api: Api, items: Sequence[Item], progress: Progress) -> list[Trouble]:
    """Ask for the deletion of each. What was refused, but for what goes with its namespace.

    A server that is not there is asked for so long in all; then all that it was not asked for is one trouble.
    """
    troubles: list[Trouble] = []
    until = time.monotonic() + ASK_WITHIN
    for number, item in enumerate(items):
        try:
            _delete(api, item, until, progress)
        except UnreachableError as error:
            troubles.append(Trouble(tuple(items[number:]), str(error)))
            break
        except UnavailableError as error:
            troubles.append(Trouble((item,), str(error)))
    refused = {item for trouble in troubles for item in trouble.items}
    going = {item.name for item in items if item.resource == NAMESPACES and item not in refused}
    staying = [
        Trouble(tuple(item for item in trouble.items if item.namespace not in going), trouble.why)
        for trouble in troubles
    ]
    return [trouble for trouble in staying if trouble.items]


def _delete(api: Api, item: Item, until: float, progress: Progress) -> None:
    """Raises UnavailableError where it was refused, UnreachableError where nobody is there to refuse it by `until`."""
    while True:
        try:
            api.delete(item.resource, item.name, item.namespace, uid=item.uid)
        except (NotFoundError, ConflictError, AbsentError):
            return  # gone; or another of that name, or on its way already
        except UnreachableError:
            left = until - time.monotonic()
            if left <= 0:
                raise
            progress(f"the cluster's API server does not answer; asking it for {left:.0f} s more")
            time.sleep(_LOOK_EVERY)
        else:
            return


def await_gone(api: Api, items: Sequence[Item], within: float) -> list[Trouble]:
    """Wait until objects are gone. What is still there."""
    until = time.monotonic() + within
    waiting = list(items)
    while True:
        states = [(item, _still_there(api, item)) for item in waiting]
        waiting = [item for item, state in states if state is not None]
        if not waiting:
            return []
        if time.monotonic() > until:
            return [Trouble((item,), state) for item, state in states if state is not None]
        time.sleep(_LOOK_EVERY)


def _still_there(api: Api, item: Item) -> str | None:
    """What keeps an object; None where it is gone, or is another one of the same name."""
    try:
        body = api.get(item.resource, item.name, item.namespace)
    except (NotFoundError, AbsentError):
        return None
    except ForbiddenError:
        return None  # who may delete but not look has done what they can
    except (ApiError, UnreachableError) as error:
        return str(error)
    if item.uid and body.get("metadata", {}).get("uid") != item.uid:
        return None
    conditions = (body.get("status") or {}).get("conditions") or []
    for condition in conditions if item.resource is NAMESPACES else []:
        if condition.get("status") == "True" and condition.get("message"):
            return f"still being deleted: {' '.join(str(condition['message']).split())[:300]}"
    return "still being deleted"


def _age(created: object) -> float:
    try:
        then = datetime.fromisoformat(str(created))
    except ValueError:
        return 0.0
    return (datetime.now(UTC) - then).total_seconds() if then.tzinfo else 0.0
