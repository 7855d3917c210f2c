"""Each thing that can be wrong with health checks has its own name, and nothing near it is called so."""

from __future__ import annotations

import pytest

from analysis.report import Report
from tests.analysis.story import Story
from tests.health.balanced import (
    ADDRESS,
    HEALTH_STORIES,
    Balanced,
    draining,
    local,
    well,
)


def health_codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings if finding.code.startswith("SIP6")}


#: What else is true of a story besides the code that it is about.
ALSO = {"SIP603": set(), "SIP607": {"SIP609"}, "SIP610": {"SIP607"}}


@pytest.mark.parametrize("code", sorted(HEALTH_STORIES))
def test_each_is_told_apart(code: str) -> None:
    told = health_codes(HEALTH_STORIES[code]())
    assert code in told
    assert told - {code} <= ALSO.get(code, set())


def test_a_drain_in_numbers() -> None:
    health = draining(terminating=False).health
    assert health is not None
    node1 = next(node for node in health.nodes if node.node == "node1")
    (outage,) = node1.outages
    assert (health.clients, health.lost, health.saved) == (22, 4, 0)
    assert (outage.lost, outage.connections, outage.served, outage.stopped) == (4, 3, 0, True)
    assert outage.failing_since is not None
    assert outage.failing_since < outage.first
    assert outage.total_lag is not None
    assert outage.total_lag > outage.balancer_lag > 0
    assert outage.senders == (ADDRESS,)


def test_what_terminating_endpoints_save() -> None:
    health = draining(terminating=True).health
    assert health is not None
    assert (health.lost, health.saved) == (0, 3)


def test_with_no_healthy_node_at_all_the_balancer_sends_everywhere_on_purpose() -> None:
    told = Balanced(local("node2"))
    for _ in range(12):
        told.asks("node1", 503, 0, every=0.2).asks("node2", 503, 0, every=0.2).sends("node1", served=False)
    assert "SIP606" not in health_codes(told.story())


def test_plain_connections_to_the_node_port_are_checks_of_a_kind() -> None:
    told = Balanced(local("node2"))
    for _ in range(5):
        told.connection(
            [("lb:lb/eth0", f"{ADDRESS}:5{told._next()}", "172.30.0.12:30080")],
            isn=told._next() * 100,
            data=b"",
            response=b"",
        )
        told.asks("node2", 200, 1).sends("node2")
    assert health_codes(told.story()) == set()


def test_without_any_check_nothing_is_said() -> None:
    assert Balanced(local("node2")).sends("node2", times=3).story().health is None


def test_a_person_with_curl_is_no_balancer() -> None:
    told = Balanced(local("node2")).sends("node2", times=6)
    for number in range(4):
        there = [("nic:node1/eth0", f"198.51.100.7:{4000 + number}", "172.30.0.11:10256")]
        told.connection(there, isn=number + 5, data=b"GET /healthz HTTP/1.1\r\n\r\n")
    assert health_codes(told.story()) == set()


def test_kubelets_and_pods_do_not_count() -> None:
    report = well()
    assert report.health is not None
    assert {checker.address for checker in report.health.checkers} == {ADDRESS}


def test_a_report_without_objects_says_nothing_of_health() -> None:
    from analysis.facts import Facts

    story = Story(Facts(known=False)).connection([("nic:node1/eth0", "203.0.113.9:1", "172.30.0.11:32100")])
    assert story.report().health is None
