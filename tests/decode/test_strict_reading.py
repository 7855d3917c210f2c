"""The decoder against a second reading of the specification, which is slow, simple and shares nothing with it.

Some thousands of headers, each with one thing out of the ordinary, as receivers' own tests and bug reports have them.
What the specification leaves open is left out here: the dotted form of IPv6, families under LOCAL, UNSPEC.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator

import pytest

from probe.decoding.answer import decode_bytes
from tests.decode.encode import SIGNATURE, tlv

OCTETS = "192.0.2.1 0.0.0.0 255.255.255.255 256.1.1.1 1.2.3 1.2.3.4.5 01.2.3.4 1.2.3.04 1.2.3. .1.2.3 1..2.3"
IPV4 = [
    *OCTETS.split(),
    "0x1.2.3.4",
    "1.2.3.4 ",
    " 1.2.3.4",
    "+1.2.3.4",
    "-1.2.3.4",
    "1.2.3.4\t",
    "localhost",
]
IPV4 += ["", "1.2.3.\u0664", "1e1.2.3.4", "1,2,3,4", "1.2.3.4/32", "1.2.3.4:80", "\uff11.2.3.4"]
GROUPS = (
    ":: ::1 2001:db8::1 2001:DB8::A 1:2:3:4:5:6:7:8 1:2:3:4:5:6:7 1:2:3:4:5:6:7:8:9 1::2::3 [::1] 12345:: g::"
)
IPV6 = [
    *GROUPS.split(),
    *[":1", "1:", ":::", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1:2:3:4::5:6:7:8", "00000::1", "1.2.3.4"],
]
IPV6 += [
    "fe80::1%eth0",
    "fe80::1%25eth0",
    "0000:" * 7 + "0001",
    "ffff:" * 7 + "ffff",
    "::1/128",
    "::-1",
    "::+1",
]
IPV6 += ["", "::1 ", "::ffff:0:0", "::1.2.3.256", "::1.2.3.04", "::\uff11"]
PORTS = [
    "0",
    "1",
    "80",
    "65535",
    "65536",
    "99999",
    "00",
    "080",
    "+80",
    "-1",
    "0x50",
    "80a",
    "1e3",
    "4294967376",
]
PORTS += ["80.0", "0000080", "", "8 0", " 80", "80 ", "\uff16", "65535\0"]
PROTOCOLS = [
    "TCP4",
    "TCP6",
    "TCP",
    "TCP5",
    "tcp4",
    "UDP4",
    "UDP6",
    "UNKNOWN",
    "unknown",
    "Unknown",
    "UNKNOW",
    "UNIX",
]
PROTOCOLS += ["UNKNOWNN", "", "UNKNOWN\t", "TCP4 ", " TCP4", "\tTCP4"]
KEYWORDS = [
    "PROXY",
    "proxy",
    "Proxy",
    "PROXYY",
    "PROX",
    "PROXY\0",
    " PROXY",
    "\tPROXY",
    "\r\nPROXY",
    "PROXY_",
]
ENDS = [
    "\r\n",
    "\n",
    "\r\r\n",
    "\n\r\n",
    "\r\nGET / HTTP/1.1\r\n\r\n",
    " \r\n",
    "\t\r\n",
    "\0\r\n",
    "\rX\r\n",
]
ENDS += ["\r\n\r\n", "\v\r\n"]
BLOCKS = {
    0: b"",
    1: bytes(range(12)),
    2: bytes(range(36)),
    3: b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0"),
}


def reading(data: bytes) -> str:
    """`ok`, `error` or `incomplete`."""
    if data.startswith(SIGNATURE) or SIGNATURE.startswith(data):
        return binary(data)
    if data.startswith(b"PROXY"):
        return text(data)
    return "incomplete" if b"PROXY".startswith(data) else "error"


def text(data: bytes) -> str:
    end = data.find(b"\r\n", 0, 107)
    if end < 0:
        return "error"  # only whole lines are asked about
    line = data[:end].decode("latin-1")
    if "\r" in line or "\n" in line:
        return "error"
    if line == "PROXY UNKNOWN" or line.startswith("PROXY UNKNOWN "):
        return "ok"
    fields = line.split(" ")
    if len(fields) != 6 or fields[0] != "PROXY" or fields[1] not in {"TCP4", "TCP6"}:
        return "error"
    address = ipv4 if fields[1] == "TCP4" else ipv6
    return "ok" if all([*map(address, fields[2:4]), *map(port, fields[4:])]) else "error"


def ipv4(written: str) -> bool:
    octets = written.split(".")
    return len(octets) == 4 and all(octet in map(str, range(256)) for octet in octets)


def ipv6(written: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, written)
    except (OSError, ValueError):
        return False
    return re.fullmatch("[0-9A-Fa-f:]+", written) is not None


def port(written: str) -> bool:
    return re.fullmatch("0|[1-9][0-9]{0,4}", written) is not None and int(written) < 65536


def binary(data: bytes) -> str:
    head = data[12:16]
    command, family, transport = (
        head[0] & 15 if head else 0,
        head[1] >> 4 if head[1:] else 0,
        head[1] & 15 if head[1:] else 0,
    )
    if head and (head[0] >> 4 != 2 or command > 1):
        return "error"
    if command == 1 and (family > 3 or transport > 2):
        return "error"
    length = int.from_bytes(head[2:], "big")
    if len(head) == 4 and command == 1 and transport and length < len(BLOCKS[family]):
        return "error"
    return "incomplete" if len(head) < 4 or len(data) < 16 + length else "ok"


def line(*fields: str, end: str = "\r\n", space: str = " ") -> bytes:
    return (space.join(fields) + end).encode()


def fields_of_lines() -> Iterator[bytes]:
    for protocol, addresses, other in (("TCP4", IPV4, "198.51.100.2"), ("TCP6", IPV6, "::2")):
        for address in [*IPV4, *IPV6]:
            yield line("PROXY", protocol, address, addresses[0], "1", "2")
            yield line("PROXY", protocol, addresses[0], address, "1", "2")
        for number in PORTS:
            yield line("PROXY", protocol, other, other, number, "2")
            yield line("PROXY", protocol, other, other, "1", number)
        for end in ENDS:
            yield line("PROXY", protocol, other, other, "1", "2", end=end)


def frames_of_lines() -> Iterator[bytes]:
    for keyword in KEYWORDS:
        yield line(keyword, "TCP4", "1.2.3.4", "5.6.7.8", "1", "2")
    for protocol in PROTOCOLS:
        for rest in (("1.2.3.4", "5.6.7.8", "1", "2"), (), ("",), ("1.2.3.4",)):
            yield line("PROXY", protocol, *rest)
    for space in ("  ", "\t", " \t", "_", ",", ""):
        yield line("PROXY", "TCP4", "1.2.3.4", "5.6.7.8", "1", "2", space=space)
    for count in range(85, 130):
        yield line("PROXY", "UNKNOWN", "x" * count)
    for byte in set(range(256)) - {0x0A, 0x0D}:
        yield b"PROXY UNKNOWN " + bytes([byte]) + b"\r\n"
    for end in ENDS:
        yield line("PROXY", "UNKNOWN", end=end)


def headers() -> Iterator[bytes]:
    def header(first: int, second: int, body: bytes, length: int | None = None) -> bytes:
        count = len(body) if length is None else length
        return SIGNATURE + bytes([first, second]) + count.to_bytes(2, "big") + body

    for first in range(256):
        yield header(first, 0x11, BLOCKS[1])
        yield header(first, 0x00, b"")
    for second in range(256):
        for first in (0x20, 0x21):
            for body in (BLOCKS.get(second >> 4, b""), b"", bytes(250)):
                yield header(first, second, body)
    for second in (0x11, 0x12, 0x21, 0x22, 0x31, 0x32):
        block = BLOCKS[second >> 4]
        for length in range(len(block) + 4):
            yield header(0x21, second, block + tlv(4), length)
        whole = header(0x21, second, block + tlv(2, b"a.example"))
        yield from (whole[:end] for end in range(len(whole) + 1))


@pytest.mark.parametrize("vectors", [fields_of_lines, frames_of_lines, headers])
def test_both_readings_say_the_same_of_every_header(vectors: Callable[[], Iterator[bytes]]) -> None:
    count = 0
    for data in vectors():
        count += 1
        answer = decode_bytes(data)[0]
        found = "ok" if answer.ok else "error" if answer.complete else "incomplete"
        assert found == reading(data), (data, answer)
        assert answer.ok == (answer.error is None and answer.complete)
    assert count > 300


def test_a_line_may_become_whole_until_a_byte_contradicts_it() -> None:
    longest = b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n"
    for line in (
        longest,
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        b"PROXY UNKNOWN\r\n",
    ):
        for end in range(len(line)):
            assert not decode_bytes(line[:end])[0].complete
        for rest in (b"", b"\r\n", b"PRO", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"):
            answer = decode_bytes(line + rest)[0]
            assert (answer.ok, answer.length) == (True, len(line))
