"""B3, B4: what watching costs a node whose traffic is translated, what it costs the traffic, and what a sample saves.

The lab's own cluster with kube-proxy's rules, policy Cluster: a client's connections reach a node port of node1, are
translated twice and go to nginx in a pod on node2. Agents on both nodes and inside the pod, or tcpdump on the same
taps, watch them; or nobody does.

A figure counts only where all but one of a thousand connections were answered, and where whoever watched lost nothing
and saw the SYN of every connection at every tap on its way.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench import capture
from bench.capture import cpu
from bench.row import Row, skipped

SECONDS = 3.0
ROUNDS = 2
MOST_ROUNDS = 3
LOW, HIGH = 1_000, 5_000
SAMPLE, SAMPLED_RATE = 16, 2_000
BULK = 125  # megabytes a second: 1 Gb/s
MOST_CPU = 0.15
LEAST_RATE = 0.9
MOST_FAILED = 0.001  # of the connections; on a busy machine one in some thousand gives up
_NODES, _POD = ("node1", "node2"), "web-1"
_PORTS = (80, 30080, 8080)
_FILTER = f"tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0 and (port {' or port '.join(map(str, _PORTS))})"
_SYN, _ACK = 0x02, 0x10
#: Where a SYN has to be seen: node, kind of tap, whether it left by it.
_WAY = (
    ("node1", "nic", False), ("node1", "nic", True), ("node2", "nic", False), ("node2", "bridge", True),
    ("node2", "veth", True), ("node2", "pod", False),
)  # fmt: skip
_SETTLE = 0.5
_PATIENCE = 20.0
_MEGABYTES = 256  # of the page that bulk is made of

_NGINX = """daemon off; worker_processes 1; pid {folder}/bench.pid; error_log {folder}/bench.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 8080 backlog=4096; location = /bulk {{ root {folder}; }} location / {{ return 200 "ok"; }} }}
}}
"""


class Run(NamedTuple):
    """One run: what the client said, CPU seconds of each watcher, and what is wrong with it (empty: nothing)."""

    told: dict[str, Any]
    cpu: tuple[float, ...]
    wrong: str

    def share(self, seconds: float) -> float:
        """Of one processor, that of the busiest watcher."""
        return max(self.cpu, default=0.0) / seconds


class Watcher(NamedTuple):
    """A process that watches a place of the lab, and its files."""

    place: str
    process: subprocess.Popen[bytes]
    output: Path
    said: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


def rows() -> Iterator[Row]:
    """The rows of B3."""
    yield from _in_lab("B3", lambda stage: (*_low(stage, LOW), *_most(stage), *_low(stage, HIGH)))


def sampled() -> Iterator[Row]:
    """The rows of B4."""
    yield from capture.sampled()
    yield from _in_lab("B4", _sample)


def _in_lab(row: str, measure: Callable[[Stage], Iterable[Row]]) -> Iterator[Row]:
    missing = [tool for tool in ("nginx", "tcpdump", "iptables", "nsenter") if shutil.which(tool) is None]
    if missing or os.geteuid():
        why = f"{', '.join(missing)} not installed" if missing else "needs root, to run tcpdump in the lab"
        yield skipped(row, "NATed connections", why)
        return
    from probe.lab import Lab, LabError, load_scenario

    try:
        lab = Lab.start(load_scenario("cluster-remote"), "iptables")
    except LabError as error:
        yield skipped(row, "NATed connections", f"no lab: {error}")
        return
    with lab, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        stage = Stage(lab, Path(folder))
        try:
            yield from measure(stage)
        except (OSError, RuntimeError, ValueError) as error:
            yield skipped(row, "NATed connections", str(error).partition("\n")[0])


def _rounds(stage: Stage, rate: int, bulk: int, rounds: int = ROUNDS) -> dict[str, list[Run]]:
    """Nobody, agents and tcpdump in turn."""
    runs: dict[str, list[Run]] = {"nobody": [], "agents": [], "tcpdump": []}
    for _ in range(rounds):
        for name, found in runs.items():
            found.append(stage.run(name, rate, bulk))
    return runs


def _low(stage: Stage, rate: int) -> Iterator[Row]:
    """At a given rate: CPU, and how long connections take."""
    runs = _rounds(stage, rate, 0)
    wrong = _wrong(runs)
    ours, peer = (median(run.share(SECONDS) for run in runs[name]) for name in ("agents", "tcpdump"))
    slow = {name: median(run.told["p99"] for run in found) * 1000 for name, found in runs.items()}
    reached = median(run.told["rate"] for run in runs["agents"])
    yield Row(
        "B3",
        f"{rate // 1000}k NATed connections/s: CPU of the busier node's agent, beside tcpdump",
        f"{ours:.1%} of a core",
        f"{peer:.1%} of a core",
        ours / max(peer, 1e-9),
        f"≤ {MOST_CPU:.0%} of a core" if rate == LOW else "",
        None if wrong or rate != LOW else ours <= MOST_CPU,
        wrong or f"{reached:.0f}/s were made; p99 {_shown(slow)}",
    )


def _most(stage: Stage) -> Iterator[Row]:
    """As many as come, beside bulk."""
    runs = _rounds(stage, 0, BULK, MOST_ROUNDS)
    wrong = _wrong(runs)
    rates = {name: median(run.told["rate"] for run in found) for name, found in runs.items()}
    bulk = median(run.told["bulk"] for run in runs["agents"]) * 8 / 1e9
    slow = {name: median(run.told["p99"] for run in found) * 1000 for name, found in runs.items()}
    ratio = rates["agents"] / rates["tcpdump"]
    few = rates["agents"] < HIGH
    yield Row(
        "B3",
        "NATed connections/s beside 1 Gb/s of bulk, all hops of all seen, drops 0",
        f"{rates['agents']:.0f}/s",
        f"{rates['tcpdump']:.0f}/s",
        ratio,
        f"≥ {LEAST_RATE} times with tcpdump, ≥ {HIGH // 1000}k/s",
        None if wrong or few else ratio >= LEAST_RATE,
        wrong
        or f"with nobody {rates['nobody']:.0f}/s; bulk {bulk:.2f} Gb/s; p99 {_shown(slow)}"
        + (f"; this machine makes no {HIGH}/s" if few else ""),
    )


def _sample(stage: Stage) -> Iterator[Row]:
    """Agents that keep one connection of so many, beside agents that keep all."""
    option = ("--sample", f"1/{SAMPLE}")
    whole, part = [], []
    for _ in range(ROUNDS):
        whole.append(stage.run("agents", SAMPLED_RATE, 0))
        part.append(stage.run("agents", SAMPLED_RATE, 0, option))
    ours, peer = (median(sum(run.cpu) for run in runs) for runs in (part, whole))
    wrong = _wrong({"all": whole, "sampled": part})
    yield Row(
        "B4",
        f"agents' CPU time, 1/{SAMPLE} of {SAMPLED_RATE // 1000}k NATed connections/s, kept ones whole on both nodes",
        f"{ours / SECONDS:.1%} of a core",
        f"{peer / SECONDS:.1%} of a core",
        ours / peer,
        "every kept one is seen at every tap",
        not wrong,
        wrong or "mostly what an agent costs at any rate",
    )


def _shown(slow: dict[str, float]) -> str:
    return ", ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in slow.items())


def _wrong(runs: dict[str, list[Run]]) -> str:
    return "; ".join(
        dict.fromkeys(f"{name}: {run.wrong}" for name, found in runs.items() for run in found if run.wrong)
    )


class Stage:
    """The lab with a server of ours in the pod."""

    def __init__(self, lab: Any, folder: Path) -> None:
        self._lab, self._folder = lab, folder
        self._address = next(place.addresses[0] for place in lab.places() if place.name == "node1")
        self._held = {place: host_pid(lab.spawn(place, ["sleep", "3600"])) for place in (*_NODES, _POD)}
        self._replace_server()

    def _replace_server(self) -> None:
        """nginx without a log in the place of the pod's own, and a page for bulk."""
        inside = "/run/lab/web-1"
        ends = [
            "nginx",
            "-p",
            inside,
            "-e",
            f"{inside}/error.log",
            "-c",
            f"{inside}/nginx.conf",
            "-s",
            "stop",
        ]
        self._lab.spawn(_POD, ends).wait(_PATIENCE)
        with (self._folder / "bulk").open("wb") as page:
            page.truncate(_MEGABYTES << 20)
        config = self._folder / "nginx.conf"
        config.write_text("user root root;\n" + _NGINX.format(folder=self._folder))
        ranges = "echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range"
        self._lab.spawn("client1", ["sh", "-c", ranges]).wait(_PATIENCE)
        until = time.monotonic() + _PATIENCE
        while True:
            server = self._lab.spawn(
                _POD, ["nginx", "-p", str(self._folder), "-e", str(self._folder / "bench.log"), "-c", str(config)],
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(_SETTLE)  # where the other still has the port
                if time.monotonic() < until:
                    continue
                raise RuntimeError("nginx does not start in the pod")
            if self._load(200, 0.5, 0)["connections"]:
                return

    def run(self, who: str, rate: int, bulk: int, extra: Sequence[str] = ()) -> Run:
        """One load with one kind of watcher. `extra`: options for agents."""
        start = {"nobody": self._nobody, "agents": self._agents, "tcpdump": self._tcpdumps}[who]
        watchers = start(*extra)
        try:
            time.sleep(_SETTLE)
            before = [cpu(watcher.pid) for watcher in watchers]
            told = self._load(rate, SECONDS, bulk)
            time.sleep(_SETTLE)
            used = tuple(cpu(watcher.pid) - start for watcher, start in zip(watchers, before, strict=True))
        finally:  # they are no processes of the lab's, and would outlive it
            for watcher in watchers:
                watcher.process.terminate()
        for watcher in watchers:
            watcher.process.wait(_PATIENCE)
        failed = told["failed"]
        wrong = f"{failed} connections failed" if failed > MOST_FAILED * told["connections"] else ""
        made = told["connections"] + told["bulk_connections"]
        if not wrong:
            missed = {"nobody": lambda *_: "", "agents": agents_missed, "tcpdump": tcpdumps_missed}[who]
            wrong = missed(watchers, made, SAMPLE if extra else 1, failed)
        return Run(told, used, wrong)

    def _load(self, rate: int, seconds: float, bulk: int) -> dict[str, Any]:
        command = [
            sys.executable,
            "-m",
            "bench.load",
            self._address,
            "30080",
            str(rate),
            str(seconds),
            str(bulk),
        ]
        client = self._lab.spawn("client1", command, stdout=subprocess.PIPE)
        with client.stdout:
            told: dict[str, Any] = json.loads(client.stdout.read() or b"{}")
        if client.wait(_PATIENCE) or not told:
            raise RuntimeError("the client failed; its words are above")
        return told

    def _nobody(self) -> list[Watcher]:
        return []

    def _agents(self, *extra: str) -> list[Watcher]:
        ports = [word for port in _PORTS for word in ("--port", str(port))]
        watchers = [
            self._start(node, [sys.executable, "-m", "daemonset.agent", "--node", node, *ports, *extra])
            for node in _NODES
        ]
        self._await(watchers, _is_ready)
        return watchers

    def _tcpdumps(self) -> list[Watcher]:
        options = ["-Z", "root", "-ni", "any", "-s192", "-B16384", "-w", "-", _FILTER]
        watchers = [self._start(place, ["tcpdump", *options]) for place in (*_NODES, _POD)]
        self._await(watchers, lambda watcher: b"listening on" in watcher.said.read_bytes())
        return watchers

    def _start(self, place: str, command: list[str]) -> Watcher:
        """From outside, in the place's network namespace alone: with all rights, as on a node of its own.

        The lab's user namespace has no large buffers and no eBPF, and tcpdump could not give up root there.
        """
        output, said = self._files(place)
        inside = ["nsenter", f"--net=/proc/{self._held[place]}/ns/net"]
        with output.open("wb") as stdout, said.open("wb") as stderr:
            process = subprocess.Popen([*inside, *command], stdout=stdout, stderr=stderr)
        return Watcher(place, process, output, said)

    def _files(self, place: str) -> tuple[Path, Path]:
        return self._folder / f"{place}.out", self._folder / f"{place}.err"

    def _await(self, watchers: list[Watcher], ready: Any) -> None:
        until = time.monotonic() + _PATIENCE
        while not all(map(ready, watchers)):
            if time.monotonic() > until or any(watcher.process.poll() is not None for watcher in watchers):
                said = " ".join(watchers[0].said.read_text().split())
                raise RuntimeError(f"a watcher did not start: {said[:200]}")
            time.sleep(0.05)


def host_pid(process: Any) -> int:
    """The process id out here of a process in the lab, by the descriptor that the lab gave for it (pidfd_open(2))."""
    info = Path(f"/proc/self/fdinfo/{process._handle}").read_text()
    return int(next(line.split()[1] for line in info.splitlines() if line.startswith("Pid:")))


def _is_ready(watcher: Watcher) -> bool:
    from daemonset.observation import Ready
    from daemonset.wire import Reader

    return any(isinstance(frame, Ready) for frame in Reader().feed(watcher.output.read_bytes()))


def agents_missed(watchers: list[Watcher], made: int, sample: int = 1, failed: int = 0) -> str:
    """What is missing in the agents' streams, of a sample or of all; "": nothing. `failed`: begun besides."""
    import numpy as np

    from daemonset.observation import PACKET, Bye, Direction, Loss, Tap, Taps
    from daemonset.wire import PacketRows, read_stream

    seen: dict[tuple[str, str, bool], set[int]] = {}
    dropped = 0
    for watcher in watchers:
        taps: list[Tap] = []
        ended = False
        for frame in read_stream(watcher.output):
            if isinstance(frame, Taps):
                taps += frame.taps
            elif isinstance(frame, Loss):
                dropped += frame.dropped
            elif isinstance(frame, PacketRows):
                table = np.frombuffer(frame.rows, PACKET.dtype())
                table = table[table["flags"] & (_SYN | _ACK) == _SYN]
                for number in np.unique(table["tap"]).tolist():
                    for direction in (Direction.IN, Direction.OUT):
                        here = table[(table["tap"] == number) & (table["direction"] == direction)]
                        way = (watcher.place, taps[number].kind.value, direction is Direction.OUT)
                        seen.setdefault(way, set()).update(here["seq"].tolist())
            ended = ended or isinstance(frame, Bye)
        if not ended:
            return f"the agent on {watcher.place} was cut off"
    if dropped:
        return f"{dropped} packets dropped"
    return _missing([seen.get(way, set()) for way in _WAY], made, sample, failed)


def tcpdumps_missed(watchers: list[Watcher], made: int, sample: int = 1, failed: int = 0) -> str:
    """The same of tcpdump's files: each has to hold the SYN of every connection."""
    for watcher in watchers:
        if "\n0 packets dropped by kernel" not in watcher.said.read_text():
            return f"tcpdump dropped packets on {watcher.place}"
    return _missing([_syns(watcher.output.read_bytes()) for watcher in watchers], made, sample, failed)


def _missing(seen: list[set[int]], made: int, sample: int = 1, failed: int = 0) -> str:
    """Sequence numbers are drawn by chance, so of some ten thousand connections two may share one: each pair may.

    How many a sample keeps is by chance, too: within five standard deviations, which are the root of what is kept.
    """
    from daemonset.taps.sampling import chosen

    first = seen[0]
    if sample > 1:
        if not all(chosen(number, sample) for number in first):
            return "what was kept is not what should be"
        if abs(len(first) - made / sample) > 5 * (made / sample) ** 0.5:
            return f"{made} connections were made, {len(first)} kept of 1/{sample}"
    elif not made - _most_shared(made) <= len(first) <= made + failed:
        return f"{made} connections were made, {len(first)} seen"
    if odd := [len(other ^ first) for other in seen if len(other ^ first) > failed]:
        return f"{max(odd)} of {made} not seen everywhere"
    return ""


def _most_shared(made: int) -> int:
    """Connections that share their sequence number with an earlier one: five standard deviations above the mean."""
    pairs = made * made / 2**33
    return int(pairs + 5 * pairs**0.5) + 5


def _syns(data: bytes) -> set[int]:
    """Sequence numbers of SYNs in a capture file of `tcpdump -i any` (LINKTYPE_LINUX_SLL2: 20 bytes, then IPv4)."""
    at, found = 24, set()
    while at + 16 <= len(data):
        size = int.from_bytes(data[at + 8 : at + 12], "little")
        tcp = at + 16 + 20 + (data[at + 36] & 0xF) * 4
        if data[tcp + 13] & (_SYN | _ACK) == _SYN:
            found.add(int.from_bytes(data[tcp + 4 : tcp + 8], "big"))
        at += 16 + size
    return found
