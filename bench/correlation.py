"""B6: from observations to verdicts: `probe analyze` of recorded sessions, and the join beside one in dictionaries.

The sessions are one connection through a node to a pod of another, many times over: how many connections there are, and
what becomes of them, is known. What the peer joins is held against ours: the same legs, with the same places.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.gathering import Rows
from analysis.legs import LegStore
from analysis.recording import Recording
from bench.row import Row, interleaved, skipped
from daemonset.observation import Bye, Hello, Ready, Taps
from daemonset.wire import Writer
from probe.folder import Meta, SessionFolder
from tests.analysis.story import Story, cluster
from tests.analysis.test_scale import repeated
from tests.analysis.test_stories import REMOTE

FEW, MANY = 1_000_000, 10_000_000
MOST_SECONDS, MOST_MEMORY = 10.0, 1 << 30

_ROUNDS = 3
_BATCH = 4096
# What the kernel tells a parent of its child's memory begins with the parent's own; the child reads it itself.
_PROBE = """
import sys
from probe.cli import main
try:
    main()
finally:
    print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""


class Cost(NamedTuple):
    """Of one `probe analyze`: seconds, resident bytes at most, connections judged as they must be."""

    seconds: float
    memory: int
    lost: int


def rows() -> Iterator[Row]:
    """The join beside its peer, then the whole command at two sizes."""
    story = Story(cluster()).connection(REMOTE)
    one = story.recording()
    few = repeated(one, FEW // len(one.packets))
    if _in_dictionaries(few.packets) != _in_store(few):
        yield skipped("B6", "join", "the peer joins something else")
    else:
        seconds = interleaved(
            _ROUNDS, {"ours": lambda: _joined(few), "peer": lambda: _timed_dictionaries(few.packets)}
        )
        ratio = seconds["peer"] / seconds["ours"]
        yield Row(
            "B6",
            f"join of {FEW // 10**6}M observations, beside Python dictionaries",
            f"{seconds['ours']:.2f} s",
            f"{seconds['peer']:.2f} s",
            ratio,
            "≥ 20 times faster",
            ratio >= 20,
        )
    costs = {size: _analyzed(story, one, size) for size in (FEW, MANY)}
    if wrong := [size for size, cost in costs.items() if cost.lost != size // len(one.packets)]:
        yield skipped("B6", "probe analyze", f"another verdict than it must be at {wrong}")
        return
    small, large = costs.values()
    yield Row(
        "B6",
        f"probe analyze, {MANY // 10**6}M observations",
        f"{large.seconds:.1f} s",
        f"{small.seconds:.1f} s",
        large.seconds / small.seconds,
        f"≤ {MOST_SECONDS:.0f} s; peer: {FEW // 10**6}M",
        large.seconds <= MOST_SECONDS,
    )
    yield Row(
        "B6",
        f"probe analyze, {MANY // 10**6}M observations: memory at most",
        f"{large.memory / 2**20:,.0f} MiB",
        f"{small.memory / 2**20:,.0f} MiB",
        large.memory / small.memory,
        f"≤ 1 GiB; peer: {FEW // 10**6}M",
        large.memory <= MOST_MEMORY,
    )


def _in_store(recording: Recording) -> tuple[int, int]:
    store = LegStore(recording, lambda *_: False)
    try:
        legs = store.collect(store.earliest(len(store)))
    finally:
        store.close()
    return len(legs), sum(len(leg.sightings) for leg in legs)


def _joined(recording: Recording) -> float:
    began = time.perf_counter()
    LegStore(recording, lambda *_: False).close()
    return time.perf_counter() - began


def _timed_dictionaries(packets: Rows) -> float:
    began = time.perf_counter()
    _in_dictionaries(packets)
    return time.perf_counter() - began


def _in_dictionaries(packets: Rows) -> tuple[int, int]:
    """What the join is about in a simple form: legs by sequence number, each with its tuples at each tap."""
    legs: dict[int, dict[tuple[Any, ...], int]] = defaultdict(dict)
    columns = ("tap", "flags", "seq", "ack", "time", "tunnel")
    ends = ("src_hi", "src_lo", "sport", "dst_hi", "dst_lo", "dport")
    for tap, flags, seq, ack, seen, tunnel, *tuple_ in packets[[*columns, *ends]].tolist():
        if flags & 22 == 2:
            isn, way = seq, tuple(tuple_)
        elif flags & 22 == 18:
            isn, way = (ack - 1) & 0xFFFFFFFF, (*tuple_[3:], *tuple_[:3])
        else:
            continue
        legs[isn].setdefault((tap, tunnel, *way), seen)
    return len(legs), sum(len(places) for places in legs.values())


def _analyzed(story: Story, one: Recording, size: int) -> Cost:
    with tempfile.TemporaryDirectory() as place:
        folder, report = Path(place) / "session", Path(place) / "report.json"
        _record(folder, story, repeated(one, size // len(one.packets)))
        began = time.perf_counter()
        with report.open("wb") as out:
            command = [sys.executable, "-c", _PROBE, "analyze", str(folder), "-o", "json"]
            ended = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - began
        memory = int(ended.stderr.split()[-1]) * 1024
        return Cost(seconds, memory, json.loads(report.read_text())["summary"]["lost"])


def _record(folder: Path, story: Story, recording: Recording) -> None:
    """The recording as the session that agents would have streamed, without heads."""
    session = SessionFolder(folder, Meta())
    for node in recording.nodes:
        taps = [number for number, tap in enumerate(recording.taps) if tap.node == node]
        session.stream(node)
        writer = Writer(lambda data, node=node: session.write(node, data))
        writer.message(Hello(node, time=1))
        writer.message(Taps(tuple(recording.taps[number] for number in taps)))
        writer.message(Ready(1))
        rows = recording.packets[np.isin(recording.packets["tap"], taps)]
        rows["tap"], rows["head"] = np.searchsorted(taps, rows["tap"]), 0
        for start in range(0, len(rows), _BATCH):
            writer.packets(rows[start : start + _BATCH].tobytes())
        writer.message(Bye("over", int(recording.packets["time"].max())))
    session.finish(facts=story.facts)
