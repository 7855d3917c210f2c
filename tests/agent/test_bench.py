"""The harness itself: its packets are what they should be, its table says what is known and what is not."""

from __future__ import annotations

import http.server
import socket
import threading

import pytest

from bench import traffic
from bench.load import AT_ONCE, Load
from bench.row import Row, interleaved, markdown_table, skipped, text_table
from bench.syn_sender import syn
from daemonset.decode.link import ETHERNET
from daemonset.decode.packet import Batch
from daemonset.observation import PACKET, TcpFlag
from daemonset.taps import bpf, kernel_filter
from daemonset.taps.sampling import chosen


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


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 2 * AT_ONCE


class _Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("rate", [0, 200])
def test_the_load_counts_what_was_answered(rate: int) -> None:
    with _Server(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        load = Load("127.0.0.1", server.server_address[1], rate, 0.3)
        load.run()
        server.shutdown()
    assert load.failed == 0
    assert len(load.latencies) == load.begun > 0


def test_the_load_counts_what_was_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    load = Load("127.0.0.1", port, 50, 0.2)
    load.run()
    assert load.failed == load.begun > 0
    assert not load.latencies


def test_a_connection_that_one_tap_missed_is_told() -> None:
    whole = set(range(100))
    assert traffic._missing([whole, set(whole)], 100) == ""
    assert traffic._missing([whole, whole - {7}], 100) == "1 of 100 not seen everywhere"
    assert traffic._missing([whole, whole], 120) == "120 connections were made, 100 seen"
    assert traffic._missing([whole, whole], 102) == "", "some share their number"
    assert traffic._most_shared(1_800_000) in range(377, 500)
    kept = {number for number in range(16_000) if chosen(number * 7919, 16)}
    kept = {number * 7919 for number in kept}
    assert traffic._missing([kept, kept], 16_000, 16) == ""
    assert "kept of 1/16" in traffic._missing([kept, kept], 32_000, 16)
    assert traffic._missing([whole, whole], 1600, 16) == "what was kept is not what should be"
