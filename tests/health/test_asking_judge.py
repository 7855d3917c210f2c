"""Answers of health ports against slices: what is wrong by its name, and no alarm where it may be a race."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from analysis.health.asking import ROUNDS, unsettled
from analysis.health.replies import Standing
from tests.health.replied import (
    ASKED_STORIES,
    HEALTHZ,
    KEY,
    REFUSED,
    SILENT,
    UNASKED,
    Asked,
    cluster,
    service,
    two,
)

LIE = {"status": 200, "local_endpoints": 1, "weight": 1}

#: What is built, and the codes that must come of it: no more, no fewer.
CASES: dict[str, tuple[Callable[[], Asked], set[str]]] = {
    "as kube-proxy answers": (two, {"SIP618"}),
    "200 on a node without an endpoint": (lambda: two().but("node2", **LIE), {"SIP601"}),
    "200 without a body there": (
        lambda: two().but("node2", status=200, local_endpoints=None, weight=None, service=""),
        {"SIP601"},
    ),
    "a body that contradicts its status": (lambda: two().but("node2", status=200), {"SIP608"}),
    "503 on a node with an endpoint": (lambda: two().but("node1", status=503), {"SIP603"}),
    "nobody listens": (lambda: two().but("node1", **REFUSED), {"SIP602"}),
    "it never answers": (lambda: two().but("node1", **SILENT), {"SIP602"}),
    "it refuses the node itself, and answers others, as balancers are": (
        lambda: two().but("node1", sides=("itself",), **REFUSED),
        {"SIP618"},
    ),
    "it answers the node itself, not its peer": (
        lambda: two().but("node1", sides=("peer", "operator"), **SILENT),
        {"SIP611"},
    ),
    "not reachable from outside alone": (
        lambda: two().but("node1", sides=("operator",), **SILENT),
        {"SIP618"},
    ),
    "another machine answers from outside": (
        lambda: two().but(
            "node2", sides=("operator",), status=200, local_endpoints=None, weight=None, service=""
        ),
        {"SIP618"},
    ),
    "another cluster's node of that address, with a Service of that name": (
        lambda: two().but("node2", sides=("operator",), **LIE),
        {"SIP618"},
    ),
    "from here alone": (
        lambda: (
            two().but("node2", sides=("itself", "peer"), **UNASKED).but("node2", sides=("operator",), **LIE)
        ),
        {"SIP601"},
    ),
    "another count": (lambda: two().but("node1", local_endpoints=3, weight=3), {"SIP612"}),
    "a weight of its own": (lambda: two().but("node1", weight=7), {"SIP612"}),
    "another status": (lambda: two().but("node1", status=404, start="HTTP/1.1 404 Not Found"), {"SIP616"}),
    "another Service": (lambda: two().but("node1", service="shop/web"), {"SIP616"}),
    "no HTTP": (lambda: two().but("node1", outcome="not HTTP", status=None, start="SSH-2.0"), {"SIP616"}),
    "kube-proxy lags, and says so": (
        lambda: two().but("node1", status=503, proxy_healthy=False),
        {"SIP613"},
    ),
    "healthz says no under Local": (lambda: two().but("node2", HEALTHZ, status=503), {"SIP613"}),
    "healthz is not served under Local": (lambda: two().but("node2", HEALTHZ, **REFUSED), {"SIP618"}),
    "policy Cluster": (cluster, {"SIP618"}),
    "healthz says no under Cluster": (lambda: cluster().but("node1", HEALTHZ, status=503), {"SIP613"}),
    "healthz is not served under Cluster": (lambda: cluster().but("node1", HEALTHZ, **REFUSED), {"SIP615"}),
    "a node that goes says so": (
        lambda: cluster().leaves("node1").but("node1", HEALTHZ, status=503, node_eligible=False),
        {"SIP617", "SIP618"},
    ),
    "a node that goes says so, and no more": (
        lambda: cluster().leaves("node1").but("node1", HEALTHZ, status=503, node_eligible=None),
        {"SIP617", "SIP618"},
    ),
    "a node that goes says that it is well": (lambda: cluster().leaves("node1"), {"SIP614"}),
    "a node that goes, which only kube-proxy knows": (
        lambda: cluster().but("node1", HEALTHZ, status=503, node_eligible=False),
        {"SIP618"},
    ),
    "a node that goes under Local keeps its endpoint": (lambda: two().leaves("node1"), {"SIP618"}),
    "terminating endpoints, 503": (lambda: two(draining={"node2": 1}).but("node2", status=503), {"SIP618"}),
    "terminating endpoints, 200": (lambda: two(draining={"node2": 1}).but("node2", **LIE), set()),
}


@pytest.mark.parametrize("case", CASES)
def test_each_is_told_by_its_name(case: str) -> None:
    build, expected = CASES[case]
    assert build().codes() == expected


@pytest.mark.parametrize("code", sorted(ASKED_STORIES))
def test_the_answer_has_the_finding(code: str) -> None:
    assert code in {finding.code for finding in ASKED_STORIES[code]().findings}


WRONG = [name for name, (_, codes) in CASES.items() if codes - {"SIP617", "SIP618"}]


@pytest.mark.parametrize("case", WRONG)
def test_nothing_is_wrong_that_is_right_in_another_round(case: str) -> None:
    told = CASES[case][0]()
    told.rounds[-1] = Asked(told.has, policy=told.policy).rounds[0]
    if told.leaving:
        told.leaving.clear()
    assert not told.codes() - {"SIP618"}


@pytest.mark.parametrize("case", WRONG)
def test_one_round_is_not_enough_and_asks_for_another(case: str) -> None:
    told = CASES[case][0]()
    first = told.built[:1]
    assert unsettled(first, told.service, told.leaving)
    told.rounds, told.views = told.rounds[:1], told.views[:1]
    assert not told.codes() - {"SIP618"}


def test_what_is_right_at_once_is_asked_once() -> None:
    told = two(rounds=1)
    assert not unsettled(told.built, told.service)
    assert unsettled([], told.service)
    assert told.codes() == {"SIP618"}


def test_rounds_end() -> None:
    told = two(rounds=ROUNDS).but("node2", **LIE)
    assert not unsettled(told.built, told.service)


# ── races ────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_endpoint_that_goes_between_asking_and_reading_is_no_alarm() -> None:
    was, now = service({"node1": 1, "node2": 1}), service({"node1": 1, "node2": 0})
    told = Asked({"node1": 1, "node2": 1}).slices(0, was, now).slices(1, now, now).slices(2, now, now)
    assert told.codes() == set()
    assert told.node("node2").standing is Standing.CHANGED
    assert told.node("node1").standing is Standing.RIGHT


def test_a_node_whose_endpoints_changed_is_judged_by_nothing_but_its_own_contradictions() -> None:
    was, now = service({"node1": 1, "node2": 1}), service({"node1": 1, "node2": 0})
    told = Asked({"node1": 1, "node2": 1}).slices(0, was, now).slices(1, now, now).slices(2, now, now)
    told.but("node2", status=200, local_endpoints=0, weight=0)
    assert told.codes() == {"SIP608"}


def test_a_node_that_is_right_after_a_change_is_right() -> None:
    was, now = service({"node1": 1, "node2": 1}), service({"node1": 1, "node2": 0})
    told = two().slices(0, was, now)
    assert told.node("node2").standing is Standing.RIGHT
    assert told.node("node2").words == ("its endpoints changed meanwhile",)


def test_a_change_in_the_last_round_leaves_it_open() -> None:
    was, now = service({"node1": 1, "node2": 1}), service({"node1": 1, "node2": 0})
    told = two().slices(0, was, was).slices(1, was, was).slices(2, was, now)
    assert told.node("node2").standing is Standing.CHANGED
    assert told.report().exit_code == 4


def test_a_change_on_another_node_changes_nothing() -> None:
    grown = service({"node1": 1, "node2": 0, "node3": 1})
    told = two().but("node2", **LIE).slices(1, grown, grown)
    assert told.codes() == {"SIP601"}


def test_an_endpoint_that_is_replaced_by_another_counts_as_a_change() -> None:
    one = service({"node1": 1, "node2": 0})
    other = service({"node0": 1, "node1": 1})  # node1's has another address
    told = two().but("node1", status=503, local_endpoints=0, weight=0)
    told.slices(0, one, one).slices(1, other, other).slices(2, other, other)
    assert "SIP603" not in told.codes()


def test_answers_that_change_without_the_slices_are_not_judged() -> None:
    told = two().but("node2", rounds=(1, 2), **LIE)
    assert told.codes() == set()
    assert told.node("node2").standing is Standing.OPEN


# ── what is not known ────────────────────────────────────────────────────────────────────────────────────


def test_without_slices_only_contradictions_are_told() -> None:
    told = two().but("node2", **LIE)
    for number in range(ROUNDS):
        told.slices(number, None, None)
    assert told.codes() == set()
    assert any("EndpointSlices" in reason for reason in told.judged()[0].reasons)
    assert told.report().exit_code == 4
    told.but("node2", status=200, local_endpoints=0, weight=0)
    assert told.codes() == {"SIP608"}


def test_a_node_without_an_agent_is_judged_by_what_its_peer_was_answered() -> None:
    told = two().but("node2", sides=("itself",), **UNASKED)
    assert told.codes() == {"SIP618"}
    assert told.but("node2", sides=("peer",), **LIE).codes() == {"SIP601"}


def test_a_node_that_nobody_reaches_is_not_judged() -> None:
    told = two().but("node2", sides=("itself",), **UNASKED).but("node2", sides=("peer", "operator"), **SILENT)
    assert told.codes() == set()
    assert told.node("node2").standing is Standing.OPEN
    assert told.node("node2").words == ("its agent's pod did not come",)
    assert told.report().exit_code == 4


def test_endpoints_without_a_node_are_held_against_nobody() -> None:
    import msgspec

    told = two().but("node2", **LIE)
    endpoints = tuple(msgspec.structs.replace(each, node=None) for each in told.service.endpoints)
    homeless = msgspec.structs.replace(told.service, endpoints=endpoints)
    for number in range(ROUNDS):
        told.slices(number, homeless, homeless)
    assert "SIP601" not in told.codes()


def test_both_families_of_one_pod_count_once_or_twice() -> None:
    import msgspec

    both = service({"node1": 1, "node2": 0})
    six = msgspec.structs.replace(both.endpoints[0], address="fd00:10:244::2")
    both = msgspec.structs.replace(both, endpoints=(*both.endpoints, six))
    for claimed in (1, 2):
        told = two().but("node1", local_endpoints=claimed, weight=claimed)
        for number in range(ROUNDS):
            told.slices(number, both, both)
        assert told.codes() == {"SIP618"}


def test_local_without_a_port_of_its_own_says_so() -> None:
    import msgspec

    told = two()
    told.service = msgspec.structs.replace(told.service, health_check_node_port=0)
    told.rounds = [[each for each in replies if each.port == HEALTHZ] for replies in told.rounds]
    asking, codes = told.judged()
    assert codes == {}
    assert any("no health check node port" in reason for reason in asking.reasons)


def test_what_is_found_names_node_port_and_how_often() -> None:
    (line,) = two().but("node2", **LIE).judged()[1]["SIP601"]
    assert line == "node2: port 32100 answers 200 with 1 local endpoint; the slices show 0 ready, 3 times"


def test_the_worst_decides_the_exit_code() -> None:
    assert two().report().exit_code == 0
    assert two().but("node2", **LIE).report().exit_code == 3
    assert two().but("node1", sides=("peer",), **SILENT).report().exit_code == 0, "a warning"
    assert two().report().service == KEY
