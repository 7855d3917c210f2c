"""`probe health` on files: what it prints, how it ends, and what it says to input that is no good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.health.changes import EndpointChange
from daemonset.decode.head import read_payload
from daemonset.observation import HealthAnswer
from probe.errors import UsageError
from probe.health.endpoint_changes import EndpointState, read_changes
from probe.health.report import about_health
from tests.cli.helpers import ended, start
from tests.health.balanced import asking_elsewhere, draining, well

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"


def test_without_anything_to_judge_it_says_what_to_give() -> None:
    done = ended(start("health"))
    assert done.code == 2
    assert "--tap" in done.err


def test_captures_without_a_health_check_are_inconclusive() -> None:
    tap = f"nic:node1/eth0={EXAMPLES}/node1-eth0.pcap"
    done = ended(start("health", "--tap", tap, "--objects", EXAMPLES / "objects.json"))
    assert done.code == 4
    assert "no health check was seen" in done.out


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("{", "not JSON"), ("[]", "not an event"), ("", "no endpoint"), ('{"object": {}}', "when it came")],
)
def test_events_that_are_none(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "events.jsonl").write_text(line)
    with pytest.raises(UsageError, match=complaint):
        read_changes(tmp_path / "events.jsonl")


def slice_of(*endpoints: tuple[str, str, bool, bool], kind: str = "MODIFIED") -> dict[str, object]:
    return {
        "type": kind,
        "object": {
            "metadata": {
                "namespace": "shop",
                "name": "web-1",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "endpoints": [
                {
                    "nodeName": node,
                    "addresses": [address],
                    "conditions": {"ready": ready, "serving": True, "terminating": terminating},
                }
                for node, address, ready, terminating in endpoints
            ],
        },
    }


def test_changes_are_told_once_and_only_where_something_changes() -> None:
    state = EndpointState()
    assert state.take(slice_of(("n1", "10.0.0.1", True, False)), 1) == [
        EndpointChange(1, "n1", 1, 0, "shop/web")
    ]
    assert state.take(slice_of(("n1", "10.0.0.1", True, False)), 2) == []
    assert state.take(slice_of(("n1", "10.0.0.1", False, True)), 3) == [
        EndpointChange(3, "n1", 0, 1, "shop/web")
    ]
    assert state.take(slice_of(kind="DELETED"), 4) == [EndpointChange(4, "n1", 0, 0, "shop/web")]


@pytest.mark.parametrize(
    "junk", [{}, {"object": 1}, {"object": {"metadata": []}}, slice_of() | {"object": []}]
)
def test_what_is_no_slice_changes_nothing(junk: dict[str, object]) -> None:
    assert EndpointState().take(junk, 1) == []


def test_exit_codes_are_about_health_alone() -> None:
    assert about_health(asking_elsewhere()).exit_code == 3
    assert about_health(draining(terminating=False)).exit_code == 0
    assert about_health(well()).exit_code == 0


def test_the_answer_of_kube_proxy_is_read_as_it_writes_it() -> None:
    body = b'{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n\t"localEndpoints": 2,\n'
    body += b'\t"serviceProxyHealthy": true\n}\n'
    head = b"HTTP/1.1 200 OK\r\nX-Load-Balancing-Endpoint-Weight: 2\r\nContent-Length: 100\r\n\r\n"
    _, read = read_payload(head + body)
    assert read is not None
    assert read.health == HealthAnswer(2, True, "shop/web", 2)


@pytest.mark.parametrize(
    "body",
    [
        b'{"localEndpoints": true}',
        b'{"localEndpoints": -1}',
        b'{"localEndpoints": 1e99}',
        b'"localEndpoints"',
        b"[",
    ],
)
def test_an_answer_that_is_no_count_is_none(body: bytes) -> None:
    _, read = read_payload(b"HTTP/1.1 200 OK\r\n\r\n" + body)
    assert read is not None
    assert read.health is None


def test_the_json_is_that_of_the_report() -> None:
    report = well()
    assert report.health is not None
    from probe.render.machines.machine import to_json

    told = json.loads(to_json(about_health(report)))
    assert told["schemaVersion"] == "1"
    assert told["health"]["lost"] == 0
    assert {each["node"] for each in told["health"]["nodes"]} == {"node1", "node2", "node3"}
