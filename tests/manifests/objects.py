"""Kubernetes objects, found and compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

Object = dict[str, Any]


def documents(text: str) -> list[Object]:
    """The objects of a YAML text, without empty documents."""
    return [item for item in yaml.safe_load_all(text) if item is not None]


def in_order(objects: Iterable[Object]) -> list[Object]:
    """By kind, namespace and name, as tools apply them in orders of their own."""
    return sorted(objects, key=lambda item: (item["kind"], *map(str, _names(item))))


def the(kind: str, objects: Iterable[Object]) -> Object:
    """The one object of a kind."""
    (found,) = (item for item in objects if item["kind"] == kind)
    return found


def pod_of(objects: Iterable[Object]) -> Object:
    """The specification of the agents' pods."""
    spec = the("DaemonSet", objects)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def _names(item: Object) -> tuple[str | None, str | None]:
    return item["metadata"].get("namespace"), item["metadata"]["name"]
