"""The ends of odd connections: `inject INTERFACE HEX …` sends frames, `fast ADDRESS PORT TEXT` speaks in its SYN.

`fast` uses TCP Fast Open (RFC 7413) without a cookie; both ends have to allow that.
"""

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


def fast(address: str, port: int, text: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.sendto(text.encode(), MSG_FASTOPEN, (address, port))
        while connection.recv(4096):
            pass


if __name__ == "__main__":
    if sys.argv[1] == "inject":
        inject(sys.argv[2], sys.argv[3:])
    else:
        fast(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    os.write(1, b"done\n")
