"""What is said of nginx and HAProxy, held against the same releases on loopback.

The judge says something of any header; whatever it says of these two must be what they do. Where another
release is installed its measurements do not apply, and these tests are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from analysis.receivers import RECEIVERS, receptions
from analysis.receivers.measured import ALONE, CASES
from tests.decode.encode import inet, tlv, v2, with_checksum
from tests.decode.live_receivers import REQUEST, haproxy, nginx, react, version

HEADERS = 400

Program = Callable[[], AbstractContextManager[tuple[str, int]]]

PROGRAMS = [
    pytest.param(
        program,
        place,
        id=name,
        marks=pytest.mark.skipif(
            version(name) != RECEIVERS[place].version,
            reason=f"needs {name} {RECEIVERS[place].version}, the release that was measured",
        ),
    )
    for name, program, place in (("nginx", nginx, 0), ("haproxy", haproxy, 2))
]
receivers = pytest.mark.parametrize(("program", "place"), PROGRAMS)

CUT_CODES = {"R": "F"}  # which of the two it is depends on when the second piece arrives


@receivers
def test_every_measured_header_is_taken_and_refused_as_then(program: Program, place: int) -> None:
    with program() as address:
        for case in CASES:
            cuts = (case.cut,) if case.cut else ()
            found = react(address, case.header, cuts=cuts, alone=case.name in ALONE)
            code, expected = found.code(case.header, "127.0.0.1"), case.codes[place]
            if cuts:
                code, expected = CUT_CODES.get(code, code), CUT_CODES.get(expected, expected)
            if expected == "h" and code.startswith("="):
                expected = code  # the same address, spelled in another way
            assert code == expected, case.name


@receivers
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_said_of_a_header_is_what_happens(program: Program, place: int, seed: int) -> None:
    said = 0
    with program() as address:
        for header in odd_headers(random.Random(seed)):
            told = receptions(header + REQUEST)[place]
            if told.verdict == "not measured":
                continue
            said += 1
            code = react(address, header).code(header, "127.0.0.1")
            happened = {"4": "refused", "F": "refused", "R": "refused", "W": "waits"}.get(code, "accepted")
            assert told.verdict == happened, (header, told, code)
    assert said > HEADERS / 10


def odd_headers(rng: random.Random) -> Iterator[bytes]:
    for _ in range(HEADERS):
        yield odd_line(rng) if rng.random() < 0.5 else odd_binary(rng)


IPV4 = (
    "10.1.2.3", "192.0.2.1", "10.0.00.3", "256.1.1.1", "1.2.3", "0.0.0.0", "224.0.0.5", "255.255.255.255", "host",
    "2001:db8::1", "0x0A.0.0.1", "1.2.3.4.5", "", "1.2.3.4\0", "127.0.0.1", "0.1.2.3", "010.1.2.3", "1.2.3.4%1",
)  # fmt: skip
IPV6 = (
    "2001:db8::1", "2001:DB8:0:0:0:0:0:1", "::", "::1", "ff02::1", "fe80::1%eth0", "::ffff:1.2.3.4", "[::1]",
    "1::2::3", "10.1.2.3", "12345::", "1:2:3:4:5:6:7:8:9", "",
)  # fmt: skip
PORTS = (
    "1", "443", "65535", "0", "00", "0443", "65536", "99999", "100000", "-1", "+80", "5_6", "", "x", "080",
)  # fmt: skip
PROTOCOLS = (
    "TCP4", "TCP4", "TCP4", "TCP6", "TCP6", "UNKNOWN", "tcp4", "UDP4", "TCP5", "UDP6", "UNKNOWNX", "",
)  # fmt: skip


def odd_line(rng: random.Random) -> bytes:
    """A line of version 1, mostly with one or two things out of the ordinary."""
    protocol = rng.choice(PROTOCOLS)
    addresses = IPV6 if protocol == "TCP6" else IPV4

    def pick(words: tuple[str, ...]) -> str:
        return rng.choice(words if rng.random() < 0.3 else words[:2])

    words = ["PROXY", protocol, pick(addresses), pick(addresses), pick(PORTS), pick(PORTS)]
    match rng.randrange(16):
        case 0:
            words.append("x")
        case 1:
            words.pop()
        case 2:
            words.insert(rng.randrange(1, 7), "")
        case 3 if protocol.startswith("UNKNOWN"):
            words[2:] = ["y" * rng.choice([1, 50, 93, 94, 150])]
    separator = "\t" if rng.random() < 0.02 else " "
    end = rng.choice(["\n", "\r"]) if rng.random() < 0.05 else "\r\n"
    return (separator.join(words) + end).encode()


TLVS = (
    tlv(4, bytes(3)), tlv(4, bytes(200)), tlv(0xE5, b"abc"), tlv(1, b"h2"), tlv(2, b"a" * 255), tlv(2, b"a" * 256),
    tlv(5, b"u" * 128), tlv(5, b"u" * 129), tlv(0x20, b"\1\0\0\0\0" + tlv(0x21, b"TLSv1.3")), tlv(0x20, b"\1"),
    tlv(0x20, b"\1\0\0\0\0" + tlv(0x23, b"X") + tlv(0x28, b"Y")), tlv(0x30, b"ns"), tlv(0x10, b"z"),
    tlv(0xF5, b"z"), b"\x04\x00\x09zz", b"\xff", tlv(3, b"\1\2\3\4"), tlv(3, b"\1\2"),
)  # fmt: skip
FAMILIES = (0x11, 0x11, 0x11, 0x21, 0x21, 0x12, 0x22, 0x31, 0x32, 0x00, 0x10, 0x01, 0x20, 0x41, 0x13)


def odd_binary(rng: random.Random) -> bytes:
    """A header of version 2, mostly with one or two things out of the ordinary."""
    command, family = rng.choice([0, 0, 1, 1, 1, 1, 1, 2]), rng.choice(FAMILIES)
    source = rng.choice(["10.1.2.3", "10.1.2.3", "0.0.0.0", "224.0.0.1", "255.255.255.255"])
    source6 = rng.choice(["2001:db8::1", "2001:db8::1", "::", "ff02::1", "::ffff:1.2.3.4"])
    block = {
        1: inet(source, "10.0.0.1", rng.choice([1, 0]), 443),
        2: inet(source6, "2001:db8::2", 5, 6),
        3: b"/a".ljust(216, b"\0"),
    }.get(family >> 4, b"")
    if rng.random() < 0.1:
        block = block[: rng.randrange(len(block) + 1)]
    if command == 0 and rng.random() < 0.4:
        block = b""
    tlvs = b"".join(rng.choice(TLVS) for _ in range(rng.choice([0, 0, 1, 1, 2, 3])))
    if rng.random() < 0.15:
        return with_checksum(v2(family, block + tlvs + tlv(3, bytes(4)), command=command))
    return v2(family, block + tlvs, command=command)
