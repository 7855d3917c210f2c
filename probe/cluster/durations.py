"""Spans of time as people write and read them."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")


def parse_duration(text: str) -> float:
    """Seconds of "30s", "1m30s", "500ms" (Go's spelling, as kubectl takes it) or "30". Raises ValueError."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:40]!a} is no duration; write 30s, 2m or 1m30s")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def seconds_text(nanoseconds: int) -> str:
    """A short span for people: "12 ms", "3.4 s"."""
    size = abs(nanoseconds)
    if size < 1_000_000:
        return f"{size / 1e6:.1f} ms"
    if size < 1_000_000_000:
        return f"{size / 1e6:.0f} ms"
    return f"{size / 1e9:.1f} s" if size < 120_000_000_000 else f"{size / 60e9:.0f} min"


def age_text(seconds: float) -> str:
    """How old something is, as kubectl says it: "45s", "12m", "5h", "3d"."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds)) // unit}{name}"
    return f"{int(seconds) // 86400}d"
