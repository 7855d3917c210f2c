"""Asking a health port: whatever listens there, an answer comes in time, bounded, and nothing is raised."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from daemonset.node.health_port import Target, ask
from daemonset.observation import HealthAnswer

GOOD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Load-Balancing-Endpoint-Weight: 2\r\n\r\n"
    b'{"service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true}'
)
HEALTHZ = b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"currentTime": "now", "nodeEligible": false}'

Talk = Callable[[socket.socket], None]


@contextmanager
def listening(talk: Talk, family: int = socket.AF_INET) -> Iterator[int]:
    """A server that does `talk` with each connection."""
    with socket.socket(family) as listener:
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        talk(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def says(data: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(data)

    return talk


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def dripping(connection: socket.socket) -> None:
    over = threading.Event()
    while not over.wait(0.05):
        connection.sendall(b"H")


def silent(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.recv(4096)  # until the other side has had enough


def resetting(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize(
    ("talk", "outcome", "status"),
    [
        (says(GOOD), "answered", 200),
        (says(HEALTHZ), "answered", 503),
        (says(b"HTTP/1.0 404 Not Found\r\n\r\n"), "answered", 404),
        (says(b"HTTP/1.1 20\r\n\r\n"), "not HTTP", None),
        (says(b"HTTP/1.1 \xb2\xb3\xb9 what\r\n\r\n"), "not HTTP", None),
        (says(b"HTTP/1.1 99999 what\r\n\r\n"), "not HTTP", None),
        (says(b"SSH-2.0-OpenSSH\r\n"), "not HTTP", None),
        (says(b"\x1b[2J" * 100_000), "not HTTP", None),
        (says(b""), "closed", None),
        (resetting, "closed", None),
        (silent, "no answer", None),
        (endless, "answered", 200),
        (dripping, "not HTTP", None),
    ],
)
def test_whatever_listens_there(talk: Talk, outcome: str, status: int | None) -> None:
    with listening(talk) as port:
        answered = ask(0, Target("127.0.0.1", port, "/"), patience=1.0)
    assert (answered.outcome, answered.status) == (outcome, status)
    assert len(answered.start) <= 120
    assert answered.source == "127.0.0.1"
    assert answered.source_port


def test_what_it_says_is_read() -> None:
    with listening(says(GOOD)) as port:
        said = ask(0, Target("127.0.0.1", port, "/")).said
    assert said == HealthAnswer(2, True, "shop/web", 2)
    with listening(says(HEALTHZ)) as port:
        assert ask(0, Target("127.0.0.1", port, "/healthz")).eligible is False


LINGERING = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("response", LINGERING)
def test_a_server_that_does_not_close_is_not_waited_for(response: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(response)
        connection.recv(4096)  # until the other side closes

    with listening(talk) as port:
        # Were it waited for, this would take a day.
        assert ask(0, Target("127.0.0.1", port, "/"), patience=86400.0).status == 200


@pytest.mark.parametrize(
    "body", [b"{", b'{"nodeEligible": 1}', b'{"nodeEligible": "false"}', b"[" * 9000, b"\xff" * 100, b"null"]
)
def test_a_body_that_says_nothing_of_the_node(body: bytes) -> None:
    with listening(says(b"HTTP/1.1 200 OK\r\n\r\n" + body)) as port:
        answered = ask(0, Target("127.0.0.1", port, "/healthz"))
    assert (answered.status, answered.said, answered.eligible) == (200, None, None)


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        answered = ask(3, Target("127.0.0.1", port, "/"))
    assert (answered.target, answered.outcome) == (3, "refused")
    assert answered.source_port, "so that packets of it can be told from a balancer's"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.2.3.4",
        "1.2.3.4:80",
        ":80/",
        "1.2.3.4:0/",
        "1.2.3.4:65536/",
        "1.2.3.4:²/",
        "a:80/ HTTP",
        "a:80/\r\nx:",
    ],
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(ValueError, match=r"ADDRESS:PORT/PATH|holds what"):
        Target.parse(text)


def test_targets_of_both_families() -> None:
    assert Target.parse("[fd00::1]:32100/") == Target("fd00::1", 32100, "/")
    assert Target.parse("192.0.2.1:10256/healthz") == Target("192.0.2.1", 10256, "/healthz")
    assert b"\r\nHost: [fd00::1]:32100\r\n" in Target("fd00::1", 32100, "/").request


def program(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "daemonset.node.health_port", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_program_asks_each_once_in_order() -> None:
    with listening(says(GOOD)) as good, listening(says(b"?")) as odd:
        out, err = program(f"127.0.0.1:{odd}/", f"127.0.0.1:{good}/").communicate(timeout=60)
    assert err == b""
    told = [json.loads(line) for line in out.splitlines()]
    assert [(each["target"], each["outcome"]) for each in told] == [(0, "not HTTP"), (1, "answered")]


def test_the_program_asks_again_until_its_lifeline_is_cut() -> None:
    with listening(says(GOOD)) as port:
        running = program("--every", "10ms", "--lifeline", "60s", f"127.0.0.1:{port}/")
        assert running.stdout is not None
        for _ in range(3):
            assert json.loads(running.stdout.readline())["status"] == 200
        running.communicate(timeout=60)  # closes its input
    assert running.returncode == 0


def test_the_program_ends_when_nobody_beats() -> None:
    with listening(says(GOOD)) as port:
        running = program("--every", "10ms", "--lifeline", "50ms", f"127.0.0.1:{port}/")
        assert running.stdout is not None
        assert running.stdout.read()
        assert running.wait(60) == 0
        running.communicate()


def test_the_program_ends_when_nobody_reads() -> None:
    with listening(says(GOOD)) as port:
        running = program("--every", "1ms", f"127.0.0.1:{port}/")
        assert running.stdout is not None
        assert running.stdout.readline()
        running.stdout.close()
        assert running.wait(60) == 0
        assert running.stderr is not None
        assert running.stderr.read() == b""
        for stream in (running.stdin, running.stderr):
            assert stream is not None
            stream.close()


def test_usage_is_said_and_nothing_is_asked() -> None:
    running = program("nonsense")
    _, err = running.communicate(timeout=60)
    assert running.returncode == 2
    assert b"ADDRESS:PORT/PATH" in err
