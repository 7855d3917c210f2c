"""The kernel's NAT records: a dump of a large table beside `conntrack -L`, and events beside `conntrack -E`.

In a network namespace of its own, whose nftables rules translate every datagram to one port: each from another port is
a record of its own. A figure counts only where both have the same records.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bench.capture import cpu, private_network
from bench.row import Row, interleaved, skipped

ENTRIES = 100_000
RATE, SECONDS = 5_000, 4.0
ROUNDS = 3
MOST = 3.0
_SERVICE = "10.9.9.9"
_EACH_SOURCE = 50_000
_FIRST_PORT = 1024
_RULES = """
table ip bench {
  chain translated { type nat hook output priority -100; ip daddr 10.9.9.9 udp dport 53 dnat to 127.0.0.1:5353; }
  chain swallowed { type filter hook input priority 0; udp dport 5353 drop; }
}
"""
_WATCH = "import sys; from bench.nat_records import watch; watch()"
_SETTLE = 0.5


def rows() -> Iterator[Row]:
    """The rows of this file."""
    missing = [tool for tool in ("conntrack", "nft", "unshare") if shutil.which(tool) is None]
    if missing:
        yield skipped("CT", "conntrack", f"{', '.join(missing)} not installed")
        return
    yield from private_network("bench.nat_records", "CT", "conntrack")


def main() -> None:
    """Inside of a private network namespace: measure, print rows as JSON lines."""
    for command in ("ip link set lo up", f"ip addr add {_SERVICE}/32 dev lo"):
        subprocess.run(command.split(), check=True)
    subprocess.run(["nft", "-f", "-"], input=_RULES, text=True, check=True)
    for row in (_events(), _dump()):
        print(json.dumps(asdict(row)), flush=True)


def _connect(first: int, count: int) -> None:
    """So many new records, from the address and port number `first` on."""
    for number in range(first, first + count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((f"127.0.1.{1 + number // _EACH_SOURCE}", _FIRST_PORT + number % _EACH_SOURCE))
            one.sendto(b"x", (_SERVICE, 53))


def _dump() -> Row:
    from daemonset.node.conntrack import snapshot
    from daemonset.observation import NAT

    _connect(0, ENTRIES)
    counted: dict[str, set[int]] = {"ours": set(), "conntrack": set()}

    def ours() -> float:
        before = time.process_time()
        counted["ours"].add(len(snapshot().rows) // NAT.size)
        return time.process_time() - before

    def tool() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run(["conntrack", "-L"], capture_output=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        counted["conntrack"].add(said.count(b"\n"))
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds = interleaved(ROUNDS, {"ours": ours, "conntrack": tool})
    same = counted["ours"] == counted["conntrack"] == {ENTRIES}
    ratio = seconds["ours"] / seconds["conntrack"]
    return Row(
        "CT",
        f"dump of {ENTRIES:,} records: CPU time, beside conntrack -L",
        f"{seconds['ours']:.2f} s",
        f"{seconds['conntrack']:.2f} s",
        ratio,
        f"≤ {MOST:.0f} times conntrack -L",
        ratio <= MOST if same else None,
        "" if same else f"ours has {counted['ours']}, conntrack {counted['conntrack']}: figure invalid",
    )


def _events() -> Row:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        heard, listed, complaints = (Path(folder) / name for name in ("ours", "conntrack", "complaints"))
        with heard.open("wb") as ours_out, listed.open("wb") as tool_out, complaints.open("wb") as said:
            ours = subprocess.Popen([sys.executable, "-c", _WATCH], stdout=ours_out)
            tool = subprocess.Popen(
                ["conntrack", "-E", "-e", "NEW,DESTROY", "-b", str(16 << 20)], stdout=tool_out, stderr=said
            )
        time.sleep(2 * _SETTLE)
        before = {process.pid: cpu(process.pid) for process in (ours, tool)}
        begin, made = time.monotonic(), 0
        while (passed := time.monotonic() - begin) < SECONDS:
            if (due := int(passed * RATE) - made) > 0:
                _connect(made, due)
                made += due
            time.sleep(0.002)
        time.sleep(_SETTLE)
        used = {process.pid: cpu(process.pid) - before[process.pid] for process in (ours, tool)}
        ours.send_signal(signal.SIGTERM)
        tool.send_signal(signal.SIGINT)
        ours.wait(10)
        tool.wait(10)
        told = json.loads(heard.read_text())
        seen = listed.read_text().count("[NEW]")
    subprocess.run(["conntrack", "-F"], capture_output=True, check=True)
    whole = told["new"] == made and not told["gaps"]
    return Row(
        "CT",
        f"events of {made / SECONDS:,.0f} new records a second: lost, beside conntrack -E",
        f"{made - told['new']} of {made}",
        f"{made - seen} of {made}",
        None,
        "none",
        whole,
        f"{used[ours.pid] / made * 1e6:.1f} µs a record, conntrack {used[tool.pid] / made * 1e6:.1f} µs"
        + (f"; gaps: {told['gaps']}" if told["gaps"] else ""),
    )


def watch() -> None:
    """Hear events as the agent does until SIGTERM; print how many records were new, and the gaps."""
    import numpy as np

    from daemonset.capture import nat_pace
    from daemonset.node.conntrack import Events
    from daemonset.observation import NAT, NatEvent

    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    new, gaps = 0, []
    with Events() as events:
        while True:
            last = bool(ended)
            drained = events.read()
            new += int((np.frombuffer(drained.rows, NAT.dtype())["event"] == NatEvent.NEW).sum())
            gaps += [drained.gap.detail] if drained.gap else []
            if last and not drained.rows:
                break
            time.sleep(nat_pace(events.granted))
    print(json.dumps({"new": new, "gaps": gaps}))


if __name__ == "__main__":
    main()
