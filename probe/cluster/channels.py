"""The channels of `pods/exec` over a WebSocket. Bytes in, values out.

Each binary message begins with the number of its channel (k8s.io/apimachinery, pkg/util/remotecommand): what the
command reads and writes, and its end as a Status object. With v5.channel.k8s.io channel 255 says that the channel
whose number follows is closed (KEP-4006); with v4 no channel can be closed alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

STDIN, STDOUT, STDERR, ERROR = 0, 1, 2, 3
CLOSE = 255

V5 = "v5.channel.k8s.io"


class Ended(NamedTuple):
    """How a command ended: its exit code, or None where it was not even run, and what the server says of it."""

    code: int | None
    message: str = ""


def pack(channel: int, data: bytes) -> bytes:
    """A message to one channel."""
    return bytes((channel,)) + data


def close_of(channel: int) -> bytes:
    """The message that closes a channel (v5)."""
    return bytes((CLOSE, channel))


def unpack(message: bytes) -> tuple[int, bytes]:
    """Channel and content; an empty message is content of none (-1)."""
    return (message[0], message[1:]) if message else (-1, b"")


def ended(data: bytes) -> Ended:
    """What channel ERROR said (meta/v1 Status; causes of type ExitCode)."""
    try:
        status: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Ended(None, _text(data.decode("utf-8", "backslashreplace")))
    if not isinstance(status, dict):
        return Ended(None, "")
    if status.get("status") == "Success":
        return Ended(0)
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else []:
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode":
            code = str(cause.get("message", ""))
            return Ended(
                int(code) if code.isdecimal() and len(code) < 6 else None, _text(status.get("message"))
            )
    return Ended(None, _text(status.get("message")))


def _text(value: object) -> str:
    return " ".join(str(value or "").split())[:400]
