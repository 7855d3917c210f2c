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
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np

from analysis.engine.gathering import pieces
from analysis.engine.joining import join
from analysis.engine.load import load
from analysis.hops.addresses import EXACT_TAPS
from analysis.recording import Recording
from bench.row import Row, interleaved, skipped
from daemonset.observation import Bye, Hello, Ready, Taps
from daemonset.wire import Writer
from probe.sessions.folder import Meta, SessionFolder
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


#: What a join found: of all places, then of all legs, how many and the sum of each column.
Sums = tuple[int, ...]


class _Place:
    """One tuple of a leg at one tap, in the peer's words."""

    __slots__ = ("first", "last", "replied", "seen", "times")

    def __init__(self, time: int) -> None:
        self.first: int | None = None
        self.last = 0
        self.seen = time
        self.replied = False
        self.times: set[int] = set()

    def sent(self, time: int) -> None:
        self.first = time if self.first is None else min(self.first, time)
        self.last = max(self.last, time)
        self.seen = min(self.seen, time)
        self.times.add(time)

    def answered(self, time: int) -> None:
        self.seen = min(self.seen, time)
        self.replied = True


class _Leg:
    """One connection, in the peer's words."""

    __slots__ = ("finish", "first_stamp", "last_stamp", "row", "server_isn", "start")

    def __init__(self, row: int, time: int, stamp: int) -> None:
        self.row = row
        self.start = self.finish = time
        self.first_stamp = self.last_stamp = stamp
        self.server_isn: int | None = None

    def seen(self, time: int, stamp: int, server_isn: int | None) -> None:
        self.start, self.finish = min(self.start, time), max(self.finish, time)
        self.first_stamp, self.last_stamp = min(self.first_stamp, stamp), max(self.last_stamp, stamp)
        if server_isn is not None:
            self.server_isn = server_isn if self.server_isn is None else min(self.server_isn, server_isn)


def _sums(places: Collection[_Place], legs: Collection[_Leg]) -> Sums:
    return (
        len(places),
        sum(place.first or 0 for place in places),
        sum(place.seen for place in places),
        sum(place.last for place in places),
        sum(len(place.times) for place in places),
        sum(place.replied for place in places),
        len(legs),
        sum(leg.row for leg in legs),
        sum(leg.start for leg in legs),
        sum(leg.finish for leg in legs),
        sum(leg.server_isn is not None for leg in legs),
        sum(leg.server_isn or 0 for leg in legs),
        sum(leg.first_stamp for leg in legs),
        sum(leg.last_stamp for leg in legs),
    )


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
    found: dict[str, Sums] = {}

    def ours() -> float:
        began = time.perf_counter()
        found["ours"] = _in_columns(recording)
        return time.perf_counter() - began

    def peer() -> float:
        began = time.perf_counter()
        found["peer"] = _in_dictionaries(recording)
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


def _in_columns(recording: Recording) -> Sums:
    """What the analysis does first: rows to columns, columns to legs and the places where each was seen."""
    with duckdb.connect(":memory:") as database:
        database.execute("set threads to 2")
        join(database, load(database, recording), lambda *_: False)
        sums = database.execute("""
            select * from
            (select count(*), sum(first), sum(seen), sum(last), sum(syns), count(*) filter (replied) from sightings),
            (select count(*), sum(row), sum(start), sum(finish), count(*) filter (answered), sum(server_isn),
                    sum(first_stamp), sum(last_stamp) from legs)
        """).fetchall()[0]
        return tuple(map(int, sums))


def _in_dictionaries(recording: Recording) -> Sums:
    """The same from the same rows in Python: a dictionary of places, one of legs, and a loop."""
    places: dict[tuple[int, ...], _Place] = {}
    legs: dict[int, _Leg] = {}
    exact = [tap.kind in EXACT_TAPS for tap in recording.taps]
    names = ["tap", "flags", "seq", "ack", "tsval", "tsecr", "time", "tunnel"]
    ends = ["src_hi", "src_lo", "sport", "dst_hi", "dst_lo", "dport"]
    for start, piece in pieces(recording.packets):
        for row, (tap, flags, seq, ack, tsval, tsecr, time_, tunnel, *way) in enumerate(
            piece[names + ends].tolist(), start
        ):
            if flags & 22 == 2:
                isn, stamp = seq, tsval
                key = isn, tap, tunnel, *way
                if (place := places.get(key)) is None:
                    place = places[key] = _Place(time_)
                place.sent(time_)
            elif flags & 22 == 18:
                isn, stamp = (ack - 1) & 0xFFFFFFFF, tsecr
                if exact[tap]:
                    key = isn, tap, tunnel, *way[3:], *way[:3]
                    if (place := places.get(key)) is None:
                        place = places[key] = _Place(time_)
                    place.answered(time_)
            else:
                continue
            if (leg := legs.get(isn)) is None:
                leg = legs[isn] = _Leg(row, time_, stamp)
            leg.seen(time_, stamp, seq if flags & 16 else None)
    return _sums(places.values(), legs.values())


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
