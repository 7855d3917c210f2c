"""Headers as real senders write them: HAProxy and nginx on loopback, without privileges.

The sender inherits its listening socket, so nobody waits for it to come up; what it must say about the client
is what the client's own socket says.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemonset.decode.proxy_protocol import Decoder, ProxyProtocolError
from daemonset.observation import ProxyHeader

PATIENCE = 20.0  # seconds until a test gives up, not something that is measured

HAPROXY = """
defaults
  mode tcp
  timeout connect 10s
  timeout client 20s
  timeout server 20s
  unique-id-format id-%ci-%cp
frontend front
  bind fd@{front} {bind}
  default_backend back
backend back
  server receiver {address}:{port} {server}
"""

NGINX = """
load_module {module};
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ }}
stream {{
  server {{ listen 127.0.0.1:{front_port}; proxy_pass {address}:{port}; proxy_protocol on; }}
}}
"""

NGINX_STREAM = next(
    (path for path in ("/usr/lib/nginx/modules/ngx_stream_module.so",) if Path(path).is_file()),
    os.environ.get("NGINX_STREAM_MODULE", ""),
)

needs_haproxy = pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make certificates")
needs_nginx = pytest.mark.skipif(
    not shutil.which("nginx") or not NGINX_STREAM, reason="needs nginx and its stream module"
)


def listener(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    try:
        found = socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family)
    except OSError as error:
        pytest.skip(f"no loopback of this family: {error}")
    found.settimeout(PATIENCE)
    return found


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with listener() as found:
        yield found


@pytest.fixture
def front() -> Iterator[socket.socket]:
    with listener() as found:
        yield found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a sender without privileges can read."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def nobody() -> str | None:
    return "nobody" if os.geteuid() == 0 else None


@contextlib.contextmanager
def running(command: list[str], inherited: socket.socket, **environment: str) -> Iterator[None]:
    process = subprocess.Popen(
        command, pass_fds=[inherited.fileno()], user=nobody(), group="nogroup" if nobody() else None,
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield
        assert process.poll() is None, f"the sender ended: {process.stdout and process.stdout.read()}"
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@contextlib.contextmanager
def haproxy(
    folder: Path, front: socket.socket, receiver: socket.socket, server: str, bind: str = ""
) -> Iterator[None]:
    address, port = receiver.getsockname()[:2]
    text = HAPROXY.format(front=front.fileno(), bind=bind, address=address, port=port, server=server)
    config = folder / "haproxy.cfg"
    config.write_text(text)
    with running(["haproxy", "-db", "-f", str(config)], front):
        yield


def connect(front: socket.socket) -> socket.socket:
    return socket.create_connection(front.getsockname()[:2], timeout=PATIENCE)


def endpoint(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def first_header(receiver: socket.socket) -> tuple[ProxyHeader, str]:
    """The header that arrives, fed as it comes, and the address of who sent it."""
    connection, peer = receiver.accept()
    with connection:
        connection.settimeout(PATIENCE)
        decoder = Decoder()
        while chunk := connection.recv(7):  # small on purpose: a header in many pieces
            for event in decoder.feed(chunk):
                assert not isinstance(event, ProxyProtocolError), event
                if isinstance(event, ProxyHeader):
                    return event, endpoint(peer)
    raise AssertionError("the connection ended before its header did")


def relayed(front: socket.socket, receiver: socket.socket) -> tuple[ProxyHeader, str, str]:
    """Talk through the sender: the header, and what the client's own socket says of both ends."""
    with connect(front) as client:
        client.sendall(b"hello")
        header, _ = first_header(receiver)
        return header, endpoint(client.getsockname()), endpoint(client.getpeername())


@needs_haproxy
@pytest.mark.parametrize(("server", "version"), [("send-proxy", 1), ("send-proxy-v2", 2)])
def test_haproxy_names_the_client(
    folder: Path, front: socket.socket, receiver: socket.socket, server: str, version: int
) -> None:
    with haproxy(folder, front, receiver, server):
        header, source, destination = relayed(front, receiver)
    assert (header.version, header.command, header.family, header.transport) == (
        version, "PROXY", "inet", "stream",
    )  # fmt: skip
    assert (header.source, header.destination, header.warnings) == (source, destination, ())


@needs_haproxy
@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2"])
def test_haproxy_names_an_ipv6_client(folder: Path, receiver: socket.socket, server: str) -> None:
    with listener(socket.AF_INET6) as front, haproxy(folder, front, receiver, server):
        header, source, destination = relayed(front, receiver)
    assert (header.family, header.source, header.destination) == ("inet6", source, destination)


@needs_haproxy
def test_haproxys_checksum_verifies_and_its_unique_id_is_read(
    folder: Path, front: socket.socket, receiver: socket.socket
) -> None:
    with haproxy(folder, front, receiver, "send-proxy-v2 proxy-v2-options crc32c,unique-id"):
        header, source, _ = relayed(front, receiver)
    address, _, port = source.rpartition(":")
    tlvs = {tlv.name: tlv.decoded for tlv in header.tlvs}
    assert tlvs["UNIQUE_ID"] == f"id-{address}-{port}"
    assert header.warnings == ()
    assert "CRC32C" in tlvs


@needs_haproxy
@needs_openssl
def test_what_haproxy_says_about_tls_is_what_the_client_negotiated(
    folder: Path, front: socket.socket, receiver: socket.socket
) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "2",
         "-subj", "/CN=client.example", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    both.chmod(0o644)
    bind = f"ssl crt {both} ca-file {folder}/cert.pem verify optional alpn h2,http/1.1"
    options = "crc32c,authority,ssl,cert-cn,ssl-cipher,cert-sig,cert-key"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(both)
    context.set_alpn_protocols(["http/1.1"])
    with (
        haproxy(folder, front, receiver, f"send-proxy-v2 proxy-v2-options {options}", bind),
        connect(front) as plain,
        context.wrap_socket(plain, server_hostname="app.example") as client,
    ):
        client.sendall(b"hello")
        header, _ = first_header(receiver)
        cipher, version = client.cipher(), client.version()
    assert header.warnings == ()
    tlvs = {tlv.name: tlv.decoded for tlv in header.tlvs}
    assert (tlvs["AUTHORITY"], tlvs["ALPN"]) == ("app.example", "http/1.1")
    said = tlvs["SSL"]
    assert cipher is not None
    assert (said["ssl"], said["cert_conn"], said["verify"]) == (True, True, 0)
    assert (said["version"], said["cipher"], said["cn"]) == (version, cipher[0], "client.example")
    assert (said["sig_alg"], said["key_alg"]) == ("RSA-SHA256", "RSA2048")


@needs_haproxy
def test_a_v1_health_check_names_haproxys_own_socket(
    folder: Path, front: socket.socket, receiver: socket.socket
) -> None:
    with haproxy(folder, front, receiver, "send-proxy check inter 1s"):
        header, peer = first_header(receiver)
    assert (header.command, header.source) == ("PROXY", peer)
    assert header.destination == endpoint(receiver.getsockname())


@needs_haproxy
def test_a_v2_health_check_is_local(folder: Path, front: socket.socket, receiver: socket.socket) -> None:
    with haproxy(folder, front, receiver, "send-proxy-v2 check inter 1s"):
        header, _ = first_header(receiver)
    assert header == ProxyHeader(2, "LOCAL", "unspec", "unspec", None, None, (), 16)


@needs_nginx
def test_nginx_names_the_client(folder: Path, front: socket.socket, receiver: socket.socket) -> None:
    address, port = receiver.getsockname()
    config = folder / "nginx.conf"
    config.write_text(
        NGINX.format(
            module=NGINX_STREAM, folder=folder, front_port=front.getsockname()[1], address=address, port=port
        )
    )
    folder.chmod(0o777)
    command = ["nginx", "-p", str(folder), "-c", str(config), "-e", "stderr"]
    with running(command, front, NGINX=f"{front.fileno()};"):
        header, source, destination = relayed(front, receiver)
    assert (header.version, header.source, header.destination) == (1, source, destination)
