"""The answer of an echo: an application that tells its client which address it has.

Only one form is read, the JSON object of `/debug/ip` endpoints, whose own key `client_host` is the application's idea
of its client: `{"client_host": "203.0.113.9", …}`. Everything below that level may repeat what the client sent and is
not looked at; nor is a body that is cut. Which answers are an echo's, the request's path says, not the body.
"""

from __future__ import annotations

import json
from ipaddress import ip_address

KEY = "client_host"
_MARK = f'"{KEY}"'.encode()
_LIMIT = 16384  # bytes of a body that are read
_NAME_LIMIT = 64  # characters of what is no address


def read_echo(response: bytes) -> str | None:
    """The client in the body of the HTTP response that `response` begins with; None where there is none.

    An address is canonical; an application can also have taken some other text for it, which is kept as it is.
    """
    if _MARK not in response:
        return None
    start = response.find(b"\r\n\r\n") + 4
    if start < 4 or len(response) - start > _LIMIT:
        return None
    body = _whole_object(response[start:])
    named = body.get(KEY)
    if not isinstance(named, str) or not named:
        return None
    try:
        return str(ip_address(named))
    except ValueError:
        return named[:_NAME_LIMIT]


def _whole_object(body: bytes) -> dict[str, object]:
    """The JSON object that the body begins with, also as the first of its chunks; empty where there is none."""
    begin = body.find(b"{")
    if begin < 0 or begin > 16 or body[:begin].strip(b"0123456789abcdefABCDEF\r\n \t"):
        return {}
    try:
        value, _ = json.JSONDecoder().raw_decode(body[begin:].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
