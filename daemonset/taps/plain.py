"""A packet socket with an ordinary receive queue: for pods' namespaces, and where no ring is to be had.

It delivers the same `Packet`s as ring.py and is opened in the same order. A ring of 16 MiB in each of a
hundred pods would be too much memory; this costs nothing while it is idle, and opens in 0.1 ms.

Packets are taken a few at a time (recvmmsg(2)), because the address that Python's own recvmsg() returns names
the interface by asking for it anew, and by then it may be gone; the kernel said its index.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator

from daemonset.taps import bpf
from daemonset.taps.filters import Filter
from daemonset.taps.ring import (
    SOL_PACKET,
    VLAN_PRESENT,
    VLAN_VALID,
    Packet,
    Statistics,
    bind_everywhere,
    enlarge,
    open_filtered,
    statistics,
)

#: Receive buffer in bytes: some ten thousand packets.
QUEUE = 4 << 20

_EACH = 768  # what a short packet takes of it (sk_buff and data, truesize)
_AUXDATA = 8
_SO_TIMESTAMPNS = 35  # SO_TIMESTAMPNS_OLD, asm-generic/socket.h: struct timespec of two longs

_AUX = struct.Struct(
    "=IIIHHHH"
)  # struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
_TIMESPEC = struct.Struct("@ll")
_CONTROL_HEADER = struct.Struct("@Lii")  # struct cmsghdr
_ADDRESS = struct.Struct("=2xHiHB")  # struct sockaddr_ll: protocol, ifindex, hatype, pkttype
_ADDRESS_SIZE = 20
_CONTROL_SIZE = socket.CMSG_SPACE(_AUX.size) + socket.CMSG_SPACE(_TIMESPEC.size)
_AT_ONCE = 32


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vectors_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("received", ctypes.c_uint))


class Letterbox:
    """Room for a few packets at a time, to be shared by sockets that one thread reads."""

    def __init__(self, snaplen: int = 2048) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._snaplen = snaplen
        self._data = bytearray(_AT_ONCE * snaplen)
        self._addresses = bytearray(_AT_ONCE * _ADDRESS_SIZE)
        self._control = bytearray(_AT_ONCE * _CONTROL_SIZE)
        data, addresses, control = (
            ctypes.addressof(ctypes.c_char.from_buffer(room))
            for room in (self._data, self._addresses, self._control)
        )
        self._vectors = (_Iovec * _AT_ONCE)()
        self._messages = (_Message * _AT_ONCE)()
        for at, (vector, message) in enumerate(zip(self._vectors, self._messages, strict=True)):
            vector.base, vector.length = data + at * snaplen, snaplen
            header = message.header
            header.name, header.name_length = addresses + at * _ADDRESS_SIZE, _ADDRESS_SIZE
            header.vectors, header.vectors_length = ctypes.addressof(vector), 1
            header.control, header.control_length = control + at * _CONTROL_SIZE, _CONTROL_SIZE
        self._fresh = bytes(self._messages)

    def fetch(self, descriptor: int) -> list[Packet]:
        """Packets that wait at a socket, some of them; none: no more wait. Raises OSError."""
        ctypes.memmove(self._messages, self._fresh, len(self._fresh))
        count = self._libc.recvmmsg(descriptor, self._messages, _AT_ONCE, socket.MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            if number in {errno.EAGAIN, errno.EINTR, errno.ENETDOWN}:  # ENETDOWN: one interface of many
                return []
            raise OSError(number, os.strerror(number))
        return [self._packet(at) for at in range(count)]

    def _packet(self, at: int) -> Packet:
        message = self._messages[at]
        kept = message.received
        protocol, ifindex, _, kind = _ADDRESS.unpack_from(self._addresses, at * _ADDRESS_SIZE)
        start = at * self._snaplen
        time, vlan, length = self._ancillary(at * _CONTROL_SIZE, message.header.control_length)
        data = bytes(memoryview(self._data)[start : start + kept])
        return Packet(data, socket.ntohs(protocol), time, ifindex, kind, vlan, length or kept)

    def _ancillary(self, start: int, size: int) -> tuple[int, int, int]:
        """Time, VLAN and uncut length from the control messages of one packet."""
        time = vlan = length = 0
        end = start + size
        while start + _CONTROL_HEADER.size <= end:
            span, level, kind = _CONTROL_HEADER.unpack_from(self._control, start)
            value = start + _CONTROL_HEADER.size
            if level == SOL_PACKET and kind == _AUXDATA:
                status, length, _, _, _, tci, _ = _AUX.unpack_from(self._control, value)
                vlan = (tci & 0xEFFF) | VLAN_PRESENT if status & VLAN_VALID else 0
            elif level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack_from(self._control, value)
                time = seconds * 1_000_000_000 + nanoseconds
            start += max(_CONTROL_HEADER.size, span + 7 & ~7)
        return time, vlan, length


class PlainSocket:
    """A packet socket on all interfaces of the network namespace that the calling thread is in.

    Raises OSError where the kernel refuses it. `queue` in the object is the receive buffer as granted.
    """

    def __init__(self, program: bpf.Program | Filter, letterbox: Letterbox, *, queue: int = QUEUE) -> None:
        self._letterbox = letterbox
        self._socket = open_filtered(program)
        try:
            self.queue = enlarge(self._socket, queue)
            self.capacity = self.queue // _EACH
            self._socket.setsockopt(SOL_PACKET, _AUXDATA, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            bind_everywhere(self._socket)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For poll: readable when packets wait."""
        return self._socket.fileno()

    def drain(self, most: int) -> Iterator[Packet]:
        """Packets that wait, `most` or a few more; never blocks. Raises OSError."""
        taken = 0
        while taken < most and (packets := self._letterbox.fetch(self._socket.fileno())):
            taken += len(packets)
            yield from packets

    def statistics(self) -> Statistics:
        """The kernel's counters since the last asking."""
        return statistics(self._socket)

    def close(self) -> None:
        """Stop receiving."""
        self._socket.close()
