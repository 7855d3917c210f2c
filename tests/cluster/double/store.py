"""Objects with their versions, and what became of them for those who watch. One thread only: the loop's."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

Json = dict[str, Any]
Kind = tuple[str, str]  # group and version, plural
Key = tuple[str, str]  # namespace or "", name


class Refused(Exception):  # noqa: N818 - the server's word
    """An answer that is no success, as the server's Status object says it."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details

    @property
    def status(self) -> Json:
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body |= {"message": self.message, "reason": self.reason, "code": self.code}
        return body | ({"details": self.details} if self.details is not None else {})


class Change(NamedTuple):
    """One entry of the history that watches are served from."""

    version: int
    kind: Kind
    type: str
    body: Json


def matches(selector: str, labels: dict[str, str]) -> bool:
    """Whether labels meet a selector of `key`, `!key`, `key=value` and `key!=value`."""
    for part in filter(None, selector.split(",")):
        if part.startswith("!"):
            if part[1:] in labels:
                return False
            continue
        key, equals, value = part.partition("!=") if "!=" in part else part.partition("=")
        if not equals and key not in labels:
            return False
        if equals == "=" and labels.get(key) != value.removeprefix("="):
            return False
        if equals == "!=" and labels.get(key) == value:
            return False
    return True


class Store:
    """All objects of the cluster."""

    def __init__(self) -> None:
        self.version = 1000
        self.oldest = 1000  # what is older than that is forgotten (410)
        self.history: list[Change] = []
        self.changed = asyncio.Condition()
        self._objects: dict[Kind, dict[Key, Json]] = {}

    def all(self, kind: Kind) -> list[Json]:
        return list(self._objects.get(kind, {}).values())

    def find(self, kind: Kind, namespace: str, name: str) -> Json | None:
        return self._objects.get(kind, {}).get((namespace, name))

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        found = self.find(kind, namespace, name)
        if found is None:
            group = kind[0].rpartition("/")[0]
            told = f"{kind[1]}.{group}" if group else kind[1]
            details = {"name": name, "group": group, "kind": kind[1]}
            raise Refused(404, "NotFound", f'{told} "{name}" not found', details)
        return found

    def select(self, kind: Kind, namespace: str | None, labels: str, fields: str) -> list[Json]:
        found = []
        for body in self.all(kind):
            metadata = body["metadata"]
            if namespace is not None and metadata.get("namespace") != namespace:
                continue
            if not matches(labels, metadata.get("labels") or {}):
                continue
            if fields and not all(_field(body, part) for part in fields.split(",")):
                continue
            found.append(body)
        return sorted(
            found, key=lambda body: (body["metadata"].get("namespace", ""), body["metadata"]["name"])
        )

    def create(self, kind: Kind, body: Json) -> Json:
        body = copy.deepcopy(body)
        metadata = body["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        if self.find(kind, namespace, name) is not None:
            raise Refused(
                409, "AlreadyExists", f'{kind[1]} "{name}" already exists', {"name": name, "kind": kind[1]}
            )
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._objects.setdefault(kind, {})[namespace, name] = body
        self._record(kind, "ADDED", body)
        return body

    def changed_object(self, kind: Kind, body: Json) -> None:
        """An object was changed in place."""
        self._record(kind, "MODIFIED", body)

    def remove(self, kind: Kind, body: Json) -> None:
        metadata = body["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        if self._objects.get(kind, {}).get(key) is body:
            del self._objects[kind][key]
            self._record(kind, "DELETED", body)

    def in_namespace(self, namespace: str) -> Iterator[tuple[Kind, Json]]:
        for kind, objects in list(self._objects.items()):
            for (where, _), body in list(objects.items()):
                if where == namespace:
                    yield kind, body

    def everything(self) -> Iterator[tuple[Kind, Json]]:
        for kind, objects in list(self._objects.items()):
            for body in list(objects.values()):
                yield kind, body

    def forget(self) -> None:
        """Compact: whoever goes on from before now must begin anew."""
        self.oldest = self.version + 1
        self.version += 1
        self.history.clear()
        self._wake()

    def _record(self, kind: Kind, change: str, body: Json) -> None:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(Change(self.version, kind, change, copy.deepcopy(body)))
        self._wake()

    def _wake(self) -> None:
        async def wake() -> None:
            async with self.changed:
                self.changed.notify_all()

        asyncio.get_running_loop().create_task(wake())


def _field(body: Json, requirement: str) -> bool:
    path, _, wanted = requirement.partition("=")
    value: Any = body
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return str(value if value is not None else "") == wanted.removeprefix("=")
