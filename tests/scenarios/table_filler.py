"""Fills the table of connections of the network namespace that it runs in, until the kernel takes no more records.

They are put in by ctnetlink, as `conntrack -I` does, a thousand at a time: of UDP between addresses of documentation
(RFC 5737). Assured ones the kernel never evicts for a new connection, others it does. They go with the namespace.

Argument: assured, or evictable.
A program of its own, which needs CAP_NET_ADMIN over the network namespace.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SETTINGS = Path("/proc/sys/net/netfilter")
CLIENTS, SERVER, PORT = "198.51.100.0", "192.0.2.1", 9
TOGETHER = 1000
HOUR = 3600

_NETLINK_NETFILTER, _CT_NEW = 12, 1 << 8
_REQUEST, _CREATE = 0x1, 0x400
_SEEN_REPLY, _ASSURED, _CONFIRMED = 1 << 1, 1 << 2, 1 << 3
_NESTED = 1 << 15


def attribute(kind: int, *values: bytes) -> bytes:
    value = b"".join(values)
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def direction(kind: int, src: bytes, sport: int, dst: bytes, dport: int) -> bytes:
    """CTA_TUPLE_ORIG or CTA_TUPLE_REPLY, of UDP."""
    ports = (attribute(number, struct.pack("!H", port)) for number, port in ((2, sport), (3, dport)))
    return attribute(
        kind | _NESTED,
        attribute(1 | _NESTED, attribute(1, src), attribute(2, dst)),
        attribute(2 | _NESTED, attribute(1, bytes([socket.IPPROTO_UDP])), *ports),
    )


def record(client: bytes, port: int, status: int) -> bytes:
    """The message that makes one."""
    server = socket.inet_aton(SERVER)
    tuples = direction(1, client, port, server, PORT) + direction(2, server, PORT, client, port)
    state = attribute(3, struct.pack("!I", status))
    body = struct.pack("!BBH", socket.AF_INET, 0, 0) + tuples + state + attribute(7, struct.pack("!I", HOUR))
    return struct.pack("=IHHII", 16 + len(body), _CT_NEW, _REQUEST | _CREATE, 0, 0) + body


def batches(status: int) -> Iterator[np.ndarray]:
    """Messages for records of which no two are alike. They differ in nothing but addresses and ports."""
    first = int.from_bytes(socket.inet_aton(CLIENTS), "big")
    marks = record(b"\0\0\0\0", 0xABCD, status)
    at = [found for found in range(len(marks)) if marks.startswith(b"\xab\xcd", found)]
    for host in range(1, 255):
        one = np.frombuffer(record((first + host).to_bytes(4, "big"), 0, status), np.uint8)
        for begin in range(1, 1 << 16, TOGETHER):
            ports = np.arange(begin, min(begin + TOGETHER, 1 << 16), dtype=">u2")
            rows = np.tile(one, (len(ports), 1))
            for place in at:
                rows[:, place : place + 2] = ports.view(np.uint8).reshape(-1, 2)
            yield rows


def setting(name: str) -> int:
    return int((SETTINGS / name).read_text())


def fill(status: int) -> None:
    most, made = setting("nf_conntrack_max"), batches(status)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as channel:
        channel.bind((0, 0))
        while (room := most - setting("nf_conntrack_count")) > 0:
            channel.send(next(made)[:room].tobytes())


if __name__ == "__main__":
    # Nobody who watches is told of each of them.
    told = setting("nf_conntrack_events")
    (SETTINGS / "nf_conntrack_events").write_text("0")
    fill(_SEEN_REPLY | _CONFIRMED | (_ASSURED if sys.argv[1] == "assured" else 0))
    (SETTINGS / "nf_conntrack_events").write_text(str(told))
