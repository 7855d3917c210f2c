"""Ask health ports as a load balancer does: a plain GET for each, and what came of it.

    python -m daemonset.node.health_port [--every S] [--lifeline S] [--patience S] ADDRESS:PORT/PATH …

asks each target once, or again and again until the lifeline (standard input) ends or falls silent, and prints one JSON
line (`Answered`) for each answer. It opens no port and needs no right. Answers are hostile: bounded in bytes and in
time, whatever the other side does.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from daemonset.decode.health import read_eligible, read_health
from daemonset.lifeline import Lifeline, Pull
from daemonset.observation import HealthAnswer
from daemonset.spans import time_argument

#: Seconds for one answer, from the first packet to the last byte.
PATIENCE = 3.0

#: Targets of one process, and how many of them are asked at the same time.
MOST, AT_ONCE = 1024, 16

_LIMIT = 16384  # bytes of an answer that are read
MOST_START = 120  # characters of a status line that are kept
_AT_ONCE_HERE = 64

_content_length = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?:\r\n|$)", re.IGNORECASE).search
_chunked = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE).search


#: Every way in which asking can end.
OUTCOMES = frozenset({"answered", "not HTTP", "closed", "refused", "no answer", "unreachable"})


class Answered(msgspec.Struct, frozen=True):
    """What one target answered. `target` is its number among those that were given; `time` ns since the epoch.

    `outcome` is "answered" (by an HTTP response), "not HTTP", "closed" (without a byte), "refused", "no answer" or
    "unreachable" (no way there). `start` is the status line as it came. `source` is our own socket's address.
    """

    target: int
    time: int
    outcome: str
    status: int | None = None
    start: str = ""
    said: HealthAnswer | None = None
    eligible: bool | None = None  # nodeEligible of kube-proxy's own health
    seconds: float = 0.0
    source: str = ""
    source_port: int = 0


class Target(NamedTuple):
    """Whom to ask for what."""

    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """`ADDRESS:PORT/PATH`, an IPv6 address in brackets. Raises ValueError."""
        where, slash, path = text.partition("/")
        host, _, port = where.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) <= 0xFFFF) or not slash:
            raise ValueError(f"{text!a} is not ADDRESS:PORT/PATH")
        if any(not 0x21 <= ord(letter) <= 0x7E for letter in text):
            raise ValueError(f"{text!a} holds what no address or path does")
        return cls(host, int(port), slash + path)

    @property
    def request(self) -> bytes:
        """What is sent: as much as load balancers send."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        head = f"GET {self.path} HTTP/1.1\r\nHost: {host}:{self.port}\r\n"
        return f"{head}User-Agent: client-ip-probe\r\nConnection: close\r\n\r\n".encode("ascii")


def ask(number: int, target: Target, patience: float = PATIENCE) -> Answered:
    """Ask once. Never raises for what the network or the other side does."""
    began, started = time.time_ns(), time.monotonic()
    with socket.socket(socket.AF_INET6 if ":" in target.host else socket.AF_INET) as connection:
        outcome, answer = "unreachable", b""
        try:
            # Bound before it is connected, so that its port is known of connections that come to nothing as well.
            connection.bind((_own_address(target), 0))
            answer = _exchange(connection, target, started + patience)
            outcome = "closed"
        except TimeoutError:
            outcome = "no answer"
        except ConnectionRefusedError:
            outcome = "refused"
        except ConnectionError:
            outcome = "closed"
        except OSError:
            outcome = "unreachable"
        source, source_port = _name(connection)
    said = Answered(number, began, outcome, source=source, source_port=source_port)
    seconds = round(time.monotonic() - started, 4)
    if not answer:
        return msgspec.structs.replace(said, seconds=seconds)
    return understood(msgspec.structs.replace(said, seconds=seconds), answer)


def understood(said: Answered, answer: bytes) -> Answered:
    """What was asked, with what the bytes of the answer say. Any bytes are some answer."""
    line = answer.partition(b"\r\n")[0][:MOST_START]
    start = line.decode("latin-1")
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or len(parts[1]) != 3 or not parts[1].isdigit():
        return msgspec.structs.replace(said, outcome="not HTTP", start=start)
    return msgspec.structs.replace(
        said,
        outcome="answered",
        status=int(parts[1]),
        start=start,
        said=read_health(answer),
        eligible=read_eligible(answer),
    )


def _own_address(target: Target) -> str:
    """The address from which the kernel would go there; no packet is sent to find out. Raises OSError."""
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.connect((target.host, target.port))
        return str(asking.getsockname()[0])


def _name(connection: socket.socket) -> tuple[str, int]:
    try:
        name = connection.getsockname()
    except OSError:
        return "", 0
    return str(name[0]), int(name[1])


def _exchange(connection: socket.socket, target: Target, deadline: float) -> bytes:
    """All that is answered, up to a bound. Raises OSError where nothing came at all."""
    connection.settimeout(_left(deadline))
    connection.connect((target.host, target.port))
    connection.sendall(target.request)
    answer = b""
    while len(answer) < _LIMIT and not _whole(answer):
        connection.settimeout(_left(deadline))
        try:
            piece = connection.recv(min(4096, _LIMIT - len(answer)))
        except OSError:
            if not answer:
                raise
            break  # what came is what is judged
        if not piece:
            break
        answer += piece
    return answer


def _whole(answer: bytes) -> bool:
    """Whether the response is all there (RFC 9112 §6), although the other side does not close, as it was asked to."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    if length := _content_length(head):
        return len(body) >= int(length[1])
    return _chunked(head) is not None and body.endswith(b"0\r\n\r\n")


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def ask_all(
    targets: Sequence[Target], patience: float = PATIENCE, at_once: int = _AT_ONCE_HERE
) -> Iterator[Answered]:
    """Ask each once, several at a time; answers in their order."""
    if not targets:
        return
    with ThreadPoolExecutor(min(at_once, len(targets))) as pool:
        numbers = range(len(targets))
        yield from pool.map(lambda number: ask(number, targets[number], patience), numbers)


def repeat(
    targets: Sequence[Target],
    tell: Callable[[Answered], None],
    wait: Callable[[float], bool],
    *,
    every: float,
    patience: float = PATIENCE,
) -> None:
    """Ask them all every so many seconds, until `wait` (which waits for so long at most) says that it is enough."""
    due = time.monotonic()
    while True:
        for answered in ask_all(targets, patience, AT_ONCE):
            tell(answered)
        due = max(due + every, time.monotonic())
        while (left := due - time.monotonic()) > 0:
            if not wait(left):
                return
        if not wait(0):
            return


def main(argv: Sequence[str] | None = None) -> int:
    """Ask what is named; answers with the exit code: 0, or 2 for usage."""
    arguments = _parser().parse_args(argv)
    try:
        targets = [Target.parse(text) for text in arguments.target[:MOST]]
    except ValueError as error:
        _parser().error(str(error))
    try:
        if arguments.every is None:
            for answered in ask_all(targets, arguments.patience, AT_ONCE):
                _tell(answered)
        else:
            lifeline = Lifeline(sys.stdin.fileno(), arguments.lifeline)
            repeat(targets, _tell, lambda left: _wanted(lifeline, left), every=arguments.every,
                   patience=arguments.patience)  # fmt: skip
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: nothing more to do
    return 0


def _tell(answered: Answered) -> None:
    sys.stdout.write(msgspec.json.encode(answered).decode("ascii", "backslashreplace") + "\n")
    sys.stdout.flush()


def _wanted(lifeline: Lifeline, seconds: float) -> bool:
    """Whether somebody still wants to know, after at most so long."""
    patience = seconds if (silence := lifeline.remaining()) is None else min(seconds, silence)
    ready = bool(select.select([lifeline.descriptor], [], [], max(0.0, patience))[0])
    return lifeline.feel(ready) in {Pull.NOTHING, Pull.BEAT}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="daemonset.node.health_port",
        description="Ask health ports, and print what they answer as JSON lines.",
        allow_abbrev=False,
    )
    parser.add_argument("target", nargs="+", metavar="ADDRESS:PORT/PATH")
    parser.add_argument(
        "--patience", type=time_argument, default=PATIENCE, metavar="TIME", help="for one answer"
    )
    parser.add_argument("--every", type=time_argument, metavar="TIME", help="ask again and again")
    parser.add_argument(
        "--lifeline",
        type=time_argument,
        default=math.inf,
        metavar="TIME",
        help="with --every: end when standard input has been silent for so long",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
