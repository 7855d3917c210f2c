"""A packet socket with an ordinary receive queue: for pods' namespaces, and where no ring is to be had.

It delivers the same `Packet`s as ring.py and is opened in the same order. A ring of 16 MiB in each of a
hundred pods would be too much memory; this costs nothing while it is idle, and opens in 0.1 ms.

Packets are taken many at a time (recvmmsg(2)): Python's own recvmsg() names the interface by asking for it anew, and by
then it may be gone; the kernel said its index. They are laid down as a ring's frames are, so that they can be read as
columns, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemonset.taps import bpf
from daemonset.taps.filters import Filter
from daemonset.taps.ring import (
    FRAME_HEADER,
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
_ADDRESS_SIZE, _ADDRESS_AT = 20, 32  # in a ring's frame
_CONTROL_SIZE = socket.CMSG_SPACE(_AUX.size) + socket.CMSG_SPACE(_TIMESPEC.size)
_AT_ONCE = 512

#: What the kernel says besides, where it is said as usual: the time, then what is known of the packet; 64 bits alone.
_USUAL = np.dtype(
    {
        "names": ["time", "seconds", "nanoseconds", "about", "status", "tci"],
        "formats": ["2<u8", "<u8", "<u8", "2<u8", "<u4", "<u2"],
        "offsets": [0, 16, 24, 32, 48, 64],
        "itemsize": 72,
    }
)
_TIME = np.array(
    [16 + _TIMESPEC.size, socket.SOL_SOCKET | _SO_TIMESTAMPNS << 32], np.uint64
)  # struct cmsghdr
_ABOUT = np.array([16 + _AUX.size, SOL_PACKET | _AUXDATA << 32], np.uint64)


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
    """Room for some packets at a time, to be shared by sockets that one thread reads."""

    def __init__(self, snaplen: int = 2048) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        size = FRAME_HEADER + (snaplen + 7 & ~7)
        self._memory = np.zeros((_AT_ONCE, size), np.uint8)
        self._control = np.zeros((_AT_ONCE, _CONTROL_SIZE), np.uint8)
        self._frames = self._memory.view(_frame(size))[:, 0]
        self._frames["network"] = FRAME_HEADER
        memory, control = self._memory.ctypes.data, self._control.ctypes.data
        self._vectors = (_Iovec * _AT_ONCE)()
        self._messages = (_Message * _AT_ONCE)()
        for at, (vector, message) in enumerate(zip(self._vectors, self._messages, strict=True)):
            vector.base, vector.length = memory + at * size + FRAME_HEADER, snaplen
            header = message.header
            header.name, header.name_length = memory + at * size + _ADDRESS_AT, _ADDRESS_SIZE
            header.vectors, header.vectors_length = ctypes.addressof(vector), 1
            header.control, header.control_length = control + at * _CONTROL_SIZE, _CONTROL_SIZE
        self._fresh = bytes(self._messages)
        headers = np.frombuffer(memoryview(self._messages).cast("B"), np.uint8).reshape(_AT_ONCE, -1)
        self._received = _field(headers, _Message.received.offset, np.dtype(np.uint32))
        self._said = _field(headers, _Header.control_length.offset, np.dtype(np.uintp))

    def fetch(self, descriptor: int) -> int:
        """Take some of the packets that wait at a socket, in place of those before; 0: none waits. Raises OSError."""
        ctypes.memmove(self._messages, self._fresh, len(self._fresh))
        count: int = self._libc.recvmmsg(descriptor, self._messages, _AT_ONCE, socket.MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            if number in {errno.EAGAIN, errno.EINTR, errno.ENETDOWN}:  # ENETDOWN: one interface of many
                return 0
            raise OSError(number, os.strerror(number))
        return count

    def block(self, start: int, count: int) -> NDArray[np.uint8] | None:
        """Packets as a ring's frames, as rows of bytes; None where the kernel said something unusual of one."""
        if _USUAL.itemsize != _CONTROL_SIZE:
            return None
        some = slice(start, start + count)
        said = self._control[some].view(_USUAL)[:, 0]
        if (said["time"] != _TIME).any() or (said["about"] != _ABOUT).any():
            return None
        if (self._said[some] < _USUAL.itemsize - 4).any():  # what stands there is of packets before
            return None
        frames = self._frames[some]
        frames["kept"] = self._received[some]
        frames["status"] = said["status"] & VLAN_VALID
        for name in ("seconds", "nanoseconds", "tci"):
            frames[name] = said[name]
        return self._memory[some]

    def packet(self, at: int) -> Packet:
        """One of them; a view of it, until others are fetched."""
        protocol, ifindex, _, kind = _ADDRESS.unpack_from(self._memory[at], _ADDRESS_AT)
        time, vlan, length = self._ancillary(at * _CONTROL_SIZE, int(self._said[at]))
        kept = int(self._received[at])
        data = self._memory[at, FRAME_HEADER : FRAME_HEADER + kept].data
        return Packet(data, socket.ntohs(protocol), time, ifindex, kind, vlan, length or kept)

    def _ancillary(self, start: int, size: int) -> tuple[int, int, int]:
        """Time, VLAN and uncut length from the control messages of one packet."""
        time = vlan = length = 0
        control = self._control.data.cast("B")
        end = start + size
        while start + _CONTROL_HEADER.size <= end:
            span, level, kind = _CONTROL_HEADER.unpack_from(control, start)
            value = start + _CONTROL_HEADER.size
            if level == SOL_PACKET and kind == _AUXDATA:
                status, length, _, _, _, tci, _ = _AUX.unpack_from(control, value)
                vlan = (tci & 0xEFFF) | VLAN_PRESENT if status & VLAN_VALID else 0
            elif level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack_from(control, value)
                time = seconds * 1_000_000_000 + nanoseconds
            start += max(_CONTROL_HEADER.size, span + 7 & ~7)
        return time, vlan, length


def _field(structures: NDArray[np.uint8], offset: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """One field of many structures, a view."""
    view: NDArray[Any] = structures[:, offset : offset + dtype.itemsize].view(dtype)[:, 0]
    return view


def _frame(size: int) -> np.dtype[Any]:
    """Of struct tpacket2_hdr what is not laid down by the kernel itself."""
    fields = {"status": ("<u4", 0), "kept": ("<u4", 8), "network": ("<u2", 14), "seconds": ("<u4", 16),
              "nanoseconds": ("<u4", 20), "tci": ("<u2", 24)}  # fmt: skip
    return np.dtype(
        {
            "names": list(fields),
            "formats": [code for code, _ in fields.values()],
            "offsets": [at for _, at in fields.values()],
            "itemsize": size,
        }
    )


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

    def runs(self, most: int) -> Iterator[tuple[int, int]]:
        """Packets that wait, `most` or some more: the first and how many follow it. Raises OSError.

        Each run is there until the next is asked for.
        """
        taken = 0
        while taken < most and (count := self._letterbox.fetch(self._socket.fileno())):
            taken += count
            yield 0, count
            if count < _AT_ONCE:
                return

    def block(self, start: int, count: int) -> NDArray[np.uint8] | None:
        """A run as a ring's frames; None where they have to be taken one by one."""
        return self._letterbox.block(start, count)

    def packet(self, number: int) -> Packet:
        """One packet of a run."""
        return self._letterbox.packet(number)

    def statistics(self) -> Statistics:
        """The kernel's counters since the last asking."""
        return statistics(self._socket)

    def close(self) -> None:
        """Stop receiving."""
        self._socket.close()
