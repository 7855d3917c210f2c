"""Run inside a scene with the veth pair left-right: what does the kernel's filter answer to each packet?

Standard input: one JSON object {"filter": {…}, "packets": [[ethertype, hex], …], "ebpf": null or [first payloads that
pass] or []}: without `ebpf` the classic program, with an empty list its translation, else the one that remembers.
Standard output: a list of the bytes kept of each packet, 0 for those that were rejected.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from typing import Any

from daemonset.taps import bpf, ebpf, kernel_filter
from daemonset.taps.remembered import Memory

_ALL = socket.htons(3)  # ETH_P_ALL
_SENTINEL = 0x88B5  # IEEE 802 local experimental


def main() -> None:
    task = json.load(sys.stdin)
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    _attach(receiver, task["filter"], task.get("ebpf"))
    receiver.bind(("right", 3))
    receiver.settimeout(10)
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.bind(("left", 0))
    json.dump([_verdict(sender, receiver, *packet) for packet in task["packets"]], sys.stdout)


def _attach(receiver: socket.socket, options: dict[str, Any], first: list[int] | None) -> None:
    memory = None if not first else Memory(first[0], socket=7)
    listing = [*_pass_sentinel(), *kernel_filter.listing(**options, memory=memory)]
    if first is None:
        bpf.attach(receiver, bpf.assemble(listing))
    else:
        ebpf.attach(receiver, ebpf.load(listing, ebpf.Map(4096)))


def _pass_sentinel() -> list[bpf.Op]:
    return [
        bpf.Op(bpf.LD_W, bpf.AD_PROTOCOL),
        bpf.Op(bpf.JEQ, _SENTINEL, "", "program"),
        bpf.Op(bpf.RET, 0xFFFF),
        bpf.Op(bpf.OR, 0, label="program"),
    ]


def _verdict(sender: socket.socket, receiver: socket.socket, ethertype: int, packet: str) -> int:
    addresses = bytes.fromhex("02000000000b02000000000a")
    sender.send(addresses + struct.pack("!H", ethertype) + bytes.fromhex(packet))
    sender.send(addresses + struct.pack("!H", _SENTINEL) + bytes(50))
    kept = 0
    while True:
        data, address = receiver.recvfrom(1 << 17)
        if address[1] == _SENTINEL:
            return kept
        kept = len(data)


if __name__ == "__main__":
    main()
