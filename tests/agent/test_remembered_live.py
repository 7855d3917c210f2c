"""Agents with all rights in the lab's cluster: there, and only there, does the filter remember connections (eBPF).

The lab's own agents are root of a user namespace, which may not load eBPF. These come from outside, into the network
namespaces alone, as agents on nodes run. What must come of a scenario is known by how it is built.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from bench.traffic import host_pid
from daemonset.observation import NAT, PACKET, Bye, Hello, Loss, Ready, Tap, Taps
from daemonset.taps import ebpf, sampling
from daemonset.taps.sampling import chosen
from daemonset.wire import NatRows, PacketRows, Reader
from probe.agents.lab import LabSource
from probe.errors import UnavailableError
from probe.lab import PIPE, Lab, load_scenario
from probe.playing.play import differences, play
from tests.lab.here import why_not

pytestmark = pytest.mark.lab

SYN, ACK = 0x02, 0x10
CONNECTIONS, SAMPLE = 300, 4
PORTS = ("80", "30080", "8080")
ENDS = ("src_hi", "src_lo", "sport", "dst_hi", "dst_lo", "dport")
SAID = ("tap", "direction", *ENDS, "flags", "seq", "ack", "length", "payload")


class Outside:
    """A lab whose processes are started from outside, in their place's network namespace alone."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.places = lab.places
        self._held = {
            place.name: host_pid(lab.spawn(place.name, ["sleep", "3600"])) for place in lab.places()
        }

    def spawn(self, place: str, command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
        inside = ["nsenter", f"--net=/proc/{self._held[place]}/ns/net"]
        return subprocess.Popen([*inside, *command], **how)


@pytest.fixture(autouse=True)
def takes_ebpf() -> None:
    if reason := why_not():
        pytest.skip(reason)
    if os.geteuid():
        pytest.skip("entering the lab's network namespaces from outside takes root")
    try:
        ebpf.Map(16).close()
    except OSError as error:
        pytest.skip(f"no eBPF: {error.strerror}")


@pytest.mark.parametrize(
    "name",
    [
        "cluster-remote",  # lost, with nothing else about it
        "local-preserved",
        "ipv6",
        "overlay-vxlan",
        "proxy-v2-ok",
        "proxy-split",  # a header in two segments: the second begins with nothing that is known
        "proxy-missing",
        "xff-keepalive",
        "xff-pipelined",
        "proxy-tls-unexpected",
        "udp-dns",
    ],
)
def test_the_verdict_is_the_one_that_the_scenario_is_built_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "probe.playing.play.LabSource", lambda lab, *given, **more: LabSource(Outside(lab), *given, **more)
    )
    try:
        scene = play(load_scenario(name), "iptables", progress=lambda _: None)
    except UnavailableError as error:
        pytest.skip(str(error))
    said = [stream.hello.features for stream in scene.session.recording.streams if stream.hello is not None]
    assert {features["memory"] for features in said} == {"eBPF"}
    assert len(said) == len(scene.session.recording.expected_nodes)
    assert differences(scene) == []
    # Out here there may be processes that nobody may look at; in the lab there are none.
    assert not [reason for reason in scene.report.capture.reasons if ": namespace" not in reason]


# ── a sample ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Seen:
    """One agent's stream, in columns."""

    def __init__(self, data: bytes) -> None:
        frames = Reader().feed(data)
        assert isinstance(frames[-1], Bye)
        hello = next(frame for frame in frames if isinstance(frame, Hello))
        assert hello.features["memory"] == "eBPF"
        assert not any(frame.dropped for frame in frames if isinstance(frame, Loss))
        self.taps: list[Tap] = [tap for frame in frames if isinstance(frame, Taps) for tap in frame.taps]
        self.packets = _joined(frames, PacketRows, PACKET.dtype())
        self.nat = _joined(frames, NatRows, NAT.dtype())

    def said(self, rows: Any) -> Counter[tuple[Any, ...]]:
        """What packets say, and where, by the taps' own names: agents number them as they find them."""
        return Counter(
            (self.taps[tap].kind, self.taps[tap].interface, *rest) for tap, *rest in rows[list(SAID)].tolist()
        )


def _joined(frames: list[Any], kind: type, dtype: Any) -> Any:
    return np.concatenate(
        [np.zeros(0, dtype)]
        + [np.frombuffer(frame.rows, dtype) for frame in frames if isinstance(frame, kind)]
    )


def of_chosen(rows: Any) -> set[tuple[Any, ...]]:
    """The two ends of every connection whose SYN has a number that is chosen, both ways."""
    opening = rows[rows["flags"] & (SYN | ACK) == SYN]
    picked = opening[[chosen(number, SAMPLE) for number in opening["seq"].tolist()]]
    there = set(picked[list(ENDS)].tolist())
    return there | {ends[3:] + ends[:3] for ends in there}


def displaced(rows: Any) -> set[tuple[Any, ...]]:
    """Connections that share a place of the sampler's table, where the later displaces the earlier (sampling.py)."""
    opening = rows[rows["flags"] & SYN != 0]
    ends = sampling._ends(opening, *sampling._SIDES)
    taps = (opening["tap"].astype(np.uint64), sampling._ANY_TAP)
    found: dict[int, set[int]] = defaultdict(set)
    each = [(key, sampling._places(key)) for key in (sampling._keys(ends, tap) for tap in taps)]
    for keys, places in each:
        for key, place in zip(keys.tolist(), places.tolist(), strict=True):
            found[place].add(key)
    crowded = [
        len(found[a]) > 1 or len(found[b]) > 1 for a, b in zip(*(p.tolist() for _, p in each), strict=True)
    ]
    there = set(opening[crowded][list(ENDS)].tolist())
    return there | {ends[3:] + ends[:3] for ends in there}


def test_of_a_sample_every_kept_connection_is_whole_at_every_tap_and_nothing_else_is_there() -> None:
    """Two agents side by side: what the one that keeps a part says is that part of what the other says."""
    try:
        lab = Lab.start(load_scenario("cluster-remote"), "iptables")
    except UnavailableError as error:
        pytest.skip(str(error))
    with lab:
        outside = Outside(lab)
        pairs = {node: [_agent(outside, node), _agent(outside, node, SAMPLE)] for node in ("node1", "node2")}
        agents = [agent for pair in pairs.values() for agent in pair]
        begun = {agent: _until_ready(agent) for agent in agents}
        address = next(place.addresses[0] for place in lab.places() if place.name == "node1")
        load = [sys.executable, "-m", "bench.load", address, "30080", "200", str(CONNECTIONS / 200)]
        client = lab.spawn("client1", load, stdout=PIPE)
        assert client.stdout is not None
        with client.stdout:
            assert b'"failed": 0' in client.stdout.read()
        assert client.wait(20) == 0
        until = time.time_ns()
        for agent in agents:
            agent.terminate()
        streams = {
            node: [Seen(begun[agent] + _rest(agent)) for agent in pair] for node, pair in pairs.items()
        }
    for whole, part in streams.values():
        lost = displaced(part.packets)
        ends = of_chosen(whole.packets) - lost
        assert len(ends) / 2 > CONNECTIONS / SAMPLE / 2
        kept = [row for row in _before(part.packets, until) if row[list(ENDS)].item() not in lost]
        wanted = [row for row in _before(whole.packets, until) if row[list(ENDS)].item() in ends]
        assert part.said(np.array(kept, PACKET.dtype())) == whole.said(np.array(wanted, PACKET.dtype()))
        told = {record for record in _records(part.nat) if not {record[:6], record[6:]} & lost}
        assert told == {
            record
            for record in _records(whole.nat)
            if {record[:6], record[6:]} & ends and not {record[:6], record[6:]} & lost
        }


def _agent(outside: Outside, node: str, sample: int = 1) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "daemonset.agent", "--node", node, "--heads", "--sample", f"1/{sample}"]
    command += [word for port in PORTS for word in ("--port", port)]
    return outside.spawn(node, command, stdout=subprocess.PIPE)


def _until_ready(agent: subprocess.Popen[bytes]) -> bytes:
    data, reader = b"", Reader()
    for chunk in _chunks(agent):
        data += chunk
        if any(isinstance(frame, Ready) for frame in reader.feed(chunk)):
            return data
    raise AssertionError("the agent ended before it was ready")


def _chunks(agent: subprocess.Popen[bytes]) -> Iterator[bytes]:
    assert agent.stdout is not None
    while chunk := os.read(agent.stdout.fileno(), 1 << 16):
        yield chunk


def _rest(agent: subprocess.Popen[bytes]) -> bytes:
    data = b"".join(_chunks(agent))
    assert agent.wait(20) == 0
    assert agent.stdout is not None
    agent.stdout.close()
    return data


def _before(rows: Any, until: int) -> Any:
    """What arrived until then; what came while agents ended, one may have seen and the other not."""
    return rows[rows["time"] <= until]


def _records(rows: Any) -> set[tuple[Any, ...]]:
    """All that were told: their time is when they were read, and at the end all are."""
    names = [f"{way}_{end}" for way in ("orig", "reply") for end in ENDS]
    return set(rows[names].tolist())
