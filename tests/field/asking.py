"""Requests sent in the lab, and what the servers themselves answered: the truth of every test here."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.lab import PIPE, Lab, LabProcess
from probe.lab.plan import PEER_HEADER, POD_HEADER

ASKER = Path(__file__).with_name("asker.py")

Wish = dict[str, Any]

#: Source ports, each used once: the kernel picks from so few that every sixth recording would use one twice, and then
#: NAT may rewrite the port of the second connection. What comes of that is tested on purpose (test_field_ports.py).
PORTS = itertools.cycle(range(33_000, 61_000))


@dataclass(frozen=True)
class Told:
    """One request: the client's own socket, and whom the server says it served.

    `peer` is the other end of the server's own socket; `seen` is whom it takes for the client. None: no answer.
    """

    client: str
    port: int
    outcome: str
    status: int | None = None
    seen: str | None = None
    peer: str | None = None
    peer_port: int = 0
    pod: str | None = None
    data: str = ""  # the answer itself; of datagrams in hexadecimal
    started: float = 0.0
    ended: float = 0.0

    @property
    def peer_text(self) -> str:
        """`ip:port` of `peer`."""
        return (
            f"[{self.peer}]:{self.peer_port}"
            if self.peer and ":" in self.peer
            else f"{self.peer}:{self.peer_port}"
        )


def run(lab: Lab, place: str, *argv: str, text: str = "") -> str:
    """Run a program at a place of the lab to its end; what it printed."""
    process = lab.spawn(place, argv, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdin, process.stdout, process.stderr:
        process.stdin.write(text.encode())
        process.stdin.close()
        out, complaint = process.stdout.read().decode(), process.stderr.read().decode()
    assert process.wait(20) == 0, f"{argv} at {place}: {complaint}"
    return out


def start_asking(lab: Lab, place: str, rounds: list[list[Wish]]) -> LabProcess:
    """Start an asker; `finish` hears it out."""
    argv = [sys.executable, "-S", "-E", str(ASKER)]
    process = lab.spawn(place, argv, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin is not None
    with process.stdin:
        with_ports = [[{"from_port": next(PORTS)} | wish for wish in wishes] for wishes in rounds]
        process.stdin.write(json.dumps(with_ports).encode())
    return process


def finish(process: LabProcess, client: str) -> list[list[Told]]:
    """What an asker tells of each of its rounds; `client` is its address, for what was never connected."""
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        lines = process.stdout.read().splitlines()
        complaint = process.stderr.read().decode()
    assert process.wait(20) == 0, complaint
    return [[_told(result, client) for result in json.loads(line)] for line in lines]


def ask(lab: Lab, place: str, client: str, *wishes: Wish) -> list[Told]:
    """One round of requests from a place."""
    [told] = finish(start_asking(lab, place, [list(wishes)]), client)
    return told


def _told(result: dict[str, Any], client: str) -> Told:
    head, _, body = str(result["data"]).partition("\r\n\r\n")
    lines = head.split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    peer, _, port = fields.get(PEER_HEADER.lower(), "").partition(" ")
    answer = json.loads(body) if body.startswith("{") else {}
    return Told(
        client=result["source"] or client,
        port=result["port"],
        outcome=result["outcome"],
        status=int(lines[0].split()[1]) if lines[0].startswith("HTTP/") else None,
        seen=answer.get("client_host"),
        peer=peer.removeprefix("::ffff:") or None,
        peer_port=int(port or 0),
        pod=fields.get(POD_HEADER.lower()),
        data=result["data"],
        started=result["started"],
        ended=result["ended"],
    )
