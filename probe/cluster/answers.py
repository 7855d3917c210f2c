"""What an API server answers: JSON of whatever server. Bytes in, values of known shapes out, and never an error."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from probe.cluster.lister import Json
from probe.cluster.resources import Resource

#: Characters of an answer, and of names in it, that are kept for people.
MOST_TEXT, MOST_NAME = 600, 253


class Page(NamedTuple):
    """One page of a list: its objects, with kind and version filled in, what names the next page, and the version."""

    items: list[Json]
    going_on: str
    version: str


class Status(NamedTuple):
    """A Status object (meta/v1), as far as a refusal says anything: `code` is 0 where it has none."""

    code: int
    reason: str
    message: str
    about_an_object: bool
    name: str


def parse_json(data: bytes) -> Json:
    """An answer's object; of what is no JSON its beginning, as `message`."""
    try:
        answer = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"message": data[:300].decode("utf-8", "backslashreplace").strip()}
    return answer if isinstance(answer, dict) else {}


def page_of(answer: Json, resource: Resource) -> Page:
    """One page of a list of this resource; what is no object in it is left out."""
    kind = str(answer.get("kind", "")).removesuffix("List") or resource.kind
    given, metadata = answer.get("items"), mapping(answer.get("metadata"))
    items = [
        {"apiVersion": resource.group_version, "kind": kind, **item}
        for item in (given if isinstance(given, list) else [])
        if isinstance(item, dict)
    ]
    return Page(items, str(metadata.get("continue") or ""), str(metadata.get("resourceVersion", "")))


def status_of(answer: Json) -> Status:
    """What a Status object says."""
    code = answer.get("code")
    known = isinstance(code, int) and not isinstance(code, bool) and 100 <= code <= 999
    return Status(
        code if isinstance(code, int) and known else 0,
        _line(answer.get("reason"), MOST_NAME),
        _line(answer.get("message"), MOST_TEXT),
        bool(answer.get("details")),
        _line(mapping(answer.get("details")).get("name"), MOST_NAME),
    )


def mapping(value: Any) -> Json:
    """An object, empty where it is none."""
    return value if isinstance(value, dict) else {}


def _line(value: object, most: int) -> str:
    return " ".join(str(value or "").split())[:most]
