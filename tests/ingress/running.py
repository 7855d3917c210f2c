"""Real servers on a loopback address of this test's own, and what clients say to them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

#: One address a process, so that tests that run at the same time may use the same ports.
ADDRESS = f"127.{100 + os.getpid() // 62500 % 100}.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}"

V2 = bytes.fromhex("0d0a0d0a000d0a515549540a")
REQUEST = b"GET /asked HTTP/1.1\r\nHost: example.test\r\nConnection: close\r\n\r\n"


def v1(source: str = "192.0.2.7", port: int = 4711) -> bytes:
    return f"PROXY TCP4 {source} 192.0.2.1 {port} 80\r\n".encode()


def v2(source: str = "192.0.2.7", port: int = 4711, command: int = 0x21, family: int = 0x11) -> bytes:
    block = (
        socket.inet_aton(source)
        + socket.inet_aton("192.0.2.1")
        + port.to_bytes(2, "big")
        + (80).to_bytes(2, "big")
    )
    return V2 + bytes([command, family]) + len(block).to_bytes(2, "big") + block


def say(port: int, data: bytes, *, end: bool = True) -> tuple[str, bytes]:
    """Send bytes, end if told so, read until the server has closed; the client's "ip:port" and what came back."""
    with socket.create_connection((ADDRESS, port), timeout=20, source_address=(ADDRESS, 0)) as connection:
        here = "{}:{}".format(*connection.getsockname())
        answer = b""
        try:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:  # refused headers are often answered with RST
            pass
        return here, answer


@contextmanager
def running(
    command: Sequence[str | Path], ports: Sequence[int], output: Path, gently: signal.Signals = signal.SIGTERM
) -> Iterator[None]:
    """A server, from when it takes connections until it has ended, so that all its log is written.

    `gently` is the signal on which it ends the connections that it still has in order.
    """
    with (
        output.open("wb") as file,
        subprocess.Popen([*map(str, command)], stdout=file, stderr=file) as process,
    ):
        try:
            _await(process, ports, output)
            yield
        finally:
            process.send_signal(gently)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _await(process: subprocess.Popen[bytes], ports: Sequence[int], output: Path) -> None:
    deadline = monotonic() + 20
    for port in ports:
        while True:
            try:
                # From an address that no test looks for.
                socket.create_connection((ADDRESS, port), timeout=5, source_address=("127.0.0.9", 0)).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, output.read_text()
                assert monotonic() < deadline, f"nobody listens at {ADDRESS}:{port}: {output.read_text()}"


def need(program: str) -> str:
    """The path of a program, or skip."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"needs {program}")
    return found


def nginx_main(folder: Path, body: str, log: str = "error.log") -> str:
    """An nginx.conf that needs no rights: one process, every file in a folder of its own."""
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root root;" if os.geteuid() == 0 else ""
    return (
        f"{user}\ndaemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/{log} info;\n"
        f"events {{ worker_connections 256; }}\nhttp {{\n{temporary}\n{body}\n}}\n"
    )


def certificate(folder: Path) -> Path:
    """A key and a certificate for example.test, in one file."""
    key, certificate_file, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    files = ["-subj", "/CN=example.test", "-keyout", key, "-out", certificate_file]
    subprocess.run([need("openssl"), *make, *files], check=True, capture_output=True)
    both.write_bytes(certificate_file.read_bytes() + key.read_bytes())
    return both
