"""`probe health svc/NAME --watch` on a cluster: real agents capture and ask while endpoints go and clients come."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from probe.lab.scenario import Event
from tests.cli.helpers import ended, start
from tests.cluster.agents import Json
from tests.cluster.conftest import Stage

pytestmark = pytest.mark.lab

SLICES = ("discovery.k8s.io/v1", "endpointslices")


def in_step(stage: Stage, until: Callable[[Event], None] = lambda _: None) -> None:
    """Let the API server's slices follow what happens in the lab, as the endpoints controller does.

    `until`: waits for what has to be known of an event before the next client comes.
    """
    happens = stage.lab.happen

    def follow(event: Event) -> None:
        happens(event)
        new = {
            item["metadata"]["name"]: item
            for item in stage.lab.objects_now()["items"]
            if item["kind"] == "EndpointSlice"
        }
        stage.double.call(lambda: replace_slices(stage, new))
        until(event)

    stage.lab.happen = follow  # type: ignore[method-assign]


def replace_slices(stage: Stage, new: dict[str, Json]) -> None:
    for body in stage.double.store.all(SLICES):
        endpoints = copy.deepcopy(new[body["metadata"]["name"]]["endpoints"])
        if endpoints != body["endpoints"]:
            body["endpoints"] = endpoints
            stage.double.store.changed_object(SLICES, body)


def node(report: Json, name: str) -> Json:
    (found,) = [each for each in report["health"]["nodes"] if each["node"] == name]
    assert isinstance(found, dict)
    return found


def events(report: Json, name: str, *kinds: str) -> list[str]:
    return [
        each["text"]
        for each in report["health"]["timeline"]
        if each["node"] == name and each["kind"] in kinds
    ]


@pytest.mark.parametrize("scenario", ["hc-lag", "hc-draining"])
def test_a_rollout_is_followed_on_every_node(
    lab_stage: Callable[[str], Stage], tmp_path: Path, scenario: str
) -> None:
    stage = lab_stage(scenario)
    draining = scenario == "hc-draining"
    running = stage.start(
        "health", "svc/web", "--watch", "--duration", "300s", "--settle", "500ms", "-o", "json",
        "--record", tmp_path / "session",
    )  # fmt: skip
    running.until("begin what is to be watched")

    def refused(event: Event) -> None:
        if draining and event.becomes == "terminating":
            running.until("node1", "health check: 503")

    in_step(stage, until=refused)
    answers = stage.lab.send()
    assert not any(answer.wrong for answer in answers)
    if not draining:
        running.until("node1", "health check: 503")
    running.until("so far: ")
    running.interrupt()
    ending = running.ending()
    assert ending.code == 0, ending.err
    report = ending.json
    gone = "0 ready endpoints" + (", 1 terminating and still serving" if draining else "")
    assert events(report, "node1", "endpoints") == ["1 ready endpoint", gone]
    assert events(report, "node2", "endpoints") == ["1 ready endpoint"]
    assert events(report, "node1", "answer") == [
        "health check: 200, 1 local endpoint",
        "health check: 503, 0 local endpoints",
    ]
    (outage,) = node(report, "node1")["outages"]
    assert outage["connections"] >= (4 if draining else 0)
    assert outage["stopped"] is True
    assert node(report, "node1")["failed"] == 0 if draining else node(report, "node1")["failed"] >= 4
    assert report["health"]["saved"] == (4 if draining else 0)
    assert {each["address"] for each in report["health"]["checkers"]} == {"172.30.0.150"}
    found = {each["code"] for each in report["findings"]}
    assert found == ({"SIP607", "SIP610"} if draining else {"SIP607"})
    assert report["asking"]["nodes"]
    assert stage.double.left() == []
    later = ended(start("health", tmp_path / "session", "-o", "json"))
    assert later.json["health"] == report["health"], "the recording is judged as the watch was"


def test_a_watch_that_sees_nothing_happen(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("hc-ok")
    ending = stage.start(
        "health", "svc/web", "--watch", "--duration", "2s", "--settle", "500ms", "-o", "json"
    ).ending()
    assert ending.code == 0, ending.err
    assert {each["code"] for each in ending.json["findings"]} == {"SIP618"}
    assert list(node(ending.json, "node1")["answers"]) == ["503"]
    assert node(ending.json, "node1")["connections"] == 0
    assert ending.json["health"]["lag"] is None
    assert stage.double.left() == []


def test_an_agent_that_is_killed_while_it_is_watched_is_said(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("hc-ok")
    running = stage.start("health", "svc/web", "--watch", "--duration", "300s", "-o", "json")
    running.until("begin what is to be watched")
    stage.double.kill("node2")  # the last that was started there: the one that asks
    running.until("node2", "not asked any more", "killed")
    running.interrupt()
    ending = running.ending()
    assert ending.code == 0, ending.err
    (reason,) = [each for each in ending.json["health"]["reasons"] if each.startswith("node2: ")]
    assert "not asked to the end" in reason
    assert list(node(ending.json, "node2")["answers"]) == ["200"]
    assert stage.double.left() == []


def test_without_the_right_to_watch_slices_the_rest_is_watched(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("hc-ok")
    stage.faults.forbidden.add(("watch", "endpointslices"))
    running = stage.start("health", "svc/web", "--watch", "--duration", "300s", "-o", "json")
    running.until("begin what is to be watched")
    running.interrupt()
    ending = running.ending()
    assert any("may not watch endpointslices" in each for each in ending.json["health"]["reasons"])
    assert events(ending.json, "node2", "answer") == ["health check: 200, 1 local endpoint"]
    assert ending.code == 0


def test_a_watch_goes_on_where_the_server_has_forgotten(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("hc-draining")
    in_step(stage)
    stage.faults.watch_events = 1
    running = stage.start(
        "health", "svc/web", "--watch", "--duration", "300s", "--settle", "500ms", "-o", "json"
    )
    running.until("begin what is to be watched")
    stage.double.call(stage.double.store.forget)
    stage.lab.happen(stage.lab.scenario.events[0])
    running.until("node1", "0 ready endpoints, 1 terminating")
    running.interrupt()
    ending = running.ending()
    assert ending.out, ending.err
    assert (
        events(ending.json, "node1", "endpoints")[-1] == "0 ready endpoints, 1 terminating and still serving"
    )


def test_a_kill_leaves_no_asking_process(lab_stage: Callable[[str], Stage]) -> None:
    import signal

    stage = lab_stage("hc-ok")
    running = stage.start("health", "svc/web", "--watch", "--duration", "300s")
    running.until("begin what is to be watched")
    running.interrupt(signal.SIGKILL)
    running.ending()
    for command in stage.double.server.started:
        assert stage.double.wait_for(command) == 0


@pytest.mark.parametrize(
    "arguments", [("svc/web", "--watch", "--from-here"), ("svc/web", "--duration", "3s"), ("--watch",)]
)
def test_a_watch_that_cannot_be_meant(arguments: tuple[str, ...]) -> None:
    ending = ended(start("health", *arguments))
    assert ending.code == 2
    assert "--watch" in ending.err


def test_the_schema_describes_the_answer() -> None:
    schema = json.loads(ended(start("schema", "health")).out)
    answer = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    assert answer["properties"].keys() >= {"asking", "health", "findings", "schemaVersion"}
    assert "Outage" in schema["$defs"]
