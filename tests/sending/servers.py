"""Servers on loopback for one connection each, that do what a test wants; and they never outlive it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from probe.sending import Order, make_orders, parse_url

Behaviour = Callable[[socket.socket], None]


@dataclass
class Server:
    """Where it listens, and what it was told."""

    address: str
    port: int
    heard: list[bytes] = field(default_factory=list)
    peers: list[tuple[str, int]] = field(default_factory=list)

    def order(self, path: str = "/debug/ip", *, scheme: str = "http", patience: float = 20.0) -> Order:
        """A request to it. It is long in patience: no test waits for its end but those that are about it."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        [order] = make_orders(parse_url(f"{scheme}://{host}:{self.port}{path}"), self.address, self.port)
        return Order(
            **{**{name: getattr(order, name) for name in order.__struct_fields__}, "patience": patience}
        )


@contextlib.contextmanager
def serving(
    *behaviours: Behaviour, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve one connection after the other, each as its behaviour says, on threads of their own."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        server = Server(address, listener.getsockname()[1])
        thread = threading.Thread(target=_serve, args=(listener, behaviours, server, tls))
        thread.start()
        try:
            yield server
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes it where it waits for a connection
            thread.join()


def _serve(
    listener: socket.socket, behaviours: tuple[Behaviour, ...], server: Server, tls: ssl.SSLContext | None
) -> None:
    for behaviour in behaviours:
        try:
            accepted, peer = listener.accept()
        except OSError:
            return
        server.peers.append(peer[:2])
        with contextlib.suppress(OSError):  # the sender may leave whenever it has had enough
            connection = tls.wrap_socket(accepted, server_side=True) if tls else accepted
            with accepted, connection:
                connection.settimeout(20)
                server.heard.append(read_head(connection))
                behaviour(connection)


def read_head(connection: socket.socket) -> bytes:
    """Everything up to the end of a request's head."""
    data = b""
    while b"\r\n\r\n" not in data.removeprefix(b"\r\n\r\n\0\r\nQUIT\n") and (chunk := connection.recv(65536)):
        data += chunk
    return data


def says(body: str | bytes, status: str = "200 OK", *fields: str) -> Behaviour:
    """An answer with a length."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *fields]
    return sends("\r\n".join(lines).encode() + b"\r\n\r\n" + data)


def sends(*pieces: bytes) -> Behaviour:
    """These bytes, then the end."""

    def behave(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)

    return behave


def sends_without_end(start: bytes, piece: bytes) -> Behaviour:
    """`piece` again and again, as long as somebody takes it."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)

    return behave


def keeps_silent(connection: socket.socket) -> None:
    """Nothing, until the sender gives up."""
    connection.recv(1)


def resets(connection: socket.socket) -> None:
    """A reset in place of an answer: an unread byte or SO_LINGER 0 makes the kernel send one (socket(7))."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
