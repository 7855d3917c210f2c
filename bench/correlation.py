"""B6: from observations to verdicts: `probe analyze` of recorded sessions, and the join beside one in dictionaries.

The sessions are one connection through a node to a pod of another, many times over: how many connections there are, and
what becomes of them, is known. What the peer joins is held against ours: the same legs, with the same places. Both
begin with rows as they were recorded; ours makes columns of them first, which is part of its time.
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

import duckdb
import numpy as np

from analysis.gathering import Rows, pieces
from analysis.joining import join
from analysis.load import load
from analysis.recording import Recording
from bench.row import Row, interleaved, skipped
from daemonset.observation import Bye, Hello, Ready, Taps
from daemonset.wire import Writer
from probe.folder import Meta, SessionFolder
from tests.analysis.story import Story, cluster
from tests.analysis.test_scale import repeated
from tests.analysis.test_stories import REMOTE

LEAST, FEW, MANY = 100_000, 1_000_000, 10_000_000
LARGE = 40_000_000  # on request: takes minutes, and 12 GB where temporary files are
MOST_SECONDS, MOST_MEMORY = 10.0, 1 << 30

_ROUNDS = 3
_FOR_DICTIONARIES = 8 << 30  # bytes that ten million rows and the dictionaries made of them take
_BATCH = 4096
_PIECE = 50_000  # connections that are made at once
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
    yield _join(repeated(one, FEW // len(one.packets)), FEW)
    if _available() < _FOR_DICTIONARIES:
        yield skipped(
            "B6", f"join of {MANY // 10**6}M observations", "too little memory for the peer", _TIMES_FASTER
        )
    else:
        yield _join(repeated(one, MANY // len(one.packets)), MANY)
    yield from _whole("B6", story, one, (LEAST, FEW, MANY))


def large() -> Iterator[Row]:
    """The whole command once more, at a size that no bar asks for."""
    story = Story(cluster()).connection(REMOTE)
    yield from _whole("B6L", story, story.recording(), (FEW, LARGE))


def _whole(row: str, story: Story, one: Recording, sizes: tuple[int, ...]) -> Iterator[Row]:
    """`probe analyze` at several sizes; the last beside the one before it."""
    costs = {size: _analyzed(story, one, size) for size in sizes}
    if wrong := [size for size, cost in costs.items() if cost.lost != size // len(one.packets)]:
        yield skipped(row, "probe analyze", f"another verdict than it must be at {wrong}")
        return
    *_, (fewer, small), (most, large) = costs.items()
    judged = most == MANY
    yield Row(
        row,
        f"probe analyze, {most // 10**6}M observations",
        f"{large.seconds:.1f} s",
        f"{small.seconds:.1f} s",
        large.seconds / small.seconds,
        f"≤ {MOST_SECONDS:.0f} s; peer: {fewer // 10**6}M" if judged else f"peer: {fewer // 10**6}M",
        large.seconds <= MOST_SECONDS if judged else None,
        ", ".join(f"{size / 10**6:g}M {cost.seconds:.1f} s" for size, cost in costs.items()),
    )
    yield Row(
        row,
        f"probe analyze, {most // 10**6}M observations: memory at most",
        f"{large.memory / 2**20:,.0f} MiB",
        f"{small.memory / 2**20:,.0f} MiB",
        large.memory / small.memory,
        f"≤ 1 GiB; peer: {fewer // 10**6}M" if judged else f"peer: {fewer // 10**6}M",
        large.memory <= MOST_MEMORY if judged else None,
    )


_TIMES_FASTER = "≥ 20 times faster"


def _join(recording: Recording, size: int) -> Row:
    """The join of a recording and of its peer, in turn."""
    what = f"join of {size // 10**6}M observations, beside Python dictionaries"
    found: dict[str, tuple[int, int]] = {}

    def ours() -> float:
        began = time.perf_counter()
        found["ours"] = _in_columns(recording)
        return time.perf_counter() - began

    def peer() -> float:
        began = time.perf_counter()
        found["peer"] = _in_dictionaries(recording.packets)
        return time.perf_counter() - began

    seconds = interleaved(_ROUNDS, {"ours": ours, "peer": peer})
    if found["ours"] != found["peer"]:
        return skipped("B6", what, "the peer joins something else", _TIMES_FASTER)
    ratio = seconds["peer"] / seconds["ours"]
    return Row(
        "B6", what, f"{seconds['ours']:.2f} s", f"{seconds['peer']:.2f} s", ratio, _TIMES_FASTER, ratio >= 20
    )  # fmt: skip


def _available() -> int:
    """Bytes of memory that programs may still take."""
    text = Path("/proc/meminfo").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("MemAvailable"))


def _in_columns(recording: Recording) -> tuple[int, int]:
    """What the analysis does first: rows to columns, columns to legs and the places where each was seen."""
    with duckdb.connect(":memory:") as database:
        database.execute("set threads to 2")
        join(database, load(database, recording), lambda *_: False)
        counts = database.execute("select (select count(*) from legs), (select count(*) from sightings)")
        legs, places = counts.fetchall()[0]
        return int(legs), int(places)


def _in_dictionaries(packets: Rows) -> tuple[int, int]:
    """What the join is about in a simple form: legs by sequence number, each with its tuples at each tap."""
    legs: dict[int, dict[tuple[Any, ...], int]] = defaultdict(dict)
    columns = ("tap", "flags", "seq", "ack", "time", "tunnel")
    ends = ("src_hi", "src_lo", "sport", "dst_hi", "dst_lo", "dport")
    for _, piece in pieces(packets):
        for tap, flags, seq, ack, seen, tunnel, *tuple_ in piece[[*columns, *ends]].tolist():
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
        _record(folder, story, one, size // len(one.packets))
        began = time.perf_counter()
        with report.open("wb") as out:
            command = [sys.executable, "-c", _PROBE, "analyze", str(folder), "-o", "json"]
            ended = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - began
        memory = int(ended.stderr.split()[-1]) * 1024
        return Cost(seconds, memory, json.loads(report.read_text())["summary"]["lost"])


def _record(folder: Path, story: Story, one: Recording, times: int) -> None:
    """So many times one connection, as the session that agents would have streamed, without heads."""
    session = SessionFolder(folder, Meta())
    writers = {}
    for node in one.nodes:
        session.stream(node)
        writers[node] = writer = Writer(lambda data, node=node: session.write(node, data))
        writer.message(Hello(node, time=1))
        writer.message(Taps(tuple(tap for tap in one.taps if tap.node == node)))
        writer.message(Ready(1))
    for first in range(0, times, _PIECE):
        piece = repeated(one, min(_PIECE, times - first), first)
        for node, writer in writers.items():
            taps = [number for number, tap in enumerate(one.taps) if tap.node == node]
            rows = piece.packets[np.isin(piece.packets["tap"], taps)]
            rows["tap"], rows["head"] = np.searchsorted(taps, rows["tap"]), 0
            for start in range(0, len(rows), _BATCH):
                writer.packets(rows[start : start + _BATCH].tobytes())
    for writer in writers.values():
        writer.message(Bye("over", int(piece.packets["time"].max())))
    session.finish(facts=story.facts)
