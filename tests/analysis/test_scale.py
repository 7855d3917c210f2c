"""Many connections: judged once for each shape of path, told in part, and counted in full."""

from __future__ import annotations

import dataclasses

import duckdb
import numpy as np
import pytest

from analysis.analyze import analyze
from analysis.engine.legs import LegStore
from analysis.judging import outcomes
from analysis.recording import Recording
from analysis.report import Verdict
from daemonset.observation import TcpFlag
from tests.analysis.story import Story, cluster
from tests.analysis.test_stories import BEHIND, HTTP, LB, LOCAL, MASQUERADED, NODE_PORT, POD, REMOTE, C, v1


def repeated(recording: Recording, times: int, first: int = 0) -> Recording:
    """The same connection `times` times, from other ports with other sequence numbers, 50 µs apart.

    `first`: as many stand before these, elsewhere.
    """
    rows = np.tile(recording.packets, times)
    number = np.repeat(np.arange(first, first + times, dtype=np.uint32), len(recording.packets))
    rows["seq"] += number * 5
    rows["ack"] += number * 5
    rows["time"] += number.astype(np.uint64) * 50_000
    for port in ("sport", "dport"):
        rows[port] = np.where(np.isin(rows[port], (40000, 50000)), 1024 + number % 60_000, rows[port])
    return dataclasses.replace(recording, packets=rows)


def test_what_is_not_told_is_counted() -> None:
    story = Story(cluster()).connection(REMOTE)
    report = analyze(repeated(story.recording(), 500), story.facts, limit=40)
    assert report.summary.journeys == report.summary.lost == report.summary.cross_node == 500
    assert len(report.journeys) + report.journeys_omitted == 500
    assert 1 <= len(report.journeys) <= 40
    assert sum(path.count for path in report.paths) == 500
    assert {finding.code: finding.journeys for finding in report.findings}["SIP101"] == 500


def test_what_depends_on_a_request_of_its_own_is_not_counted_by_the_look_of_others() -> None:
    request = HTTP.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.8\r\n\r\n")
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND, data=v1(C) + request)
    report = analyze(repeated(story.recording(), 300), story.facts, limit=20)
    assert report.summary.journeys == 300
    assert report.summary.inconclusive == 300


def test_a_shape_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    original = outcomes.judge

    def counted(known: outcomes.Known) -> outcomes.Judgement:
        nonlocal calls
        calls += 1
        return original(known)

    monkeypatch.setattr(outcomes, "judge", counted)
    story = Story(cluster()).connection(REMOTE)
    report = analyze(repeated(story.recording(), 300), story.facts)
    assert report.summary.lost == 300
    assert calls < 10


def test_two_kinds_of_path_are_two_shapes() -> None:
    story = Story(cluster("Local")).connection(LOCAL)
    story.connection(
        [(tap, src.replace(":40000", ":40777"), dst) for tap, src, dst in LOCAL[:2]], isn=9, tsval=9
    )
    report = story.report()
    assert len(report.paths) == 2


def test_sharing_a_judgement_gives_what_judging_alone_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(cluster())
    for number in range(12):
        part = REMOTE if number % 3 else REMOTE[number % 4 :]
        path = [
            (tap, src.replace("40000", str(40000 + number)).replace("61000", str(61000 + number)), dst)
            for tap, src, dst in part
        ]
        story.wait(1).connection(path, isn=1000 * number + 7, tsval=1000 + number)
        if number % 2:
            story.conntrack("node1", (C.replace("40000", str(40000 + number)), NODE_PORT),
                            (MASQUERADED.replace("61000", str(61000 + number)), POD))  # fmt: skip
    shared = story.report()
    monkeypatch.setattr(outcomes.Judge, "_key", lambda _, connection: id(connection))
    alone = story.report()
    assert shared == alone
    assert {journey.verdict for journey in shared.journeys} >= {Verdict.LOST}


def test_one_tuple_used_again_by_each_of_many_connections_costs_no_more_than_many_tuples() -> None:
    # Joined naively, each packet meets each connection that ever had its tuple: here some 400 million pairs, more
    # than the joins may put on the disk.
    story = Story(cluster()).connection(REMOTE)
    report = analyze(repeated(story.recording(), 20_000), story.facts, limit=10)
    assert report.summary.lost == report.summary.journeys == 20_000


def test_too_little_room_is_said_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise duckdb.OutOfMemoryException("Out of Memory Error: no room\nand how to get more")

    monkeypatch.setattr("analysis.engine.legs.join", full)
    story = Story(cluster()).connection(REMOTE)
    with pytest.raises(MemoryError, match=r"^Out of Memory Error: no room$"):
        analyze(story.recording(), story.facts)


def test_the_engine_writes_nothing_into_the_report_however_long_it_takes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    story = Story(cluster()).connection(REMOTE)
    store = LegStore(story.recording(), lambda *_: False)
    database = store._database
    database.execute("set progress_bar_time = 0")  # by default a bar is drawn after two seconds
    database.execute("select sum(a.i * b.i) from range(10000) a(i), range(10000) b(i)").fetchall()
    store.close()
    assert capfd.readouterr() == ("", "")


def mixed() -> Story:
    """Connections of several kinds: complete, half seen, translated, retransmitted, refused, with tuples used again."""
    story = Story(cluster("Local", balancer=LB))
    for number in range(30):
        port, part = str(40000 + number % 7), [REMOTE, REMOTE[number % 4 :], LOCAL, BEHIND][number % 4]
        path = [
            (tap, src.replace("40000", port).replace("61000", str(61000 + number % 5)), dst)
            for tap, src, dst in part
        ]
        isn = 1000 * (number // 2 if number % 6 == 0 else number) + 7  # some have the number of another
        data = [HTTP, v1(C) + HTTP, b"", b"\x16\x03\x01"][number % 4]
        story.wait(100 if number == 12 else 0.5)
        for _ in range(number % 3):
            story.syn(path, isn, 1000 + number).wait(0.3)
        story.connection(path, isn=isn, tsval=1000 + number if number % 5 else 0, data=data)
        if number % 3 == 0:
            story.close(path, isn, flag=TcpFlag.RST if number % 2 else TcpFlag.FIN)
        if number % 4 == 1:
            story.conntrack("node1", (C.replace("40000", port), NODE_PORT),
                            (MASQUERADED.replace("61000", str(61000 + number % 5)), POD))  # fmt: skip
    return story


@pytest.mark.parametrize("limit", [5_000, 3])
def test_many_rows_are_joined_as_few(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    story = mixed()
    few = story.report(limit=limit)
    monkeypatch.setattr("analysis.engine.load._BLOCK", 5)
    monkeypatch.setattr("analysis.engine.joining._PART", 20)
    monkeypatch.setattr("analysis.engine.attaching._MANY", 0)
    monkeypatch.setattr("analysis.engine.gathering.MOST_IN_MEMORY", 100)
    assert story.report(limit=limit) == few
    assert len(few.paths) > 5
