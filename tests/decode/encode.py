"""An encoder of PROXY headers for tests, written apart from the decoder and sharing nothing with it."""

from __future__ import annotations

import socket

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def v1(protocol: str, source: str, destination: str, sport: int, dport: int) -> bytes:
    return f"PROXY {protocol} {source} {destination} {sport} {dport}\r\n".encode("ascii")


def v2(family_transport: int, body: bytes, *, command: int = 1) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family_transport]) + len(body).to_bytes(2, "big") + body


def tcp4(*tlvs: bytes, source: str = "192.0.2.1", sport: int = 56324) -> bytes:
    return v2(0x11, inet(source, "198.51.100.2", sport, 443) + b"".join(tlvs))


def inet(source: str, destination: str, sport: int, dport: int) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    addresses = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    return addresses + sport.to_bytes(2, "big") + dport.to_bytes(2, "big")


def tlv(kind: int, value: bytes = b"") -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def with_checksum(header: bytes, order: str = "big") -> bytes:
    """Put the checksum into the first CRC32C TLV whose value is zero."""
    at = header.index(tlv(3, bytes(4))) + 3
    checksum = bitwise_crc32c(header).to_bytes(4, "little" if order == "little" else "big")
    return header[:at] + checksum + header[at + 4 :]


def bitwise_crc32c(data: bytes) -> int:
    """CRC-32C a bit at a time, most significant first, straight from the polynomial."""
    register = 0xFFFF_FFFF
    for byte in data:
        register ^= int(f"{byte:08b}"[::-1], 2) << 24
        for _ in range(8):
            register = (register << 1 ^ (0x1EDC6F41 if register >> 31 else 0)) & 0xFFFF_FFFF
    return int(f"{register ^ 0xFFFF_FFFF:032b}"[::-1], 2)
