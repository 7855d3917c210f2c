"""Run inside a scene with the veth pair left-right: what do a small ring and a plain socket see and count?

Prints one JSON object; test_sockets.py reads it.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

from daemonset.taps import kernel_filter
from daemonset.taps import ring as rings
from daemonset.taps.plain import Letterbox, PlainSocket
from daemonset.taps.ring import PacketSource, Ring
from tests.agent.test_kernel_filter import ACK, FIN, SYN, Packet, ip4, ip6, tcp

SNAPLEN = 1000
FRAMES = 256  # the smallest ring: one block
BODY = bytes(number % 251 for number in range(1300))
PACKETS: list[tuple[int | None, Packet]] = [
    (None, ip4(6, tcp(SYN, options=bytes(20)))),
    (None, ip6(6, tcp(SYN))),
    (None, ip4(6, tcp(ACK, b"GET / HTTP/1.1\r\n" + BODY))),
    (None, ip4(6, tcp(ACK, b"nothing to see"))),
    (42, ip4(6, tcp(FIN | ACK))),
    (None, ip4(6, tcp(FIN | ACK, BODY))),
    (0, ip6(6, tcp(FIN | ACK, b"priority only"))),
]


def send(out: socket.socket, tag: int | None, packet: Packet) -> None:
    ethertype, data = packet
    vlan = b"" if tag is None else struct.pack("!HH", 0x8100, tag)
    out.send(bytes.fromhex("02000000000b02000000000a") + vlan + struct.pack("!H", ethertype) + data)


def taken(source: PacketSource, most: int) -> Iterator[rings.Packet]:
    for start, count in source.runs(most):
        yield from filter(None, map(source.packet, range(start, start + count)))


def drained(source: PacketSource, count: int) -> list[list[Any]]:
    """Packets that came in at the far end, without their times."""
    packets: list[list[Any]] = []
    until = time.monotonic() + 10
    while len(packets) < count and time.monotonic() < until:
        for packet in taken(source, 64):
            if packet.type != 4:  # PACKET_OUTGOING
                assert abs(packet.time - time.time_ns()) < 60e9
                packets.append([bytes(packet.data).hex(), *packet[1:2], *packet[3:]])
        time.sleep(0.001)
    return packets


def framed(source: PlainSocket, number: int, frame: Any) -> bool:
    """Whether a packet laid down as a ring's frame says what it says by itself."""
    status, _, kept, _, network, seconds, nanoseconds, tci, protocol, ifindex, _, kind = (
        rings._FRAME.unpack_from(frame)
    )
    vlan = (tci & 0xEFFF) | rings.VLAN_PRESENT if status & rings.VLAN_VALID else 0
    data = bytes(frame[network : network + kept])
    time_ = seconds * 1_000_000_000 + nanoseconds
    packet = source.packet(number)
    said = (data, socket.ntohs(protocol), time_, ifindex, kind, vlan)
    return said == (bytes(packet.data), *packet[1:6]) and bool(kept) and not status & rings.COPY


def as_frames(source: PlainSocket, count: int) -> list[bool]:
    found: list[bool] = []
    until = time.monotonic() + 10
    while len(found) < count and time.monotonic() < until:
        for start, size in source.runs(64):
            block = source.block(start, size)
            found += [block is not None and framed(source, at, block[at]) for at in range(size)]
    return found


def main() -> None:
    program = kernel_filter.build(heads=True, snaplen=SNAPLEN)
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    out.bind(("left", 0))
    ring = Ring(program, frames=FRAMES, snaplen=SNAPLEN)
    plain = PlainSocket(program, Letterbox(SNAPLEN), queue=1 << 15)
    for tag, packet in PACKETS:
        send(out, tag, packet)
    seen = {"ring": drained(ring, 6), "plain": drained(plain, 6)}
    before = {"ring": ring.statistics(), "plain": plain.statistics()}
    for _ in range(3 * FRAMES):  # each is seen at both ends
        send(out, *PACKETS[0])
    time.sleep(0.1)
    after = {"ring": ring.statistics(), "plain": plain.statistics()}
    again = {"ring": ring.statistics(), "plain": plain.statistics()}
    left = {"ring": sum(1 for _ in taken(ring, 9999)), "plain": sum(1 for _ in taken(plain, 9999))}
    roomy = PlainSocket(program, Letterbox(SNAPLEN))
    for _ in range(3):
        for tag, packet in PACKETS:
            send(out, tag, packet)
    alike = as_frames(roomy, 3 * (6 + 4))  # on its way out a tag is still in the frame
    json.dump(
        {"alike": alike, "seen": seen, "before": before, "after": after, "again": again, "left": left},
        sys.stdout,
    )


if __name__ == "__main__":
    main()
