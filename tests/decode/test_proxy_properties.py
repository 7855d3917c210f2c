"""What holds for any bytes, and for any way in which a connection hands them over.

1. Any bytes give a header, "more is needed", or ProxyProtocolError.
2. What is said of some bytes stays true when more arrive.
3. Fed in any chunks, the result is that of the whole.
4. What an encoder of its own writes is read back.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from daemonset.decode.proxy_protocol import (
    HEADER_MAX,
    Decoded,
    Decoder,
    NotProxyProtocolError,
    ProxyProtocolError,
    decode,
    decode_all,
)
from daemonset.observation import ProxyHeader
from tests.decode.encode import SIGNATURE, inet, tlv, v1, v2, with_checksum

ports = st.integers(0, 65535)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(lambda address: address.exploded) | st.ip_addresses(v=6).map(str)
tlvs = st.lists(
    st.builds(tlv, st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=40)), max_size=5
).map(b"".join)

lines = st.one_of(
    st.builds(v1, st.just("TCP4"), ipv4, ipv4, ports, ports),
    st.builds(v1, st.just("TCP6"), ipv6, ipv6, ports, ports),
    st.binary(max_size=20).map(lambda junk: b"PROXY UNKNOWN " + junk + b"\r\n"),
)
blocks = st.one_of(
    st.tuples(st.sampled_from([0x11, 0x12]), st.builds(inet, ipv4, ipv4, ports, ports)),
    st.tuples(st.sampled_from([0x21, 0x22]), st.builds(inet, ipv6, ipv6, ports, ports)),
    st.tuples(st.sampled_from([0x31, 0x32]), st.binary(min_size=216, max_size=216)),
    st.tuples(st.integers(0, 255), st.binary(max_size=60)),
)
headers = lines | st.builds(
    lambda block, rest, command: v2(block[0], block[1] + rest, command=command),
    blocks, tlvs | st.binary(max_size=30), st.sampled_from([0, 1, 1, 1, 2]),
)  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Headers, whole, damaged or cut, one after the other, and bytes behind them."""
    data = b"".join(draw(st.lists(headers, max_size=3))) + draw(st.binary(max_size=20))
    if data and draw(st.booleans()):
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + draw(st.binary(max_size=2)) + data[at + 1 :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


anything = streams() | st.binary(max_size=200) | st.binary(max_size=100).map(SIGNATURE.__add__)


def outcome(data: bytes) -> tuple[Any, ...]:
    try:
        header = decode(data)
    except ProxyProtocolError as error:
        return "error", type(error), error.rule, error.offset, str(error)
    return ("more",) if header is None else ("header", header)


@given(anything)
def test_any_bytes_decode_or_raise_the_decoders_own_error(data: bytes) -> None:
    kind, *rest = outcome(data)
    if kind == "header":
        header: ProxyHeader = rest[0]
        assert 15 <= header.length <= len(data)
    if kind == "error":
        assert 0 <= rest[2] < len(data)
    assert outcome(memoryview(data).tobytes()) == (kind, *rest)
    assert str(decode_all(memoryview(data))) == str(decode_all(data))


@given(anything)
def test_what_is_said_of_some_bytes_stays_true_when_more_arrive(data: bytes) -> None:
    whole = outcome(data)
    settled = False
    for end in range(len(data) + 1):
        now = outcome(data[:end])
        if now != ("more",):
            assert now == whole
            settled = True
        assert not (settled and now == ("more",))
    if whole[0] == "header":
        assert outcome(data[: whole[1].length - 1]) == ("more",)
    if whole[0] == "error" and whole[2] == "2.1":
        assert outcome(data[: whole[3]]) == ("more",), "a byte before the named one was wrong already"


def fed(chunks: list[bytes]) -> tuple[list[ProxyHeader], str, bytes, bool]:
    decoder, found, error, payload = Decoder(), [], "", b""
    for chunk in chunks:
        for event in decoder.feed(chunk):
            if isinstance(event, ProxyHeader):
                found.append(event)
            elif isinstance(event, bytes):
                payload += event
            else:
                error = str(event)
    complete = decoder.complete
    return found, error, payload + decoder.close(), complete


def as_fed(data: bytes, decoded: Decoded) -> tuple[list[ProxyHeader], str, bytes, bool]:
    error = str(decoded.error or "")
    payload = b"" if error or not decoded.complete else data[decoded.rest :]
    return list(decoded.headers), error, payload, decoded.complete


@given(anything, st.data())
def test_any_chunking_gives_what_the_whole_gives(data: bytes, draw: st.DataObject) -> None:
    expected = as_fed(data, decode_all(data))
    assert fed([data]) == expected
    assert fed([data[at : at + 1] for at in range(len(data))]) == expected
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert fed(pieces) == expected


@given(ipv4, ipv4, ports, ports, st.binary(max_size=20))
def test_tcp4_lines_are_read_back(source: str, destination: str, sport: int, dport: int, rest: bytes) -> None:
    line = v1("TCP4", source, destination, sport, dport)
    found = decode(line + rest)
    assert found == ProxyHeader(
        1, "PROXY", "inet", "stream", f"{source}:{sport}", f"{destination}:{dport}", (), len(line)
    )


@given(ipv6, ipv6, ports, ports)
def test_ipv6_addresses_of_both_versions_are_the_same(
    source: str, destination: str, sport: int, dport: int
) -> None:
    text = decode(v1("TCP6", source, destination, sport, dport))
    binary = decode(v2(0x21, inet(source, destination, sport, dport)))
    assert text is not None
    assert binary is not None
    assert (text.source, text.destination) == (binary.source, binary.destination)
    shown = (text.source or "").removeprefix("[").removesuffix(f"]:{sport}")
    assert ipaddress.ip_address(shown) == ipaddress.ip_address(source)


@given(blocks.filter(lambda block: len(block[1]) in {12, 36, 216}), tlvs)
def test_a_verified_checksum_never_refuses_what_is_valid_without(
    block: tuple[int, bytes], rest: bytes
) -> None:
    plain = outcome(v2(block[0], block[1] + rest))
    checked = outcome(with_checksum(v2(block[0], block[1] + tlv(3, bytes(4)) + rest)))
    assert checked[0] == plain[0]


@given(st.lists(st.builds(v1, st.just("TCP4"), ipv4, ipv4, ports, ports), max_size=HEADER_MAX + 2))
def test_headers_in_a_row_are_read_up_to_a_limit(many: list[bytes]) -> None:
    decoded = decode_all(b"".join(many))
    assert len(decoded.headers) == min(len(many), HEADER_MAX)
    assert decoded.rest == sum(map(len, many[:HEADER_MAX]))
    assert decoded.error is None
    assert decoded.complete == bool(many)


@given(st.binary(min_size=1, max_size=4))
def test_a_few_bytes_behind_a_header_are_payload_and_no_half_header(rest: bytes) -> None:
    data = v1("TCP4", "192.0.2.1", "192.0.2.2", 1, 2)
    decoded = decode_all(data + rest)
    assert (len(decoded.headers), decoded.rest, decoded.error, decoded.complete) == (1, len(data), None, True)


def test_what_is_not_a_header_is_an_error_first_and_payload_later() -> None:
    assert isinstance(decode_all(b"GET /").error, NotProxyProtocolError)
    line = v1("TCP4", "192.0.2.1", "192.0.2.2", 1, 2)
    assert decode_all(line + b"GET /").error is None
    broken = decode_all(line + b"PROXY TCP7")
    assert (len(broken.headers), broken.rest) == (1, len(line))
    assert broken.error is not None
    assert broken.error.offset == 9
