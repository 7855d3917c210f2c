"""One capture on one node: the rooms of this floor, wired to a stream.

    pods and links ─▶ Watch ─┐ topology, taps
    sockets ─▶ Hub ─▶ scapy ─┼─▶ Stream ─▶ Outbox ─▶ standard output
    conntrack ───────────────┤ NAT rows
    traces of rules ─────────┘ on request

Three threads: scapy's drains packets, `Watch` looks after namespaces, and the one that calls `Capture.run`
writes, reads conntrack, and notices that it is time to end: a signal, the time that was given, the reader
having gone, or the lifeline cut. Whatever ends it, what was seen is still sent if there is somebody to read it.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Self

from daemonset import __version__
from daemonset.confinement import ConfinementError, confine
from daemonset.lifeline import Lifeline, Pull
from daemonset.node.conntrack import MOST_AT_ONCE, ConntrackError, Drained, Events, snapshot
from daemonset.node.conntrack_counters import Reading, counted, reading
from daemonset.node.ruleset import ruleset
from daemonset.node.tracers import Tracers
from daemonset.observation import (
    NAT,
    PACKET,
    Bye,
    Gap,
    Hello,
    Message,
    Ready,
    Tap,
    TapKind,
    Taps,
    Topology,
)
from daemonset.outbox import Outbox
from daemonset.taps import sniffer
from daemonset.taps.filters import Filter
from daemonset.taps.namespaces import NodeTaps, Watch
from daemonset.taps.plain import Letterbox, PlainSocket
from daemonset.taps.ring import FRAME, FRAMES, PacketSource, Ring
from daemonset.taps.sampling import Sampler
from daemonset.taps.sniffer import PACE, Haul, Hub
from daemonset.wire import Writer

_TCP, _UDP = 6, 17
_QUEUE_WITHOUT_RING = 32 << 20  # bytes
_LAST_WORDS = 10.0  # seconds that a reader has at the end to take what still waits
#: Seconds from one reading of conntrack's events to the next, and where the kernel granted room for tens of thousands.
_NAT_PACE, _EASY_NAT_PACE = 0.02, 0.1
_MUCH_ROOM = 8 << 20  # bytes
_SAMPLE_PACE = 0.5  # seconds from one drain to the next, at most
#: Seconds until a NAT record of a sampled capture is looked at: by then its SYN has been read.
_NAT_WAITS = 1.0


def nat_pace(granted: int) -> float:
    """Seconds from one reading of conntrack's events to the next, by the bytes of queue that the kernel granted.

    Each event comes in a datagram of its own, so reading seldom is cheap.
    """
    return _EASY_NAT_PACE if granted >= _MUCH_ROOM else _NAT_PACE


_FOUR_PORTS = struct.Struct("<4H")  # orig_sport to reply_dport of a NAT row
_FOUR_PORTS_AT = NAT.offset("orig_sport")


@dataclass(frozen=True)
class Options:
    """What to capture. `ports` are the Service's on all sides of NAT; none: all TCP.

    `rules`: tell the node's packet filter as a whole. `limit`: after so many bytes the capture ends; 0: never.
    `trace`: of how many packets the kernel is to name the rules that they meet, 0: of none; `trace_ports`: their
    destination ports, none: `ports`.
    """

    node: str
    role: TapKind = TapKind.NIC  # what the node's own interface is called: nic, client or lb
    ports: tuple[int, ...] = ()
    health_ports: tuple[int, ...] = ()
    duration: float | None = None
    heads: bool = False
    snaplen: int = 2048
    pods: bool = True
    conntrack: bool = True
    loopback: bool = False
    trace: int = 0
    sample: int = 1  # of so many TCP connections one, by its initial sequence number
    limit: int = 0
    rules: bool = False
    trace_ports: tuple[int, ...] = ()


class Stream:
    """The one writer of observations, for all threads. A `sampler` drops what is of other connections."""

    def __init__(self, outbox: Outbox, sampler: Sampler | None = None) -> None:
        self._lock = threading.Lock()
        self._sampler = sampler
        self._nat: deque[tuple[float, bytes]] = deque()  # when each is due
        self._outbox = outbox
        self._writer = Writer(outbox.put)
        self._taps = 0
        self.packets = 0  # rows sent so far

    def tell(self, message: Message) -> None:
        """Send one message."""
        with self._lock:
            self._writer.message(message)

    def announce(self, tap: Tap) -> int:
        """Send a new tap; answers with its index."""
        with self._lock:
            self._writer.message(Taps((tap,)))
            self._taps += 1
            return self._taps - 1

    def deliver(self, haul: Haul) -> None:
        """Send what the sniffer brought, and wait where the reader is far behind."""
        with self._lock:
            rows, heads = haul.rows, haul.heads
            if self._sampler is not None:
                rows, heads = self._sampler.packets(rows, heads)
            self._writer.packets(rows, heads)
            self.packets += len(rows) // PACKET.size
            for loss in haul.losses:
                self._writer.message(loss)
            for namespace, error in haul.failed:
                where = f"pod namespace {namespace}" if namespace else "the node"
                detail = f"the socket in {where} failed: {error.strerror or error}"
                self._writer.message(Gap("tap", detail, time.time_ns()))
        self._outbox.wait_for_room()

    def nat(self, drained: Drained) -> None:
        """Send conntrack rows, and the hole in them."""
        with self._lock:
            if self._sampler is None:
                self._writer.nat(drained.rows)
            elif drained.rows:
                self._nat.append((time.monotonic() + _NAT_WAITS, drained.rows))
            if drained.gap is not None:
                self._writer.message(drained.gap)

    def nat_due(self) -> float | None:
        """Seconds until `settle` has something to do; None: nothing waits."""
        return max(0.0, self._nat[0][0] - time.monotonic()) if self._nat else None

    def settle(self, *, everything: bool = False) -> None:
        """Send those NAT records whose packets, if there were any, have been read by now."""
        with self._lock:
            while self._nat and (everything or self._nat[0][0] <= time.monotonic()):
                _, rows = self._nat.popleft()
                if self._sampler is not None:
                    self._writer.nat(self._sampler.nat(rows))


class Capture:
    """Opens everything when entered, so that a refusal is known before anything is written.

    Raises PermissionError where packet sockets are not allowed, OSError for what else the kernel refuses.
    """

    #: Why a capture ended that had written as much as it may.
    FULL: ClassVar[str] = "limit of bytes reached"

    def __init__(self, options: Options, output: int, lifeline: Lifeline | None = None) -> None:
        self._options = options
        self._output = output
        self._lifeline = lifeline
        self._awake, self._alarm = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._reason: str | None = None
        self._heeds = False
        self.packets = 0  # once it is over
        self._filter = _filter(options)
        self._letterbox = Letterbox(options.snaplen)
        self._outbox = Outbox(self.wake)
        self._features: dict[str, str] = {}
        self._source = self._open_source()
        self._events = self._open_conntrack() if options.conntrack else None
        self._events_due = 0.0  # when they may be read again
        self._counted_before: Reading | None = None
        self._tracers: Tracers | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._heeds:
            signal.set_wakeup_fd(-1)
        self._source.close()
        self._filter.close()
        if self._events is not None:
            self._events.close()
        if self._tracers is not None:
            self._tracers.close()
        os.close(self._awake)
        os.close(self._alarm)

    @property
    def reason(self) -> str | None:
        """Why it ends; None while it shall go on."""
        return self._reason

    def wake(self) -> None:
        """Make `run` look at what there is to do; safe in signal handlers."""
        try:
            os.write(self._alarm, b"!")
        except BlockingIOError:
            return  # it is about to wake up anyway

    def stop(self, reason: str) -> None:
        """End in order as soon as possible; the first reason counts. Safe in signal handlers."""
        self._reason = self._reason or reason
        self.wake()

    def heed(self, *numbers: signal.Signals) -> None:
        """End in order at these signals. For the main thread of a process that does nothing else."""
        for number in numbers:
            signal.signal(number, lambda number, _: self.stop(signal.Signals(number).name))
        # What comes while `run` is about to wait, or to another thread, would else be heeded when it wakes up anyway.
        signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        self._heeds = True

    def confine(self, capabilities: str, *, writes: bool = False) -> None:
        """From now on the process may do nothing but capture, and write files if it `writes`; the hello tells how far.

        `capabilities` that the process has kept are told, too. For a process of its own: it is for ever.
        """
        self._features["capabilities"] = capabilities
        try:
            size = confine(writes=writes, loads=self._filter.remembers)
        except ConfinementError as error:
            self._features["seccomp"] = f"none: {error}"
        else:
            self._features["seccomp"] = f"{size} instructions"

    def run(self) -> None:
        """Capture until the end. Raises BrokenPipeError where the reader went away, OSError for a full disk."""
        sample = self._options.sample
        sampler = Sampler(sample, nat=self._options.conntrack) if sample > 1 else None
        stream = Stream(self._outbox, sampler)
        stream.tell(
            Hello(
                self._options.node, agent=f"probe {__version__}", time=time.time_ns(), features=self._features
            )
        )
        taps = NodeTaps(self._options.node, self._options.role, stream.announce)
        hub = Hub(taps.find, self.wake, self._pace())
        if self._options.trace:
            self._tracers = Tracers(
                self._options.trace_ports or self._options.ports, self._options.trace, stream.tell
            )
            self._tracers.add_node()
        watch = Watch(
            hub, taps, self._open_in_pod, lambda said: self._survey(stream, said), pods=self._options.pods
        )
        try:
            hub.add("", self._source, watch.look())
            sniffing = sniffer.start(hub, stream.deliver)
            watch.start()
            self._counted_before = self._read_counters()
            self._tell_nat(stream)
            if self._options.rules:
                stream.tell(ruleset())
            stream.tell(Ready(time.time_ns()))
            try:
                self._attend(stream, hub)
            finally:
                self._outbox.release()
                sniffer.stop(hub, sniffing)
            watch.close()  # which may have something to tell
            self._finish(stream, hub)
            self.packets = stream.packets
        finally:
            watch.close()
            hub.close()

    def _pace(self) -> float:
        """Where the kernel passes nothing but a sample, queues fill that much slower."""
        return min(_SAMPLE_PACE, PACE * self._options.sample) if self._filter.remembers else PACE

    def _survey(self, stream: Stream, said: Topology | Gap) -> None:
        """Send what was found of the node; pods that are gone are not traced any more."""
        stream.tell(said)
        if self._tracers is not None and isinstance(said, Topology):
            self._tracers.keep({pod.namespace for pod in said.pods})
            self.wake()

    # ── the middle ───────────────────────────────────────────────────────────────────────────────────────────

    def _attend(self, stream: Stream, hub: Hub) -> None:
        """Write, read conntrack, wait; until there is a reason to end."""
        ends = None if self._options.duration is None else time.monotonic() + self._options.duration
        while self._reason is None:
            self._outbox.write_to(self._output)
            ready = self._wait(self._patience(stream, ends))
            stream.settle()
            if self._events is not None and self._events.fileno() in ready and self._outbox.has_room():
                self._read_events(stream, self._events)
            if self._tracers is not None and self._outbox.has_room():
                self._tracers.read()
            if hub.error is not None:
                raise hub.error
            if self._lifeline is not None:
                self._feel(stream, self._lifeline, ready)
            if ends is not None and time.monotonic() >= ends:
                self.stop("duration over")
            if 0 < self._options.limit <= self._outbox.written:
                self.stop(self.FULL)

    def _patience(self, stream: Stream, ends: float | None) -> float | None:
        """Seconds until something is to be done although nothing happened; None: for ever."""
        limits = [] if ends is None else [ends - time.monotonic()]
        if self._lifeline is not None and (silence := self._lifeline.remaining()) is not None:
            limits.append(silence)
        if (due := stream.nat_due()) is not None:
            limits.append(due)
        if self._events is not None and (rest := self._events_due - time.monotonic()) > 0:
            limits.append(rest)
        return min(limits, default=None)

    def _feel(self, stream: Stream, lifeline: Lifeline, ready: set[int]) -> None:
        """Answer a beat with our time, so that clocks can be compared; end where nobody is there any more."""
        match pull := lifeline.feel(lifeline.descriptor in ready):
            case Pull.NOTHING:
                pass
            case Pull.BEAT:
                stream.tell(Ready(time.time_ns()))
            case _:
                self.stop(pull.value)

    def _wait(self, seconds: float | None) -> set[int]:
        """Descriptors that are ready. Raises BrokenPipeError where the reader is gone, also while idle."""
        poll = select.poll()
        poll.register(self._awake, select.POLLIN)
        poll.register(self._output, select.POLLOUT if len(self._outbox) else 0)
        if self._lifeline is not None:
            poll.register(self._lifeline.descriptor, select.POLLIN)
        if self._events is not None and self._outbox.has_room() and time.monotonic() >= self._events_due:
            poll.register(self._events.fileno(), select.POLLIN)
        if self._tracers is not None and self._outbox.has_room():
            for descriptor in self._tracers.descriptors():
                poll.register(descriptor, select.POLLIN)
        ready = dict(poll.poll(None if seconds is None else max(0.0, seconds) * 1000 + 1))
        if ready.get(self._output, 0) & (select.POLLERR | select.POLLHUP):
            raise BrokenPipeError
        if self._awake in ready:
            os.read(self._awake, 1 << 16)
        return set(ready)

    def _read_events(self, stream: Stream, events: Events) -> bool:
        """Whether there was anything."""
        self._events_due = time.monotonic() + nat_pace(events.granted)
        try:
            drained = events.read()
        except ConntrackError as error:
            stream.tell(Gap("conntrack", str(error), time.time_ns()))
            events.close()
            self._events = None
            return False
        if len(drained.rows) >= MOST_AT_ONCE * NAT.size:
            self._events_due = 0.0
        stream.nat(drained._replace(rows=self._of_our_ports(drained.rows)))
        return bool(drained.rows)

    def _of_our_ports(self, rows: bytes) -> bytes:
        """Records of the ports that are asked for; events come for all connections of the node."""
        ports = frozenset(self._options.ports)
        if not ports:
            return rows
        return b"".join(
            rows[at : at + NAT.size]
            for at in range(0, len(rows), NAT.size)
            if not ports.isdisjoint(_FOUR_PORTS.unpack_from(rows, at + _FOUR_PORTS_AT))
        )

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────

    def _finish(self, stream: Stream, hub: Hub) -> None:
        """Send what still waits in sockets, the last conntrack records and counters, and say goodbye."""
        self._lifeline = None  # one that has been cut would be felt for ever
        stream.deliver(hub.rest())
        last = time.monotonic() + _LAST_WORDS
        while (
            self._events is not None and self._read_events(stream, self._events) and time.monotonic() < last
        ):
            pass
        if self._tracers is not None:
            self._tracers.finish()
        self._tell_counters(stream)
        self._tell_nat(stream)
        stream.settle(everything=True)
        stream.tell(Bye(self._reason or "", time.time_ns()))
        until = time.monotonic() + _LAST_WORDS
        while True:
            self._outbox.write_to(self._output)
            rest = until - time.monotonic()
            if not len(self._outbox) or rest <= 0:
                return
            self._wait(rest)

    def _tell_nat(self, stream: Stream) -> None:
        """The records that conntrack holds now."""
        if not self._options.conntrack:
            return
        ports = self._options.ports
        try:
            stream.nat(snapshot(ports=[(protocol, port) for port in ports for protocol in (_TCP, _UDP)]))
        except ConntrackError as error:
            stream.tell(Gap("conntrack", str(error), time.time_ns()))

    def _read_counters(self) -> Reading | None:
        """What conntrack has counted; None where it does not say, which `_tell_nat` has a gap for."""
        if not self._options.conntrack:
            return None
        try:
            return reading()
        except ConntrackError:
            return None

    def _tell_counters(self, stream: Stream) -> None:
        """What it counted during the capture."""
        before, after = self._counted_before, self._read_counters()
        if before is not None and after is not None:
            stream.tell(counted(before, after))

    # ── opening ──────────────────────────────────────────────────────────────────────────────────────────────

    def _open_source(self) -> PacketSource:
        """The ring, or a plain socket where the kernel has no memory to share."""
        features = self._features
        features["filter"] = f"{len(self._filter.program)} instructions"
        if self._filter.remembers:
            features["memory"] = "eBPF"
        elif self._filter.refused:
            features["memory"] = f"none: {self._filter.refused}"
        features["kernel"] = os.uname().release
        if self._options.sample > 1:
            features["sample"] = str(self._options.sample)
        try:
            ring = Ring(self._filter, snaplen=self._options.snaplen)
        except PermissionError:
            raise
        except OSError as error:
            plain = PlainSocket(self._filter, self._letterbox, queue=_QUEUE_WITHOUT_RING)
            features.update(ring="none", fallback=f"no ring: {error.strerror}", sockbuf=str(plain.queue))
            return plain
        features.update(ring="v2", ringBytes=str(FRAME * FRAMES), sockbuf=str(ring.queue))
        return ring

    def _open_in_pod(self) -> PacketSource:
        source = PlainSocket(self._filter, self._letterbox)
        if self._tracers is not None:
            self._tracers.add_pod()
        return source

    def _open_conntrack(self) -> Events | None:
        try:
            events = Events()
        except ConntrackError as error:
            self._features["conntrack"] = f"none: {error}"
            return None
        self._features["conntrack"] = "events"
        self._features["conntrackBuffer"] = str(events.granted)
        return events


def _filter(options: Options) -> Filter:
    return Filter(
        (*options.ports, *options.health_ports) if options.ports else (),
        heads=options.heads,
        head_ports=options.health_ports,
        snaplen=options.snaplen,
        loopback=options.loopback,
        sample=options.sample,
    )
