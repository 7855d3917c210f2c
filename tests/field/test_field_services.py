"""Captures of other kinds of Services and balancers: svclb, hostNetwork, UDP, L4 balancers, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.lab import Lab, Scenario, load_scenario
from probe.lab.scenario import parse_scenario
from probe.lab.small_servers import dns_query, dns_text
from tests.field.asking import Told, Wish, ask
from tests.field.judging import Expected, Snat, contradictions, differences, judge
from tests.field.twins import default_routes
from tests.field.watching import Watch, Watched, node_taps, usual_taps

pytestmark = pytest.mark.lab

CLIENT, POD = "172.30.0.101", "10.244.1.2"
NODE1, NODE2, NODE3 = "172.30.0.11", "172.30.0.12", "172.30.0.13"
POLICY = "kube-proxy masquerade (externalTrafficPolicy: Cluster)"

_HEAD = """
title = "{title}"
story = "{title}."
[[requests]]
to = "node1"
[requests.expect]
verdict = "lost"
seen = "client"
"""


def pod(name: str, node: str, more: str = "") -> str:
    return f'[[pods]]\nname = "{name}"\nnode = "{node}"\n{more}\n'


def made(title: str, *parts: str) -> Scenario:
    return parse_scenario(_HEAD.format(title=title) + "\n".join(parts), "made.toml")


WEB = pod("web-1", "node1") + pod("web-2", "node2")
TOOL = pod("tool", "node1", 'role = "client"')


def test_a_balancer_made_of_pods_is_named(tmp_path: Path) -> None:
    with Lab.start(load_scenario("svclb-masquerade"), "nftables") as lab:
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            told = ask(lab, "client1", CLIENT, *[{"target": NODE1, "port": 80}] * 3)
        objects = lab.objects()
    expected = [
        Expected(
            each,
            "lost",
            POD,
            (Snat("node1", each.peer_text, "svclb"),),
            crossing=("node1", "node2", "routed"),
            codes=("SIP105",),
        )
        for each in told
    ]
    assert {each.peer for each in told} == {POD}
    report = judge(watch.captures, objects)
    assert differences(report, expected) == []
    assert "SIP904" not in {finding.code for finding in report.findings}
    # conntrack lists a node's two records of one connection in any order.
    bridges = watch.captures.without(taps=lambda tap: tap.kind != "bridge")
    for known in (objects, None):
        assert contradictions(judge(bridges, known), expected) == []


def test_an_endpoint_on_the_nodes_own_network_is_reached_without_another_tap(tmp_path: Path) -> None:
    own = pod("web-1", "node1", "host_network = true") + pod("web-2", "node2", "host_network = true")
    node_port: Wish = {"target": NODE1, "port": 30080}
    with Lab.start(made("hostNetwork", own, TOOL.replace("node1", "node3")), "iptables") as lab:
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            past = ask(lab, "client1", CLIENT, *[{"target": NODE1, "port": 80}] * 3)
            through = ask(lab, "client1", CLIENT, *[node_port] * 6)
        objects = lab.objects()
    expected = [Expected(each, "preserved", CLIENT, ()) for each in past]
    for each in through:
        if each.pod == "web-1":
            expected.append(Expected(each, "preserved", CLIENT, (), crossing=None))
        else:
            snat = (Snat("node1", each.peer_text, POLICY),)
            expected.append(Expected(each, "lost", NODE1, snat, crossing=("node1", "node2", "routed")))
    assert differences(judge(watch.captures, objects), expected) == []


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_datagrams_are_followed_like_connections(policy: str, tmp_path: Path) -> None:
    service = '[service]\nprotocol = "udp"\nport = 53\nnode_port = 30053\n'
    service += f'external_policy = "{policy}"\n'
    servers = pod("dns-1", "node2", 'role = "dns"') + pod("dns-2", "node3", 'role = "dns"')
    queries = [dns_query(f"q{number}.example") for number in range(9)]
    wishes = [{"datagram": query.hex(), "patience": 0.6} for query in queries]
    with Lab.start(made("DNS", service, servers, TOOL), "nftables") as lab:
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            told = {
                "node1": ask(lab, "client1", CLIENT, *[_to(wish, NODE1, 30053) for wish in wishes[:3]]),
                "node2": ask(lab, "client1", CLIENT, *[_to(wish, NODE2, 30053) for wish in wishes[3:6]]),
                "": ask(lab, "tool", POD, *[_to(wish, "10.96.0.80", 53) for wish in wishes[6:]]),
            }
        objects = lab.objects()
    report = judge(watch.captures, objects)
    assert len(report.journeys) == 9
    journeys = iter(report.journeys)
    for node, group in told.items():
        for each in group:
            journey, saw = next(journeys), _saw(queries.pop(0), each)
            assert journey.client is not None
            assert (journey.client.address, journey.client.port) == (each.client, each.port)
            assert journey.seen_by_app == saw
            if saw is None:
                # A datagram that nobody answers is not asked again, so a drop cannot be told from a loss.
                assert (policy, node, journey.verdict) == ("Local", "node1", "inconclusive")
            else:
                assert journey.verdict == ("preserved" if saw == each.client else "lost")
                assert [entry.node for entry in journey.snat] == ([] if saw == each.client else [node])


def _to(wish: Wish, target: str, port: int) -> Wish:
    return wish | {"target": target, "port": port}


def _saw(query: bytes, told: Told) -> str | None:
    """Whom the name server says it saw."""
    text = dns_text(query, bytes.fromhex(told.data)) if told.outcome == "answered" else None
    return text.split()[0] if text else None


def test_a_balancer_that_passes_packets_on_hides_nobody(tmp_path: Path) -> None:
    balancer = '[balancer]\nkind = "router"\ntargets = ["node1"]\n'
    service = '[service]\ntype = "LoadBalancer"\nvip = true\n'
    with Lab.start(made("DSR", balancer, service, WEB), "nftables") as lab:
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            told = ask(lab, "client1", CLIENT, *[{"target": "172.30.0.200", "port": 80}] * 4)
        objects = lab.objects()
    expected = [
        Expected(
            each,
            "lost",
            each.peer,
            (Snat("node1", each.peer_text, POLICY),),
            crossing=None if each.pod == "web-1" else ("node1", "node2", "routed"),
        )
        for each in told
    ]
    assert differences(judge(watch.captures, objects), expected) == []
    for kinds in ({"client"}, {"lb"}, {"client", "lb"}):

        def missing(tap: Watched, kinds: set[str] = kinds) -> bool:
            return tap.kind in kinds

        part = watch.captures.without(taps=missing)
        assert contradictions(judge(part, objects), expected) == []


def test_two_replacements_on_the_way_are_both_told(tmp_path: Path) -> None:
    balancer = '[balancer]\nkind = "snat"\ntargets = ["node1"]\n'
    service = '[service]\ntype = "LoadBalancer"\n'
    with Lab.start(made("SNAT twice", balancer, service, WEB), "iptables") as lab:
        with Watch(lab, tmp_path / "a", usual_taps(lab)) as watch:
            told = ask(lab, "client1", CLIENT, *[{"target": "172.30.0.150", "port": 80}] * 3)
        objects = lab.objects()
    expected = [
        Expected(
            each,
            "lost",
            each.peer,
            (Snat("lb", "", "load balancer"), Snat("node1", each.peer_text, POLICY)),
            codes=("SIP103", "SIP101"),
        )
        for each in told
    ]
    assert differences(judge(watch.captures, objects), expected) == []


def test_who_reaches_nobody_is_told_why(tmp_path: Path) -> None:
    """internalTrafficPolicy Local, source ranges: dropped. The same Service without endpoints: rejected."""
    kept_out = '[service]\ntype = "LoadBalancer"\nvip = true\ninternal_policy = "Local"\n'
    kept_out += 'source_ranges = ["192.0.2.0/24"]\n'
    impatient: Wish = {"port": 80, "patience": 1.4, "at_once": True}
    with Lab.start(made("Kept out", kept_out, pod("web-1", "node2"), TOOL), "nftables") as lab:
        default_routes(lab)
        with Watch(lab, tmp_path / "a", node_taps(lab)) as watch:
            told = ask(lab, "tool", POD, impatient | {"target": "10.96.0.80"})
            told += ask(lab, "client1", CLIENT, impatient | {"target": "172.30.0.200"})
        objects = lab.objects()
    expected = [
        Expected(each, "blackholed", crossing=None, codes=(code,))
        for each, code in zip(told, ("SIP201", "SIP205"), strict=True)
    ]
    assert differences(judge(watch.captures, objects), expected) == []

    with Lab.start(made("Nobody", '[service]\ntype = "LoadBalancer"\nvip = true\n', TOOL), "iptables") as lab:
        default_routes(lab)
        with Watch(lab, tmp_path / "b", node_taps(lab)) as watch:
            told = ask(lab, "client1", CLIENT, {"target": NODE1, "port": 30080})
            told += ask(lab, "tool", POD, {"target": "10.96.0.80", "port": 80})
        objects = lab.objects()
    assert {each.outcome for each in told} == {"refused"}
    expected = [Expected(each, "inconclusive", crossing=None, codes=("SIP202",)) for each in told]
    report = judge(watch.captures, objects)
    assert differences(report, expected) == []
    assert report.exit_code == 3
