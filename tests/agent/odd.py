"""The ends of odd connections: `inject INTERFACE HEX …` sends frames, and so each function here for its own kind."""

from __future__ import annotations

import os
import socket
import sys

MSG_FASTOPEN = 0x20000000  # linux/socket.h; not in Python's socket


def inject(interface: str, frames: list[str]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        for frame in frames:
            raw.send(bytes.fromhex(frame))


def flood(interface: str, count: int, frame: str) -> None:
    """The same frame so many times."""
    inject(interface, [frame] * count)


def multipath_server(port: int) -> None:
    """Answer one client over Multipath TCP (RFC 8684)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as listening:
        listening.bind(("", port))
        listening.listen()
        os.write(1, b"listening\n")
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)


def multipath(address: str, port: int, text: str) -> None:
    """Speak Multipath TCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as connection:
        connection.settimeout(10)
        connection.connect((address, port))
        connection.sendall(text.encode())
        while connection.recv(4096):
            pass


def slow_server(port: int, size: int) -> None:
    """Accept a client at once, and read nothing of it before a line comes on standard input."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("", port))
        listening.listen()
        os.write(1, b"listening\n")
        connection, _ = listening.accept()
        with connection:
            sys.stdin.readline()
            while size > 0 and (data := connection.recv(1 << 16)):
                size -= len(data)
        os.write(1, f"{size} missing\n".encode())


def fast(address: str, port: int, text: str) -> None:
    """Speak in the SYN: TCP Fast Open (RFC 7413) without a cookie; both ends have to allow that."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.sendto(text.encode(), MSG_FASTOPEN, (address, port))
        while connection.recv(4096):
            pass


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["inject", interface, *frames]:
            inject(interface, frames)
        case ["flood", interface, count, frame]:
            flood(interface, int(count), frame)
        case ["multipath-server", port]:
            multipath_server(int(port))
        case ["multipath", address, port, text]:
            multipath(address, int(port), text)
        case ["slow-server", port, size]:
            slow_server(int(port), int(size))
        case ["fast", address, port, text]:
            fast(address, int(port), text)
    os.write(1, b"done\n")
