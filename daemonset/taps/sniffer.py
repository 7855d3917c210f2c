"""scapy's sniffer over our sockets: what travels is a batch of rows, not a packet.

    sockets ─▶ Hub.recv ─▶ Decoding (a scapy session) ─▶ Haul ─▶ the callback given to `start`

`AsyncSniffer` brings the thread and its loop. A packet object for each packet would cost it 119 µs; so the one
socket that it is given, the hub, stands for all sockets of the node, and what a session makes of one `recv` is
a whole haul of rows.

A packet that arrives wakes the thread at once; all that wait are drained and handed on, and then it sleeps
before it looks again. Under load it wakes ten times a second, more often where that fills a good part of a socket's
queue, and not once for each packet: every waking costs half a millisecond, which is what low rates are made of.

This file knows nothing of where hauls go. Sockets come and go by `Hub.add` and `Hub.remove`, from any thread.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemonset import capabilities
from daemonset.decode.link import bare
from daemonset.decode.packet import Batch
from daemonset.observation import PACKET, Direction, Head, Loss
from daemonset.taps import columns
from daemonset.taps.ring import Packet, PacketSource
from daemonset.taps.scapy_sniffer import AsyncSniffer, DefaultSession, SuperSocket

PACE, FAST_PACE = 0.1, 0.01  # seconds from one drain to the next, at most and at least
ROWS = 4096  # in one haul, about: half a megabyte, which the processor's cache holds
_FULL_ENOUGH = 0.3  # of a socket's queue; a drain that brings more calls for the next one sooner
_LAST_ROWS = 32 * ROWS  # a full ring, and what comes while that is decoded

_OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h
_AT_ONCE = 4096
_COLUMNS_FROM = 32  # frames; fewer are decoded sooner one by one

_UNKNOWN, _IGNORED = -2, -1  # in tables of taps
_MOST_INTERFACES = 1 << 16  # in a table; others are looked up one by one

#: Index of the tap that an interface of a namespace is; None: its packets are not wanted.
FindTap = Callable[[str, int], int | None]


@dataclass
class Haul:
    """Rows of `observation.PACKET` with their heads, and what each socket's kernel counters said meanwhile."""

    rows: bytes | memoryview = b""
    heads: tuple[Head, ...] = ()
    losses: tuple[Loss, ...] = ()
    failed: tuple[tuple[str, OSError], ...] = ()  # namespaces whose socket broke
    sniffed_on: str | None = None  # scapy's mark


class _Listener:
    """One socket: the namespace it is in, and which tap each of its interfaces is, as a table."""

    def __init__(self, namespace: str, source: PacketSource, taps: dict[int, int | None]) -> None:
        self.namespace = namespace
        self.source = source
        self.first = next((tap for tap in taps.values() if tap is not None), None)
        self._taps = np.full(64, _UNKNOWN)

    def forget(self) -> None:
        """Ask anew which taps there are."""
        self._taps.fill(_UNKNOWN)

    def tap_of(self, ifindex: int, find: FindTap) -> int:
        """The tap of one interface, or _IGNORED."""
        if ifindex >= len(self._taps):
            if ifindex >= _MOST_INTERFACES:
                return _IGNORED if (far := find(self.namespace, ifindex)) is None else far
            self._taps = np.append(self._taps, np.full(ifindex, _UNKNOWN))
        known = int(self._taps[ifindex])
        if known == _UNKNOWN:
            tap = find(self.namespace, ifindex)
            self.first = tap if self.first is None else self.first
            known = self._taps[ifindex] = _IGNORED if tap is None else tap
        return known

    def taps_of(self, indices: NDArray[np.uint32], find: FindTap) -> NDArray[np.int64]:
        """The taps of many packets at once."""
        if int(indices.max()) < len(self._taps):
            taps = self._taps[indices]
            if int(taps.min()) != _UNKNOWN:
                return taps
        found, places = np.unique(indices, return_inverse=True)
        return np.array([self.tap_of(int(index), find) for index in found])[places]


class Hub(SuperSocket):  # type: ignore[misc]  # scapy has no types
    """All sockets of the node as one. Not for sending.

    `broken` is called when a thread failed for a reason of our own, which `error` then holds. `pace`: how many seconds
    pass at most from one drain to the next while packets come.
    """

    desc = "packet sockets of a node and its pods"
    nonblocking_socket = True  # so that scapy needs no control socket of its own, and stopping is `stop`'s

    def __init__(self, find_tap: FindTap, broken: Callable[[], None], pace: float = PACE) -> None:
        self._find_tap = find_tap
        self._pace = pace
        self._broken = broken
        self._batch = Batch()
        self._blocks: list[columns.Bytes] = []  # rows that came as columns; they refer to no heads
        self._count = 0  # rows in both
        self._listeners: dict[int, _Listener] = {}
        self._lock = threading.Lock()
        self._ready = select.epoll()
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._interrupted = False
        self._poll = select.poll()
        for descriptor in (self._ready.fileno(), self._alarm):
            self._poll.register(descriptor, select.POLLIN)
        self._next = self._began = 0.0
        self._fill = 0.0  # the fullest queue that the last drain met, of 1
        self._failed: list[tuple[str, OSError]] = []
        self.closed = False
        self.error: Exception | None = None

    def add(self, namespace: str, source: PacketSource, taps: dict[int, int | None]) -> None:
        """Listen to one more socket; `taps` are those of its interfaces that are known already."""
        with self._lock:
            self._listeners[source.fileno()] = _Listener(namespace, source, taps)
            self._ready.register(source.fileno(), select.EPOLLIN)

    def remove(self, namespace: str) -> None:
        """Close the sockets of a namespace that has gone."""
        with self._lock:
            for descriptor, listener in list(self._listeners.items()):
                if listener.namespace == namespace:
                    self._drop(descriptor)

    def forget_taps(self, namespace: str) -> None:
        """Ask for the taps of a namespace anew: its interfaces have changed."""
        with self._lock:
            for listener in self._listeners.values():
                if listener.namespace == namespace:
                    listener.forget()

    def fileno(self) -> int:
        """Readable when one of the sockets is."""
        return self._ready.fileno()

    def close(self) -> None:
        """Close all sockets."""
        with self._lock:
            for descriptor in list(self._listeners):
                self._drop(descriptor)
            if not self.closed:
                self._ready.close()
                os.close(self._alarm)
            self.closed = True

    def select(self, sockets: list[Any], _remain: float | None = None) -> list[Any]:
        """Wait for packets, but not too often, or for `interrupt`; then there is something to do."""
        self._poll.poll()
        if not self._interrupted and (rest := self._next - time.monotonic()) > 0:
            time.sleep(rest)
        return sockets

    def interrupt(self) -> None:
        """End the waiting, now and ever after."""
        self._interrupted = True
        os.eventfd_write(self._alarm, 1)

    def recv(self, x: int = _AT_ONCE, **_: Any) -> Iterator[Haul]:
        """Drain every socket that has packets."""
        before, self._began = self._began, time.monotonic()
        self._fill, more = 0.0, True
        while more:
            try:
                with self._lock:
                    more = self._drain(x)
                    self._next = self._began + _pace(self._began - before, self._fill, self._pace)
                    haul = self._haul() if not more or self._count >= ROWS else None
            except Exception as error:
                self.fail(error)  # scapy says so on stderr and closes us; our owner has to know
                raise
            if haul is not None:
                yield haul

    def fail(self, error: Exception) -> None:
        """Tell our owner that a thread of the capture cannot go on; the first error counts."""
        self.error = self.error or error
        self._broken()

    def rest(self) -> Haul:
        """What is left when nothing more is to come: whatever waits in the sockets, and the last counters."""
        with self._lock:
            while self._drain(_AT_ONCE) and self._count < _LAST_ROWS:
                pass
            return self._haul()

    def _drain(self, most: int) -> bool:
        """Take at most `most` packets from each socket; True when one of them may have more."""
        more, fill = False, 0.0
        for descriptor, _ in self._ready.poll(0):
            listener = self._listeners[descriptor]
            try:
                taken = self._decode(listener, most)
                more |= taken >= most
                fill = max(fill, taken / listener.source.capacity)
            except OSError as error:
                self._failed.append((listener.namespace, error))
                self._drop(descriptor)
        self._fill += fill
        return more

    def _decode(self, listener: _Listener, most: int) -> int:
        """Decode what one socket has; answers with how many packets that was."""
        source, taken = listener.source, 0
        for start, count in source.runs(most):
            taken += count
            block = source.block(start, count) if count >= _COLUMNS_FROM else None
            if block is None:
                packets = (source.packet(number) for number in range(start, start + count))
                self._decode_each(listener, filter(None, packets))
            else:
                self._decode_block(listener, source, start, block)
        return taken

    def _decode_each(self, listener: _Listener, packets: Iterable[Packet]) -> None:
        for packet in packets:
            tap = listener.tap_of(packet.ifindex, self._find_tap)
            if tap != _IGNORED:
                self._add(packet, tap)

    def _decode_block(
        self, listener: _Listener, source: PacketSource, start: int, block: columns.Bytes
    ) -> None:
        """Decode frames as columns as far as that goes, the others one by one."""
        taps = listener.taps_of(columns.interfaces(block), self._find_tap)
        decoded = columns.decode(block, taps)
        self._blocks += decoded.rows
        self._count += sum(map(len, decoded.rows)) // PACKET.size
        for number in decoded.others.tolist():
            if (packet := source.packet(start + number)) is not None:
                self._add(packet, int(taps[number]))

    def _add(self, packet: Packet, tap: int) -> None:
        self._count += self._batch.add(
            packet.data,
            link=bare(packet.ethertype),
            time=packet.time,
            tap=tap,
            direction=Direction.OUT if packet.type == _OUTGOING else Direction.IN,
            vlan=packet.vlan,
            wire_length=packet.length,
        )

    def _haul(self) -> Haul:
        single, heads = self._batch.take()
        losses, failed = tuple(self._losses()), tuple(self._failed)
        rows: bytes | memoryview
        if len(self._blocks) == 1 and not single:
            rows = self._blocks[0].data
        else:
            rows = b"".join([*(block.data for block in self._blocks), single])
        self._failed.clear()
        self._blocks.clear()
        self._count = 0
        return Haul(rows, heads, losses, failed)

    def _losses(self) -> Iterator[Loss]:
        """One for each socket whose counters moved, named by the first of its taps (see `observation.Loss`)."""
        now = time.time_ns()
        for listener in self._listeners.values():
            tap = listener.first
            if tap is None:
                continue  # the counters stay in the kernel until there is a name for them
            received, dropped = listener.source.statistics()
            if received or dropped:
                yield Loss(tap, received, dropped, now)

    def _drop(self, descriptor: int) -> None:
        self._ready.unregister(descriptor)
        self._listeners.pop(descriptor).source.close()


def _pace(interval: float, fill: float, most: float = PACE) -> float:
    """Seconds to the next drain, so that it meets queues which are not too full; `fill` came in `interval` seconds."""
    if fill <= _FULL_ENOUGH:
        return most
    return max(FAST_PACE, min(most, interval * _FULL_ENOUGH / fill))


class Decoding(DefaultSession):  # type: ignore[misc]  # scapy has no types
    """Hands on what the hub makes of its packets."""

    def recv(self, sock: Hub) -> Iterator[Haul]:
        """Hauls that are due; none, most of the time."""
        yield from sock.recv()


def start(hub: Hub, deliver: Callable[[Haul], None]) -> AsyncSniffer:
    """Start to sniff; `deliver` is called by the sniffer's thread. End with `stop`, then take `hub.rest()`.

    The thread decodes what strangers sent, and needs no capability for that: the sockets are open.
    """
    started = threading.Event()

    def begun() -> None:
        capabilities.keep_none()
        started.set()

    def delivered(haul: Haul) -> None:
        try:
            deliver(haul)
        except Exception as error:
            hub.fail(error)
            raise

    sniffer = AsyncSniffer(
        opened_socket=hub, session=Decoding, store=False, prn=delivered, started_callback=begun
    )
    sniffer.start()
    started.wait()
    return sniffer


def stop(hub: Hub, sniffer: AsyncSniffer) -> None:
    """Stop to sniff and wait for the thread to end."""
    if sniffer.running:
        sniffer.stop(join=False)
    hub.interrupt()
    sniffer.join()
