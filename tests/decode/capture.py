"""Captures of raw IP packets for tests, written straight into the pcap format."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

RAW_IP = 101


def segment(
    payload: bytes = b"",
    *,
    sport: int = 40000,
    seq: int = 1001,
    flags: str = "PA",
    source: str = "192.0.2.150",
) -> bytes:
    """One TCP segment of a connection to port 8081, as raw IP."""
    ip = IPv6(src=source, dst="2001:db8::8") if ":" in source else IP(src=source, dst="198.51.100.8")
    return bytes(ip / TCP(sport=sport, dport=8081, seq=seq % 2**32, ack=1, flags=flags) / payload)


def syn(*, sport: int = 40000, isn: int = 1000) -> bytes:
    return segment(sport=sport, seq=isn, flags="S")


def datagram(payload: bytes, *, sport: int = 40000) -> bytes:
    return bytes(IP(src="192.0.2.150", dst="198.51.100.8") / UDP(sport=sport, dport=53) / payload)


def write(path: Path, packets: Iterable[bytes], *, snaplen: int = 65535) -> Path:
    """Packets a millisecond apart."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, snaplen, RAW_IP)]
    for number, packet in enumerate(packets):
        kept = packet[:snaplen]
        parts.append(struct.pack("<IIII", 1_700_000_000, number * 1000, len(kept), len(packet)) + kept)
    path.write_bytes(b"".join(parts))
    return path
