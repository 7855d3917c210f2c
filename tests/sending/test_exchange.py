"""The sender against servers on loopback: good ones, and such as do what they like."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from typing import Any

import msgspec
import pytest

from analysis.asked import Asked
from daemonset.decode.proxy_protocol import decode
from probe.sending import Claim, Order, send
from probe.sending.exchange import ANSWER_LIMIT
from tests.lab.here import python_for_nobody
from tests.sending.servers import (
    Behaviour,
    Server,
    keeps_silent,
    resets,
    says,
    sends,
    sends_without_end,
    serving,
)

SHORT = 0.3  # patience where its end is what a test is about


def changed(order: Order, **fields: Any) -> Order:
    return msgspec.structs.replace(order, **fields)


def ask(behaviour: Behaviour, **fields: Any) -> tuple[Asked, Server]:
    with serving(behaviour) as server:
        return send(changed(server.order(), **fields)), server


def socket_of(server: Server) -> str:
    address, port = server.peers[0]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# ── the two ends ──


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_source_destination_and_answer_are_those_of_the_wire(address: str) -> None:
    if address == "::1" and not _has_ipv6():
        pytest.skip("needs IPv6 on loopback")
    with serving(says(json.dumps({"client_host": address})), address=address) as server:
        order = server.order("/debug/ip?x=1")
        asked = send(order)
    assert (asked.outcome, asked.status, asked.saw, asked.detail) == ("answered", 200, address, "")
    assert asked.source == socket_of(server)
    assert asked.destination.rpartition(":")[2] == str(server.port)
    assert asked.started <= asked.ended
    head = server.heard[0].decode()
    assert head.startswith("GET /debug/ip?x=1 HTTP/1.1\r\n")
    assert f"x-probe-token: {order.token}\r\n" in head
    assert len(order.token) == 16
    assert "Connection: close\r\n" in head


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_a_source_port_that_was_asked_for_is_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    asked, _ = ask(says("127.0.0.1"), source="127.0.0.1", source_port=port)
    assert asked.source == f"127.0.0.1:{port}"


def test_a_source_that_is_not_ours_is_an_error_in_words() -> None:
    asked, _ = ask(says("127.0.0.1"), source="192.0.2.1")
    assert (asked.outcome, asked.source) == ("error", "192.0.2.1:0")
    assert "assign" in asked.detail


def test_a_forged_header_is_sent_and_kept() -> None:
    asked, server = ask(
        says('{"client_host": "203.0.113.9"}'), claim=Claim("x-forwarded-for", "203.0.113.9, ü")
    )
    assert asked.forged == (("x-forwarded-for", "203.0.113.9, ü"),)
    assert asked.saw == "203.0.113.9"
    assert "x-forwarded-for: 203.0.113.9, ü\r\n".encode() in server.heard[0]


@pytest.mark.parametrize("name", ["proxy", "proxy-v2"])
def test_a_proxy_header_comes_first(name: str) -> None:
    asked, server = ask(says("127.0.0.1"), claim=Claim(name, "203.0.113.9:40404"))
    header = decode(server.heard[0])
    assert header is not None
    assert (header.source, header.destination) == ("203.0.113.9:40404", asked.destination)
    assert server.heard[0][header.length :].startswith(b"GET ")
    assert asked.forged == ((name, "203.0.113.9:40404"),)


# ── outcomes ──


def test_a_port_where_nobody_listens_is_refused() -> None:
    with serving() as server:
        order = server.order()
    asked = send(order)
    assert asked.outcome == "refused"
    assert not asked.source.endswith(":0"), "the port is known of connections that came to nothing as well"


def test_silence_is_a_timeout() -> None:
    asked, server = ask(keeps_silent, patience=SHORT)
    assert (asked.outcome, asked.status, asked.saw) == ("timeout", None, None)
    assert asked.source == socket_of(server)


def test_a_full_backlog_is_a_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        order = Order("127.0.0.1", listener.getsockname()[1], "x", "x", patience=SHORT)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:  # until the kernel takes no more
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        asked = send(order)
        for each in waiting:
            each.close()
    assert asked.outcome == "timeout"
    assert not asked.source.endswith(":0")


def test_a_reset_is_one() -> None:
    assert ask(resets)[0].outcome == "reset"


def test_a_close_without_a_byte_is_empty() -> None:
    assert ask(sends())[0].outcome == "empty"


@pytest.mark.parametrize("status", ["302 Found", "400 Bad Request", "503 Service Unavailable"])
def test_only_a_good_answer_tells_whom_the_application_saw(status: str) -> None:
    asked, _ = ask(says('{"client_host": "192.0.2.7"}', status, "Location: http://192.0.2.1/"))
    assert (asked.outcome, asked.status, asked.saw) == ("answered", int(status[:3]), None)


@pytest.mark.parametrize(
    "answer",
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'9\r\n{"client"\r\n11;x=y\r\n: "192.0.2.7:99"}\r\n0\r\nTrailer: 1\r\n\r\n'
        ),
        b'HTTP/1.0 200 OK\r\n\r\n{"client": "192.0.2.7"}',
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n192.0.2.7",
    ],
)
def test_every_way_to_frame_a_body_is_read(answer: bytes) -> None:
    assert ask(sends(answer))[0].saw == "192.0.2.7"


def test_a_server_that_keeps_the_connection_open_is_not_waited_for() -> None:
    def behave(connection: socket.socket) -> None:
        says("192.0.2.7")(connection)
        connection.recv(1)  # ends when the sender closes

    asked, _ = ask(behave)
    assert (asked.outcome, asked.saw) == ("answered", "192.0.2.7")


# ── servers that do what they like ──


@pytest.mark.parametrize(
    ("behaviour", "outcome", "detail"),
    [
        (sends_without_end(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 4096), "answered", "longer than 64 KiB"),
        (
            sends_without_end(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
            "answered",
            "longer than 64 KiB",
        ),
        (sends(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n"), "error", "longer than 64 KiB"),
        (sends_without_end(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "error", ""),
        (sends_without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "error", "longer than 64 KiB"),
        (sends(b"SSH-2.0-OpenSSH_9.2\r\n"), "error", "no HTTP answer"),
        (sends(os.urandom(2000)), "error", ""),
        (sends(b"\x1b[2J\x1b]0;owned\x07\r\n"), "error", "no HTTP answer"),
        (sends(b"HTTP/1.1 999999 x\r\n\r\n"), "error", "no HTTP answer"),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "answered", ""),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n192.0.2"), "answered", ""),
        (sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "answered", "cut off"),
    ],
)
def test_a_hostile_answer_is_bounded_and_becomes_an_outcome(
    behaviour: Behaviour, outcome: str, detail: str
) -> None:
    asked, _ = ask(behaviour)
    assert (asked.outcome, asked.saw) == (outcome, None)
    assert detail in asked.detail
    assert asked.detail
    assert asked.detail.isprintable()
    assert asked.detail.isascii()
    assert len(asked.detail) < 1000


def test_a_body_that_never_ends_is_left_at_the_deadline() -> None:
    gone = threading.Event()

    def drips(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not gone.wait(0.01):
            connection.sendall(b"1")

    with serving(drips) as server:
        asked = send(server.order(patience=SHORT))
        gone.set()
    assert (asked.outcome, asked.status) == ("answered", 200)
    assert "had not ended after 0.3 s" in asked.detail


def test_a_long_answer_is_understood_as_far_as_it_is_read() -> None:
    body = "client_address=192.0.2.7\n" + "x" * ANSWER_LIMIT
    asked, _ = ask(says(body))
    assert asked.saw == "192.0.2.7"
    assert "longer than 64 KiB" in asked.detail


# ── TLS ──


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody would believe."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-subj", "/CN=nobody", "-days", "1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_https_with_a_certificate_of_anybodys(tls: ssl.SSLContext) -> None:
    with serving(says('{"ip": "127.0.0.1"}'), tls=tls) as server:
        asked = send(server.order(scheme="https"))
    assert (asked.outcome, asked.status, asked.saw, asked.detail) == ("answered", 200, "127.0.0.1", "")
    assert asked.source == socket_of(server)


def test_https_to_a_server_without_tls_is_an_error_in_words() -> None:
    with serving(sends(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        asked = send(changed(server.order(scheme="https"), patience=SHORT))
    assert asked.outcome in {"error", "timeout"}
    assert asked.detail


def test_http_to_a_server_with_tls_is_no_answer(tls: ssl.SSLContext) -> None:
    with serving(says("x"), tls=tls) as server:
        asked = send(server.order())
    assert asked.outcome in {"error", "empty", "reset"}


def test_a_name_that_tls_cannot_carry_is_left_out_of_it(tls: ssl.SSLContext) -> None:
    with serving(says("192.0.2.7"), tls=tls) as server:
        asked = send(changed(server.order(scheme="https"), host="." + "a" * 300))
    assert (asked.outcome, asked.saw) == ("answered", "192.0.2.7")


# ── as a process ──


def run(command: list[str], *lines: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*command, "-m", "probe.sending"], input=b"".join(lines), capture_output=True, timeout=60, check=False
    )


def test_the_process_answers_one_line_for_each_and_needs_no_privilege() -> None:
    python = python_for_nobody()
    if python is None:
        pytest.skip("no other user can run this Python")
    with serving(says('{"ip": "127.0.0.1"}'), says("", "404 Not Found")) as server:
        orders = [server.order(), server.order("/nothing")]
        ended = run(python, *(msgspec.json.encode(order) + b"\n" for order in orders))
    assert (ended.returncode, ended.stderr) == (0, b"")
    asked = [msgspec.json.decode(line, type=Asked) for line in ended.stdout.splitlines()]
    assert [(each.token, each.status, each.saw) for each in asked] == [
        (orders[0].token, 200, "127.0.0.1"),
        (orders[1].token, 404, None),
    ]
    assert [each.source for each in asked] == [f"{address}:{port}" for address, port in server.peers]


@pytest.mark.parametrize(
    "line", [b"hello\n", b"{}\n", b'{"address": "127.0.0.1", "port": 0}\n', b"\xff\n", b"[" * 50_000]
)
def test_what_is_no_order_ends_the_process_with_one_line(line: bytes) -> None:
    ended = run([sys.executable], line)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.startswith(b"line 1 is no order: ")
    assert ended.stderr.count(b"\n") == 1


def test_the_sender_is_light() -> None:
    script = "import sys, probe.sending\nprint(*{name.partition('.')[0] for name in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(ended.stdout.split()) & {
        "numpy",
        "duckdb",
        "scapy",
        "pyroute2",
        "kubernetes",
        "typer",
        "rich",
    }
