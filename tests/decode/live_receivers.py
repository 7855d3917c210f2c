"""Real receivers on loopback, without privileges: send one a header, and see what it does."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from analysis.receivers.classify import classify, source
from tests.decode.test_senders import PATIENCE, listener, running

#: Seconds within which a receiver that has all it waits for has answered, and one that was sent half has read it.
QUIET = 1.0
APART = 0.05

REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port} proxy_protocol;
    location / {{ return 200 "$proxy_protocol_addr:$proxy_protocol_port"; }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 10s
  timeout client 20s
  timeout server 20s
frontend front
  bind fd@{fd} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port]"
"""


class Reaction(NamedTuple):
    """What came back, and how the connection ended: FIN, RST, or nothing within QUIET."""

    answer: bytes
    end: str

    @property
    def status(self) -> int:
        """Of the HTTP response; 0 without one."""
        found = re.match(rb"HTTP/1\.[01] ([0-9]{3})", self.answer)
        return int(found[1]) if found else 0

    def code(self, header: bytes, own: str) -> str:
        """As the table writes it (analysis/receivers/measured.py); `own` is the connection's own address."""
        if self.status == 400:
            return "4"
        if self.status != 200:
            return {"FIN": "F", "RST": "R", "": "W"}[self.end]
        told = self.answer.rpartition(b"\r\n")[2].decode()
        spelled = source(header, classify(header))
        if told == ":":
            return "-"
        if spelled and told in {f"{spelled[0]}:{spelled[1]}", f"{spelled[0]}:{int(spelled[1]) or ''}"}:
            return "h"
        return "o" if told.startswith(own) else f"={told}"


@contextlib.contextmanager
def nginx() -> Iterator[tuple[str, int]]:
    """An nginx that expects a header and answers with the address it takes from it."""
    with listener() as front, _folder() as folder:
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=front.getsockname()[1]))
        command = ["nginx", "-p", str(folder), "-c", str(config)]
        with running(command, front, NGINX=f"{front.fileno()};"):
            yield front.getsockname()[:2]


@contextlib.contextmanager
def haproxy() -> Iterator[tuple[str, int]]:
    """A HAProxy that expects a header and answers with the address that it has for the client."""
    with listener() as front, _folder() as folder:
        config = folder / "haproxy.cfg"
        config.write_text(HAPROXY.format(fd=front.fileno()))
        with running(["haproxy", "-db", "-f", str(config)], front):
            yield front.getsockname()[:2]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777 if os.geteuid() == 0 else 0o755)
        yield path


def version(program: str) -> str:
    """The release of an installed program, as "1.22.1"; empty where there is none."""
    try:
        done = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    found = re.search(r"\b([0-9]+\.[0-9]+\.[0-9]+)", done.stdout + done.stderr)
    return found[1] if found else ""


def react(
    address: tuple[str, int], header: bytes, *, cuts: tuple[int, ...] = (), alone: bool = False
) -> Reaction:
    """Send a header in segments that end at `cuts`, and a request behind it unless it is to stand alone."""
    data = header if alone else header + REQUEST
    edges = [0, *cuts, len(data)]
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(APART)
        answer = b""
        for begin, end in pairwise(edges):
            try:
                connection.sendall(data[begin:end])
                if end < len(data):
                    answer += connection.recv(65536)
            except TimeoutError:  # it waits for the next piece
                continue
            except OSError:
                break
        return _rest(connection, answer)


def _rest(connection: socket.socket, answer: bytes) -> Reaction:
    connection.settimeout(QUIET)
    try:
        while chunk := connection.recv(65536):
            answer += chunk
    except TimeoutError:
        return Reaction(answer, "")
    except ConnectionResetError:
        return Reaction(answer, "RST")
    return Reaction(answer, "FIN")
