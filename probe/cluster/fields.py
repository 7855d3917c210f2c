"""Reading Kubernetes objects field by field: what an absent field means, and which one is of the wrong type.

An object is whatever somebody could store: every text, list and number is bounded, and nothing is taken for granted
but that it came as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

import msgspec

Json = dict[str, Any]

#: Longest name, label and address that the API server takes, and then some; longer texts are cut.
TEXT_LIMIT = 1024

#: Most entries of one list or table of an object that are read. A slice has at most 1000 endpoints.
ENTRY_LIMIT = 10_000

#: Longest document inside a ConfigMap or an annotation that is parsed, in characters.
DOCUMENT_LIMIT = 64 * 1024

#: Anchors and aliases, by which a small document of YAML can stand for an enormous one.
_REFERENCE = re.compile(r"(?:^|[\s\[{,:-])[&*][A-Za-z0-9_]", re.MULTILINE)


class ObjectsError(ValueError):
    """The given JSON is not what `kubectl get … -o json` prints."""


#: What a value should be, in words.
_KINDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def field(item: Json, path: str, kind: type, default: Any) -> Any:
    """The value at a dotted path; `default` where absent or null. Raises ObjectsError on another type."""
    value: Any = item
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
        if value is None:
            return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ObjectsError(f"{shown(item)}: {path} is not {_KINDS.get(kind, 'what it should be')}")
    return value


def shown(item: Json) -> str:
    """An object by kind and name, as an error names it."""
    kind = item.get("kind")
    return f"{kind[:80] if isinstance(kind, str) else 'object'} {name_of(item)[:253]}"


def plain(written: str, most: int = 80) -> str:
    """A text out of an object for a sentence: bounded, on one line, with nothing that a terminal would obey."""
    return ascii(written[:most])[1:-1]


def name_of(item: Json) -> str:
    """The object's name, "?" where it has none."""
    metadata = item.get("metadata")
    return str(metadata.get("name", "?"))[:TEXT_LIMIT] if isinstance(metadata, dict) else "?"


def namespace_of(item: Json) -> str:
    """The object's namespace, "default" where it names none."""
    return text(item, "metadata.namespace", "default")


def key_of(item: Json) -> str:
    """`namespace/name`."""
    return f"{namespace_of(item)}/{name_of(item)}"


def text(item: Json, path: str, default: str = "") -> str:
    """A text at a dotted path."""
    return str(field(item, path, str, default))[:TEXT_LIMIT]


def number(item: Json, path: str) -> int:
    """A number that fits into 32 bits at a dotted path, 0 where there is none."""
    value = field(item, path, int, 0)
    if not 0 <= value < 1 << 31:
        raise ObjectsError(f"{shown(item)}: {path} is out of range")
    return int(value)


def port(item: Json, path: str) -> int:
    """A port at a dotted path, 0 where there is none."""
    value = number(item, path)
    if value > 0xFFFF:
        raise ObjectsError(f"{shown(item)}: {path} is no port")
    return value


def entries(item: Json, path: str) -> list[Any]:
    """A list at a dotted path."""
    return list(field(item, path, list, [])[:ENTRY_LIMIT])


def objects(item: Json, path: str) -> list[Json]:
    """The objects in a list at a dotted path."""
    return [entry for entry in entries(item, path) if isinstance(entry, dict)]


def texts(item: Json, path: str) -> tuple[str, ...]:
    """The texts in a list at a dotted path."""
    return tuple(str(entry)[:TEXT_LIMIT] for entry in entries(item, path) if isinstance(entry, str | int))


def table(item: Json, path: str) -> dict[str, str]:
    """A table of texts at a dotted path: labels, a selector, a ConfigMap's data."""
    found = field(item, path, dict, {})
    return {str(key): str(value) for key, value in list(found.items())[:ENTRY_LIMIT]}


def labels(item: Json) -> dict[str, str]:
    """The object's labels."""
    return table(item, "metadata.labels")


def annotations_of(item: Json) -> dict[str, str]:
    """The object's annotations."""
    return table(item, "metadata.annotations")


def address(value: Any) -> str | None:
    """The canonical spelling of an address, or None where it is a name."""
    try:
        return str(ip_address(str(value)[:TEXT_LIMIT]))
    except ValueError:
        return None


def addresses(values: Iterable[Any]) -> tuple[str, ...]:
    """The addresses among the values, each once."""
    return tuple(dict.fromkeys(found for value in values if (found := address(value))))


def document(written: str) -> Json:
    """A small document of YAML or JSON out of a ConfigMap or an annotation; {} where it cannot be read as one."""
    if len(written) > DOCUMENT_LIMIT or _REFERENCE.search(written):
        return {}
    try:
        found = msgspec.yaml.decode(written)
    except (msgspec.DecodeError, ImportError, RecursionError, ValueError, ArithmeticError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
