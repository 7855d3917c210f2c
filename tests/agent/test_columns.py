"""Frames decoded as columns give the very rows that `Batch` gives, or are left to it."""

from __future__ import annotations

import random
import socket
import struct

import numpy as np
import pytest

from daemonset.decode.link import bare
from daemonset.decode.packet import Batch
from daemonset.observation import PACKET, Direction
from daemonset.taps import columns
from daemonset.taps.ring import COPY, FRAME, FRAME_HEADER, USER, VLAN_PRESENT, VLAN_VALID
from tests.agent.test_kernel_filter import ACK, FIN, RST, SYN, Packet, ip4, ip6, sample, tcp, vxlan

SYN_OPTIONS = bytes.fromhex("020405b40402080a1122334400000000" + "01030307")
ACK_OPTIONS = bytes.fromhex("0101080a55667788" + "11223344")
ROOM = FRAME - FRAME_HEADER


class Framed:
    """A packet as the kernel puts it into a ring (struct tpacket2_hdr, struct sockaddr_ll)."""

    def __init__(self, packet: Packet, ifindex: int = 2, kind: int = 0, tci: int | None = None) -> None:
        self.ethertype, self.data = packet[0], packet[1][:ROOM]
        self.length = len(packet[1])
        self.ifindex, self.kind, self.tci = ifindex, kind, tci
        self.status = USER | (VLAN_VALID if tci is not None else 0) | (COPY if self.length > ROOM else 0)

    def bytes(self) -> bytes:
        header = struct.pack(
            "=IIIHHIIHH4x", self.status, self.length, len(self.data), FRAME_HEADER, FRAME_HEADER,
            1_700_000_000, 123_456_789, self.tci or 0, 0,
        )  # fmt: skip
        address = struct.pack("=HHiHBB8x", 17, socket.htons(self.ethertype), self.ifindex, 1, self.kind, 6)
        return (header + address).ljust(FRAME_HEADER, b"\0") + self.data.ljust(ROOM, b"\xee")

    def add_to(self, batch: Batch, tap: int) -> bool:
        return batch.add(
            self.data,
            link=bare(self.ethertype),
            time=1_700_000_000_123_456_789,
            tap=tap,
            direction=Direction.OUT if self.kind == 4 else Direction.IN,
            vlan=0 if self.tci is None else self.tci & 0xEFFF | VLAN_PRESENT,
            wire_length=self.length,
        )


def compare(frames: list[Framed], taps: list[int]) -> int:
    """Check every row against `Batch`; answers with how many frames were decoded as columns."""
    block = np.frombuffer(b"".join(frame.bytes() for frame in frames), np.uint8).reshape(-1, FRAME)
    decoded = columns.decode(block, np.array(taps))
    left = set(decoded.others.tolist())
    batch = Batch()
    taken = [number for number, tap in enumerate(taps) if tap >= 0 and number not in left]
    for family in (0x0800, 0x86DD):  # rows come by family
        for number in taken:
            if frames[number].ethertype == family:
                assert frames[number].add_to(batch, taps[number])
    expected, _ = batch.take()
    assert _readable(b"".join(decoded.rows)) == _readable(expected)
    return len(taken)


def _readable(rows: bytes) -> list[tuple[int, ...]]:
    return list(PACKET.struct.iter_unpack(rows))


@pytest.mark.parametrize("family", [lambda body: ip4(6, body), lambda body: ip6(6, body)], ids=["4", "6"])
def test_handshakes_are_decoded_as_columns(family) -> None:  # type: ignore[no-untyped-def]
    frames = [
        Framed(family(tcp(SYN, options=SYN_OPTIONS))),
        Framed(family(tcp(SYN | ACK, options=SYN_OPTIONS, sport=80, dport=40000)), kind=4),
        Framed(family(tcp(FIN | ACK, options=ACK_OPTIONS)), ifindex=7, tci=42),
        Framed(family(tcp(RST))),
    ]
    assert compare(frames, [0, 1, 2, 0]) == 4
    assert compare(frames, [0, -1, 2, 0]) == 3


def test_what_is_not_plain_is_left() -> None:
    plain = tcp(SYN, options=SYN_OPTIONS)
    odd = [
        vxlan(ip4(6, plain)),
        ip4(6, plain, options=bytes(4)),
        ip4(6, plain, fragment=1),
        ip4(17, plain),
        ip4(6, tcp(FIN | ACK, b"data")),
        ip6(0, b"\x06\0" + bytes(6) + plain),
        (0x0800, ip4(6, plain)[1][:30]),
        (0x86DD, ip4(6, plain)[1]),
        ip4(6, bytes(900)),
    ]
    assert compare([Framed(packet) for packet in odd], [0] * len(odd)) == 0


def test_any_packets() -> None:
    dice = random.Random(7)
    options = [b"", SYN_OPTIONS, ACK_OPTIONS, *(dice.randbytes(4 * dice.randrange(1, 11)) for _ in range(12))]
    for _ in range(60):
        frames, taps = [], []
        for _ in range(dice.randrange(1, 80)):
            flags, chosen = dice.choice([SYN, SYN | ACK, FIN | ACK, RST]), bytearray(dice.choice(options))
            if chosen and dice.random() < 0.3:
                chosen[dice.randrange(len(chosen))] = dice.randrange(256)
            wrap = dice.choice([ip4, ip6])
            packet = wrap(6, tcp(flags, options=bytes(chosen))) if dice.random() < 0.8 else sample(dice)
            tci = dice.choice([None, None, 0, 42, 0xFFFF])
            frames.append(Framed(packet, ifindex=dice.randrange(9), kind=dice.choice([0, 3, 4]), tci=tci))
            taps.append(dice.randrange(-1, 5))
        compare(frames, taps)
