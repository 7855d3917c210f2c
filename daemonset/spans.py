"""Spans of time as people write them, in Go's spelling, as kubectl takes it."""

from __future__ import annotations

import argparse
import re

_LONGEST = 1e7  # seconds

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")


def parse_duration(text: str) -> float:
    """Seconds of "30s", "1m30s", "500ms" or "30". Raises ValueError."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:40]!a} is no duration; write 30s, 2m or 1m30s")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def time_argument(text: str) -> float:
    """The same as an argument of a command line: more than nothing, and less than weeks."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < _LONGEST:
        raise argparse.ArgumentTypeError(f"not a duration: {text!a}")
    return seconds
