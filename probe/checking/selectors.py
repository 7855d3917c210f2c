"""Label selectors as workloads, constraints and budgets have them (meta/v1 LabelSelector)."""

from __future__ import annotations

from collections.abc import Mapping

from probe.cluster.fields import Json, objects, table, text, texts


def admits(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a selector admits these labels; an empty one admits all. Raises ObjectsError."""
    wanted = table(selector, "matchLabels")
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(_holds(entry, labels) for entry in objects(selector, "matchExpressions"))


def _holds(entry: Json, labels: Mapping[str, str]) -> bool:
    key, values = text(entry, "key"), texts(entry, "values")
    match text(entry, "operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:
            return False
