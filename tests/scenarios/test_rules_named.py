"""The rule that the kernel names, live in the lab: it must be one that the lab itself wrote for this very purpose.

Truth is the text that was fed to iptables-restore or nft in that network namespace, and what the scenario was built to
do. The verdict must be the one that is reached without any trace.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

import pytest

from analysis.analyze import analyze
from analysis.report import Verdict
from probe.agents.lab import LabSource
from probe.agents.tracing import trace_arguments
from probe.errors import UnavailableError
from probe.folder import Meta
from probe.lab import Lab, ProxyMode, load_scenario
from probe.lab.rules import rule_texts
from probe.objects import facts_from_objects
from probe.play import Played, differences, play, watched_ports
from probe.session import Words, capture

pytestmark = pytest.mark.lab


class Truth(NamedTuple):
    """What a scenario's rules were written to do: what was done, in which namespace, by which chain, saying what."""

    did: str
    where: str
    chain: dict[str, str]  # by proxy mode; a pattern
    says: dict[str, str]
    finding: str


POSTROUTING = {"iptables": r"KUBE-POSTROUTING", "nftables": r"masquerading"}
MASQUERADE = {"iptables": "-j MASQUERADE", "nftables": "masquerade"}
EXTERNAL = {"iptables": r"KUBE-EXT-\w{16}", "nftables": r"external-\w{8}-default/web/tcp/http"}
MARK = {"iptables": "KUBE-MARK-MASQ", "nftables": "mark-for-masquerade"}
SERVICE = {"iptables": r"KUBE-SVC-\w{16}", "nftables": r"service-\w{8}-default/web/tcp/http"}

TRUTHS = {
    "cluster-remote": [
        Truth("mark", "node1", EXTERNAL, MARK, "SIP101"), Truth("snat", "node1", POSTROUTING, MASQUERADE, "SIP101"),
    ],
    "cluster-same-node": [
        Truth("mark", "node1", EXTERNAL, MARK, "SIP101"), Truth("snat", "node1", POSTROUTING, MASQUERADE, "SIP101"),
    ],
    "ipv6": [Truth("snat", "node1", POSTROUTING, MASQUERADE, "SIP101")],
    "masquerade-all": [
        Truth("mark", "node1", SERVICE, MARK, "SIP106"), Truth("snat", "node1", POSTROUTING, MASQUERADE, "SIP106"),
    ],
    "local-no-endpoint": [
        Truth(
            "drop", "node1", {"iptables": "KUBE-EXTERNAL-SERVICES", "nftables": "nodeport-endpoints-check"},
            {"iptables": "has no local endpoints", "nftables": "no-endpoint-nodeports"}, "SIP201",
        ),
    ],
    "cni-masquerade": [
        Truth("snat", "node1", {"iptables": "FLANNEL-POSTRTG", "nftables": "postrtg"}, MASQUERADE, "SIP102"),
    ],
    "svclb-masquerade": [
        Truth("snat", "pod", {"iptables": "POSTROUTING", "nftables": "postrouting"}, MASQUERADE, "SIP105"),
    ],
    "lb-l4-snat": [
        Truth(
            "snat", "lb", {"iptables": "postrouting", "nftables": "postrouting"},
            {"iptables": "snat to", "nftables": "snat to"}, "SIP103",
        ),
    ],
}  # fmt: skip


def traced(name: str, mode: ProxyMode) -> Played:
    try:
        return play(load_scenario(name), mode, trace=64, progress=lambda _: None)
    except UnavailableError as error:
        pytest.skip(str(error))


def written(scene: Played) -> dict[str, str]:
    """What the lab fed to the kernel, by network namespace."""
    texts: dict[str, str] = {}
    for text in rule_texts(scene.plan, scene.session.facts):
        texts[text.namespace] = texts.get(text.namespace, "") + text.text
    return texts


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_the_rule_that_is_named_is_the_one_that_was_written_for_it(name: str, mode: ProxyMode) -> None:
    scene = traced(name, mode)
    assert differences(scene) == [], "a trace changes no verdict"
    assert "SIP423" not in {finding.code for finding in scene.report.findings}
    texts = written(scene)
    for truth in TRUTHS[name]:
        for journey in scene.report.journeys:
            said = [
                each
                for each in journey.rules
                if each.did == truth.did
                and (each.namespace is not None if truth.where == "pod" else each.node == truth.where)
            ]
            (rule,) = [
                each for each in said if re.search(rf" chain {truth.chain[mode]} handle \d+: ", each.rule)
            ]
            assert truth.says[mode] in rule.rule
            assert truth.finding in journey.findings
            chain = re.findall(r" chain (\S+) handle", rule.rule)[0]
            pods = {pod.namespace for pod in scene.plan.pods}
            fed = [
                text
                for place, text in texts.items()
                if place == truth.where or (truth.where, place in pods) == ("pod", True)
            ]
            assert any(chain in text for text in fed), f"the lab wrote no {chain} in {truth.where}"
    snats = [snat for journey in scene.report.journeys for snat in journey.snat]
    assert all(snat.rule for snat in snats), "every replacement has its rule"


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_nothing_is_blamed_where_nothing_was_replaced(mode: ProxyMode) -> None:
    scene = traced("local-preserved", mode)
    assert differences(scene) == []
    for journey in scene.report.journeys:
        assert {said.did for said in journey.rules} == {"dnat"}, (
            "kube-proxy chose an endpoint, and that is all"
        )
        assert not {"SIP421", "SIP422", "SIP424"} & set(journey.findings)


def test_a_firewall_that_comes_before_kube_proxy_is_blamed_instead_of_it() -> None:
    scenario = load_scenario("cluster-remote")
    with Lab.start(scenario, "iptables") as lab:
        rule = "-t nat -I POSTROUTING 1 -p tcp --dport 8080 -j MASQUERADE"
        assert lab.spawn("node1", ["iptables", *rule.split()]).wait(20) == 0
        facts = facts_from_objects(lab.objects())
        ports = watched_ports(facts, scenario)
        source = LabSource(lab, ports, tracing=trace_arguments(64, ports, facts))

        def requests() -> Words:
            lab.send()
            return Words()

        session = capture(source, requests, facts=facts, meta=Meta(facts=facts))
    report = analyze(session.recording, facts, service="default/web")
    assert [journey.verdict for journey in report.journeys] == [Verdict.LOST] * 3
    for journey in report.journeys:
        assert "SIP421" in journey.findings
        assert "SIP101" not in journey.findings
        assert "chain POSTROUTING handle" in str(journey.snat[0].rule)
    by_facts = analyze(replace(session.recording, rule_hits=()), facts, service="default/web")
    assert all("SIP101" in journey.findings for journey in by_facts.journeys), "which facts alone would say"


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_datagrams_have_rules_too(mode: ProxyMode) -> None:
    scene = traced("udp-dns", mode)
    assert differences(scene) == []
    assert any(said.did == "dnat" for journey in scene.report.journeys for said in journey.rules)


def test_without_it_nothing_is_traced() -> None:
    scene = play(load_scenario("cluster-remote"), "iptables", progress=lambda _: None)
    assert not scene.session.recording.tracings
    assert not scene.session.recording.rule_hits
    assert all(snat.rule is None for journey in scene.report.journeys for snat in journey.snat)
