"""Ask a real server over loopback: from which address, behind which PROXY header, with which fields."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from analysis.trust.model import UNIX_PEER, Arrival, Fields

PATIENCE = 20.0  # seconds that a server may take to begin, and to answer

#: Fields that servers add of themselves, which are no claim about the client.
OTHERS = {"host", "connection", "user-agent", "accept", "content-length"}


@dataclass(frozen=True)
class Answer:
    """What came back: the status (0 where the connection was closed without one) and the body."""

    status: int
    body: str

    @property
    def refused(self) -> bool:
        return self.status != 200


def ask(where: tuple[str, int] | str, arrival: Arrival, path: str = "/", host: str = "app.example") -> Answer:
    """Send one request; `where` is an address and port, or the path of a unix socket."""
    with _connected(where, arrival.peer) as connection:
        with contextlib.suppress(ConnectionError):  # a server that refuses a PROXY header may close at once
            connection.sendall(_proxy_line(arrival) + _request(arrival.fields, path, host))
        return _answer(connection)


def _connected(where: tuple[str, int] | str, peer: str) -> socket.socket:
    if isinstance(where, str):
        assert peer == UNIX_PEER
        connection = socket.socket(socket.AF_UNIX)
    else:
        connection = socket.socket(socket.AF_INET6 if ":" in peer else socket.AF_INET)
        connection.bind((peer, 0))
    connection.settimeout(PATIENCE)
    connection.connect(where)
    return connection


def _proxy_line(arrival: Arrival) -> bytes:
    if arrival.proxy_source is None:
        return b""
    if not arrival.proxy_source:
        return b"PROXY UNKNOWN\r\n"
    six = ":" in arrival.proxy_source
    family, destination = ("TCP6", "2001:db8::80") if six else ("TCP4", "192.0.2.80")
    return f"PROXY {family} {arrival.proxy_source} {destination} 40000 80\r\n".encode()


def _request(fields: Fields, path: str, host: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _answer(connection: socket.socket) -> Answer:
    received = b""
    with contextlib.suppress(ConnectionError):
        while more := connection.recv(65536):
            received += more
    head, _, body = received.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        return Answer(0, "")
    if b"transfer-encoding: chunked" in head.lower():
        body = body.partition(b"\r\n")[2].rpartition(b"\r\n0")[0]
    return Answer(int(words[1]), body.decode("latin-1"))


class _Echo(socketserver.StreamRequestHandler):
    """Answers with the bytes of the head that arrived, PROXY line included."""

    def handle(self) -> None:
        head = b""
        while line := self.rfile.readline(65536):
            head += line
            if line == b"\r\n":
                break
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(head) + head
        )


class _EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """The port of an upstream that tells what it was sent."""
    with _EchoServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def heard(answer: Answer) -> tuple[str | None, Fields]:
    """What the echo was sent: the source in a PROXY line ("" for UNKNOWN), and the fields but those of HTTP."""
    lines = answer.body.split("\r\n")
    source = None
    if lines[0].startswith("PROXY "):
        words = lines.pop(0).split(" ")
        source = words[2] if len(words) > 2 else ""
    pairs = tuple((name, value) for name, _, value in (line.partition(": ") for line in lines[1:] if line))
    return source, tuple((name, value) for name, value in pairs if name.lower() not in OTHERS)


def told(fields: Fields) -> list[tuple[str, str]]:
    """Fields for comparison: names in lower case, repeated ones in their order, names sorted."""
    return sorted(((name.lower(), value.strip(" \t")) for name, value in fields), key=lambda pair: pair[0])


def ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now, below those that the kernel gives to connections."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in random.sample(range(15_000, 32_000), 16_000):
            if len(found) == count:
                return found
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
        pytest.fail("no port of the loopback is free")


@contextlib.contextmanager
def running(command: Sequence[str], port: int, environ: dict[str, str] | None = None) -> Iterator[None]:
    """A server that listens on the port as long as the context lasts. Ends it by its process id."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(environ or {})})
        try:
            _await(process, port, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), PATIENCE):
            return
        time.sleep(0.02)  # nothing tells when a foreign server has begun to listen
    log.seek(0)
    pytest.fail(f"{process.args!r} did not begin to listen: {log.read().decode(errors='replace')[-2000:]}")


def program(name: str) -> str:
    """Where a server is installed; skips where it is not."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        pytest.skip(f"needs {name}")
    return found


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="trust-", dir="/tmp") as path:
        yield Path(path)
