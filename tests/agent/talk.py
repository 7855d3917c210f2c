"""Two ends of a TCP connection: `server PORT N BYTES` answers N clients that sent as many, `client ADDRESS PORT N TEXT`
is them.

What stands behind a `|` in the text is sent in a segment of its own.
"""

from __future__ import annotations

import os
import socket
import sys


def server(port: int, count: int, size: int = 1) -> None:
    with socket.create_server(("", port), backlog=512) as listening:
        os.write(1, b"listening\n")
        for _ in range(count):
            connection, _ = listening.accept()
            with connection:
                missing = size
                while missing > 0 and (data := connection.recv(4096)):
                    missing -= len(data)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def client(address: str, port: int, count: int, text: str) -> None:
    for _ in range(count):
        with socket.create_connection((address, port), timeout=10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for segment in text.split("|"):
                connection.sendall(segment.encode())
            while connection.recv(4096):
                pass
    os.write(1, b"done\n")


if __name__ == "__main__":
    if sys.argv[1] == "server":
        server(*map(int, sys.argv[2:]))
    else:
        client(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
