"""Captures in the lab made by tcpdump and conntrack, as an administrator would make them on a cluster.

Nothing of the project's own agent takes part.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from probe.lab import Lab
from tests.field.asking import run

PATIENCE = 20.0
ETHERNET_HEADER = 14
BUFFER = 4096  # KiB of each tap's ring: on a busy machine tcpdump may not run for seconds

#: Opens every named network namespace of the lab, and hands the descriptors out through its stdout.
_HAND_OUT = """
import os, socket
names = sorted(os.listdir("/run/netns"))
files = [os.open("/run/netns/" + name, os.O_RDONLY) for name in names]
socket.send_fds(socket.socket(fileno=1), [" ".join(names).encode()], files)
"""


@dataclass(frozen=True)
class Watched:
    """A tap to be: its kind and node as `--tap` says them, where it is in the lab, and tcpdump's own options."""

    kind: str
    node: str
    interface: str
    place: str
    device: str = "eth0"
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """KIND:NODE/INTERFACE."""
        return f"{self.kind}:{self.node}/{self.interface}"

    @property
    def file(self) -> str:
        """The capture's file name."""
        return f"{self.kind}-{self.node}-{self.interface}.pcap"


@dataclass(frozen=True)
class Captures:
    """A folder of captures and conntrack lists, or a part of it."""

    folder: Path
    taps: tuple[Watched, ...]
    tables: tuple[str, ...] = ()  # nodes

    def without(self, *, taps: Callable[[Watched], bool], tables: bool = True) -> Captures:
        """The same with fewer taps, and without the tables of nodes that have no tap left."""
        kept = tuple(tap for tap in self.taps if not taps(tap))
        nodes = {tap.node for tap in kept}
        return replace(
            self, taps=kept, tables=tuple(node for node in self.tables if tables and node in nodes)
        )

    def rewritten(
        self, folder: Path, change: Callable[[Watched, Packet], Packet | None], link: int = 1
    ) -> Captures:
        """A copy with every packet changed or left out (None)."""
        folder.mkdir()
        for tap in self.taps:
            _rewrite(
                self.folder / tap.file, folder / tap.file, lambda packet, tap=tap: change(tap, packet), link
            )
        for node in self.tables:
            name = f"conntrack-{node}.txt"
            (folder / name).write_text((self.folder / name).read_text())
        return replace(self, folder=folder)

    def between(self, folder: Path, start: float, end: float) -> Captures:
        """What was captured from `start` to `end`, in seconds since the epoch."""
        return self.rewritten(folder, lambda _, packet: packet if start <= packet.time <= end else None)


@dataclass(frozen=True)
class Packet:
    """A packet of a capture file."""

    time: float
    data: bytes
    wire_length: int


def _rewrite(source: Path, target: Path, change: Callable[[Packet], Packet | None], link: int) -> None:
    content, offset = source.read_bytes(), 24
    *header, own_link = struct.unpack("<IHHiIII", content[:offset])
    written = struct.pack("<IHHiIII", *header, own_link if link == 1 else link)
    while offset < len(content):
        seconds, micro, length, wire = struct.unpack_from("<IIII", content, offset)
        offset += 16
        packet = change(Packet(seconds + micro / 1e6, content[offset : offset + length], wire))
        offset += length
        if packet is not None:
            whole = int(packet.time)
            micro = round((packet.time - whole) * 1e6)
            head = (whole, micro, len(packet.data), packet.wire_length)
            written += struct.pack("<IIII", *head) + packet.data
    target.write_bytes(written)


def usual_taps(lab: Lab) -> list[Watched]:
    """Where one captures on a cluster: clients, balancer, each node's NIC and pod bridge, the serving pods."""
    taps = [Watched("client", host.name, "eth0", host.name) for host in lab.plan.clients]
    if lab.plan.lb:
        taps.append(Watched("lb", "lb", "eth0", "lb"))
    for node in lab.plan.nodes:
        taps.append(Watched("nic", node.name, "eth0", node.name))
        taps.append(Watched("bridge", node.name, "cni0", node.name, "cni0"))
    serving = [pod for pod in lab.plan.pods if pod.pod.role != "client" and not pod.pod.host_network]
    return taps + [Watched("pod", pod.pod.node, pod.name, pod.name) for pod in serving]


def node_taps(lab: Lab) -> list[Watched]:
    """The same without what is outside of the cluster."""
    return [tap for tap in usual_taps(lab) if tap.kind not in {"client", "lb"}]


@dataclass
class Watch:
    """Captures at taps while the block runs, then lists each node's conntrack table."""

    lab: Lab
    folder: Path
    taps: Sequence[Watched]
    snap: int = 200
    extended: bool = False
    flush: bool = True  # forget connections from before; False leaves them alive
    _running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = field(default_factory=list)

    @property
    def captures(self) -> Captures:
        """What was captured."""
        return Captures(self.folder, tuple(self.taps), tuple(node.name for node in self.lab.plan.nodes))

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for node in self.lab.plan.nodes if self.flush else ():
            run(self.lab, node.name, "conntrack", "-F")
        namespaces = _namespaces(self.lab)
        try:
            for tap in self.taps:
                self._start(tap, namespaces[_namespace_name(self.lab, tap.place)])
        finally:
            for descriptor in namespaces.values():
                os.close(descriptor)
        for process, words in self._running:
            _await(process, words, rb"listening on")
        return self

    def _start(self, tap: Watched, namespace: int) -> None:
        argv = [
            "nsenter",
            f"--net=/proc/self/fd/{namespace}",
            "tcpdump",
            "-n",
            "-U",
            "--immediate-mode",
            "-Z",
            "root",
        ]
        argv += ["-i", tap.device, "-B", str(BUFFER), "-s", str(self.snap), "-w", "-", *tap.options]
        words = self.folder / f"{tap.file}.words"
        # tcpdump's own descriptor: a seek of ours on a shared one moves where tcpdump writes, and it writes in pieces.
        with (self.folder / tap.file).open("wb") as sink, words.open("wb") as said:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=said, pass_fds=[namespace]
            )
        self._running.append((process, words.open("rb")))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._list_connections()
                for process, words in self._running:
                    _await_drained(process, words)
        finally:
            for process, _ in self._running:
                process.terminate()
            for process, _ in self._running:
                process.wait(PATIENCE)
            losses = [_losses(tap, words) for tap, (_, words) in zip(self.taps, self._running, strict=False)]
            for _, words in self._running:
                words.close()
        assert error is not None or not any(losses), (
            f"packets are missing: {[each for each in losses if each]}"
        )

    def _list_connections(self) -> None:
        """At once: the kernel forgets a connection that was reset after 10 s (nf_conntrack_tcp_timeout_close)."""
        for node in self.lab.plan.nodes:
            listed = "".join(self._conntrack(node.name, family) for family in self.lab.plan.families)
            (self.folder / f"conntrack-{node.name}.txt").write_text(listed)

    def _conntrack(self, node: str, family: str) -> str:
        extended = ("-o", "extended") if self.extended else ()
        return run(self.lab, node, "conntrack", "-L", "-f", family, *extended)


def _await(
    process: subprocess.Popen[bytes], words: IO[bytes], pattern: bytes, start: int = 0
) -> re.Match[bytes]:
    """Until tcpdump has said something."""
    deadline = time.monotonic() + PATIENCE
    while True:
        words.seek(start)
        said = words.read()
        found = re.search(pattern, said, re.DOTALL)
        if found:
            return found
        assert process.poll() is None, said.decode()
        assert time.monotonic() < deadline, f"tcpdump only said {said!r}"
        time.sleep(0.002)


def _await_drained(process: subprocess.Popen[bytes], words: IO[bytes]) -> None:
    """Until tcpdump has written what the kernel has for it (SIGUSR1 makes it tell both numbers)."""
    deadline = time.monotonic() + PATIENCE
    while True:
        start = words.seek(0, os.SEEK_END)
        process.send_signal(signal.SIGUSR1)
        found = _await(process, words, rb"(\d+) packets? captured.*?(\d+) packets? received.*?\n", start)
        if int(found[1]) >= int(found[2]):
            return
        assert time.monotonic() < deadline, f"tcpdump does not keep up: {found[0].decode()}"


def _losses(tap: Watched, words: IO[bytes]) -> str:
    """What tcpdump says in the end about packets that it did not get; "" for none."""
    words.seek(0)
    said = words.read()
    told = re.findall(rb"(\d+) packets? dropped by (?:kernel|interface)", said)
    assert told, f"tcpdump at {tap.name} ended without its counts: {said!r}"
    return f"{tap.name}: {said.decode()}" if any(int(count) for count in told) else ""


def _namespace_name(lab: Lab, place: str) -> str:
    return next((pod.namespace for pod in lab.plan.pods if pod.name == place), place)


def _namespaces(lab: Lab) -> dict[str, int]:
    """Descriptors of the lab's network namespaces, by name."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = lab.spawn(
            lab.plan.nodes[0].name, [sys.executable, "-S", "-E", "-c", _HAND_OUT], stdout=theirs.fileno()
        )
        names, descriptors, *_ = socket.recv_fds(ours, 65536, 253)
        assert process.wait(PATIENCE) == 0
    return dict(zip(names.decode().split(), descriptors, strict=True))
