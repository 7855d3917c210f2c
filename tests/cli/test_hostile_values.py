"""Whatever a header says, it is data: no output obeys it, and none drops it silently."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from probe.decoding.decode import run
from probe.output import note
from probe.render.machines import machine
from probe.render.terminal import to_text
from tests import hostile
from tests.analysis.story import CLIENT, NODES, PODS, Story, cluster
from tests.decode.capture import datagram, segment, syn, write
from tests.decode.encode import tcp4, tlv
from tests.decode.test_head import client_hello

values = pytest.mark.parametrize("value", hostile.VALUES.values(), ids=hostile.VALUES.keys())

REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"
REFUSED = b"HTTP/1.1 400 Bad\x1b[2J Request\r\nVia: \x9b31m\r\n\r\n"

LB, POD = "172.30.0.150", PODS["node2"]


def decoded(source: str, output: str, **options: Any) -> str:
    written: list[str] = []
    run(source, output, write=written.append, **options)
    return "\n".join(written)


class TestDecode:
    @values
    def test_no_header_says_anything_to_a_terminal(self, value: bytes) -> None:
        for data in hostile.headers(value).values():
            hostile.safe_text(decoded(data.hex(), "table", receivers=len(data) < 300))

    @values
    def test_no_header_breaks_out_of_json_or_yaml(self, value: bytes) -> None:
        for data in hostile.headers(value).values():
            line = decoded("-", "jsonl", lines=[data.hex().encode()])
            hostile.safe_data(line)
            assert {"ok", "error", "complete"} <= json.loads(line).keys()
            hostile.safe_data(decoded(data.hex(), "yaml"))

    @values
    def test_a_value_is_kept_whole_and_shown_in_part(self, value: bytes) -> None:
        value = value[:60_000]
        [answer] = [json.loads(decoded(tcp4(tlv(2, value)).hex(), "json"))]
        assert bytes.fromhex(answer["tlvs"][0]["value"]) == value
        assert len(decoded(tcp4(tlv(2, value)).hex(), "table")) < 8000

    @values
    def test_the_payload_behind_a_header_is_no_exception(self, value: bytes) -> None:
        for data in hostile.requests(value).values():
            hostile.safe_text(decoded((tcp4() + data[:9000]).hex(), "table"))

    @values
    def test_a_capture_is_no_exception(self, value: bytes, tmp_path: Path) -> None:
        packets = []
        for number, data in enumerate(hostile.headers(value).values()):
            port, first = 40000 + number, data[:1400]
            packets += [syn(sport=port), segment(first, sport=port), datagram(first, sport=port)]
        path = write(tmp_path / "a.pcap", packets)
        hostile.safe_text(decoded(str(path), "table", receivers=True))
        hostile.safe_data(decoded(str(path), "jsonl", receivers=True))


def story(value: bytes) -> Story:
    """Connections through a balancer to a pod, whose first bytes carry a value, each in another place."""
    carried = list(hostile.requests(value[:3000]).values())
    carried += [data[:3000] + REQUEST for data in hostile.headers(value).values()]
    name = value.replace(b"\0", b"")[:11].ljust(11, b".")
    carried.append(client_hello().replace(b"app.example", name))
    told = Story(cluster("Local", balancer=LB))
    node = f"{NODES['node2']}:30080"
    for number, data in enumerate(carried):
        client, balancer = f"{CLIENT}:{40000 + number}", f"{LB}:{50000 + number}"
        asked = [(tap, client, f"{LB}:80") for tap in ("client:c/eth0", "lb:lb/eth0")]
        onward = [(tap, balancer, node) for tap in ("lb:lb/eth0", "nic:node2/eth0")]
        onward.append(("pod:node2/web", balancer, f"{POD}:8080"))
        told.relayed(
            (asked, 100 + 90_000 * number, data), (onward, 5000 + 90_000 * number, data), response=REFUSED
        )
        told.wait(2)
    return told


class TestReport:
    @values
    def test_no_request_says_anything_to_a_terminal_or_a_program(self, value: bytes) -> None:
        report = story(value).report()
        assert len(report.journeys) > 40
        for wide in (False, True):
            hostile.safe_text(to_text(report, io.StringIO(), wide=wide, width=100))
        for text in (machine.to_json(report), machine.to_yaml(report), *machine.to_jsonl(report)):
            hostile.safe_data(text)
        assert json.loads(machine.to_json(report))["summary"]["journeys"] == len(report.journeys)

    def test_the_values_do_arrive(self) -> None:
        # Without this, the test above could pass because nothing was said at all.
        report = story(b"MARK").report()
        assert sum("MARK" in machine.to_line(each) for each in report.journeys) >= 10


@values
def test_what_is_noted_on_stderr_is_one_safe_line(value: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    note(f"probe: {value.decode('utf-8', 'surrogateescape')}: odd")
    written = capsys.readouterr().err
    hostile.safe_text(written)
    assert written.count("\n") == 1
