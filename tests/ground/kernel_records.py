"""Runs inside a private network namespace: makes NATed connections and prints what the kernel's table says.

Arguments: what to do. Output: one JSON object.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

from daemonset.node.conntrack import ConntrackError, Drained, Events, parse_text, snapshot
from daemonset.node.conntrack_counters import counted, reading
from daemonset.observation import NatEvent
from tests.ground.rows import nats

LISTEN, SERVICE = 8080, 80
NAMES = ("drop", "early_drop", "insert_failed", "invalid", "chain_too_long")
NOBODYS = [(6, SERVICE + 1), (17, SERVICE), (6, LISTEN), (17, LISTEN)]


def connect(address: str) -> socket.socket:
    return socket.create_connection((address, SERVICE), timeout=5)


def serve() -> socket.socket:
    return socket.create_server(("::", LISTEN), family=socket.AF_INET6, dualstack_ipv6=True)


def shown(drained: Drained) -> list[tuple[str, str, str, int]]:
    return [
        (NatEvent(row.event).name, row.original, row.reply, row.status & 0x36) for row in nats(drained.rows)
    ]


def events() -> dict[str, object]:
    """NEW, and DESTROY when its record is flushed; nothing of what happens between."""
    found: list[tuple[str, str, str, int]] = []

    def wait_for(kind: str, status: int) -> None:
        while not any(event[0] == kind and event[3] & status == status for event in found):
            assert select.select([stream], [], [], 5)[0], f"no {kind} came: {found}"
            drained = stream.read()
            assert drained.gap is None
            found.extend(shown(drained))

    with Events() as stream, serve(), connect("10.9.9.9") as client:
        wait_for("NEW", 0)
        client.sendall(b"x")
        port = client.getsockname()[1]
        subprocess.run(["conntrack", "-D", "-p", "tcp"], check=True, capture_output=True)
        wait_for("DESTROY", 0)
        return {"port": port, "events": found, "quiet": stream.read().rows == b""}


def table() -> dict[str, object]:
    """The same table four ways: dumped, filtered in the kernel, and by the conntrack tool and /proc."""
    with serve(), connect("10.9.9.9"), connect("fd09::9"):
        proc = Path("/proc/net/nf_conntrack")
        tools = [
            parse_text(
                subprocess.run(
                    ["conntrack", "-L", *options], check=True, capture_output=True, text=True
                ).stdout
            )
            for options in ([], ["-o", "extended"], ["-o", "extended,id,ktimestamp"])
        ]
        if os.access(proc, os.R_OK):  # not by nobody: it belongs to the host's root
            tools.append(parse_text(proc.read_text()))
        return {
            "dump": shown(snapshot()),
            "filtered": shown(snapshot(ports=[(6, SERVICE)])),
            "sifted": shown(snapshot(ports=[(6, SERVICE), *NOBODYS])),
            "nobodys": shown(snapshot(ports=NOBODYS)),
            "others": shown(snapshot(ports=[(6, SERVICE + 1), (17, SERVICE)])),
            "capped": [len(nats(snapshot(most=1).rows)), str(snapshot(most=1).gap)],
            "tools": [shown(Drained(rows)) for rows, _ in tools],
            "skipped": [line for _, skipped in tools for line in skipped],
        }


def overrun() -> dict[str, object]:
    """A reader that does not read: the kernel drops, and the next reading says so."""
    with Events(buffer=2048) as stream:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for port in range(1, 2000):
            sender.sendto(b"x", ("10.9.9.9", port))
        sender.close()
        first = stream.read(most=100_000)
        second = stream.read()
        return {
            "gap": first.gap.detail if first.gap else None,
            "rows": len(first.rows) > 0,
            "then": second.gap is None,
        }


def counters() -> dict[str, object]:
    """The statistics before and after connections, and what the conntrack tool and the kernel's settings say."""
    before = reading()
    with serve(), connect("10.9.9.9"), connect("fd09::9"):
        after = reading()
        said = counted(before, after)
        tool, count = (
            subprocess.run(["conntrack", option], check=True, capture_output=True, text=True).stdout
            for option in ("-S", "-C")
        )
    cpus = [dict(pair.split("=") for pair in line.split()) for line in tool.splitlines()]
    return {
        "cpus": [len(after.cpus), len(cpus)],
        "entries": [said.entries_before, said.entries, int(count)],
        "maximum": [said.maximum, int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())],
        "ours": [sum(getattr(cpu, name) for cpu in after.cpus.values()) for name in NAMES],
        "tool's": [sum(int(cpu[name.replace("_too_", "too")]) for cpu in cpus) for name in NAMES],
        "between": [said.drop, said.early_drop],
    }


def refused() -> dict[str, object]:
    """Without the capability, as its user sees it."""
    said = []
    for attempt in (snapshot, Events, reading):
        try:
            attempt()
        except ConntrackError as error:
            said.append(str(error))
    return {"said": said}


if __name__ == "__main__":
    asked = {
        "events": events, "table": table, "overrun": overrun, "counters": counters, "refused": refused,
    }  # fmt: skip
    json.dump(asked[sys.argv[1]](), sys.stdout)
