"""Any bytes give a row or nothing; nothing raises, and a cut never changes what is still there."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from daemonset.decode import link
from daemonset.decode.packet import Batch
from daemonset.observation import PACKET
from tests.ground.rows import packets

LINKS = st.sampled_from(
    [*sorted(link.SUPPORTED), link.bare(0x0800), link.bare(0x86DD), link.bare(0x8100), 147]
)
DATA = b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 80\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n"
SEGMENT = TCP(sport=1, dport=2, seq=3, flags="PA", options=[("Timestamp", (5, 6))]) / DATA
FRAMES = [
    bytes(Ether() / packet)
    for packet in (
        IP(src="192.0.2.1", dst="192.0.2.2") / SEGMENT,
        IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop() / SEGMENT,
        Dot1Q(vlan=1) / IP() / UDP(dport=4789) / VXLAN(vni=1) / Ether() / IP() / SEGMENT,
        IP() / GRE(key_present=1, key=1) / IPv6() / SEGMENT,
        IP() / ICMP(type=3) / IP() / SEGMENT,
    )
]


def add(frame: bytes, number: int, wire_length: int | None = None) -> bytes:
    batch = Batch()
    kept = batch.add(frame, link=number, time=1, tap=0, wire_length=wire_length)
    rows, heads = batch.take()
    assert len(rows) == PACKET.size * kept
    assert len(heads) <= kept
    return rows


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), LINKS, st.none() | st.integers(0, 2**32 - 1))
@example(b"\x45" + bytes(19), link.RAW, None)
@example(b"\x60" + bytes(39), link.RAW, 1)
def test_any_bytes_at_any_link_type(frame: bytes, number: int, wire_length: int | None) -> None:
    add(frame, number, wire_length)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(FRAMES), st.data())
def test_a_frame_with_any_bytes_changed(frame: bytes, data: st.DataObject) -> None:
    broken = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    add(bytes(broken), link.ETHERNET)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FRAMES), st.data())
def test_a_cut_takes_away_but_never_alters(frame: bytes, data: st.DataObject) -> None:
    whole = packets(add(frame, link.ETHERNET))[0]
    cut = packets(add(frame[: data.draw(st.integers(0, len(frame)))], link.ETHERNET, len(frame)))
    for row in cut:
        # A cut outer header may leave a tunnel's own UDP packet as all that is known.
        if row.source == whole.source and row.tunnel == whole.tunnel:
            assert (row.seq, row.dport) == (whole.seq, whole.dport)
            assert row.length in {0, whole.length}
            assert row.tsval in {0, whole.tsval}
            assert row.options in {0, whole.options}
            assert row.flags in {0, whole.flags}
