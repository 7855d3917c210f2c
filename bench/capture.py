"""B1, B2: what capturing costs, and whether anything is lost, beside tcpdump, dumpcap and scapy's own sniffer.

SYNs cross a veth pair between two private network namespaces; one receiver at a time listens at the far end.
The CPU time is the receiver's alone, all its threads, from before the first packet until it is idle again. A
figure counts only where the receiver's file holds exactly the packets that were sent.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.row import Row, interleaved, skipped

FILTER = "tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0"
SLOWEST, SLOW, FAST, FASTEST = 1_000, 10_000, 200_000, 500_000
SECONDS = 2.0
LONG = 10.0
SAMPLED_SECONDS = 5.0  # what an agent's first packets cost once is not what a rate costs
ROUNDS = 3
_SCHEDULED = 2  # CPUCLOCK_SCHED, linux/posix-timers.h
_IDLE_AFTER = 1.3  # libpcap hands on what it has once a second
_NEAR, _FAR = "left", "right"


@dataclass(frozen=True)
class Receiver:
    """A program that captures: how to start it, when it is ready, how many packets it has in the end."""

    name: str
    command: Callable[[Path], list[str]]
    ready: Callable[[Path, Path], bool]  # its output file and what it says on stderr
    count: Callable[[Path, str], int]


@dataclass(frozen=True)
class Measured:
    """One run."""

    sent: int
    received: int
    microseconds: float  # of CPU, for each packet that was received


def costs() -> Iterator[Row]:
    """The rows of B1."""
    yield from _inside("B1")


def losses() -> Iterator[Row]:
    """The row of B2."""
    yield from _inside("B2")


def sampled() -> Iterator[Row]:
    """The row of B4 that needs no cluster."""
    yield from _inside("B4")


def _inside(row: str) -> Iterator[Row]:
    missing = [
        tool for tool in ("unshare", "nsenter", "ip", "tcpdump", "dumpcap") if shutil.which(tool) is None
    ]
    if missing:
        yield skipped(row, "capture", f"{', '.join(missing)} not installed")
        return
    yield from private_network("bench.capture", row, "capture", row)


def private_network(module: str, row: str, what: str, *arguments: str) -> Iterator[Row]:
    """What a module of this folder prints as JSON lines, run in a network namespace of its own."""
    # Not as root of a user namespace: tcpdump would want to give that up, and may not.
    private = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-U", "-c", "--keep-caps", "-n"]
    inside = subprocess.run(
        [*private, sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    for line in inside.stdout.splitlines():
        yield Row(**json.loads(line))
    if inside.returncode:
        yield skipped(row, what, f"no namespaces, or a program failed (exit {inside.returncode})")


def _pcap_count(path: Path, _: str) -> int:
    data = path.read_bytes()
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        return _pcapng_count(data)
    at, count = 24, 0
    while at + 16 <= len(data):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        count += 1
    return count


def _pcapng_count(data: bytes) -> int:
    at = count = 0
    while at + 12 <= len(data):
        count += int.from_bytes(data[at : at + 4], "little") == 6  # enhanced packet block
        at += int.from_bytes(data[at + 4 : at + 8], "little")
    return count


def _rows_count(path: Path, _: str) -> int:
    from daemonset.observation import PACKET, Bye
    from daemonset.wire import PacketRows, read_stream

    frames = list(read_stream(path))
    assert isinstance(frames[-1], Bye)
    return sum(len(frame.rows) // PACKET.size for frame in frames if isinstance(frame, PacketRows))


def _is_ready(path: Path, _: Path) -> bool:
    from daemonset.observation import Ready
    from daemonset.wire import Reader

    return any(isinstance(frame, Ready) for frame in Reader().feed(path.read_bytes()))


def _says(word: str) -> Callable[[Path, Path], bool]:
    return lambda _, said: word in said.read_text()


AGENT = Receiver(
    "agent",
    lambda _: [sys.executable, "-m", "daemonset.agent", "--node", "bench", "--no-pods", "--no-conntrack"],
    _is_ready,
    _rows_count,
)
SAMPLE = 16
SAMPLED = replace(
    AGENT, name="sampled", command=lambda path: [*AGENT.command(path), "--sample", f"1/{SAMPLE}"]
)
TCPDUMP = Receiver(
    "tcpdump",
    lambda path: [
        "tcpdump",
        *(["-Z", "root"] if os.geteuid() == 0 else []),
        "-ni",
        _FAR,
        "-s192",
        "-B16384",
        "-w",
        str(path),
        FILTER,
    ],
    _says("listening on"),
    _pcap_count,
)
DUMPCAP = Receiver(
    "dumpcap",
    lambda path: ["dumpcap", "-qi", _FAR, "-s192", "-B16", "-w", str(path), "-f", FILTER],
    _says("File:"),
    _pcap_count,
)
SCAPY = Receiver(
    "scapy default",
    lambda _: [sys.executable, "-m", "bench.scapy_default", _FAR, FILTER],
    _says("listening"),
    lambda _, printed: int(printed),
)


class Stage:
    """Two namespaces and the veth pair between them. Ours sends, the other receives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holder = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE)
        self.inside = ["nsenter", "-n", "-t", str(self._holder.pid)]
        here = Path("/proc/self/ns/net").stat().st_ino
        while Path(f"/proc/{self._holder.pid}/ns/net").stat().st_ino == here:
            time.sleep(0.01)
        for command in (
            [
                "ip",
                "link",
                "add",
                "name",
                _NEAR,
                "type",
                "veth",
                "peer",
                "name",
                _FAR,
                "netns",
                str(self._holder.pid),
            ],
            ["ip", "link", "set", _NEAR, "up"],
            [*self.inside, "ip", "link", "set", _FAR, "up"],
        ):
            subprocess.run(command, check=True)

    def measure(self, receiver: Receiver, rate: int, seconds: float) -> Measured:
        """Send at a rate to one receiver."""
        path, said, printed = (self.folder / name for name in ("capture", "stderr", "stdout"))
        path.write_bytes(b"")
        own_file = receiver in {AGENT, SAMPLED}
        with said.open("wb") as stderr, (path if own_file else printed).open("wb") as stdout:
            process = subprocess.Popen([*self.inside, *receiver.command(path)], stdout=stdout, stderr=stderr)
        until = time.monotonic() + 10
        while not receiver.ready(path, said):
            if time.monotonic() > until or process.poll() is not None:
                raise RuntimeError(f"{receiver.name} did not start: {said.read_text()}")
            time.sleep(0.05)
        before = cpu(process.pid)
        done = subprocess.run(
            [sys.executable, "-m", "bench.syn_sender", _NEAR, str(rate), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        time.sleep(_IDLE_AFTER)
        used = cpu(process.pid) - before
        process.send_signal(signal.SIGTERM if receiver is not DUMPCAP else signal.SIGINT)
        process.wait(30)
        sent = int(done.stdout)
        received = receiver.count(path, "" if own_file else printed.read_text())
        return Measured(sent, received, used / max(received, 1) * 1e6)

    def close(self) -> None:
        """The namespaces go with their holder."""
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait()


def cpu(pid: int) -> float:
    """Seconds that a process has run, all its threads, those that have ended too (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | _SCHEDULED)


def _compare(
    stage: Stage, rate: int, peers: dict[Receiver, tuple[str, Callable[[float], bool | None]]]
) -> Iterator[Row]:
    """One row for each peer, all measured in turn."""
    last: dict[str, Measured] = {}
    worst: dict[str, str] = {}

    def run(receiver: Receiver) -> float:
        last[receiver.name] = measured = stage.measure(receiver, rate, SECONDS)
        if measured.received != measured.sent:
            worst[receiver.name] = f"{receiver.name} has {measured.received} of {measured.sent}"
        return measured.microseconds

    costs = interleaved(ROUNDS, {one.name: lambda one=one: run(one) for one in (AGENT, *peers)})  # type: ignore[misc]
    for peer, (goal, holds) in peers.items():
        ratio = costs[AGENT.name] / costs[peer.name]
        odd = [worst[name] for name in (AGENT.name, peer.name) if name in worst]
        valid = AGENT.name not in worst and (peer is SCAPY or not odd)
        reached = last[AGENT.name].sent / SECONDS
        if reached < 0.95 * rate:
            odd.append(f"sent at {reached / 1000:.0f}k/s")
        yield Row(
            "B1",
            f"capture CPU/packet, {rate // 1000}k SYN/s, {peer.name}",
            f"{costs[AGENT.name]:.2f} µs",
            f"{costs[peer.name]:.2f} µs",
            ratio,
            goal,
            holds(ratio) if valid else None,
            "; ".join(odd) + ("" if valid else ": figure invalid"),
        )


def _lossless(stage: Stage) -> Row:
    ours, peer = (stage.measure(receiver, FAST, LONG) for receiver in (AGENT, TCPDUMP))
    return Row(
        "B2",
        f"{FAST // 1000}k SYN/s for {LONG:.0f} s: packets kept",
        f"{ours.received} of {ours.sent}",
        f"{peer.received} of {peer.sent}",
        (ours.received / ours.sent) / (peer.received / peer.sent),
        "all, as tcpdump",
        ours.received == ours.sent,
        f"sent at {ours.sent / LONG / 1000:.0f}k/s",
    )


def _sampled(stage: Stage) -> Row:
    """One connection of so many, by the kernel; how many of the sender's numbers are chosen is known."""
    from bench.syn_sender import VARIETY
    from daemonset.taps.sampling import chosen

    share = sum(chosen(number, SAMPLE) for number in range(VARIETY)) / VARIETY
    wrong: list[str] = []

    def run(receiver: Receiver, wanted: float) -> float:
        measured = stage.measure(receiver, FAST, SAMPLED_SECONDS)
        if (
            abs(measured.received - wanted * measured.sent)
            > (0.02 if wanted < 1 else 0) * wanted * measured.sent
        ):
            wrong.append(f"{receiver.name} has {measured.received} of {measured.sent}")
        return measured.microseconds * measured.received / SAMPLED_SECONDS / 1e6

    seconds = interleaved(ROUNDS, {"all": lambda: run(AGENT, 1), "sampled": lambda: run(SAMPLED, share)})
    ratio = seconds["sampled"] / seconds["all"]
    return Row(
        "B4",
        f"agent's CPU time, 1/{SAMPLE} of {FAST // 1000}k SYN/s",
        f"{seconds['sampled']:.1%} of a core",
        f"{seconds['all']:.1%} of a core",
        ratio,
        "≤ 0.125 times all",
        None if wrong else ratio <= 1 / 8,
        "; ".join(wrong),
    )


#: Packets a second, beside whom, and what is asked of the ratio.
_COMPARED: dict[int, dict[Receiver, tuple[str, Callable[[float], bool | None]]]] = {
    SLOWEST: {DUMPCAP: ("", lambda _: None), TCPDUMP: ("", lambda _: None)},
    SLOW: {
        DUMPCAP: ("≤ 5 times dumpcap", lambda ratio: ratio <= 5),
        TCPDUMP: ("", lambda _: None),
        SCAPY: ("≤ 0.02 times scapy", lambda ratio: ratio <= 1 / 50),
    },
    FAST: {
        DUMPCAP: ("≤ 1.0 times dumpcap", lambda ratio: ratio <= 1),
        TCPDUMP: ("≤ 3 times tcpdump", lambda ratio: ratio <= 3),
    },
    FASTEST: {TCPDUMP: ("", lambda _: None)},
}


def main(row: str) -> None:
    """Inside of a private user and network namespace: measure, print rows as JSON lines."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        stage = Stage(Path(folder))
        try:
            if row == "B2":
                found = [_lossless(stage)]
            elif row == "B4":
                found = [_sampled(stage)]
            else:
                found = [one for rate, peers in _COMPARED.items() for one in _compare(stage, rate, peers)]
        finally:
            stage.close()
    for one in found:
        print(json.dumps(asdict(one)))


if __name__ == "__main__":
    main(*sys.argv[1:])
