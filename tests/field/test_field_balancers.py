"""Captures around a balancer that makes connections of its own, with and without a PROXY header."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.lab import DEVNULL, Lab, ProxyMode
from probe.lab.scenario import Scenario, parse_scenario
from tests.field.asking import Told, Wish, ask, run
from tests.field.judging import Expected, Snat, contradictions, differences, judge
from tests.field.watching import Captures, Watch, Watched, usual_taps

pytestmark = pytest.mark.lab

BALANCER, CLIENT, OTHER, POD = "172.30.0.150", "172.30.0.101", "172.30.0.102", "10.244.1.2"
NODE1, NODE2 = "172.30.0.11", "172.30.0.12"
HEALTH_PORT, NODE_PORT = 32100, 30080

BALANCED: Wish = {"target": BALANCER, "port": 80}
DIRECT: Wish = {"target": NODE2, "port": NODE_PORT}
CHECK: Wish = {"target": NODE2, "port": HEALTH_PORT}

_SCENARIO = """
title = "HAProxy before two endpoints"
story = "node1 has none of them."
[cluster]
clients = 2
[balancer]
kind = "haproxy"
targets = {targets}
send_proxy = "{header}"
[service]
type = "LoadBalancer"
external_policy = "{policy}"
[[pods]]
name = "web-1"
node = "node2"
role = "{role}"
proxy_protocol = {expected}
[[pods]]
name = "web-2"
node = "node3"
role = "{role}"
proxy_protocol = {expected}
{application}
[[pods]]
name = "tool"
node = "node1"
role = "client"
[[requests]]
to = "balancer"
[requests.expect]
verdict = "preserved"
seen = "client"
"""
_APPLICATION = """
[[pods]]
name = "app-1"
node = "node3"
role = "app"
"""
HOMES = {"web-1": "node2", "web-2": "node3"}


def balanced(
    header: str, policy: str, targets: tuple[str, ...] = ("node2", "node3"), application: bool = False
) -> Scenario:
    """With an application, nginx passes the client's address on to it; without, nginx answers by itself."""
    text = _SCENARIO.format(
        header=header,
        policy=policy,
        expected=str(header != "none").lower(),
        targets="[" + ", ".join(f'"{target}"' for target in targets) + "]",
        role="ingress" if application else "echo",
        application=_APPLICATION if application else "",
    )
    return parse_scenario(text, "balanced.toml")


def header(source: str, port: int = 1234) -> str:
    """A PROXY v1 header as bytes in hexadecimal."""
    return f"PROXY TCP4 {source} {NODE2} {port} 80\r\n".encode().hex()


def inside(captures: Captures) -> Captures:
    """The captures of the nodes alone."""
    outside = {"client", "lb"}

    def is_outside(tap: Watched) -> bool:
        return tap.kind in outside

    return captures.without(taps=is_outside)


def lost_at_the_balancer(told: Told, *, anonymous: bool = False) -> Expected:
    assert told.peer == BALANCER
    snat = None if anonymous else (Snat("lb", told.peer_text, "load balancer"),)
    return Expected(told, "lost", told.peer, snat, crossing=None, codes=("SIP104",), anonymous=anonymous)


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_a_balancer_without_a_header_loses_its_clients_alone(mode: ProxyMode, tmp_path: Path) -> None:
    with Lab.start(balanced("none", "Local"), mode) as lab:
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            through = ask(lab, "client1", CLIENT, *[BALANCED] * 3)
            past = ask(lab, "client2", OTHER, *[DIRECT] * 3)
        objects = lab.objects()
    expected = [lost_at_the_balancer(told) for told in through]
    expected += [Expected(told, "preserved", OTHER, (), crossing=None) for told in past]
    report = judge(watch.captures, objects)
    assert differences(report, expected) == []
    assert report.exit_code == 3
    # HAProxy's health checks on the nodes give it away even where it was not watched itself.
    assert contradictions(judge(inside(watch.captures), objects), expected) == []


def test_of_equal_requests_at_the_same_time_none_is_taken_for_another(tmp_path: Path) -> None:
    """What a client sends and what the balancer sends on has the same bytes for all; only order may tell them apart."""
    with Lab.start(balanced("none", "Local"), "iptables") as lab:
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            told = ask(lab, "client1", CLIENT, *[BALANCED | {"at_once": True, "hold": 0.1}] * 8)
        report = judge(watch.captures, lab.objects())
    lost = [journey for journey in report.journeys if journey.verdict == "lost"]
    assert sorted(snat.to for journey in lost for snat in journey.snat) == sorted(e.peer_text for e in told)
    ports = {each.peer_text: each.port for each in told}
    for journey in lost:
        if journey.client is not None:
            assert journey.client.port == ports[journey.snat[0].to]


def test_who_asks_a_health_port_once_is_no_balancer(tmp_path: Path) -> None:
    with Lab.start(balanced("none", "Local"), "nftables") as lab:
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            ask(lab, "client2", OTHER, CHECK)
            told = ask(lab, "client2", OTHER, *[DIRECT] * 3)
        objects = lab.objects()
    expected = [Expected(each, "preserved", OTHER, ()) for each in told]
    assert {each.peer for each in told} == {OTHER}
    assert differences(judge(watch.captures, objects), expected) == []
    assert contradictions(judge(inside(watch.captures), objects), expected) == []


def test_a_header_is_worth_as_much_as_its_sender(tmp_path: Path) -> None:
    """The balancer's headers carry the client; the same header from anybody else proves nothing."""
    with Lab.start(balanced("v2", "Local"), "iptables") as lab:
        believe_everybody(lab)
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            true = ask(lab, "client1", CLIENT, *[BALANCED] * 3)
            forged = ask(lab, "client2", OTHER, DIRECT | {"prefix": header("203.0.113.9")})
            stolen = ask(lab, "client2", OTHER, DIRECT | {"prefix": header(CLIENT, true[0].port)})
            ask(lab, "client2", OTHER, CHECK)
            checked = ask(lab, "client2", OTHER, DIRECT | {"prefix": header("203.0.113.9")})
            unknown = ask(lab, "client2", OTHER, DIRECT | {"prefix": b"PROXY UNKNOWN\r\n".hex()})
            broken = ask(lab, "client2", OTHER, DIRECT | {"prefix": b"PROXY TCP4 1.2.3 x\r\n".hex()})
        objects = lab.objects()
    assert [told.seen for told in forged + stolen + checked] == ["203.0.113.9", CLIENT, "203.0.113.9"]
    preserved = [Expected(told, "preserved", CLIENT, (), codes=("SIP301",)) for told in true]
    report = judge(watch.captures, objects)
    verdicts = {(j.client.address, j.client.port): j.verdict for j in report.journeys if j.client}
    assert len(report.journeys) == 8
    assert [verdicts[told.client, told.port] for told in true] == ["preserved"] * 3
    others = [*forged, *stolen, *checked, *unknown, *broken]
    assert [verdicts[told.client, told.port] for told in others] == ["inconclusive"] * 5
    codes = {finding.code for finding in report.findings}
    assert {"SIP301", "SIP303", "SIP305"} <= codes
    assert report.exit_code == 3
    unseen = [Expected(told, "inconclusive") for told in others]
    assert contradictions(judge(inside(watch.captures), objects), preserved + unseen) == []
    assert not [
        journey
        for journey in judge(inside(watch.captures), objects).journeys
        if journey.client and journey.client.address == "203.0.113.9" and journey.verdict != "inconclusive"
    ]


def believe_everybody(lab: Lab) -> None:
    """Let nginx take the client's address from anybody's PROXY header."""
    for pod in lab.plan.endpoints():
        folder = f"/run/lab/{pod.name}"
        trusting = "s#set_real_ip_from .*;#set_real_ip_from 0.0.0.0/0; set_real_ip_from ::/0;#"
        closed = "while ss -Hltn | grep -q :8081; do sleep 0.01; done"
        stop = f"kill $(cat {folder}/nginx.pid); sed -i '{trusting}' {folder}/nginx.conf; {closed}"
        run(lab, pod.name, "sh", "-c", stop)
        argv = ["nginx", "-p", folder, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
        lab.spawn(pod.name, argv, stdout=DEVNULL, stderr=DEVNULL)
        run(lab, pod.name, "sh", "-c", "while ! ss -Hltn | grep -q :8081; do sleep 0.01; done")


def test_a_header_preserves_the_client_although_policy_cluster_replaces_the_balancer(tmp_path: Path) -> None:
    with Lab.start(balanced("v2", "Cluster", ("node1", "node2"), application=True), "nftables") as lab:
        believe_everybody(lab)
        with Watch(lab, tmp_path / "a", usual_taps(lab), snap=2000) as watch:
            told = ask(lab, "client1", CLIENT, *[BALANCED] * 4)
        objects = lab.objects()
    assert {each.seen for each in told} == {CLIENT}
    report = judge(watch.captures, objects)
    expected = [Expected(each, "preserved", CLIENT, codes=("SIP301",)) for each in told]
    assert differences(report, expected) == []
    assert report.exit_code == 0
    crossed = [journey.cross_node.to for journey in report.journeys if journey.cross_node]
    stayed = {"10.244.2.1"}  # the bridge of node2: node2 was asked and served
    assert crossed == [HOMES[each.pod or ""] for each in told if each.peer not in stayed]


def test_a_header_that_the_server_does_not_believe_preserves_nobody(tmp_path: Path) -> None:
    """nginx believes the balancer alone; under policy Cluster it never meets the balancer, but a node."""
    with Lab.start(balanced("v2", "Cluster", application=True), "iptables") as lab:
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            told = ask(lab, "client1", CLIENT, *[BALANCED] * 3)
        objects = lab.objects()
    assert CLIENT not in {each.seen for each in told}
    expected = [Expected(each, "lost", each.seen) for each in told]
    blind = watch.captures.without(taps=lambda tap: tap.kind in {"bridge", "pod"})
    for captures in (watch.captures, blind):
        report = judge(captures, objects)
        assert contradictions(report, expected) == []
        for journey, each in zip(report.journeys, told, strict=True):
            assert journey.seen_by_app in {each.seen, None}


def test_a_pod_that_its_node_hides_before_the_balancer_is_lost(tmp_path: Path) -> None:
    """The CNI puts node1's address in; the balancer's header can only name that."""
    with Lab.start(balanced("v2", "Local"), "iptables") as lab:
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            told = ask(lab, "tool", POD, *[BALANCED] * 3)
        objects = lab.objects()
    assert {each.seen for each in told} == {NODE1}
    expected = [Expected(each, "lost", NODE1, codes=("SIP102",)) for each in told]
    assert differences(judge(watch.captures, objects), expected) == []
    behind = judge(inside(watch.captures), objects)
    assert not [journey for journey in behind.journeys if journey.verdict == "preserved"]


def test_a_balancer_that_does_not_check_sends_into_a_black_hole(tmp_path: Path) -> None:
    """Its attempts in vain are the fate of the client that waited alone for them; the other one is preserved."""
    with Lab.start(balanced("v2", "Local", ("node1", "node2")), "nftables") as lab:
        stop_checking(lab)
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            told = ask(lab, "client1", CLIENT, *[BALANCED | {"at_once": True}] * 2)
        objects = lab.objects()
    assert sorted(each.outcome for each in told) == ["answered", "empty"]
    ports = {each.outcome: each.port for each in told}
    report = judge(watch.captures, objects)
    by_client = {journey.client.port: journey for journey in report.journeys if journey.client}
    assert by_client[ports["answered"]].verdict == "preserved"
    # Which of the two a first attempt was for is not known while both wait.
    attempts = [by_client[ports["empty"]], *(each for each in report.journeys if each.client is None)]
    assert {(journey.verdict, journey.findings) for journey in attempts} == {("blackholed", ("SIP201",))}
    assert report.exit_code == 3


def stop_checking(lab: Lab) -> None:
    """Let HAProxy take every node for healthy, and give up a connection after 1.4 s and one more try."""
    file = "/run/lab/lb/haproxy.cfg"
    edit = f"sed -i 's/check port [0-9]*//; /httpchk/d; s/timeout connect .*/timeout connect 1400ms/' {file}"
    stop = "kill $(pidof haproxy); while ss -Hltn | grep -q ':80 '; do sleep 0.01; done"
    run(lab, "lb", "sh", "-c", f"{edit}; {stop}")
    lab.spawn("lb", ["haproxy", "-db", "-f", file], stdout=DEVNULL, stderr=DEVNULL)
    run(lab, "lb", "sh", "-c", "while ! ss -Hltn | grep -q ':80 '; do sleep 0.01; done")
