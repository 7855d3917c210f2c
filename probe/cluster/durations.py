"""Spans of time as people write and read them."""

from __future__ import annotations

from daemonset.spans import parse_duration

__all__ = ["age_text", "parse_duration", "seconds_text"]


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
