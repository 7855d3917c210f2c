"""The scapy layers: what they build is what the decoder reads, and what it refuses they do not dissect."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

from daemonset.decode.layers import ProxyProtocol, ProxyTlv, ProxyV1, ProxyV2, bind, unbind
from daemonset.decode.proxy_protocol import ProxyProtocolError, decode
from tests.decode.encode import SIGNATURE, inet, tcp4, tlv, v1, v2, with_checksum


def test_a_v1_line_is_built_and_dissected() -> None:
    layer = ProxyV1(source="192.0.2.1", destination="198.51.100.2", sport=56324, dport=443)
    line = v1("TCP4", "192.0.2.1", "198.51.100.2", 56324, 443)
    assert bytes(layer) == line
    found = ProxyProtocol(line + b"GET /")
    assert isinstance(found, ProxyV1)
    assert (found.protocol, found.source, found.sport, found.payload.load) == (
        b"TCP4",
        b"192.0.2.1",
        56324,
        b"GET /",
    )


def test_unknown_keeps_what_is_to_be_ignored() -> None:
    line = b"PROXY UNKNOWN what ever\r\n"
    assert bytes(ProxyProtocol(line)) == line
    assert bytes(ProxyV1(protocol="UNKNOWN")) == b"PROXY UNKNOWN\r\n"


def test_lengths_and_checksums_are_filled_in() -> None:
    layer = ProxyV2(
        source="192.0.2.1", destination="198.51.100.2", sport=56324, dport=443,
        tlvs=[ProxyTlv(type="CRC32C"), ProxyTlv(type="AUTHORITY", value=b"app.example")],
    )  # fmt: skip
    assert bytes(layer) == with_checksum(tcp4(tlv(3, bytes(4)), tlv(2, b"app.example")))
    header = layer.header()
    assert header is not None
    assert [each.decoded for each in header.tlvs][1] == "app.example"


def test_what_is_set_is_sent_even_if_it_is_wrong() -> None:
    short = ProxyV2(len=3)
    assert bytes(short)[14:16] == b"\0\3"
    with pytest.raises(ProxyProtocolError):
        short.header()
    wrong = ProxyV2(tlvs=[ProxyTlv(type="CRC32C", value=b"\1\2\3\4")])
    with pytest.raises(ProxyProtocolError):
        wrong.header()


@pytest.mark.parametrize(
    ("layer", "data"),
    [
        (
            ProxyV2(family="inet6", source="2001:db8::1", destination="::1", sport=1, dport=2),
            v2(0x21, inet("2001:db8::1", "::1", 1, 2)),
        ),
        (
            ProxyV2(family="unix", transport="dgram", source=b"/a", destination=b"/b"),
            v2(0x32, b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0")),
        ),
        (ProxyV2(cmd="LOCAL", family="unspec", transport="unspec"), v2(0, b"", command=0)),
        (ProxyV2(cmd="LOCAL", len=0), v2(0x11, b"", command=0)),
    ],
    ids=["inet6", "unix", "local", "local without its block"],
)
def test_every_family_goes_both_ways(layer: ProxyV2, data: bytes) -> None:
    assert bytes(layer) == data
    again = ProxyProtocol(data)
    assert isinstance(again, ProxyV2)
    assert bytes(again.copy()) == data
    assert again.cmd == layer.cmd


def test_two_headers_in_a_row_are_two_layers() -> None:
    stack = TCP() / ProxyV1(source="192.0.2.1", destination="192.0.2.2") / ProxyV2() / Raw(b"GET /")
    first = ProxyProtocol(bytes(stack[ProxyV1]))
    assert [type(layer) for layer in (first, first.payload, first.payload.payload)] == [ProxyV1, ProxyV2, Raw]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"PROXY TCP4 x", SIGNATURE + b"\x11", tcp4()[:20]])
def test_what_the_decoder_refuses_stays_raw(data: bytes) -> None:
    assert isinstance(ProxyProtocol(data), Raw)
    with pytest.raises(ProxyProtocolError):
        ProxyV2(data)


def test_a_port_is_bound_only_on_request_and_can_be_let_go() -> None:
    packet = bytes(IP() / TCP(dport=54321) / ProxyV2())
    assert ProxyV2 not in IP(packet)
    bind(54321)
    try:
        assert ProxyV2 in IP(packet)
        assert Raw in IP(bytes(IP() / TCP(dport=54321) / b"GET /"))
    finally:
        unbind(54321)
    assert ProxyV2 not in IP(packet)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=30)), max_size=5), st.binary(max_size=3))
def test_dissecting_and_building_again_changes_no_byte(parts: list[tuple[int, bytes]], rest: bytes) -> None:
    data = tcp4(*(tlv(kind, value) for kind, value in parts if kind != 3)) + rest
    try:
        decode(data)
    except ProxyProtocolError:  # a unique id that is too long, by the strategy's luck
        return
    assert bytes(ProxyProtocol(data)) == data


def test_only_three_parts_of_scapy_are_loaded() -> None:
    code = "import sys, daemonset.decode.layers; print('scapy.all' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
