"""The harness itself: its packets are what they should be, its table says what is known and what is not."""

from __future__ import annotations

from bench.row import Row, interleaved, markdown_table, skipped, text_table
from bench.syn_sender import syn
from daemonset.decode.link import ETHERNET
from daemonset.decode.packet import Batch
from daemonset.observation import PACKET, TcpFlag
from daemonset.taps import bpf, kernel_filter


def test_the_sender_sends_distinct_syns_that_the_filter_passes() -> None:
    batch = Batch()
    for number in (0, 1, 59_999, 60_000, 70_000):
        frame = syn(number)
        assert len(frame) == 74
        assert bpf.run(kernel_filter.build([80]), frame[14:], protocol=0x0800)
        assert batch.add(frame, link=ETHERNET, time=0, tap=0)
    names = [column.name for column in PACKET.columns]
    rows = [dict(zip(names, row, strict=True)) for row in PACKET.struct.iter_unpack(batch.take()[0])]
    assert {row["flags"] for row in rows} == {TcpFlag.SYN}
    assert len({(row["src_lo"], row["sport"], row["seq"]) for row in rows}) == 5


def test_runs_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    figures = iter([5.0, 1.0, 3.0])

    def ours() -> float:
        order.append("ours")
        return next(figures)

    def peer() -> float:
        order.append("peer")
        return 2.0

    assert interleaved(3, {"ours": ours, "peer": peer}) == {"ours": 3.0, "peer": 2.0}
    assert order == ["ours", "peer"] * 3


def test_the_table_tells_misses_and_what_did_not_run() -> None:
    rows = [
        Row("B1", "capture", "2 µs", "1 µs", 2.0, "≤ 1 times", False),
        skipped("B7", "start-up", "nginx is not installed", "≤ 1.0 s"),
    ]
    text = text_table(rows).splitlines()
    assert [line.split()[0] for line in text] == ["row", "B1", "B7"]
    assert " NO" in text[1]
    assert "not run: nginx is not installed" in text[2]
    assert markdown_table(rows).count("\n") == 3
