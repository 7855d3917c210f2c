"""Health checks of our own beside a balancer's: they tell when a node said no, and no balancer is told by them."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.health.changes import EndpointChange
from analysis.health.own import OwnAnswer, OwnChecks
from analysis.report import Report
from daemonset.node.health_port import Answered
from daemonset.observation import HealthAnswer
from probe.cluster.timing import Clock
from probe.health.answers import MOST_LINE, MOST_OF_ONE, Answers, Lines
from tests.health.balanced import HEALTH_PORT, Balanced, local

SECOND = 1_000_000_000


def health_codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings if finding.code.startswith("SIP6")}


class Watched(Balanced):
    """A story that knows when it began."""

    def __init__(self, *nodes: str) -> None:
        super().__init__(local(*nodes))
        self.started = self.now


def judged(told: Watched, own: OwnChecks, changes: tuple[EndpointChange, ...] = ()) -> Report:
    """The report, after what got no answer had its time."""
    told.wait(5).connection([("nic:node3/eth0", "198.51.100.1:9", "198.51.100.2:9")], isn=1)
    return told.report(service="shop/web", own=own, changes=changes)


def run(told: Watched, node: str, answer: str, *, since: float, until: float, times: int = 5) -> OwnAnswer:
    """A run of answers, in seconds from the story's beginning."""
    count = 0 if answer == "503" else 1
    start = told.started
    return OwnAnswer(
        int(start + since * SECOND), int(start + until * SECOND), times, node, HEALTH_PORT, answer,
        HealthAnswer(count, True, "shop/web", count) if answer.isdigit() else None,
    )  # fmt: skip


def test_a_node_that_only_we_asked_has_its_answers_told() -> None:
    told = Watched("node2")
    for _ in range(6):
        told.asks("node2", 200, 1, every=0.3).sends("node2")
    own = OwnChecks((run(told, "node1", "503", since=0, until=3),))
    report = judged(told, own)
    health = report.health
    assert health is not None
    node1 = next(node for node in health.nodes if node.node == "node1")
    assert node1.answers == {"503": 5}
    assert [outage.answers for outage in node1.outages] == [0], "nobody else was told"
    assert {checker.address for checker in health.checkers} == {"172.30.0.150"}
    assert health_codes(report) == set(), "that it is left alone proves nothing of the balancer"


def test_refusals_of_ours_make_no_deaf_balancer() -> None:
    told = Watched("node1", "node2")
    told.asks("node1", 200, 1).asks("node2", 200, 1).sends("node1").sends("node2")
    for _ in range(8):
        told.wait(0.3)
        told.sends("node1", served=False).sends("node2")
    own = OwnChecks((run(told, "node1", "503", since=0.5, until=9, times=90),))
    assert "SIP606" not in health_codes(judged(told, own))


def test_clients_that_come_by_themselves_are_no_balancers_fault() -> None:
    told = Watched("node2")
    for _ in range(4):
        told.sends("node1", served=False)
        told.wait(0.5)
    own = OwnChecks(
        (run(told, "node1", "503", since=0, until=3), run(told, "node2", "200", since=0, until=3))
    )
    report = judged(told, own)
    assert health_codes(report) == set()
    assert report.health is not None
    assert any("nobody but ourselves asked" in reason for reason in report.health.reasons)


@pytest.mark.parametrize(("times", "seen"), [(1, False), (2, False), (3, True)])
def test_one_question_that_comes_to_nothing_may_be_our_own_fault(times: int, seen: bool) -> None:
    told = Watched("node2")
    for _ in range(6):
        told.asks("node2", 200, 1, every=0.3).sends("node2")
    own = OwnChecks(
        (
            run(told, "node3", "503", since=0.1, until=1),
            run(told, "node3", "no answer", since=1.2, until=1.6, times=times),
        )
    )
    health = judged(told, own).health
    assert health is not None
    node3 = next(node for node in health.nodes if node.node == "node3")
    assert ("no answer" in node3.answers) is seen


def test_answers_that_crossed_are_no_change_of_mind() -> None:
    told = Watched("node2")
    for _ in range(6):
        at = (told.now - told.started) / SECOND
        told.asks("node2", 200, 1, every=0.3).sends("node2")
    own = OwnChecks((run(told, "node2", "503", since=at + 0.01, until=at + 0.01, times=1),))
    health = judged(told, own).health
    assert health is not None
    assert all(not node.outages for node in health.nodes)


def test_objects_say_nothing_of_a_node_whose_endpoints_changed() -> None:
    told = Watched("node2")
    for _ in range(6):
        told.asks("node1", 200, 1, every=0.3).asks("node2", 200, 1, every=0.1).sends("node2")
    assert "SIP601" in health_codes(judged(told, OwnChecks())), "the objects show none on node1"
    grown = (EndpointChange(told.started, "node1", 1, 0, "shop/web"),)
    assert "SIP601" not in health_codes(judged(told, OwnChecks(), grown))


# ── gathering ────────────────────────────────────────────────────────────────────────────────────────────


def answered(time: int, status: int = 200, **more: Any) -> Answered:
    return Answered(0, time, "answered", status, said=HealthAnswer(1, True, "a/b", 1), **more)


def test_equal_answers_are_one_run_by_our_clock() -> None:
    said: list[str] = []
    answers = Answers(lambda node, words: said.append(f"{node}: {words}"))
    for time in (100, 200, 300):
        answers.take("node1", 1, answered(time))
    answers.take("node1", 1, answered(400, 503))
    first, second = answers.so_far({"node1": Clock(40, 60)}).answers
    assert (first.time, first.until, first.times, first.answer) == (50, 250, 3, "200")
    assert (second.time, second.until, second.times, second.answer) == (350, 350, 1, "503")
    assert said == [
        "node1: health check: 200, 1 local endpoint",
        "node1: health check: 503, 1 local endpoint",
    ]


def test_a_port_that_flaps_without_end_is_bounded_and_said() -> None:
    answers = Answers()
    for number in range(MOST_OF_ONE * 2):
        answers.take("node1", 1, answered(number, 200 + number % 2))
    own = answers.so_far()
    assert len(own.answers) == MOST_OF_ONE
    assert any("node1" in reason for reason in own.reasons)


def test_lines_at_any_chunking() -> None:
    text = b"one\n" + b"two" * 10 + b"\n\nthree\nrest"
    for size in range(1, len(text)):
        lines = Lines()
        found = [line for at in range(0, len(text), size) for line in lines.feed(text[at : at + size])]
        assert found == [b"one", b"two" * 10, b"", b"three"]


def test_a_line_without_end_is_let_go() -> None:
    lines = Lines()
    for _ in range(100):
        assert lines.feed(b"x" * MOST_LINE) == []
    assert lines.feed(b"x\nnext\n") == [b"next"]
