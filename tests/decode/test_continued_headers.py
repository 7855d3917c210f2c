"""A PROXY header in several segments: what the last of them says is read behind those before."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from daemonset.decode import link
from daemonset.decode.head import read_payload
from daemonset.decode.packet import Batch
from daemonset.observation import PACKET, Head, Payload

V1 = b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 80\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n"
    + struct.pack("!BBH", 0x21, 0x11, 12 + 7)
    + bytes([203, 0, 113, 9, 192, 0, 2, 1])
    + struct.pack("!HH", 40000, 80)
    + b"\x02\x00\x04shop"
)
HTTP = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"
FIRST = 0xFFFF_FFF0  # sequence numbers begin anew within these segments


def segments(data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    edges = [0, *sorted({cut % len(data) for cut in cuts} - {0}), len(data)]
    return [((FIRST + start) & 0xFFFF_FFFF, data[start:end]) for start, end in pairwise(edges)]


def add(batch: Batch, seq: int, payload: bytes, *, tap: int = 0, sport: int = 40000) -> None:
    frame = bytes(
        Ether()
        / IP(src="192.0.2.9", dst="192.0.2.1")
        / TCP(sport=sport, dport=80, flags="PA", seq=seq)
        / payload
    )
    assert batch.add(frame, link=link.ETHERNET, time=7, tap=tap, wire_length=len(frame))


def taken(batch: Batch) -> list[tuple[int, Head | None]]:
    """Payload and head of each row."""
    rows, heads = batch.take()
    table = [
        dict(zip([column.name for column in PACKET.columns], row, strict=True))
        for row in PACKET.struct.iter_unpack(rows)
    ]
    return [(row["payload"], heads[row["head"] - 1] if row["head"] else None) for row in table]


@given(st.sampled_from([V1, V2]), st.lists(st.integers(5, 200), max_size=5))
def test_however_a_header_is_cut_its_end_says_what_it_says_as_a_whole(header: bytes, cuts: list[int]) -> None:
    batch = Batch()
    parts = segments(header + HTTP, [cut if cut % len(header + HTTP) > 4 else 5 for cut in cuts])
    for seq, payload in parts:
        add(batch, seq, payload)
    whole = read_payload(header + HTTP)[1]
    assert whole is not None
    found = [head for _, head in taken(batch) if head is not None and head.proxy_complete and head.proxy]
    assert [head.proxy for head in found] == [whole.proxy]


def test_the_request_behind_it_is_read_as_well() -> None:
    batch = Batch()
    for seq, payload in segments(V1 + HTTP, [20]):
        add(batch, seq, payload)
    (_, begun), (kind, head) = taken(batch)
    assert begun is not None
    assert not begun.proxy_complete
    assert kind == Payload.PROXY_V1
    assert head is not None
    assert head.http is not None
    assert head.http.start == "GET / HTTP/1.1"


def test_a_part_that_is_missing_is_not_made_up() -> None:
    batch = Batch()
    first, _, last = segments(V1 + HTTP, [10, 20])
    add(batch, *first)
    add(batch, *last)
    assert [head for _, head in taken(batch)][1] is None


def test_parts_of_other_connections_and_taps_are_none_of_it() -> None:
    batch = Batch()
    (first, start), (second, rest) = segments(V1, [20])
    add(batch, first, start)
    add(batch, second, rest, tap=1)
    add(batch, second, rest, sport=40001)
    assert [head is not None for _, head in taken(batch)] == [True, False, False]


def test_more_beginnings_than_are_kept_cost_no_more_memory() -> None:
    batch = Batch()
    for port in range(1024, 1024 + 5000):
        add(batch, FIRST, V1[:20], sport=port)
    batch.take()
    assert len(batch._cut._begun) == 4096
