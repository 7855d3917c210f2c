"""Proxies behind proxies, and headers that clients write themselves: whose connection carries on whose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.report import Journey, Report
from tests.analysis.story import CLIENT, OK, PODS, Story, cluster
from tests.analysis.test_chain import BACK, FRONT, ONWARD, OTHER, SECOND, Path, echo, get
from tests.analysis.test_stories import HTTP, LB, C, v1

INGRESS = PODS["node2"]
EDGE = "192.0.2.99"


def edge_front(client: str = C) -> Path:
    return [("client:c/eth0", client, f"{EDGE}:80"), ("lb:edge/eth0", client, f"{EDGE}:80")]


def between(port: int = 7000) -> Path:
    source = f"{EDGE}:{port}"
    return [("lb:edge/eth0", source, f"{LB}:80"), ("lb:lb/eth0", source, f"{LB}:80")]


def back(port: int = 50000) -> Path:
    return [(tap, src.replace(":50000", f":{port}"), dst) for tap, src, dst in BACK]


def client_of(journey: Journey) -> str | None:
    return f"{journey.client.address}:{journey.client.port}" if journey.client else None


def outcomes(report: Report) -> list[tuple[str | None, str, str | None, tuple[str, ...]]]:
    return [(client_of(each), each.verdict, each.seen_by_app, each.findings) for each in report.journeys]


def http_behind_http() -> Story:
    """Each appends who asked it; the ingress believes both, and so sees the client."""
    seen = get(X_Real_IP=CLIENT, X_Forwarded_For=f"{CLIENT}, {EDGE}, {LB}")
    return Story(cluster("Local", balancer=LB)).relayed(
        (edge_front(), 10, HTTP),
        (between(), 11, get(X_Forwarded_For=CLIENT)),
        (BACK, 12, get(X_Forwarded_For=f"{CLIENT}, {EDGE}")),
        (ONWARD, 13, seen),
        response=echo(CLIENT),
    )


def shared_in_between() -> Story:
    """The edge sends requests of two clients through one connection, and so does the balancer behind it."""
    second = f"{SECOND}:40000"
    one, two = get(X_Forwarded_For=CLIENT), get(X_Forwarded_For=SECOND)
    one_behind = get(X_Forwarded_For=f"{CLIENT}, {EDGE}")
    two_behind = get(X_Forwarded_For=f"{SECOND}, {EDGE}")
    story = Story(cluster("Local", balancer=LB))
    story.relayed(
        (edge_front(), 10, HTTP), (between(), 11, one), (BACK, 12, one_behind), response=echo(CLIENT)
    )
    story.connection(edge_front(second), isn=20, tsval=20, response=b"")
    story.say(between(), 11, two, len(one)).say(BACK, 12, two_behind, len(one_behind))
    sent = len(echo(CLIENT))
    story.respond(BACK, 12, b"", echo(SECOND), sent).respond(between(), 11, b"", echo(SECOND), sent)
    return story.respond(edge_front(second), 20, HTTP, echo(SECOND))


def passed_through_twice() -> Story:
    """Neither of them reads or adds anything."""
    return Story(cluster("Local", balancer=LB)).relayed(
        (edge_front(), 10, HTTP), (between(), 11, HTTP), (BACK, 12, HTTP), response=echo(LB)
    )


def named_by_the_edge() -> Story:
    """The edge names the client in a field, the balancer names the edge in a header, and the ingress reads that."""
    field = get(X_Forwarded_For=CLIENT)
    told = get(X_Real_IP=EDGE, X_Forwarded_For=f"{CLIENT}, {EDGE}")
    return Story(cluster("Local", balancer=LB)).relayed(
        (edge_front(), 10, HTTP),
        (between(), 11, field),
        (BACK, 12, v1(f"{EDGE}:7000") + field),
        (ONWARD, 13, told),
        response=echo(EDGE),
    )


IN_A_ROW = {
    "http behind http": http_behind_http(),
    "shared in between": shared_in_between(),
    "passed through twice": passed_through_twice(),
    "named by the edge": named_by_the_edge(),
}


def test_two_proxies_that_append_are_followed_to_the_client() -> None:
    assert outcomes(http_behind_http().report()) == [(C, "preserved", CLIENT, ("SIP505",))]


@pytest.mark.parametrize("ahead", [-3.0, 3.0])
def test_each_proxy_has_a_clock_of_its_own(ahead: float) -> None:
    story = replace(http_behind_http(), rows=[], taps={}, clocks={"edge": ahead})
    seen = get(X_Real_IP=CLIENT, X_Forwarded_For=f"{CLIENT}, {EDGE}, {LB}")
    story.relayed(
        (edge_front(), 10, HTTP),
        (between(), 11, get(X_Forwarded_For=CLIENT)),
        (BACK, 12, get(X_Forwarded_For=f"{CLIENT}, {EDGE}")),
        (ONWARD, 13, seen),
        response=echo(CLIENT),
    )
    journey = story.journey()
    assert client_of(journey) == C
    places = list(dict.fromkeys(hop.node for hop in journey.hops if hop.node))
    assert places[:4] == ["c", "edge", "lb", "node2"]


def test_requests_of_two_clients_share_connections_of_both_proxies() -> None:
    told = outcomes(shared_in_between().report())
    assert [each[:3] for each in told] == [
        (C, "preserved", CLIENT),
        (f"{SECOND}:40000", "preserved", SECOND),
    ]


def test_proxies_that_only_pass_on_are_tied_one_by_one() -> None:
    assert outcomes(passed_through_twice().report()) == [(C, "lost", LB, ("SIP104",))]


def test_a_header_that_names_the_proxy_before_is_told_where_a_field_names_the_client() -> None:
    assert outcomes(named_by_the_edge().report()) == [(C, "lost", EDGE, ("SIP316",))]


def test_a_header_that_names_a_proxy_which_names_nobody_is_no_better_than_none() -> None:
    story = Story(cluster("Local", balancer=LB)).relayed(
        (edge_front(), 10, HTTP),
        (between(), 11, HTTP),
        (BACK, 12, v1(f"{EDGE}:7000") + HTTP),
        (ONWARD, 13, get(X_Real_IP=EDGE, X_Forwarded_For=EDGE)),
        response=echo(EDGE),
    )
    assert outcomes(story.report()) == [(C, "lost", EDGE, ("SIP104",))]


def test_what_an_unwatched_proxy_made_is_not_tied_to_others_that_came_at_its_time() -> None:
    """Only the balancer is watched: what the edge passes on for somebody may look like what a client sent itself."""
    direct: Path = [("lb:lb/eth0", C, f"{LB}:80")]
    unwatched: Path = [("lb:lb/eth0", f"{EDGE}:7000", f"{LB}:80")]
    story = Story(cluster("Local", balancer=LB))
    story.connection(direct, isn=10, tsval=10, response=b"")
    story.relayed(
        (unwatched, 11, get(X_Forwarded_For=CLIENT)), (BACK, 12, get(X_Forwarded_For=f"{CLIENT}, {EDGE}"))
    )
    [journey] = [each for each in story.report().journeys if each.endpoint]
    assert client_of(journey) != C


OWN = v1(f"{OTHER}:1")


def own_header(port: int = 40000, isn: int = 10, saw: str = OTHER) -> Story:
    """A client writes a PROXY header, the balancer passes bytes on, and the ingress believes the balancer's."""
    return Story(cluster("Local", balancer=LB)).relayed(
        (FRONT, 10, OWN + HTTP),
        (BACK, 12, OWN + HTTP),
        (ONWARD, 13, get(X_Real_IP=saw, X_Forwarded_For=saw)),
        response=echo(saw),
    )


def test_a_header_that_a_client_wrote_is_not_the_balancers_that_passes_it_on() -> None:
    assert outcomes(own_header().report()) == [(C, "lost", OTHER, ("SIP104", "SIP305"))]


def test_a_header_that_names_another_client_of_the_balancer_is_still_the_writers() -> None:
    """Its own connection and that of the client whom it names are both there."""
    second = f"{SECOND}:40000"
    path = [(tap, second, dst) for tap, _, dst in FRONT]
    story = Story(cluster("Local", balancer=LB))
    story.relayed((path, 20, HTTP), (back(50001), 21, HTTP), response=OK)
    stolen = v1(second)
    story.relayed(
        (FRONT, 10, stolen + HTTP),
        (back(50002), 12, stolen + HTTP),
        (ONWARD, 13, get(X_Real_IP=SECOND, X_Forwarded_For=SECOND)),
        response=echo(SECOND),
    )
    told = {client: (verdict, codes) for client, verdict, _, codes in outcomes(story.report())}
    assert told[C] == ("lost", ("SIP104", "SIP305"))
    assert told[second][0] == "lost"


def test_who_wrote_a_header_that_a_balancer_passed_on_is_open_where_the_client_was_not_watched() -> None:
    story = own_header()
    hidden = [number for tap, number in story.taps.items() if tap.startswith("client:")]
    story.rows = [row for row in story.rows if row[0] not in hidden]
    [journey] = story.report().journeys
    assert (journey.verdict, "SIP304" in journey.findings) == ("inconclusive", True)


def test_a_balancer_that_carries_clients_on_without_a_header_wrote_none() -> None:
    """The client's own bytes were not seen in front of it, but those of another are."""
    story = Story(cluster("Local", balancer=LB))
    story.relayed((FRONT, 10, HTTP), (back(50001), 12, HTTP))
    story.wait(10).connection(back(50002), isn=30, tsval=30, data=OWN + HTTP)
    told = {client: verdict for client, verdict, *_ in outcomes(story.report())}
    assert told == {C: "lost", None: "inconclusive"}


def named_by(field: str, value: str, *, before: dict[str, str] | None = None) -> Report:
    """Two clients ask the same of one balancer at the same time, and it names its peers in this field."""
    second = f"{SECOND}:41000"
    other = [(tap, second, dst) for tap, _, dst in FRONT]
    asked = get(**(before or {}))
    story = Story(cluster("Local", balancer=LB))
    story.connection(FRONT, isn=10, tsval=10, data=asked, response=b"")
    story.connection(other, isn=20, tsval=20, data=HTTP, response=b"")
    told = get(**{field: value}, Via="1.1 lb")
    return story.relayed((BACK, 12, told)).respond(FRONT, 10, asked).report()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("X_Forwarded_For", CLIENT),
        ("X_Forwarded_For", C),
        ("Forwarded", f"for={CLIENT};proto=http"),
        ("Forwarded", f'for="{C}"'),
        ("X_Real_IP", CLIENT),
        ("CF_Connecting_IP", CLIENT),
    ],
)
def test_a_proxy_names_its_peer_in_fields_of_many_kinds(field: str, value: str) -> None:
    clients = [client_of(each) for each in named_by(field, value).journeys if each.endpoint]
    assert clients == [C]


def test_a_proxy_may_write_in_place_of_what_a_client_wrote() -> None:
    report = named_by("X_Forwarded_For", CLIENT, before={"X_Forwarded_For": OTHER})
    assert [client_of(each) for each in report.journeys if each.endpoint] == [C]


def test_a_port_in_the_field_tells_connections_of_one_client_apart() -> None:
    """The other one lies closer around."""
    other = [(tap, f"{CLIENT}:40001", dst) for tap, _, dst in FRONT]
    story = Story(cluster("Local", balancer=LB))
    story.connection(FRONT, isn=10, tsval=10, response=b"").connection(other, isn=20, tsval=20, response=b"")
    story.relayed((BACK, 12, get(X_Forwarded_For=C))).respond(other, 20, HTTP).respond(FRONT, 10, HTTP)
    assert [client_of(each) for each in story.report().journeys if each.endpoint] == [C]


@pytest.mark.parametrize("field", ["X_Forwarded_For", "Forwarded", "X_Real_IP"])
def test_a_field_that_a_client_may_have_written_names_nobody(field: str) -> None:
    """One client says that it is another, and the proxy may be one that passes fields on."""
    value = f"for={SECOND}" if field == "Forwarded" else SECOND
    report = named_by(field, value, before={field: value})
    assert [client_of(each) for each in report.journeys if each.endpoint] == [None]


def test_a_proxy_that_writes_a_field_at_times_names_nobody_by_it() -> None:
    story = Story(cluster("Local", balancer=LB))
    story.relayed((FRONT, 10, HTTP), (BACK, 12, get(Host="other.example")))
    second = [(tap, f"{SECOND}:41000", dst) for tap, _, dst in FRONT]
    third = [(tap, f"{OTHER}:42000", dst) for tap, _, dst in FRONT]
    story.wait(10).connection(second, isn=20, tsval=20, response=b"")
    story.connection(third, isn=30, tsval=30, response=b"")
    story.relayed((back(50003), 32, get(X_Real_IP=SECOND)))
    assert None in [client_of(each) for each in story.report().journeys if each.endpoint]
