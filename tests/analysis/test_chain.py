"""Journeys across proxies: who named whom to whom, told packet by packet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from analysis.asked import Asked
from analysis.facts import Facts
from analysis.ingress import Ingress, IngressRecord, Kind, Listener, LogEntry, Problem
from analysis.report import Journey, Report, Verdict
from analysis.trust.model import NginxRealIp
from daemonset.observation import TcpFlag
from probe.ingress.application import read_application
from tests.analysis.story import CLIENT, OK, PODS, START, Story, cluster
from tests.analysis.test_stories import BEHIND, HTTP, LB, LOCAL, C, v1

Path = list[tuple[str, str, str]]

INGRESS = PODS["node2"]
APP = "10.244.3.7:8000"
OTHER = "198.51.100.77"
BAD = b"HTTP/1.1 400 Bad Request\r\n\r\n"

#: The client's connection to the balancer, seen by both.
FRONT: Path = [("client:c/eth0", C, f"{LB}:80"), ("lb:lb/eth0", C, f"{LB}:80")]
#: The balancer's connection to the ingress.
BACK: Path = [("lb:lb/eth0", f"{LB}:50000", "172.30.0.12:30080"), *BEHIND]
#: The ingress's connection to its application.
ONWARD: Path = [("pod:node2/web", f"{INGRESS}:33000", APP)]


def get(path: str = "/debug/ip", **fields: str) -> bytes:
    """A request with these fields; an underscore stands for a hyphen."""
    lines = [f"GET {path} HTTP/1.1", "Host: shop.example"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def echo(saw: str | None) -> bytes:
    """The application's answer, with the client that it has; or without a word about that."""
    body = f'{{"client_host":"{saw}","headers":{{"client_host":"192.0.2.1"}}}}' if saw else ""
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def behind_balancer(
    back: bytes, onward: bytes | None, front: bytes = HTTP, *, watched: bool = True, saw: str | None = None
) -> Story:
    """One request through balancer and ingress to the application."""
    legs = [(FRONT, 11, front)] if watched else []
    legs.append((BACK if watched else BEHIND, 12, back))
    legs += [(ONWARD, 13, onward)] if onward is not None else []
    return Story(cluster("Local", balancer=LB)).relayed(*legs, response=echo(saw))


def straight(data: bytes, onward: bytes, *, watched: bool = True, saw: str | None = None) -> Story:
    """One request from the client straight to the ingress."""
    path = [("client:c/eth0", C, "172.30.0.12:30080"), *LOCAL] if watched else LOCAL
    return Story(cluster("Local")).relayed((path, 11, data), (ONWARD, 13, onward), response=echo(saw))


def answered(saw: str, destination: str = f"{LB}:80", **more: str) -> Asked:
    """The client's own record of its request."""
    seconds = START / 1e9
    forged = tuple((name.replace("_", "-"), value) for name, value in more.items())
    return Asked(C, destination, seconds, seconds + 1, "answered", status=200, saw=saw, forged=forged)


APPENDED = get(X_Forwarded_For=CLIENT)


def untrusted() -> Story:
    return behind_balancer(APPENDED, get(X_Real_IP=LB, X_Forwarded_For=f"{CLIENT}, {LB}"), saw=LB)


def masked_balancer() -> Story:
    """As the one before, but the ingress meets the node's address, for which kube-proxy replaced the balancer's."""
    back = [
        ("lb:lb/eth0", f"{LB}:50000", "172.30.0.12:30080"),
        ("nic:node2/eth0", f"{LB}:50000", "172.30.0.12:30080"),
        ("pod:node2/web", "10.244.2.1:61000", f"{INGRESS}:8080"),
    ]
    onward = get(X_Real_IP="10.244.2.1", X_Forwarded_For=f"{CLIENT}, 10.244.2.1")
    legs = [(FRONT, 11, HTTP), (back, 12, APPENDED), (ONWARD, 13, onward)]
    return Story(cluster("Cluster", balancer=LB)).relayed(*legs, response=echo("10.244.2.1"))


def overwritten() -> Story:
    return behind_balancer(APPENDED, get(X_Real_IP=LB, X_Forwarded_For=LB))


def believed() -> Story:
    return behind_balancer(APPENDED, get(X_Real_IP=CLIENT, X_Forwarded_For=f"{CLIENT}, {CLIENT}"), saw=CLIENT)


def forged_and_believed() -> Story:
    return straight(get(X_Forwarded_For=OTHER), get(X_Real_IP=OTHER, X_Forwarded_For=f"{OTHER}, {OTHER}"))


def forged_in_vain() -> Story:
    onward = get(X_Real_IP=CLIENT, X_Forwarded_For=f"{OTHER}, {CLIENT}")
    return straight(get(X_Forwarded_For=OTHER), onward, saw=CLIENT)


def plainly_forwarded() -> Story:
    return straight(HTTP, get(X_Real_IP=CLIENT, X_Forwarded_For=CLIENT))


def application_in_doubt() -> Report:
    return plainly_forwarded().report(asked=[answered(INGRESS, "172.30.0.12:30080")])


def without_header() -> Story:
    """A listener that waits for a header gets a request, and hangs up."""
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND, isn=12, response=b"")
    return story.close(BEHIND, 12)


def header_before_tls(answer: bytes | None = BAD) -> Story:
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND, isn=12, data=v1(C) + HELLO, response=b"")
    return story.respond(BEHIND, 12, HELLO, answer) if answer else story.close(BEHIND, 12)


def one_version_only() -> Story:
    """The listener takes v1, and refuses v2."""
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND, isn=12, data=v1(C) + HTTP)
    other = [(tap, src.replace(":50000", ":50001"), dst) for tap, src, dst in BEHIND]
    return story.connection(other, isn=30, tsval=9, data=V2 + HTTP, response=BAD)


def header_in_two_parts() -> Story:
    whole = v1(C) + HTTP
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND, isn=12, data=whole[:20], response=b"")
    return story.say(BEHIND, 12, whole[20:], 20).close(BEHIND, 12)


def two_headers() -> Story:
    story = Story(cluster("Local", balancer=LB))
    return story.connection(BEHIND, isn=12, data=v1(f"{LB}:4000") + v1(C) + HTTP, response=BAD)


def odd_family() -> Story:
    datagram = V2[:13] + b"\x12" + V2[14:]
    story = Story(cluster("Local", balancer=LB)).connection(
        BEHIND, isn=12, data=datagram + HTTP, response=b""
    )
    return story.close(BEHIND, 12, flag=TcpFlag.RST)


def contradicting() -> Story:
    """Both sides of the balancer carry one token, and the header names somebody else."""
    data = get(X_Probe_Token="4f2a")
    return behind_balancer(v1(f"{OTHER}:40000") + data, None, front=data)


def naming_nobody() -> Story:
    """A client's request, tied by its token, behind a header that says UNKNOWN."""
    data = get(X_Probe_Token="4f2a")
    return behind_balancer(b"PROXY UNKNOWN\r\n" + data, None, front=data)


def replaced_below_a_header() -> Story:
    back: Path = [
        ("lb:lb/eth0", f"{LB}:50000", "172.30.0.11:30080"),
        ("nic:node1/eth0", f"{LB}:50000", "172.30.0.11:30080"),
        ("pod:node2/web", "172.30.0.11:61000", f"{INGRESS}:8080"),
    ]
    onward = get(X_Real_IP=CLIENT, X_Forwarded_For=CLIENT)
    story = Story(cluster("Cluster", balancer=LB))
    legs = (FRONT, 11, HTTP), (back, 12, v1(C) + HTTP), (ONWARD, 13, onward)
    return story.relayed(*legs, response=echo(CLIENT))


def http2() -> Story:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    return Story(cluster("Local")).connection(LOCAL, data=preface)


def _hello() -> bytes:
    body = b"\x03\x03" + bytes(range(32)) + b"\x00\x00\x02\x13\x01\x01\x00\x00\x00"
    handshake = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(handshake).to_bytes(2, "big") + handshake


HELLO = _hello()
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
    + bytes([203, 0, 113, 9, 172, 30, 0, 150])
    + (40_000).to_bytes(2, "big")
    + (80).to_bytes(2, "big")
)


def only(report: Report) -> Journey:
    assert len(report.journeys) == 1, [(j.client, j.verdict, j.reason) for j in report.journeys]
    return report.journeys[0]


@pytest.mark.parametrize(
    ("told", "verdict", "seen", "codes"),
    [
        pytest.param(believed, "preserved", CLIENT, ("SIP505",), id="believed"),
        pytest.param(untrusted, "lost", LB, ("SIP502",), id="untrusted"),
        pytest.param(overwritten, "lost", LB, ("SIP503",), id="overwritten"),
        pytest.param(forged_and_believed, "lost", OTHER, ("SIP504",), id="forged and believed"),
        pytest.param(forged_in_vain, "preserved", CLIENT, ("SIP506",), id="forged in vain"),
        pytest.param(without_header, "lost", None, ("SIP104", "SIP307"), id="no header"),
        pytest.param(header_before_tls, "inconclusive", None, ("SIP308",), id="header before TLS"),
        pytest.param(header_in_two_parts, "inconclusive", None, ("SIP310",), id="header in two parts"),
        pytest.param(two_headers, "inconclusive", None, ("SIP311",), id="two headers"),
        pytest.param(odd_family, "inconclusive", None, ("SIP312",), id="UDP in a TCP header"),
        pytest.param(naming_nobody, "inconclusive", LB, ("SIP314",), id="UNKNOWN before a request"),
        pytest.param(
            replaced_below_a_header, "preserved", CLIENT, ("SIP301", "SIP315", "SIP401"), id="below"
        ),
        pytest.param(http2, "preserved", CLIENT, ("SIP508",), id="HTTP/2"),
    ],
)
def test_one_request_has_one_fate(
    told: Callable[[], Story], verdict: str, seen: str | None, codes: tuple[str, ...]
) -> None:
    journey = only(told().report())
    assert (journey.verdict, journey.seen_by_app, journey.findings) == (verdict, seen, codes)


def test_a_listener_of_one_version_is_told_by_what_it_takes_otherwise() -> None:
    taken, refused = one_version_only().report().journeys
    assert "SIP301" in taken.findings
    assert refused.findings == ("SIP309",)


def test_a_server_that_takes_headers_and_hangs_up_once_is_not_accused_of_not_expecting_them() -> None:
    """As an ingress does that is shut down."""
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND, isn=12, data=v1(C) + HTTP)
    other = [(tap, src.replace(":50000", ":50001"), dst) for tap, src, dst in BEHIND]
    story.connection(other, isn=30, tsval=9, data=v1(C) + HTTP, response=b"").close(other, 30)
    assert [journey.findings for journey in story.report().journeys] == [("SIP301",), ()]


def unanswered(story: Story, isn: int, port: int, node: str = "node1") -> Story:
    """The balancer asks a node without endpoint, twice, and nobody answers."""
    address = f"172.30.0.1{node[-1]}:30080"
    for attempt in range(2):
        path = [(tap, f"{LB}:{port}", address) for tap in ("lb:lb/eth0", f"nic:{node}/eth0")]
        story.syn(path, isn, tsval=isn + attempt * 1000).wait(1)
    return story


def test_a_balancer_that_tries_a_silent_node_again_and_again_makes_one_journey() -> None:
    story = Story(cluster("Local", balancer=LB)).watch("bridge:node1/cni0")
    story.connection(FRONT, isn=11, tsval=11, response=b"")
    unanswered(story, 100, 50001)
    unanswered(story, 200, 50002)
    journey = only(story.close(FRONT, 11).report())
    assert journey.client is not None
    assert f"{journey.client.address}:{journey.client.port}" == C
    assert (journey.verdict, journey.findings, journey.attempts) == ("blackholed", ("SIP201",), 1)


def test_a_balancer_that_finds_another_node_after_a_silent_one_makes_one_journey() -> None:
    story = Story(cluster("Local", balancer=LB)).watch("bridge:node1/cni0")
    story.connection(FRONT, isn=11, tsval=11, response=b"")
    unanswered(story, 100, 50001)
    story.connection(BACK, isn=12, data=v1(C) + HTTP).respond(FRONT, 11, HTTP)
    journey = only(story.report())
    assert (journey.verdict, journey.findings, journey.attempts) == ("preserved", ("SIP301", "SIP201"), 1)


def test_attempts_of_which_two_clients_can_be_the_cause_are_nobodys() -> None:
    story = Story(cluster("Local", balancer=LB)).watch("bridge:node1/cni0")
    story.connection(FRONT, isn=11, tsval=11, response=b"")
    second = [(tap, src.replace(CLIENT, SECOND), dst) for tap, src, dst in FRONT]
    story.connection(second, isn=21, tsval=21, response=b"")
    unanswered(story, 100, 50001)
    [attempt] = [journey for journey in story.report().journeys if journey.verdict is Verdict.BLACKHOLED]
    assert attempt.client is None


def test_attempts_are_nobodys_where_a_client_was_seen_on_its_own_side_alone() -> None:
    """What the balancer's tap missed of the second client may have been there at any time."""
    story = Story(cluster("Local", balancer=LB)).watch("bridge:node1/cni0")
    story.connection(FRONT, isn=11, tsval=11, response=b"")
    second = [(tap, src.replace(CLIENT, SECOND), dst) for tap, src, dst in FRONT if not tap.startswith("lb:")]
    assert second, "it has a tap of its own"
    story.connection(second, isn=21, tsval=21, response=b"")
    unanswered(story, 100, 50001)
    [attempt] = [journey for journey in story.report().journeys if journey.verdict is Verdict.BLACKHOLED]
    assert attempt.client is None


def test_a_header_that_contradicts_the_packets_is_told_and_the_packets_are_believed() -> None:
    journey = only(contradicting().report())
    assert "SIP313" in journey.findings
    assert journey.client is not None
    assert journey.client.address == CLIENT


def test_without_the_application_nobody_knows_whether_a_forwarded_header_is_believed() -> None:
    journey = only(behind_balancer(APPENDED, None).report())
    assert (journey.verdict, journey.seen_by_app) == (Verdict.INCONCLUSIVE, None)
    assert "believes" in journey.reason


def test_without_a_tap_at_the_balancer_nobody_knows_who_wrote_the_forwarded_header() -> None:
    """A balancer that passes bytes on, and a client that forges, look the same from behind."""
    onward = get(X_Real_IP=CLIENT, X_Forwarded_For=f"{CLIENT}, {CLIENT}")
    journey = only(behind_balancer(APPENDED, onward, watched=False).report())
    assert journey.verdict is Verdict.INCONCLUSIVE
    named_itself = behind_balancer(
        APPENDED, get(X_Real_IP=LB, X_Forwarded_For=f"{CLIENT}, {LB}"), watched=False
    )
    assert only(named_itself.report()).verdict is Verdict.LOST


def test_the_application_itself_settles_what_the_packets_leave_open() -> None:
    story = behind_balancer(APPENDED, None)
    journey = only(story.report(asked=[answered(CLIENT)]))
    assert (journey.verdict, journey.confidence, journey.hops[-1].point) == ("preserved", "high", "app")
    assert only(story.report(asked=[answered(LB)])).findings == ("SIP503",)


def test_what_the_application_makes_of_several_addresses_only_the_application_knows() -> None:
    """A server that trusts everybody takes the first of the list, one that trusts the ingress the last."""
    told = get(X_Real_IP=CLIENT, X_Forwarded_For=f"{OTHER}, {CLIENT}")
    journey = only(straight(get(X_Forwarded_For=OTHER), told).report())
    assert (journey.verdict, journey.seen_by_app, journey.findings) == ("inconclusive", None, ())
    assert only(straight(get(X_Forwarded_For=OTHER), told, saw=OTHER).report()).findings == ("SIP504",)
    assert only(straight(get(X_Forwarded_For=OTHER), told, saw=CLIENT).report()).findings == ("SIP506",)
    disbelieved = behind_balancer(APPENDED, get(X_Real_IP=LB, X_Forwarded_For=f"{CLIENT}, {LB}"))
    journey = only(disbelieved.report())
    assert (journey.verdict, journey.seen_by_app, journey.findings) == ("inconclusive", None, ("SIP502",))


def test_a_forged_address_that_happens_to_be_the_peers_is_not_what_was_believed() -> None:
    """The client names the balancer; the ingress believes nobody, and so it names the balancer as well."""
    front, back = get(X_Forwarded_For=LB), get(X_Forwarded_For=f"{LB}, {CLIENT}")
    onward = get(X_Real_IP=LB, X_Forwarded_For=f"{LB}, {CLIENT}, {LB}")
    assert only(behind_balancer(back, onward, front, saw=LB).report()).findings == ("SIP502",)


def test_a_balancer_that_passes_bytes_on_appends_to_no_field() -> None:
    """One client forges another's address; behind a TCP balancer that looks like the other one, forwarded."""
    victim = [(tap, src.replace(CLIENT, SECOND), dst) for tap, src, dst in FRONT[:1]]
    forger = FRONT[:1]
    story = Story(cluster("Local", balancer=LB)).watch("client:c/eth0")
    story.relayed((forger, 11, get(X_Forwarded_For=SECOND)), (BEHIND, 12, get(X_Forwarded_For=SECOND)))
    story.connection(victim, isn=21, tsval=21, data=get())
    assert not any(hop.note == "tied by X-Forwarded-For" for j in story.report().journeys for hop in j.hops)


def test_without_objects_a_disbelieved_header_is_still_heard() -> None:
    onward = get(X_Real_IP=LB, X_Forwarded_For=LB)
    legs = (FRONT, 11, HTTP), (BACK, 12, v1(C) + HTTP), (ONWARD, 13, onward)
    story = Story(Facts(known=False)).relayed(*legs)
    journeys = [journey for journey in story.report().journeys if journey.proxy_protocol]
    assert [(journey.verdict, journey.seen_by_app) for journey in journeys] == [("lost", LB)]


def test_a_field_that_the_client_wrote_is_not_the_balancers() -> None:
    """Through a balancer that passes bytes on, the client names itself; nobody else did."""
    own = get(X_Forwarded_For=CLIENT)
    onward = get(X_Real_IP=LB, X_Forwarded_For=LB)
    assert only(behind_balancer(own, onward, own, saw=LB).report()).findings == ("SIP104",)


def test_an_application_that_takes_something_else_than_an_address_does_not_see_the_client() -> None:
    onward = get(X_Real_IP=CLIENT, X_Forwarded_For=f"unknown, {CLIENT}")
    journey = only(straight(get(X_Forwarded_For="unknown"), onward, saw="unknown").report())
    assert (journey.verdict, journey.seen_by_app) == ("lost", "unknown")


def test_what_is_replaced_below_a_balancer_that_names_the_client_is_the_balancers_address() -> None:
    back: Path = [
        ("nic:node1/eth0", f"{LB}:50000", "172.30.0.11:30080"),
        ("nic:node1/eth0", "172.30.0.11:61000", f"{INGRESS}:8080"),
        ("pod:node2/web", "172.30.0.11:61000", f"{INGRESS}:8080"),
    ]
    journey = only(
        Story(cluster("Cluster", balancer=LB)).relayed((FRONT, 11, HTTP), (back, 12, APPENDED)).report()
    )
    assert (journey.verdict, "SIP101" in journey.findings) == ("inconclusive", False)


def test_tls_that_ends_at_the_balancer_is_tied_by_the_client_that_it_names() -> None:
    onward = get(X_Real_IP=CLIENT, X_Forwarded_For=f"{CLIENT}, {CLIENT}")
    legs = (FRONT, 11, HELLO), (BACK, 12, APPENDED), (ONWARD, 13, onward)
    journey = only(Story(cluster("Local", balancer=LB)).relayed(*legs, response=echo(CLIENT)).report())
    assert journey.client is not None
    assert (journey.client.port, journey.verdict, journey.findings) == (40000, "preserved", ("SIP505",))


def test_a_listener_that_ignored_a_header_once_is_not_taken_to_use_the_next() -> None:
    """The second request ends at the ingress (no endpoint behind it answered); its header was taken all the same."""
    onward = get(X_Real_IP=LB, X_Forwarded_For=LB)
    story = Story(cluster("Local", balancer=LB)).relayed((BEHIND, 12, v1(C) + HTTP), (ONWARD, 13, onward))
    second = [(tap, src.replace(":50000", ":50001"), dst) for tap, src, dst in BEHIND]
    story.wait(3).connection(
        second, isn=30, tsval=9, data=v1(C) + HTTP, response=b"HTTP/1.1 502 Bad Gateway\r\n\r\n"
    )
    first, then = story.report().journeys
    assert (first.verdict, first.findings) == ("lost", ("SIP306",))
    assert (then.verdict, "not to believe" in then.reason) == ("inconclusive", True)


def test_a_header_beside_a_forged_field_leaves_open_which_the_server_believes() -> None:
    data = v1(C) + get("/", X_Forwarded_For=OTHER)
    journey = only(Story(cluster("Local", balancer=LB)).connection(BEHIND, data=data).report())
    assert (journey.verdict, journey.seen_by_app) == ("inconclusive", None)


def test_a_proxy_in_front_that_nobody_told_us_of_is_no_client() -> None:
    """Clients ask an address that then asks the balancer: the header names that address, not the client."""
    edge = "192.0.2.99"
    outside: Path = [("client:c/eth0", C, f"{edge}:80")]
    between: Path = [("lb:lb/eth0", f"{edge}:7000", f"{LB}:80")]
    legs = (outside, 10, HTTP), (between, 11, HTTP), (BACK, 12, v1(f"{edge}:7000") + HTTP)
    journeys = Story(cluster("Local", balancer=LB)).relayed(*legs).report().journeys
    [journey] = [each for each in journeys if each.endpoint]
    assert (journey.verdict, journey.client) == ("inconclusive", None)


def test_an_answer_is_an_echos_only_at_the_path_of_an_echo() -> None:
    """Any body may hold a field of that name; `/debug/ip` is there for nothing else."""
    data, told = get("/sessions/7"), get("/sessions/7", X_Real_IP=CLIENT, X_Forwarded_For=CLIENT)
    journey = only(straight(data, told, saw=OTHER).report())
    assert (journey.verdict, journey.confidence, journey.seen_by_app) == ("preserved", "medium", None)


def test_a_stranger_that_speaks_for_others_may_be_a_proxy_that_nobody_told_us_of() -> None:
    onward = get(X_Real_IP=CLIENT, X_Forwarded_For=f"{OTHER}, {CLIENT}")
    journey = only(straight(get(X_Forwarded_For=OTHER), onward, watched=False).report())
    assert journey.verdict is Verdict.INCONCLUSIVE
    told = straight(get(X_Forwarded_For=OTHER), onward, watched=False).report(
        asked=[answered(CLIENT, "172.30.0.12:30080")]
    )
    assert only(told).verdict is Verdict.PRESERVED


@pytest.mark.parametrize("watched", [False, True])
def test_who_names_others_once_may_be_a_proxy_each_time(watched: bool) -> None:
    def path(port: int) -> Path:
        source = f"{CLIENT}:{port}"
        begin = [("client:c/eth0", source, "172.30.0.12:30080")] if watched else []
        return begin + [(tap, source if src == C else src, dst) for tap, src, dst in LOCAL]

    story = Story(cluster("Local")).connection(path(40001), isn=11, data=HTTP)
    story.wait(1).connection(path(40002), isn=12, data=get(X_Forwarded_For=OTHER))
    silent, naming = story.report().journeys
    # The first says nothing of anybody; but so does a proxy for a client that sends no field.
    assert silent.verdict is (Verdict.PRESERVED if watched else Verdict.INCONCLUSIVE)
    assert naming.verdict is Verdict.INCONCLUSIVE


def test_a_datagram_can_carry_a_header_too() -> None:
    """Each datagram has its own (section 2 of the specification); the leg is followed by its bytes."""
    datagram = V2[:13] + b"\x12" + V2[14:] + b"\x12\x34\x01\x00\x00\x01" + bytes(16)
    story = Story(cluster("Local", balancer=LB))
    path = [
        ("nic:node2/eth0", f"{LB}:50000", "172.30.0.12:30053"),
        ("pod:node2/web", f"{LB}:50000", f"{INGRESS}:5353"),
    ]
    for tap, src, dst in path:
        story.packet(tap, src, dst, protocol=17, payload=datagram)
    for tap, src, dst in reversed(path):
        story.packet(tap, dst, src, protocol=17, payload=b"\x12\x34\x81\x80" + bytes(20))
    journey = only(story.report())
    assert (journey.protocol, journey.verdict, journey.findings) == ("udp", "preserved", ("SIP301",))
    assert journey.proxy_protocol is not None
    assert (journey.proxy_protocol.source, journey.confidence) == (C, "medium")


SECOND = "203.0.113.10"


def shared_connection() -> Story:
    """The balancer uses its connection to the ingress again, and so does the ingress to its application."""
    other_front = [(tap, src.replace(CLIENT, SECOND), dst) for tap, src, dst in FRONT]
    story = Story(cluster("Local", balancer=LB))
    one, two = get(X_Forwarded_For=CLIENT), get(X_Forwarded_For=SECOND)
    first_told = get(X_Real_IP=CLIENT, X_Forwarded_For=f"{CLIENT}, {CLIENT}")
    then_told = get(X_Real_IP=SECOND, X_Forwarded_For=f"{SECOND}, {SECOND}")
    story.relayed((FRONT, 11, HTTP), (BACK, 12, one), (ONWARD, 13, first_told), response=echo(CLIENT))
    story.connection(other_front, isn=21, tsval=21, response=b"")
    story.say(BACK, 12, two, len(one)).say(ONWARD, 13, then_told, len(first_told))
    sent = len(echo(CLIENT))
    story.respond(ONWARD, 13, b"", echo(SECOND), sent).respond(BACK, 12, b"", echo(SECOND), sent)
    return story.respond(other_front, 21, HTTP, echo(SECOND))


def test_requests_of_two_clients_on_one_connection_are_two_journeys() -> None:
    journeys = shared_connection().report().journeys
    assert [(j.client.address, j.verdict, j.seen_by_app) for j in journeys if j.client] == [
        (CLIENT, "preserved", CLIENT),
        (SECOND, "preserved", SECOND),
    ]


def test_a_chain_of_balancers_is_followed_to_the_client() -> None:
    edge = "192.0.2.99"
    first = [("client:c/eth0", C, f"{edge}:80"), ("lb:edge/eth0", C, f"{edge}:80")]
    between = [("lb:edge/eth0", f"{edge}:7000", f"{LB}:80"), ("lb:lb/eth0", f"{edge}:7000", f"{LB}:80")]
    story = Story(cluster("Local", balancer=LB)).relayed(
        (first, 10, HTTP),
        (between, 11, v1(C) + HTTP),
        (BACK, 12, v1(f"{edge}:7000") + v1(C) + HTTP),
        response=BAD,
    )
    journey = only(story.report())
    assert journey.client is not None
    assert f"{journey.client.address}:{journey.client.port}" == C
    assert "SIP311" in journey.findings
    assert [hop.source for hop in journey.hops if hop.point == "proxy-header"] == [f"{edge}:7000", C]


def test_tls_that_a_balancer_ends_and_begins_anew_may_carry_the_client_inside() -> None:
    other = HELLO.replace(bytes(range(32)), bytes(range(32, 64)))
    encrypted = Story(cluster("Local", balancer=LB)).relayed((FRONT, 11, HELLO), (BACK, 12, other))
    ends = [journey for journey in encrypted.report().journeys if journey.endpoint]
    assert [(journey.verdict, journey.findings) for journey in ends] == [("inconclusive", ("SIP508",))]
    passed_on = Story(cluster("Local", balancer=LB)).relayed((FRONT, 11, HELLO), (BACK, 12, HELLO))
    journey = only(passed_on.report())
    assert (journey.verdict, journey.findings) == ("lost", ("SIP104",))
    assert any("TLS ClientHello" in (hop.note or "") for hop in journey.hops)


def test_an_application_that_does_not_believe_the_ingress_takes_it_for_the_client() -> None:
    journey = only(application_in_doubt())
    assert (journey.verdict, journey.seen_by_app, journey.findings) == ("lost", INGRESS, ("SIP501",))


def configured(*listeners: Listener) -> IngressRecord:
    """The configuration of an nginx, as a reader of files would give it."""
    return IngressRecord((Ingress(Kind.NGINX, listeners, "nginx.conf"),))


def complaint(peer: str, problem: Problem, **more: Any) -> IngressRecord:
    """A line of nginx's error log."""
    entry = LogEntry(
        kind=Kind.NGINX, time=START / 1e9, peer=peer, problem=problem, file="error.log", line=7, **more
    )
    return IngressRecord(entries=(entry,))


ANYBODY = NginxRealIp(trusted=("0.0.0.0/0",), header="X-Forwarded-For")
BELIEVER = Listener(port=8080, nginx=ANYBODY, line=12)


def misconfigured() -> Report:
    """By its configuration the ingress believes the balancer, and it does not."""
    onward = get(X_Real_IP=LB, X_Forwarded_For=f"{CLIENT}, {LB}")
    return behind_balancer(APPENDED, onward).report(ingress=configured(BELIEVER))


def test_a_configuration_that_says_otherwise_than_what_was_seen_is_told() -> None:
    journey = only(misconfigured())
    assert "SIP507" in journey.findings
    assert [(entry.client, entry.agrees) for entry in journey.resolved] == [(CLIENT, False)]
    fitting = behind_balancer(APPENDED, get(X_Real_IP=CLIENT, X_Forwarded_For=f"{CLIENT}, {CLIENT}"))
    journey = only(fitting.report(ingress=configured(BELIEVER)))
    assert [(entry.client, entry.agrees) for entry in journey.resolved] == [(CLIENT, True)]
    assert "SIP507" not in journey.findings


def test_a_trust_list_that_admits_everybody_is_told_even_where_nobody_uses_it() -> None:
    [finding] = [entry for entry in misconfigured().findings if entry.code == "SIP509"]
    assert "nginx.conf:12, port 8080" in finding.evidence[0]


def test_a_closed_connection_is_only_consistent_with_a_missing_header_until_the_server_says_so() -> None:
    def confidence(**given: Any) -> str | None:
        found = {entry.code: entry.confidence for entry in without_header().report(**given).findings}
        return found.get("SIP307")

    assert confidence() == "medium"
    assert confidence(ingress=complaint(f"{LB}:50000", Problem.HEADER_MISSING)) == "high"
    assert confidence(ingress=complaint(f"{LB}:50001", Problem.HEADER_MISSING)) == "medium"
    assert confidence(ingress=configured(Listener(port=8080, proxy_protocol=True))) == "high"
    assert confidence(ingress=configured(Listener(port=8080, proxy_protocol=False))) is None


def test_the_servers_own_complaint_names_the_cause_that_packets_leave_open() -> None:
    refused = Story(cluster("Local", balancer=LB)).connection(BEHIND, isn=12, data=V2 + HTTP, response=b"")
    story = refused.close(BEHIND, 12, flag=TcpFlag.RST)
    assert only(story.report()).findings == ("SIP302",)
    told = complaint(f"{LB}:50000", Problem.HEADER_VERSION)
    journey = only(story.report(ingress=told))
    assert journey.findings == ("SIP309",)
    assert journey.support == ("SIP309: the log of nginx says header-version (error.log:7)",)


def test_whom_a_server_took_for_the_client_can_come_from_its_log() -> None:
    entry = LogEntry(
        kind=Kind.NGINX, time=START / 1e9, peer=f"{LB}:50000", client=CLIENT, file="access.log", line=3
    )
    story = behind_balancer(APPENDED, None)
    journey = only(story.report(ingress=IngressRecord(entries=(entry,))))
    assert (journey.verdict, journey.seen_by_app) == ("preserved", CLIENT)
    assert (journey.hops[-1].point, journey.hops[-1].evidence) == ("log", "log")


def test_the_applications_log_tells_that_it_takes_the_ingress_for_the_client() -> None:
    entry = LogEntry(
        kind=Kind.UVICORN,
        client=INGRESS,
        client_port=33000,
        request="GET /debug/ip HTTP/1.1",
        file="app.log",
        line=1,
    )
    journey = only(plainly_forwarded().report(ingress=IngressRecord(entries=(entry,))))
    assert (journey.verdict, journey.seen_by_app, journey.findings) == ("lost", INGRESS, ("SIP501",))


def test_the_command_line_of_the_application_tells_whom_it_would_believe() -> None:
    def judged(command: str, **given: Any) -> Journey:
        record = IngressRecord(application=read_application(command))
        return only(plainly_forwarded().report(ingress=record, **given))

    believing = judged(f"uvicorn app:main --forwarded-allow-ips {INGRESS}")
    assert (believing.verdict, believing.resolved[0].client) == ("preserved", CLIENT)
    quoted = judged(f"""uvicorn app:main --forwarded-allow-ips "'{INGRESS}'" """)
    assert (quoted.verdict, quoted.resolved[0].client) == ("inconclusive", INGRESS)
    heard = judged("uvicorn app:main", asked=[answered(INGRESS, "172.30.0.12:30080")])
    assert (heard.verdict, heard.resolved[0].agrees, heard.findings) == ("lost", True, ("SIP501",))
    lying = judged("uvicorn app:main", asked=[answered(CLIENT, "172.30.0.12:30080")])
    assert (lying.verdict, "SIP507" in lying.findings) == ("preserved", True)


#: For each finding a story that leads to it; every one of them is also told with parts missing.
CHAIN_STORIES = {
    "SIP307": without_header,
    "SIP308": header_before_tls,
    "SIP309": one_version_only,
    "SIP310": header_in_two_parts,
    "SIP311": two_headers,
    "SIP312": odd_family,
    "SIP313": contradicting,
    "SIP314": naming_nobody,
    "SIP315": replaced_below_a_header,
    "SIP431": masked_balancer,
    "SIP502": untrusted,
    "SIP503": overwritten,
    "SIP504": forged_and_believed,
    "SIP505": believed,
    "SIP506": forged_in_vain,
    "SIP508": http2,
}


class TestBegunBeforeTheCapture:
    """Who asked before the capture began is seen by its answer alone, and may be the one who is carried on."""

    def told(self, stranger: str | None) -> Story:
        story = Story(cluster("Local", balancer=LB)).relayed((FRONT, 11, HTTP), (BACK, 12, HTTP))
        if stranger is not None:
            story.packet(
                "lb:lb/eth0", f"{LB}:80", stranger, flags=TcpFlag.PSH | TcpFlag.ACK, seq=5_000, payload=OK
            )
        return story

    def test_the_only_client_in_time_is_the_one_that_is_carried_on(self) -> None:
        client = self.told(None).journey().client
        assert client is not None
        assert f"{client.address}:{client.port}" == C

    def test_nobody_is_named_where_another_one_may_have_waited(self) -> None:
        assert [journey.client for journey in self.told(f"{OTHER}:4444").report().journeys] == [None]

    def test_who_was_answered_before_does_not_count(self) -> None:
        story = Story(cluster("Local", balancer=LB))
        story.packet(
            "lb:lb/eth0", f"{LB}:80", f"{OTHER}:4444", flags=TcpFlag.PSH | TcpFlag.ACK, seq=5_000, payload=OK
        )
        client = story.wait(1).relayed((FRONT, 11, HTTP), (BACK, 12, HTTP)).journey().client
        assert client is not None

    def test_one_who_keeps_its_connection_open_and_silent_does_not_count_for_long(self) -> None:
        story = Story(cluster("Local", balancer=LB))
        answer = {"flags": TcpFlag.PSH | TcpFlag.ACK, "seq": 5_000, "payload": OK}
        story.packet("lb:lb/eth0", f"{LB}:80", f"{OTHER}:4444", **answer)
        story.wait(30).relayed((FRONT, 11, HTTP), (BACK, 12, HTTP))
        story.wait(30).packet("lb:lb/eth0", f"{OTHER}:4444", f"{LB}:80", flags=TcpFlag.FIN | TcpFlag.ACK)
        client = story.journey().client
        assert client is not None
