"""A port as text of anybody's: what `int` takes is more than that, or an error."""

from __future__ import annotations


def is_port(text: str) -> bool:
    """Whether a text is a port's number: digits of ASCII, few enough. `int` refuses "²", and thousands of digits."""
    return 0 < len(text) < 6 and text.isascii() and text.isdigit()
