"""Header fields as the rules read and write them: ordered pairs whose names know no case."""

from __future__ import annotations

from analysis.trust.model import Fields

FORWARDED_FOR = "X-Forwarded-For"
REAL_IP = "X-Real-IP"


def values(fields: Fields, name: str) -> tuple[str, ...]:
    """The values of every field of that name, in order."""
    wanted = name.lower()
    return tuple(value for key, value in fields if key.lower() == wanted)


def without(fields: Fields, *names: str) -> Fields:
    """All fields but those."""
    unwanted = {name.lower() for name in names}
    return tuple((key, value) for key, value in fields if key.lower() not in unwanted)


def with_one(fields: Fields, name: str, value: str) -> Fields:
    """The fields with exactly one of that name, at the end."""
    return (*without(fields, name), (name, value))
