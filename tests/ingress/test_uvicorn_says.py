"""Real uvicorn: whom its access log names, with and without trust in its peer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from analysis.ingress import Kind, Problem
from probe.ingress import read_ingress
from tests.ingress.running import ADDRESS, REQUEST, running, say

APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
"""
PORT = 9100


@pytest.mark.parametrize(
    ("allow", "forwarded", "client", "port_told"),
    [
        ("192.0.2.1", "198.51.100.7", "the peer", True),  # the peer is not trusted
        ("the peer", "198.51.100.7", "198.51.100.7", False),
        ("the peer", "", "the peer", True),
    ],
)
def test_the_client_that_the_application_sees(
    allow: str, forwarded: str, client: str, port_told: bool, tmp_path: Path
) -> None:
    allow, client = (text.replace("the peer", ADDRESS) for text in (allow, client))
    (tmp_path / "said.py").write_text(APP)
    log = tmp_path / "log"
    serve = [sys.executable, "-m", "uvicorn", "--app-dir", tmp_path, "said:app", "--lifespan", "off"]
    command = [
        *serve,
        "--host",
        ADDRESS,
        "--port",
        str(PORT),
        "--proxy-headers",
        "--forwarded-allow-ips",
        allow,
    ]
    field = f"X-Forwarded-For: {forwarded}\r\n".encode() if forwarded else b""
    with running(command, [PORT], log):
        peer, answer = say(PORT, REQUEST.replace(b"Host:", field + b"Host:"), end=False)
        say(PORT, b"\x16\x03\x01 this is no HTTP\r\n\r\n", end=False)
    assert answer.startswith(b"HTTP/1.1 204")
    remarks: list[str] = []
    access, refused = read_ingress([], [log], remarks.append).entries
    assert (access.kind, access.client, access.status) == (Kind.UVICORN, client, 204)
    assert access.client_port == (int(peer.rpartition(":")[2]) if port_told else None)
    assert refused.problem is Problem.REQUEST_INVALID
    assert remarks == []
