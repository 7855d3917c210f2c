"""What is counted by the shape of a leg is what each leg of that shape is called when it is judged alone."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from analysis import analyze as whole
from analysis.judging import outcomes
from analysis.judging.outcomes import Judge
from analysis.report import Verdict
from daemonset.observation import TcpFlag
from probe.objects import facts_from_objects
from tests.analysis.captures import load_flow
from tests.analysis.story import HTTP, NODES, OK, PODS, Story, cluster
from tests.analysis.test_chain import ONWARD
from tests.analysis.test_evidence import FLOWS, PLAIN
from tests.analysis.test_findings import STORIES
from tests.analysis.test_scale import repeated
from tests.analysis.test_stories import BEHIND, LB, LOCAL, POD, C, v1

REFUSED = b"HTTP/1.1 400 Bad Request\r\n\r\n"


@pytest.fixture
def judged_alone(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Each connection is judged by itself, and must be called what any of its shape would stand for.

    Answers with how many stood for another although their first bytes are PROXY headers.
    """
    held = {"headers": 0}
    judged = whole._judged

    def watched(selection: Any, shapes: Any, likeness: Any, *more: Any, **options: Any) -> Any:
        shape_of = {number: shape.key for shape in shapes for number in shape.sample}
        judge = Judge(likeness.context, shape_of)
        verdicts: dict[int, set[Verdict]] = defaultdict(set)
        codes: dict[int, set[tuple[str, ...]]] = defaultdict(set)
        for each in selection.connections:
            outcome = judge.outcome(each)
            verdicts[shape_of[each.trip.leg.number]].add(outcome.judgement.verdict)
            codes[shape_of[each.trip.leg.number]].add(outcome.codes)
        for each in selection.connections:
            if likeness.header_is_as_others(each):
                key = shape_of[each.trip.leg.number]
                assert len(verdicts[key]) == 1, (verdicts[key], each.trip.header)
                assert len(codes[key]) == 1, codes[key]
                held["headers"] += 1
        return judged(selection, shapes, likeness, *more, **options)

    monkeypatch.setattr(whole, "_judged", watched)
    monkeypatch.setattr(Judge, "_key", lambda _, connection: id(connection))
    return held


@pytest.mark.parametrize("code", sorted(STORIES))
def test_in_stories_that_are_told(code: str, judged_alone: dict[str, int]) -> None:
    STORIES[code]()
    assert judged_alone["headers"] >= 0


@pytest.mark.parametrize("flow", sorted(FLOWS))
def test_in_captures_of_a_real_cluster(evidence: Path, flow: str, judged_alone: dict[str, int]) -> None:
    facts = facts_from_objects(json.loads((evidence / PLAIN / "objects.json").read_text()))
    assert whole.analyze(load_flow(evidence / PLAIN / flow), facts).journeys
    assert judged_alone["headers"] == 0


def random_story(dice: random.Random, connections: int, *, odd: bool = True) -> Story:
    """Connections behind a balancer, of which each differs from the others in something that a verdict may ask for."""
    story = Story(cluster("Local", balancer=LB, endpoints=("node2", "node3")))
    usual = [
        ("header", ["TCP4 " + C, "TCP4 198.51.100.7:1234", "TCP4 10.244.1.9:999"]),
        ("response", [OK]),
        ("data", [HTTP]),
    ]
    rare: dict[str, list[Any]] = {
        "header": [f"TCP4 {LB}:5000", f"TCP4 {NODES['node1']}:77", "UNKNOWN", "own", "none", "two", "cut", "broken"],
        "response": [REFUSED, b"", b"\x15\x03\x03\x00\x02\x02\x28", OK + b"x"],
        "data": [
            b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.77\r\n\r\n", b"\x16\x03\x01\x00\x05hello",
            b"GET /debug/ip HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    }  # fmt: skip
    kinds = {name for name in rare if odd and dice.random() < 0.5}
    onward = odd and dice.random() < 0.2
    for number in range(connections):
        values = {name: dice.choice(choices) for name, choices in usual}
        if kinds and dice.random() < 0.4:
            name = dice.choice(sorted(kinds))
            values[name] = dice.choice(rare[name])
        port = str(50000 + dice.randrange(6))
        path = [(tap, src.replace("50000", port), dst) for tap, src, dst in BEHIND]
        if dice.random() < 0.15:
            path = [
                (tap.replace("node2", "node3"), src, dst.replace(NODES["node2"], NODES["node3"]).replace(
                    PODS["node2"], PODS["node3"]))
                for tap, src, dst in path
            ]  # fmt: skip
        data, isn = first_bytes(values, path[0][1]), 5000 * number + 11
        story.wait(dice.choice([0.001, 0.001, 0.2, 100]))
        story.connection(path, isn=isn, tsval=isn, data=data, response=values["response"])
        if odd and dice.random() < 0.1:
            story.say(path, isn, dice.choice([HTTP, v1(C), b"\x16\x03\x01"]), len(data))
        if dice.random() < 0.3:
            story.close(path, isn, sent=len(values["response"]), flag=dice.choice([TcpFlag.FIN, TcpFlag.RST]))
        if onward and dice.random() < 0.2:
            story.connection(ONWARD, isn=isn + 1, tsval=isn, data=HTTP)
        if dice.random() < 0.1:
            story.connection(LOCAL, isn=isn + 2, tsval=isn)
    return story


def first_bytes(values: dict[str, Any], source: str) -> bytes:
    header = values["header"]
    destination = POD.replace(":", " ")
    if header == "none":
        return bytes(values["data"])
    if header == "UNKNOWN":
        return b"PROXY UNKNOWN\r\n" + values["data"]
    if header == "broken":
        return b"PROXY TCP4 nobody\r\n" + values["data"]
    if header == "cut":
        return b"PROXY TCP4 203.0.113.9 10.24"
    named = source if header == "own" else C if header == "two" else header.split(" ")[1]
    address, _, port = named.rpartition(":")
    text = f"PROXY TCP4 {address} {destination.split()[0]} {port} {destination.split()[1]}\r\n".encode()
    return (text * 2 if header == "two" else text) + bytes(values["data"])


@pytest.mark.parametrize("seed", range(25))
def test_in_any_mixture_of_connections_behind_a_balancer(seed: int, judged_alone: dict[str, int]) -> None:
    dice = random.Random(seed)
    story = random_story(dice, 40)
    recording = story.recording()
    lost = dice.choice([0, 0, 0.02, 0.1])
    kept = [number for number in range(len(recording.packets)) if dice.random() >= lost]
    recording = dataclasses.replace(recording, packets=recording.packets[kept])
    report = whole.analyze(recording, story.facts)
    assert report.summary.journeys
    counted = whole.analyze(recording, story.facts, limit=1)
    for verdict in ("preserved", "lost", "blackholed"):
        assert getattr(counted.summary, verdict) <= getattr(report.summary, verdict)


def test_headers_that_name_different_clients_are_counted_as_one_by_one(judged_alone: dict[str, int]) -> None:
    counted = 0
    for seed in range(10):
        story = random_story(random.Random(seed), 60, odd=False)
        report, few = story.report(), story.report(limit=1)
        assert few.summary == report.summary
        assert {each.code: each.journeys for each in few.findings} == {
            each.code: each.journeys for each in report.findings
        }
        counted += few.journeys_omitted
    assert counted > 400
    assert judged_alone["headers"] > 400


def test_many_connections_behind_a_balancer_cost_as_many_verdicts_as_they_have_shapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    original = outcomes.judge

    def judged(known: outcomes.Known) -> outcomes.Judgement:
        nonlocal calls
        calls += 1
        return original(known)

    monkeypatch.setattr(outcomes, "judge", judged)
    story = Story(cluster("Local", balancer=LB))
    story.connection(BEHIND, data=v1(C) + HTTP)
    report = whole.analyze(repeated(story.recording(), 2_000), story.facts, limit=12)
    assert report.summary.preserved == report.summary.journeys == 2_000
    assert calls <= 24
