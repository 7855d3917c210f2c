"""PROXY headers as the lab itself sends them (proxy-protocol.txt §2.1 and §2.2): UNKNOWN or LOCAL without a source.

Written apart from the decoder on purpose: what the lab says is held against what the decoder reads.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import NamedTuple

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


class Ends(NamedTuple):
    """The connection that a header tells of; both addresses are of one family."""

    source: str
    source_port: int
    destination: str
    destination_port: int

    @property
    def block(self) -> bytes:
        """The addresses and ports as version 2 has them (§2.2). Raises ValueError where an address is none."""
        packed = ip_address(self.source).packed + ip_address(self.destination).packed
        return packed + struct.pack("!HH", self.source_port, self.destination_port)


def proxy_header(version: int, ends: Ends | None) -> bytes:
    """The header of version 1 or 2. Raises ValueError where an address is none, or families differ."""
    if ends is None:
        return b"PROXY UNKNOWN\r\n" if version == 1 else _SIGNATURE + b"\x20\x00\x00\x00"
    source, destination = ip_address(ends.source), ip_address(ends.destination)
    if source.version != destination.version:
        raise ValueError(f"{source} and {destination} are of different families")
    if version == 1:
        words = (
            f"PROXY TCP{source.version} {source} {destination} {ends.source_port} {ends.destination_port}\r\n"
        )
        return words.encode()
    family = b"\x11" if source.version == 4 else b"\x21"
    return _SIGNATURE + b"\x21" + family + struct.pack("!H", len(ends.block)) + ends.block
