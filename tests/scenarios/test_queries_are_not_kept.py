"""What stands in a query is in nothing that a capture keeps, and the ways through proxies are tied as ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemonset.wire import PacketRows, read_stream
from probe.sessions.folder import read_meta
from tests.cli.helpers import ended, start

pytestmark = pytest.mark.lab

SECRET = "hunter2hunter2"


@pytest.mark.parametrize("scenario", ["proxy-v2-ok", "xff-keepalive"])
def test_a_token_in_a_query_is_in_no_stream_and_in_no_file(scenario: str, tmp_path: Path) -> None:
    folder, html, packets = tmp_path / "session", tmp_path / "page.html", tmp_path / "all.pcapng"
    url = f"http://balancer/debug/ip?token={SECRET}"
    done = ended(
        start("capture", "--lab", scenario, "--send", url, "--count", "3", "--record", folder, "--html", html,
              "-w", packets, "-o", "json")
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [each["verdict"] for each in done.json["journeys"]] == ["preserved"] * 3
    for path in (*folder.iterdir(), html, packets):
        assert SECRET.encode() not in path.read_bytes(), path.name
    lines = {
        head.http.start
        for place in read_meta(folder).places
        for frame in read_stream(folder / f"{place}.probe")
        if isinstance(frame, PacketRows)
        for head in frame.heads
        if head.http is not None and not head.http.start.startswith("HTTP/")
    }
    (line,) = {line for line in lines if "/debug/ip" in line}
    assert line.startswith("GET /debug/ip?#"), "the same at the client, the balancer, the ingress and the pod"
    assert ended(start("analyze", folder, "-o", "json")).json == done.json
