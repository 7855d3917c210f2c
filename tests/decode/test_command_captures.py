"""`probe decode FILE.pcap` where networks do what they do: tunnels, lost and repeated segments, early data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from tests.decode.capture import datagram, segment, syn, write
from tests.decode.encode import inet, tcp4, tlv, v1, v2, with_checksum
from tests.decode.test_command import Result

LINE = v1("TCP4", "192.0.2.1", "198.51.100.2", 56324, 443)
REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"
NODES = {"src": "172.30.0.11", "dst": "172.30.0.12"}

Wrap = Callable[[Packet], Packet]


def in_vxlan(inner: Packet, vni: int = 1) -> Packet:
    return IP(**NODES) / UDP(sport=50000, dport=4789) / VXLAN(vni=vni) / Ether() / inner


def in_geneve(inner: Packet) -> Packet:
    return IP(**NODES) / UDP(sport=50000, dport=6081) / GENEVE(vni=1, proto=0x6558) / Ether() / inner


TUNNELS: dict[str, Wrap] = {
    "vxlan": in_vxlan,
    "flannel's vxlan": lambda inner: IP(**NODES) / UDP(dport=8472) / VXLAN(vni=1) / Ether() / inner,
    "geneve": in_geneve,
    "ipip": lambda inner: IP(**NODES) / inner,
    "6in4": lambda inner: IP(**NODES, proto=41) / IPv6(src="2001:db8::1", dst="2001:db8::2") / inner[TCP],
    "gre": lambda inner: IP(**NODES) / GRE(proto=0x0800) / inner,
    "gre with key": lambda inner: IP(**NODES) / GRE(proto=0x0800, key_present=1, key=7) / inner,
    "gre of frames": lambda inner: IP(**NODES) / GRE(proto=0x6558) / Ether() / inner,
    "vxlan in ipip": lambda inner: IP(**NODES) / in_vxlan(inner),
}


def tcp(payload: bytes, seq: int = 1001, flags: str = "PA") -> Packet:
    ports = TCP(sport=40000, dport=8081, seq=seq, ack=1, flags=flags)
    return IP(src="192.0.2.150", dst="198.51.100.8") / ports / payload


@pytest.mark.parametrize("tunnel", TUNNELS)
def test_a_header_within_a_tunnel_is_found_and_put_together(tunnel: str, tmp_path: Path) -> None:
    wrap, header = TUNNELS[tunnel], with_checksum(tcp4(tlv(3, bytes(4)), tlv(2, b"app.example")))
    packets = [wrap(tcp(b"", 1000, "S")), wrap(tcp(header[:20])), wrap(tcp(header[20:] + REQUEST, 1021))]
    [answer] = Result(write(tmp_path / "a.pcap", map(bytes, packets))).answers
    assert (answer["ok"], answer["source"]) == (True, "192.0.2.1:56324")
    assert answer["seen"]["from"].endswith(":40000")


def test_connections_alike_in_two_tunnels_are_two(tmp_path: Path) -> None:
    packets = [in_vxlan(tcp(data), vni) for vni, data in ((1, LINE[:20]), (2, LINE), (1, tcp4()))]
    answers = Result(write(tmp_path / "a.pcap", map(bytes, packets))).answers
    assert [answer["ok"] for answer in answers] == [True, False]


class TestStreams:
    def test_data_in_the_syn_counts_from_the_byte_behind_it(self, tmp_path: Path) -> None:
        early = segment(LINE[:20], seq=1000, flags="S")
        for name, rest in {
            "taken": [segment(LINE[20:] + REQUEST, seq=1021)],
            "refused, sent again": [segment(LINE + REQUEST)],
            "syn sent again without": [syn(), segment(LINE + REQUEST)],
        }.items():
            [answer] = Result(write(tmp_path / "a.pcap", [early, *rest])).answers
            assert answer["source"] == "192.0.2.1:56324", name

    def test_a_segment_sent_again_with_more_in_it_is_taken(self, tmp_path: Path) -> None:
        packets = [
            syn(),
            segment(LINE[20:30], seq=1021),
            segment(LINE[20:] + tcp4(), seq=1021),  # early, and longer than the one before
            segment(LINE[:20]),
        ]
        assert [answer["version"] for answer in Result(write(tmp_path / "a.pcap", packets)).answers] == [1, 2]

    def test_what_came_first_at_a_place_stays(self, tmp_path: Path) -> None:
        other = LINE.replace(b"192.0.2.1", b"203.0.1.9")
        packets = [syn(), segment(LINE[:20]), segment(other[:40]), segment(LINE[20:], seq=1021)]
        [answer] = Result(write(tmp_path / "a.pcap", packets)).answers
        assert answer["source"] == "192.0.2.1:56324"

    def test_keep_alive_probes_and_empty_segments_do_not_matter(self, tmp_path: Path) -> None:
        packets = [syn(), segment(flags="A"), segment(b"\0", seq=1000, flags="A"), segment(LINE)]
        [answer] = Result(write(tmp_path / "a.pcap", packets)).answers
        assert answer["ok"]

    def test_a_header_that_is_cut_when_its_port_is_used_again_is_still_told(self, tmp_path: Path) -> None:
        packets = [syn(), segment(LINE[:20]), syn(isn=9000), segment(tcp4(), seq=9001)]
        answers = Result(write(tmp_path / "a.pcap", packets)).answers
        assert [(answer["ok"], answer["complete"]) for answer in answers] == [(False, False), (True, True)]

    def test_a_stream_whose_begin_never_comes_is_given_up_and_said_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        packets = [syn(), *(segment(b"x", seq=2000 + 2 * at) for at in range(100)), segment(LINE)]
        assert Result(write(tmp_path / "a.pcap", packets)).code == 4
        assert "1 connections were given up" in capsys.readouterr().err

    def test_a_longer_header_over_fifty_segments_is_put_together(self, tmp_path: Path) -> None:
        header = tcp4(tlv(4, bytes(40_000)))
        pieces = [segment(header[at : at + 800], seq=1001 + at) for at in range(0, len(header), 800)]
        [answer] = Result(write(tmp_path / "a.pcap", [syn(), *pieces])).answers
        assert (answer["ok"], answer["length"]) == (True, len(header))

    def test_the_answering_side_has_headers_of_its_own(self, tmp_path: Path) -> None:
        reply = bytes(
            IP(src="198.51.100.8", dst="192.0.2.150") / TCP(sport=8081, dport=40000, seq=5000, flags="SA")
        )
        said = bytes(
            IP(src="198.51.100.8", dst="192.0.2.150") / TCP(sport=8081, dport=40000, seq=5001) / REQUEST
        )
        [answer] = Result(write(tmp_path / "a.pcap", [syn(), reply, segment(LINE), said])).answers
        assert answer["seen"]["from"] == "192.0.2.150:40000"


class TestDatagrams:
    def test_each_one_stands_for_itself(self, tmp_path: Path) -> None:
        header = v2(0x12, inet("192.0.2.1", "198.51.100.2", 5000, 53))
        six = v2(0x22, inet("2001:db8::1", "2001:db8::2", 5000, 53) + tlv(4, b""))
        packets = [datagram(header + b"query"), datagram(header[:10]), datagram(six), datagram(header)]
        answers = Result(write(tmp_path / "a.pcap", packets)).answers
        assert [(answer["ok"], answer["family"]) for answer in answers] == [
            (True, "inet"),
            (False, None),
            (True, "inet6"),
            (True, "inet"),
        ]

    def test_one_that_the_capture_cut_is_not_in_error(self, tmp_path: Path) -> None:
        [answer] = Result(write(tmp_path / "a.pcap", [datagram(LINE)], snaplen=28 + len(LINE) - 1)).answers
        assert (answer["ok"], answer["complete"], answer["error"]) == (False, False, None)

    def test_in_a_tunnel_too(self, tmp_path: Path) -> None:
        inner = IP(datagram(v2(0x12, inet("192.0.2.1", "198.51.100.2", 5000, 53)) + b"query"))
        [answer] = Result(write(tmp_path / "a.pcap", [bytes(in_geneve(inner))])).answers
        assert (answer["transport"], answer["source"]) == ("dgram", "192.0.2.1:5000")
