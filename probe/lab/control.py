"""The one socket between the caller and the lab: JSON messages that may carry file descriptors.

A SOCK_SEQPACKET pair keeps messages whole and descriptors with their message (unix(7)). From the caller: `start`
once, then `spawn` and `change` any number of times; closing the socket ends the lab. From the lab: `progress`, then
`ready` or `error`; and one `spawned`, `changed` or `error` for each of the caller's.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence

import msgspec

from probe.lab.plan import ProxyMode
from probe.lab.scenario import Scenario

LARGEST = 200_000  # bytes; below the default limit of a socket's buffer (net.core.wmem_default)
_DESCRIPTORS = 3


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Build this."""

    scenario: Scenario
    proxy_mode: ProxyMode


class Spawn(msgspec.Struct, frozen=True, tag="spawn"):
    """Run a program in a network namespace; carries its stdin, stdout and stderr.

    `foreground` makes it the terminal's foreground process group, for a shell.
    """

    namespace: str
    argv: list[str]
    env: dict[str, str] = {}
    foreground: bool = False


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """What the lab is busy with."""

    text: str


class Change(msgspec.Struct, frozen=True, tag="change"):
    """From now on the cluster is this scenario's: only conditions of endpoints differ from before.

    `balanced` are nodes of which the balancer has to notice it as well.
    """

    scenario: Scenario
    balanced: tuple[str, ...] = ()


class Changed(msgspec.Struct, frozen=True, tag="changed"):
    """Rules and health ports are as was asked. `time`: ns since the epoch, when this began to be so."""

    time: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The cluster stands."""


class Failed(msgspec.Struct, frozen=True, tag="error"):
    """What was asked for could not be done; one line."""

    message: str


class Spawned(msgspec.Struct, frozen=True, tag="spawned"):
    """A program runs; carries a pidfd, and a pipe on which its return code will come as a line."""

    pid: int  # within the lab


FromCaller = Start | Spawn | Change
FromLab = Progress | Ready | Failed | Spawned | Changed


def pair() -> tuple[socket.socket, socket.socket]:
    """The caller's end and the lab's end."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(connection: socket.socket, message: FromCaller | FromLab, descriptors: Sequence[int] = ()) -> None:
    """Send one message. Raises OSError where the other side is gone, ValueError where it is too large."""
    data = msgspec.json.encode(message)
    if len(data) > LARGEST:
        raise ValueError(f"a message of {len(data)} bytes is too large for the lab")
    socket.send_fds(connection, [data], list(descriptors))


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    data, descriptors, _, _ = socket.recv_fds(connection, LARGEST, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        close(descriptors)
        raise EOFError("the other side is gone")
    return data, descriptors


def receive_from_lab(connection: socket.socket) -> tuple[FromLab, list[int]]:
    """The next message of the lab and its descriptors, which are the receiver's to close. Raises EOFError."""
    data, descriptors = _receive(connection)
    return msgspec.json.decode(data, type=FromLab), descriptors


def receive_from_caller(connection: socket.socket) -> tuple[FromCaller, list[int]]:
    """The next message of the caller and its descriptors, which are the receiver's to close. Raises EOFError."""
    data, descriptors = _receive(connection)
    return msgspec.json.decode(data, type=FromCaller), descriptors


def close(descriptors: Sequence[int]) -> None:
    """Close them, also those that are closed already."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
