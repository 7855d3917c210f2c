"""From frames of every link type and tunnel to rows. The frames are scapy's, the expectations ours."""

from __future__ import annotations

import struct
import zlib
from hashlib import blake2b

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, GRE, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from daemonset.decode import link
from daemonset.observation import Direction, Payload, TcpFlag, Tunnel
from tests.ground.rows import decode, heads_of

OPTIONS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (111, 222)), ("NOP", None), ("WScale", 7)]
SYN = TCP(sport=40000, dport=80, flags="S", seq=0xFFFFFFF0, window=64240, options=OPTIONS)
CLIENT, NODE, POD = "172.30.0.101", "172.30.0.11", "10.244.1.5"
PACKET = IP(src=CLIENT, dst=NODE, ttl=63, id=4711) / SYN
PACKET6 = IPv6(src="fd00::65", dst="fd00::b", hlim=60) / SYN
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def is_the_syn(row: object) -> None:
    assert row is not None
    assert (row.source, row.destination) == (f"{CLIENT}:40000", f"{NODE}:80")  # type: ignore[attr-defined]
    assert row.seq == 0xFFFFFFF0  # type: ignore[attr-defined]


def test_a_syn_fills_every_column_that_it_speaks_about() -> None:
    row = decode(bytes(ETHER / PACKET))
    assert row is not None
    is_the_syn(row)
    assert row.fields == row.fields | {
        "time": 7, "tap": 3, "protocol": 6, "flags": TcpFlag.SYN, "ack": 0, "window": 64240, "ipid": 4711,
        "ttl": 63, "tsval": 111, "tsecr": 222, "length": 0, "digest": 0, "head": 0, "payload": Payload.NONE,
        "tunnel": Tunnel.NONE, "vni": 0, "icmp": 0, "vlan": 0, "direction": Direction.UNKNOWN,
        "outer_src_lo": 0, "outer_dst_lo": 0,
    }  # fmt: skip


def test_the_option_fingerprint_ignores_the_timestamps_and_nothing_else() -> None:
    def fingerprint(options: list[tuple[str, object]]) -> int:
        row = decode(bytes(ETHER / IP(src=CLIENT, dst=NODE) / TCP(options=options)))
        assert row is not None
        return row.options

    layout = bytes.fromhex("020405b4 0402 080a 0000000000000000 01 030307")
    assert fingerprint(OPTIONS) == zlib.crc32(layout)
    later = [(name, (999, 5) if name == "Timestamp" else value) for name, value in OPTIONS]
    assert fingerprint(later) == fingerprint(OPTIONS)
    assert fingerprint([("MSS", 1400), *OPTIONS[1:]]) != fingerprint(OPTIONS)
    assert fingerprint(OPTIONS[:2]) == zlib.crc32(bytes.fromhex("020405b4 0402 0000"))
    assert fingerprint([]) == 0


@pytest.mark.parametrize(
    "options",
    [
        [("Timestamp", (1, 2))],
        [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))],
        [("WScale", 7), ("NOP", None), ("Timestamp", (1, 2)), ("SAckOK", b"")],
        [("MSS", 0x080A), ("Timestamp", (1, 2))],
    ],
)
def test_timestamps_are_found_in_any_order_of_options(options: list[tuple[str, object]]) -> None:
    row = decode(bytes(ETHER / IP(src=CLIENT, dst=NODE) / TCP(flags="A", options=options)))
    assert row is not None
    assert (row.tsval, row.tsecr) == (1, 2)


@pytest.mark.parametrize("broken", ["08", "0800", "0801", "08ff0000", "0000080a0000000100000002", "0201"])
def test_broken_options_have_no_timestamps_and_do_no_harm(broken: str) -> None:
    options = bytes.fromhex(broken)
    options += bytes(-len(options) % 4)
    header = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, (20 + len(options)) << 2, 2, 5, 0, 0) + options
    row = decode(bytes(ETHER / IP(src=CLIENT, dst=NODE, proto=6) / header))
    assert row is not None
    assert (row.seq, row.tsval, row.tsecr) == (3, 0, 0)
    assert row.options == zlib.crc32(options)


LINKS = {
    "ethernet": (1, ETHER / PACKET),
    "raw": (101, PACKET),
    "raw-12": (12, PACKET),
    "raw-14": (14, PACKET),
    "ipv4": (228, PACKET),
    "cooked-1": (113, CookedLinux() / PACKET),
    "cooked-2": (276, CookedLinuxV2() / PACKET),
    "null-little-endian": (0, struct.pack("<I", 2) + bytes(PACKET)),
    "null-big-endian": (0, struct.pack(">I", 2) + bytes(PACKET)),
    "loop": (108, struct.pack(">I", 2) + bytes(PACKET)),
    "loop-by-scapy": (108, Loopback(type=2) / PACKET),
    "bare": (link.bare(0x0800), PACKET),
}


@pytest.mark.parametrize(("number", "frame"), LINKS.values(), ids=LINKS)
def test_the_packet_is_found_behind_every_link_header(number: int, frame: Packet) -> None:
    is_the_syn(decode(bytes(frame), number))


@pytest.mark.parametrize(
    ("number", "header"),
    [
        (1, bytes(ETHER / PACKET6)[:14]),
        (101, b""),
        (229, b""),
        (link.bare(0x86DD), b""),
        *[(0, struct.pack("<I", family)) for family in (10, 24, 28, 30)],
        (108, struct.pack(">I", 30)),
    ],
)
def test_ipv6_behind_every_link_header(number: int, header: bytes) -> None:
    row = decode(header + bytes(PACKET6), number)
    assert row is not None
    assert (row.source, row.destination) == ("[fd00::65]:40000", "[fd00::b]:80")
    assert (row.ttl, row.length, row.tsval) == (60, 0, 111)


@pytest.mark.parametrize(("number", "layer"), [(113, CookedLinux), (276, CookedLinuxV2)])
@pytest.mark.parametrize(
    ("packet_type", "direction"),
    [
        (0, Direction.IN),
        (1, Direction.IN),
        (3, Direction.UNKNOWN),
        (4, Direction.OUT),
        (7, Direction.UNKNOWN),
    ],
)
def test_cooked_captures_tell_the_direction(
    number: int, layer: type[Packet], packet_type: int, direction: Direction
) -> None:
    row = decode(bytes(layer(pkttype=packet_type) / PACKET), number)
    assert row is not None
    assert row.direction == direction


def test_a_direction_that_the_tap_knows_wins() -> None:
    row = decode(bytes(CookedLinux(pkttype=0) / PACKET), 113, direction=Direction.OUT)
    assert row is not None
    assert row.direction == Direction.OUT


def test_vlan_tags_are_kept_with_a_mark_that_there_was_one() -> None:
    tagged = decode(bytes(ETHER / Dot1Q(vlan=100, prio=3) / PACKET))
    is_the_syn(tagged)
    assert tagged is not None
    assert tagged.vlan == 3 << 13 | 0x1000 | 100
    priority_only = decode(bytes(ETHER / Dot1Q(vlan=0) / PACKET))
    assert priority_only is not None
    assert priority_only.vlan == 0x1000


@pytest.mark.parametrize("outer", [Dot1AD, Dot1Q])
def test_of_stacked_tags_the_inner_one_is_kept(outer: type[Packet]) -> None:
    row = decode(bytes(ETHER / outer(vlan=7) / Dot1Q(vlan=100) / PACKET))
    is_the_syn(row)
    assert row is not None
    assert row.vlan == 0x1000 | 100


def test_a_tag_that_the_kernel_took_off_comes_from_the_tap() -> None:
    row = decode(bytes(PACKET), link.bare(0x0800), vlan=0x1000 | 42)
    assert row is not None
    assert row.vlan == 0x1000 | 42


@pytest.mark.parametrize(
    "frame",
    [
        ETHER / ARP(),
        ETHER / IP() / ICMP(),
        ETHER / IPv6() / ICMPv6EchoRequest(),
        ETHER / IP(proto=50) / (b"\0" * 40),
        ETHER / IP(proto=89) / (b"\0" * 40),
        ETHER / IP(version=5) / SYN,
        ETHER / IP(frag=100) / SYN,
        ETHER / IPv6() / IPv6ExtHdrFragment(offset=100) / SYN,
        ETHER / IP(len=30) / SYN,  # the header says that there is no whole TCP header
        ETHER / IP(ihl=4) / SYN,
        ETHER / IP(ihl=15, len=40) / SYN,
        ETHER / IP() / TCP(dataofs=4),
        ETHER / IP(len=40) / TCP(dataofs=15),
        b"\0" * 12 + b"\x00\x26\x42\x42\x03" + b"\0" * 60,  # 802.3 with LLC: spanning tree
        b"",
        b"\0",
    ],
)
def test_what_is_of_no_interest_gives_no_row(frame: Packet | bytes) -> None:
    assert decode(bytes(frame)) is None


def test_ip_options_are_skipped() -> None:
    is_the_syn(decode(bytes(ETHER / IP(src=CLIENT, dst=NODE, options=[b"\x94\x04\x00\x00"]) / SYN)))


def test_ipv6_extension_headers_are_skipped() -> None:
    chain = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / IPv6ExtHdrFragment()
    row = decode(bytes(ETHER / IPv6(src="fd00::65", dst="fd00::b") / chain / SYN / b"abc"))
    assert row is not None
    assert (row.source, row.length) == ("[fd00::65]:40000", 3)


def test_only_the_first_fragment_gives_a_row() -> None:
    fragments = fragment(IP(src=CLIENT, dst=NODE) / UDP(sport=5000, dport=53) / (b"x" * 3000), fragsize=1400)
    rows = [decode(bytes(ETHER / part)) for part in fragments]
    assert [row is not None for row in rows] == [True, False, False]
    assert rows[0] is not None
    assert rows[0].length == 1400 - 8


class TestPayloads:
    def test_length_is_the_ip_headers_and_not_the_captures(self) -> None:
        whole = bytes(ETHER / IP(src=CLIENT, dst=NODE) / TCP(flags="PA") / (b"x" * 1000))
        row = decode(whole[:200], wire_length=len(whole))
        assert row is not None
        assert row.length == 1000

    def test_ethernet_padding_is_no_payload(self) -> None:
        row = decode(bytes(ETHER / IP(src=CLIENT, dst=NODE) / TCP(flags="A")) + bytes(6))
        assert row is not None
        assert (row.length, row.digest, row.payload) == (0, 0, Payload.NONE)

    def test_the_digest_covers_the_first_256_bytes(self) -> None:
        payload = bytes(range(256)) + b"more"
        row = decode(bytes(ETHER / IP(src=CLIENT, dst=NODE) / UDP(sport=1, dport=53) / payload))
        assert row is not None
        expected = int.from_bytes(blake2b(bytes(range(256)), digest_size=8).digest(), "little")
        assert (row.digest, row.protocol, row.length) == (expected, 17, 260)

    def test_the_same_payload_has_the_same_digest_through_nat_and_tunnel(self) -> None:
        before = decode(bytes(ETHER / IP(src=CLIENT, dst=NODE) / UDP(sport=9, dport=53) / b"query"))
        inner = ETHER / IP(src=NODE, dst=POD) / UDP(sport=777, dport=5353) / b"query"
        after = decode(
            bytes(ETHER / IP(src=NODE, dst="172.30.0.12") / UDP(dport=4789) / VXLAN(vni=1) / inner)
        )
        assert before is not None
        assert after is not None
        assert before.digest == after.digest != 0

    def test_a_payload_of_which_nothing_was_captured_is_data(self) -> None:
        whole = bytes(ETHER / IP(src=CLIENT, dst=NODE) / TCP(flags="PA") / b"hello")
        row = decode(whole[:54], wire_length=len(whole))
        assert row is not None
        assert (row.length, row.digest, row.payload) == (5, 0, Payload.DATA)

    def test_a_proxy_header_becomes_a_head(self) -> None:
        line = b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 80\r\n"
        row, heads = heads_of(bytes(ETHER / IP(src=CLIENT, dst=NODE) / TCP(flags="PA") / line))
        assert (row.payload, row.head, len(heads)) == (Payload.PROXY_V1, 1, 1)
        assert heads[0].proxy[0].source == "192.0.2.1:4000"


def test_super_packets_have_no_length_of_their_own() -> None:
    """GRO and TSO beyond 64 KiB: IPv4 with total length 0, IPv6 with payload length 0 (BIG TCP)."""
    data = b"x" * 70000
    four = bytearray(bytes(ETHER / IP(src=CLIENT, dst=NODE, len=0) / TCP(flags="A")) + data)
    six = bytes(ETHER / IPv6(src="fd00::65", dst="fd00::b", plen=0) / TCP(flags="A")) + data
    for frame in (bytes(four), six):
        whole, cut = decode(frame), decode(frame[:200], wire_length=len(frame))
        assert whole is not None
        assert cut is not None
        assert whole.length == cut.length == 70000


def test_sctp_gives_its_ports() -> None:
    row = decode(bytes(ETHER / IP(src=CLIENT, dst=NODE) / SCTP(sport=1, dport=2) / SCTPChunkData(data=b"x")))
    assert row is not None
    assert (row.source, row.destination, row.protocol) == (f"{CLIENT}:1", f"{NODE}:2", 132)


def geneve(vni: int, ethertype: int, options: bytes = b"") -> bytes:
    """RFC 8926 §3.4."""
    return struct.pack("!BBHI", len(options) // 4, 0, ethertype, vni << 8) + options


UNDERLAY = IP(src="172.30.0.11", dst="172.30.0.12")
UNDERLAY6 = IPv6(src="fd00::11", dst="fd00::12")
FRAME = bytes(ETHER / PACKET)
TUNNELS = {
    "vxlan": (UNDERLAY / UDP(sport=1, dport=4789) / VXLAN(vni=4096) / FRAME, Tunnel.VXLAN, 4096),
    "vxlan-linux-port": (UNDERLAY / UDP(sport=1, dport=8472) / VXLAN(vni=1) / FRAME, Tunnel.VXLAN, 1),
    "vxlan-tagged-inside": (
        UNDERLAY / UDP(dport=4789) / VXLAN(vni=9) / (ETHER / Dot1Q(vlan=5) / PACKET), Tunnel.VXLAN, 9,
    ),
    "geneve": (UNDERLAY / UDP(dport=6081) / geneve(7, 0x6558) / FRAME, Tunnel.GENEVE, 7),
    "geneve-options": (UNDERLAY / UDP(dport=6081) / geneve(7, 0x6558, bytes(12)) / FRAME, Tunnel.GENEVE, 7),
    "geneve-ip": (UNDERLAY / UDP(dport=6081) / geneve(8, 0x0800) / PACKET, Tunnel.GENEVE, 8),
    "ipip": (UNDERLAY / PACKET, Tunnel.IPIP, 0),
    "gre": (UNDERLAY / GRE() / PACKET, Tunnel.GRE, 0),
    "gre-key": (UNDERLAY / GRE(key_present=1, key=77) / PACKET, Tunnel.GRE, 77),
    "gre-all": (
        UNDERLAY / GRE(chksum_present=1, key_present=1, key=78, seqnum_present=1) / PACKET, Tunnel.GRE, 78,
    ),
    "gre-ethernet": (UNDERLAY / GRE(proto=0x6558) / FRAME, Tunnel.GRE, 0),
    "vxlan-in-ipip": (UNDERLAY / IP() / UDP(dport=4789) / VXLAN(vni=5) / FRAME, Tunnel.IPIP, 0),
}  # fmt: skip


@pytest.mark.parametrize(("packet", "tunnel", "vni"), TUNNELS.values(), ids=TUNNELS)
def test_a_tunnel_is_described_by_its_innermost_packet(packet: Packet, tunnel: Tunnel, vni: int) -> None:
    row = decode(bytes(ETHER / packet))
    is_the_syn(row)
    assert row is not None
    assert (row.outer_source, row.outer_destination) == ("172.30.0.11", "172.30.0.12")
    assert (row.tunnel, row.vni) == (tunnel, vni)


@pytest.mark.parametrize(
    "packet",
    [UNDERLAY6 / PACKET6, UNDERLAY6 / UDP(dport=4789) / VXLAN(vni=1) / bytes(ETHER / PACKET6)],
)
def test_tunnels_over_ipv6(packet: Packet) -> None:
    row = decode(bytes(ETHER / packet))
    assert row is not None
    assert (row.source, row.outer_source, row.outer_destination) == (
        "[fd00::65]:40000",
        "[fd00::11]",
        "[fd00::12]",
    )


def test_families_cross_in_tunnels() -> None:
    six_in_four = decode(bytes(ETHER / UNDERLAY / PACKET6))
    four_in_six = decode(bytes(ETHER / UNDERLAY6 / PACKET))
    assert six_in_four is not None
    assert (six_in_four.source, six_in_four.outer_source) == ("[fd00::65]:40000", "172.30.0.11")
    is_the_syn(four_in_six)


def test_tunnels_without_end_are_not_followed_without_end() -> None:
    deep = bytes(PACKET)
    for _ in range(300):
        deep = bytes(IP(src="172.30.0.11", dst="172.30.0.12", proto=4) / deep)
    assert decode(deep, link.RAW) is None


@pytest.mark.parametrize("port", [4789, 8472, 6081])
@pytest.mark.parametrize(
    "start", [b"\x08", b"\x00", b"\xc0", b"\x00\x00\x65\x58", b"\x00\x00\x08\x00\0\0\0\x01"]
)
def test_a_tunnels_port_without_a_tunnel_is_plain_udp(port: int, start: bytes) -> None:
    """Masquerade may choose any port above 1023 for somebody's DNS query: the answer goes to that port."""
    packet = IP(src=CLIENT, dst=NODE) / UDP(sport=53, dport=port) / (start + b"\x11" * 60)
    row = decode(bytes(ETHER / packet))
    assert row is not None
    assert (row.destination, row.tunnel, row.protocol) == (f"{NODE}:{port}", Tunnel.NONE, 17)


def test_arp_in_a_tunnel_is_of_no_interest() -> None:
    assert decode(bytes(ETHER / UNDERLAY / UDP(dport=4789) / VXLAN(vni=1) / ETHER / ARP())) is None


class TestIcmpErrors:
    """The quote is the matter, the error's own addresses stand outside."""

    def test_a_refused_connection_names_the_connection(self) -> None:
        row = decode(bytes(ETHER / IP(src=NODE, dst=CLIENT) / ICMP(type=3, code=3) / PACKET))
        is_the_syn(row)
        assert row is not None
        assert (row.outer_source, row.outer_destination) == (NODE, CLIENT)
        assert (row.icmp, row.protocol, row.tunnel) == (0x0303, 6, Tunnel.NONE)

    def test_eight_quoted_bytes_are_enough(self) -> None:
        row = decode(bytes(ETHER / IP(src=NODE, dst=CLIENT) / ICMP(type=11) / bytes(PACKET)[:28]))
        is_the_syn(row)
        assert row is not None
        assert (row.icmp, row.flags, row.length) == (0x0B00, 0, 0)

    def test_a_quoted_payload_is_neither_digest_nor_head(self) -> None:
        quote = IP(src=CLIENT, dst=NODE) / UDP(sport=5, dport=53) / b"GET / HTTP/1.1\r\n\r\n"
        row = decode(bytes(ETHER / IP(src=NODE, dst=CLIENT) / ICMP(type=3, code=3) / quote))
        assert row is not None
        assert (row.destination, row.digest, row.head, row.payload) == (f"{NODE}:53", 0, 0, Payload.NONE)

    @pytest.mark.parametrize(
        ("error", "icmp"), [(ICMPv6DestUnreach(code=4), 0x8104), (ICMPv6PacketTooBig(mtu=1280), 0x8200)]
    )
    def test_icmpv6_is_marked(self, error: Packet, icmp: int) -> None:
        row = decode(bytes(ETHER / IPv6(src="fd00::b", dst="fd00::65") / error / PACKET6))
        assert row is not None
        assert (row.source, row.outer_source, row.icmp) == ("[fd00::65]:40000", "[fd00::b]", icmp)

    def test_an_error_inside_a_tunnel_keeps_the_tunnels_kind(self) -> None:
        error = ETHER / IP(src=POD, dst=CLIENT) / ICMP(type=3, code=3) / PACKET
        row = decode(bytes(ETHER / UNDERLAY / UDP(dport=8472) / VXLAN(vni=3) / error))
        is_the_syn(row)
        assert row is not None
        assert (row.outer_source, row.outer_destination) == (POD, CLIENT)
        assert (row.tunnel, row.vni, row.icmp) == (Tunnel.VXLAN, 3, 0x0303)

    def test_an_error_about_an_error_is_nothing(self) -> None:
        inner = IP(src=CLIENT, dst=NODE) / ICMP(type=3, code=3) / PACKET
        assert decode(bytes(ETHER / IP(src=NODE, dst=CLIENT) / ICMP(type=3, code=3) / inner)) is None


def test_a_batch_is_empty_after_it_was_taken_and_heads_count_anew() -> None:
    from daemonset.decode.packet import Batch

    line = bytes(ETHER / IP(src=CLIENT, dst=NODE) / TCP() / b"PROXY UNKNOWN\r\n")
    batch = Batch()
    for _ in range(2):
        assert batch.add(line, link=1, time=1, tap=0)
        assert batch.add(memoryview(line), link=1, time=2, tap=0)
        assert len(batch) == 2
        _, heads = batch.take()
        assert (len(batch), len(heads)) == (0, 2)
    assert batch.take() == (b"", ())


def test_heads_can_be_left_out() -> None:
    from daemonset.decode.packet import Batch
    from tests.ground.rows import packets

    batch = Batch(heads=False)
    assert batch.add(bytes(ETHER / IP() / TCP() / b"PROXY UNKNOWN\r\n"), link=1, time=1, tap=0)
    rows, heads = batch.take()
    assert heads == ()
    assert (packets(rows)[0].head, packets(rows)[0].payload) == (0, Payload.PROXY_V1)
