"""Captures around several proxies: the verdict is the application's own answer, whatever clients claim of themselves.

Nothing but packets, conntrack and the cluster's objects is given: no log, no configuration, no request of our own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.lab import Lab
from tests.field import proxied
from tests.field.directed import Direction, Recorded, false_from_the_middle, false_without_taps, record
from tests.field.judging import judge
from tests.field.proxied import (
    BALANCER,
    CLIENTS,
    INGRESS,
    NODE2,
    NODE_PORT,
    TRUSTING,
    crowd,
    lying,
    way,
    wish,
)
from tests.field.recorded import once
from tests.field.talking import Spoken, Wish, held, talk

pytestmark = pytest.mark.lab

CLIENT, OTHER = CLIENTS["client1"], CLIENTS["client2"]
TOOL = "10.244.1.2"


def through_and_past(lab: Lab) -> list[Spoken]:
    """Every lie through the balancer, then straight to the node port."""
    through = [wish(*lying("client1", number)) for number in range(10)]
    past = [wish(*lying("client1", number), target=NODE2, port=NODE_PORT) for number in range(10)]
    spoken = talk(lab, "client1", CLIENT, *through, *past)
    return spoken + talk(lab, "client2", OTHER, *[wish(*lying("client2", number)) for number in range(3)])


def headers_of_their_own(lab: Lab) -> list[Spoken]:
    """PROXY headers from a client, past the balancer: another address, another client of this run, its own."""
    true = talk(lab, "client2", OTHER, *[wish()] * 2)

    def claim(address: str) -> Wish:
        header = f"PROXY TCP4 {address} {NODE2} {true[0].client[1]} 80\r\n"
        return wish(target=NODE2, port=NODE_PORT, prefix=header.encode().hex())

    claims = [claim(address) for address in ("203.0.113.9", OTHER, CLIENT, BALANCER, INGRESS)]
    bare = wish(target=NODE2, port=NODE_PORT)
    return true + talk(lab, "client1", CLIENT, *claims, bare) + crowd(lab, each=2, fields=lying)


def oddities(lab: Lab) -> list[Spoken]:
    """Slow, refused, unanswered and repeated requests, bodies in chunks, a request in parts, and no request at all."""
    chunks = f"POST /debug/ip HTTP/1.1\r\nHost: {BALANCER}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks += "5\r\nhello\r\n3\r\nxyz\r\n0\r\n\r\n"
    asked = [wish(path=path) for path in ("/bad", "/fail-app-1", "/fail-app-1")]
    asked += [wish() | {"texts": [text], "parts": 4} for text in (chunks, wish()["texts"][0])]
    asked += [wish() | {"texts": ["no request at all\r\n\r\n"]}]
    slow = [wish(path="/slow", at_once=True) for _ in range(2)]
    spoken = talk(lab, "client1", CLIENT, *slow, *asked) + crowd(lab, each=2, path="/fail-app-2")
    return spoken + talk(lab, "client2", OTHER, wish(path="/close"))  # nginx shuns them after that


def odd_applications(lab: Lab) -> None:
    proxied.odd_applications(lab)
    again = "proxy_next_upstream error timeout http_503; proxy_connect_timeout 2s;"
    proxied.reconfigure_ingress(lab, f"s/proxy_connect_timeout 2s;/{again}/")


def mirror(lab: Lab) -> None:
    """The ingress asks app-2 the same as app-1, at the same time, and forges the client."""
    app = f"{lab.plan.pod('app-2').addresses['ipv4']}:8000"
    copied = f"proxy_pass http://{app}/debug/ip; proxy_set_header X-Forwarded-For 198.51.100.1;"
    location = f"location = /copy {{ internal; {copied} }}\\nlocation / {{ mirror /copy;"
    proxied.reconfigure_ingress(lab, f"s#location / {{#{location}#; s/server {app};//")


def one_port_again_and_again(lab: Lab) -> list[Spoken]:
    asked = []
    for number in range(6):
        asked.append(wish(*lying("client1", number), from_port=32_001))
        asked.append(wish(target=NODE2, port=NODE_PORT, from_port=32_001))
    return talk(lab, "client1", CLIENT, *asked)


def from_inside(lab: Lab) -> list[Spoken]:
    """A pod asks the balancer's address, which its node short-circuits, the cluster IP, the ingress, the node port."""
    ways = [("172.30.0.200", 80), ("10.96.0.80", 80), (INGRESS, 8080), (NODE2, NODE_PORT)]
    asked = [
        wish(*fields, target=ip, port=port) for ip, port in ways for fields in ((), (f"X-Real-IP: {OTHER}",))
    ]
    return talk(lab, "tool", TOOL, *asked)


KEPT = "keepalive = true"
BOTH = ("node2", "node3")
EVERYBODY = 'forwarded_allow_ips = "*"'

DIRECTIONS: dict[str, Direction] = {
    "http, lies": Direction(way("http", nginx=TRUSTING), through_and_past),
    "http, lies, nginx trusts nobody": Direction(way("http"), through_and_past, "nftables", silent=23),
    "http, lies, nginx passes on": Direction(
        way("http", nginx='forwarded = "pass"'), through_and_past, silent=23
    ),
    "http, lies, application trusts all": Direction(
        way("http", nginx=TRUSTING, app=EVERYBODY), through_and_past, silent=23
    ),
    "tcp, lies": Direction(way(nginx=TRUSTING), through_and_past, silent=23),
    "v1, headers of their own": Direction(
        way(header="v1", nginx='real_ip_from = ["everyone"]'), headers_of_their_own
    ),
    "v2, headers of their own, balancer trusted alone": Direction(
        way(header="v2"), headers_of_their_own, "nftables"
    ),
    "http, crowd": Direction(
        way("http", policy="Cluster", nginx=f"{TRUSTING}, {KEPT}", nodes=BOTH, targets=BOTH),
        lambda lab: crowd(lab, each=14, requests=2),
        silent=42,
    ),
    "http, lying crowd, pipelined": Direction(
        way("http", nginx=f"{TRUSTING}, {KEPT}"),
        lambda lab: crowd(lab, each=5, fields=lying, requests=4, pipelined=True),
        "nftables",
        silent=15,
    ),
    "tcp, lying crowd": Direction(
        way(policy="Cluster", nginx=f"{TRUSTING}, {KEPT}", nodes=BOTH, targets=BOTH),
        lambda lab: crowd(lab, each=8, fields=lying),
        silent=24,
    ),
    "v2 above Cluster, lying crowd": Direction(
        way(header="v2", policy="Cluster", nginx=f"{TRUSTING}, {KEPT}", nodes=BOTH, targets=BOTH),
        lambda lab: crowd(lab, each=8, fields=lying, requests=2),
        "nftables",
    ),
    "v1 above Cluster, balancer trusted alone": Direction(
        way(header="v1", policy="Cluster", nodes=BOTH, targets=BOTH),
        lambda lab: crowd(lab, each=5, fields=lying),
    ),
    "TLS through to the ingress": Direction(
        way(header="v2", tls=True), lambda lab: crowd(lab, each=3, tls=True, requests=2)
    ),
    "TLS ended at the balancer": Direction(
        way("http", balancer_tls=True, nginx=TRUSTING), lambda lab: crowd(lab, each=3, tls=True), silent=9
    ),
    "http, odd applications": Direction(
        way("http", nginx=TRUSTING), oddities, prepare=odd_applications, silent=12
    ),
    "v2, odd applications": Direction(way(header="v2"), oddities, "nftables", odd_applications),
    "http, a mirror": Direction(
        way("http", nginx=TRUSTING), lambda lab: crowd(lab, each=5, requests=2), prepare=mirror, silent=15
    ),
    "http, one port again and again": Direction(way("http", nginx=TRUSTING), one_port_again_and_again),
    "from inside": Direction(way(nodes=("node2",)), from_inside, silent=2),
    "from inside, policy Cluster": Direction(way(policy="Cluster"), from_inside, "nftables", silent=2),
}


@pytest.fixture(params=DIRECTIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recorded(tmp_path_factory: pytest.TempPathFactory, worker_id: str, name: str) -> Recorded:
    number = list(DIRECTIONS).index(name)
    return once(
        tmp_path_factory, worker_id, f"proxies-{number}", lambda folder: record(DIRECTIONS[name], folder)
    )


def test_what_is_said_of_a_request_is_what_the_application_said(recorded: Recorded, name: str) -> None:
    result = held(judge(recorded.captures, recorded.objects), recorded.spoken)
    assert result.wrong + result.beyond == []
    assert len(result.silent) <= DIRECTIONS[name].silent, result.silent
    assert [each.truth for each in recorded.spoken if each.truth] != []


def test_taps_that_are_missing_make_nothing_false(recorded: Recorded) -> None:
    assert false_without_taps(recorded) == []


def test_a_capture_that_begins_in_the_middle_makes_nothing_false(recorded: Recorded, tmp_path: Path) -> None:
    assert false_from_the_middle(recorded, tmp_path) == []
