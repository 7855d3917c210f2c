"""A packet socket whose packets arrive in memory that the kernel and we share.

It delivers `Packet`s without a link header (SOCK_DGRAM), from all interfaces of the network namespace that it
was opened in, interfaces that appear later included.

The order of opening matters (packet(7)): a socket of protocol 0 receives nothing; the filter and the ring are
attached to it; bind() then opens the tap, and no packet that the filter would reject is ever seen.

The ring is of the kind TPACKET_V2 (linux/if_packet.h, Documentation/networking/packet_mmap.rst): frames of
one size, each with its owner in a status word. The kernel fills them in turn, a reader gives them back in
turn:

    | tpacket2_hdr 32 | sockaddr_ll 20 | pad | packet, up to FRAME - 80 bytes | next frame ...

Fixed frames can be read as columns (see columns.py), which costs a tenth of reading them one by one. A packet
of which the filter keeps more than a frame holds waits, whole, in the socket's ordinary queue besides
(PACKET_COPY_THRESH); its frame says so.

This file knows nothing of taps, of observations, nor of what the filter passes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from daemonset.taps import bpf
from daemonset.taps.filters import Filter

SOL_PACKET = 263  # socket.h
_RX_RING, _STATISTICS, _COPY_THRESH, _VERSION = 5, 6, 7, 10
_TPACKET_V2 = 1
_SO_RCVBUFFORCE = 33
_ETH_P_ALL = 3

USER, COPY, VLAN_VALID = 0x01, 0x02, 0x10  # TP_STATUS_

#: Bytes of a frame before the packet: TPACKET_ALIGN(TPACKET2_HDRLEN) + 16, for a socket without link headers.
FRAME_HEADER = 80
FRAME = 256
_BLOCK = 1 << 16
_LOOK = 512  # frames whose status is read at a time

#: Frames in a ring: how many packets may arrive while nobody reads. 16 MiB.
FRAMES = 65536

#: Receive buffer for packets that no frame holds, in bytes.
_QUEUE = 16 << 20

#: Set in `Packet.vlan` when there was a tag.
VLAN_PRESENT = 0x1000

# status, len, snaplen, mac, net, sec, nsec, vlan_tci; then sockaddr_ll: protocol, ifindex, hatype, pkttype
_FRAME = struct.Struct("=IIIHHIIHxxxxxx2xHiHB")


class Packet(NamedTuple):
    """One packet as the kernel handed it over."""

    data: bytes | memoryview  # from the network header on; may be cut, and a view ends with the next packet
    ethertype: int
    time: int  # ns since the epoch
    ifindex: int
    type: int  # sockaddr_ll.sll_pkttype
    vlan: int  # TCI | VLAN_PRESENT, 0: no tag
    length: int  # before anything was cut


class Statistics(NamedTuple):
    """Packets that passed the filter since the last asking: delivered ones and lost ones."""

    received: int
    dropped: int


class PacketSource(Protocol):
    """Where packets come from. `capacity`: how many may wait, about."""

    capacity: int

    def fileno(self) -> int:
        """For poll: readable when packets wait."""

    def runs(self, most: int) -> Iterator[tuple[int, int]]:
        """Packets that wait, about `most`: the first, and how many follow it. To be taken to its end. Raises OSError.

        Never blocks. Each run is there until the next is asked for.
        """

    def block(self, start: int, count: int) -> NDArray[np.uint8] | None:
        """Packets of a run as a ring's frames, as rows of bytes; None where they have to be taken one by one."""

    def packet(self, number: int) -> Packet | None:
        """One packet of a run, a view of it; None where it was lost after all."""

    def statistics(self) -> Statistics:
        """The kernel's counters, which start again from zero. Raises OSError."""

    def close(self) -> None:
        """Stop receiving."""


class Ring:
    """A packet socket whose packets arrive in shared memory. Raises OSError where the kernel refuses one."""

    def __init__(self, program: bpf.Program | Filter, *, frames: int = FRAMES, snaplen: int = 2048) -> None:
        self._snaplen = snaplen
        self._frames = self.capacity = frames
        self._head = 0
        self._queued: list[bytes] = []
        self._cut = 0
        self._socket = open_filtered(program)
        try:
            self.queue = enlarge(self._socket, _QUEUE)
            self._socket.setsockopt(SOL_PACKET, _VERSION, _TPACKET_V2)
            self._socket.setsockopt(SOL_PACKET, _COPY_THRESH, 1)
            size = frames * FRAME
            self._socket.setsockopt(
                SOL_PACKET, _RX_RING, struct.pack("=IIII", _BLOCK, size // _BLOCK, FRAME, frames)
            )
            self._memory = mmap.mmap(self._socket.fileno(), size)
            self._bytes = np.frombuffer(self._memory, np.uint8).reshape(frames, FRAME)
            self._statuses = self._bytes[:, :4].view(np.uint32)[:, 0]
            bind_everywhere(self._socket)
        except (OSError, ValueError):
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For poll: readable when packets wait."""
        return self._socket.fileno()

    def runs(self, most: int) -> Iterator[tuple[int, int]]:
        """Frames that wait, about `most`: the first and how many follow it in memory; two runs at the ring's end.

        What arrives meanwhile is left for the next time: a few packets cost as much as hundreds. Each run is given
        back to the kernel when the next is asked for. To be taken to its end.
        """
        while most > 0:
            start, room = self._head, min(most, self._frames - self._head)
            count = self._filled(start, room)
            if count:
                yield start, count
                self._statuses[start : start + count] = 0
                self._head = (start + count) % self._frames
            if count < room:
                return
            most -= count

    def _filled(self, start: int, most: int) -> int:
        """How many frames from `start` on hold a packet. A look at a frame costs as much as copying a part of it."""
        for first in range(start, start + most, _LOOK):
            window = self._statuses[first : min(first + _LOOK, start + most)] & USER
            if not window.all():
                return first - start + int(window.argmin())
        return most

    def block(self, start: int, count: int) -> NDArray[np.uint8]:
        """Frames as rows of bytes; a view of them, until their run is over."""
        return self._bytes[start : start + count]

    def packet(self, number: int) -> Packet | None:
        """The packet in one frame; a view of it, until its run is over.

        None where it was longer than a frame and the queue had no room: it is counted as dropped, because what
        is left of it would look like another packet.
        """
        offset = number * FRAME
        status, length, kept, _, network, seconds, nanoseconds, tci, protocol, ifindex, _, kind = (
            _FRAME.unpack_from(self._memory, offset)
        )
        data: bytes | memoryview = memoryview(self._memory)[offset + network : offset + network + kept]
        if status & COPY or length > kept == FRAME - network:
            whole = self._whole_packet(bytes(data)) if status & COPY else None
            if whole is None:
                self._cut += 1
                return None
            data = whole
        return Packet(
            data,
            socket.ntohs(protocol),
            seconds * 1_000_000_000 + nanoseconds,
            ifindex,
            kind,
            (tci & 0xEFFF) | VLAN_PRESENT if status & VLAN_VALID else 0,
            length,
        )

    def statistics(self) -> Statistics:
        """The kernel's counters since the last asking, and what was cut."""
        received, dropped = statistics(self._socket)
        cut, self._cut = self._cut, 0
        return Statistics(max(0, received - cut), dropped + cut)

    def close(self) -> None:
        """Stop receiving; the memory stays until its last view is gone."""
        self._socket.close()

    def _whole_packet(self, beginning: bytes) -> bytes | None:
        """The packet of which a frame with COPY holds the beginning.

        Two processors may have queued in another order than they took frames.
        """
        while True:
            for at, packet in enumerate(self._queued):
                if packet.startswith(beginning):
                    return self._queued.pop(at)
            try:
                self._queued.append(self._socket.recv(self._snaplen))
            except BlockingIOError:
                return None


def open_filtered(program: bpf.Program | Filter) -> socket.socket:
    """A packet socket that receives nothing yet, and nothing but what the filter passes once it is bound."""
    packets = socket.socket(
        socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0
    )
    try:
        if isinstance(program, Filter):
            program.attach(packets)
        else:
            bpf.attach(packets, program)
    except OSError:
        packets.close()
        raise
    return packets


def bind_everywhere(packets: socket.socket) -> None:
    """Receive from every interface, now or later there (ifindex 0). Python's bind() insists on a name."""
    address = struct.pack("=HHiHBB8x", socket.AF_PACKET, socket.htons(_ETH_P_ALL), 0, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.bind(packets.fileno(), address, len(address)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "bind")


def enlarge(packets: socket.socket, size: int) -> int:
    """Ask for a receive buffer; answers with what was granted (the kernel doubles it for its bookkeeping)."""
    try:
        packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:  # not in the initial user namespace: net.core.rmem_max is the limit
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return packets.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def statistics(packets: socket.socket) -> Statistics:
    """PACKET_STATISTICS, which counts lost packets among all, and forgets them when read."""
    total, dropped = struct.unpack("=II", packets.getsockopt(SOL_PACKET, _STATISTICS, 8))
    return Statistics(total - dropped, dropped)
