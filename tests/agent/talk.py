"""Two ends of a TCP connection: `server PORT N` answers N clients, `client ADDRESS PORT N TEXT` is them."""

from __future__ import annotations

import os
import socket
import sys


def server(port: int, count: int) -> None:
    with socket.create_server(("", port), backlog=512) as listening:
        os.write(1, b"listening\n")
        for _ in range(count):
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def client(address: str, port: int, count: int, text: str) -> None:
    for _ in range(count):
        with socket.create_connection((address, port), timeout=10) as connection:
            connection.sendall(text.encode())
            while connection.recv(4096):
                pass
    os.write(1, b"done\n")


if __name__ == "__main__":
    if sys.argv[1] == "server":
        server(int(sys.argv[2]), int(sys.argv[3]))
    else:
        client(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
