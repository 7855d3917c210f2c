"""Send TCP SYNs at a steady rate: `python -m bench.syn_sender INTERFACE RATE SECONDS`, prints how many.

Each has a sequence number and ports of its own. They leave by sendmmsg(2) from a packet socket, 64 at a time,
which keeps one core below a microsecond a packet.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
import time

_AT_ONCE = 64
_BATCHES = 64  # made beforehand
VARIETY = _AT_ONCE * _BATCHES  # different SYNs
_SOL_PACKET, _QDISC_BYPASS = 263, 20
_OPTIONS = bytes.fromhex("020405b40402080a112233440000000001030307")


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Iovec)),
        ("vectors_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("pad", ctypes.c_int),
        ("sent", ctypes.c_uint64),
    )


def syn(number: int) -> bytes:
    """An Ethernet frame of 74 bytes with a SYN; nobody's address, so that no stack answers."""
    tcp = struct.pack(
        "!HHIIBBHHH", 1024 + number % 60000, 80, number & 0xFFFFFFFF, 0, 0xA0, 0x02, 64240, 0, 0
    )
    header = struct.pack("!BBHHHBBH", 0x45, 0, 60, number & 0xFFFF, 0x4000, 64, 6, 0)
    addresses = bytes([198, 51, 100, 1 + number // 60000 % 250]) + bytes([203, 0, 113, 9])
    return bytes.fromhex("02000000000b02000000000a0800") + header + addresses + tcp + _OPTIONS


def batches() -> list[ctypes.Array[_Message]]:
    """Arrays of messages, ready to be sent."""
    made = []
    for batch in range(_BATCHES):
        messages = (_Message * _AT_ONCE)()
        for at, message in enumerate(messages):
            frame = ctypes.create_string_buffer(syn(batch * _AT_ONCE + at), 74)
            vector = _Iovec(ctypes.addressof(frame), 74)
            message.vectors, message.vectors_length = ctypes.pointer(vector), 1
            _KEPT.extend((frame, vector))
        made.append(messages)
    return made


_KEPT: list[object] = []  # what the arrays point to


def send(interface: str, rate: int, seconds: float) -> int:
    """Send for so long, at most `rate` a second; answers with how many the kernel took."""
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    out.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
    out.bind((interface, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    ready = batches()
    sent = 0
    start = time.perf_counter()
    while (now := time.perf_counter() - start) < seconds:
        if (due := int(now * rate) - sent) < min(_AT_ONCE, max(1, rate // 1000)):
            time.sleep(0.0005)
            continue
        count = libc.sendmmsg(out.fileno(), ready[sent // _AT_ONCE % _BATCHES], min(due, _AT_ONCE), 0)
        if count < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        sent += count
    return sent


if __name__ == "__main__":
    print(send(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
