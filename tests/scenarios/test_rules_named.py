"""The rule that the kernel names, live in the lab: it must be one that the lab itself wrote for this very purpose.

Rules of iptables-legacy are not named but counted, which has to lead to the same ones.

Truth is the text that was fed to iptables-restore or nft in that network namespace, and what the scenario was built to
do. The verdict must be the one that is reached without any trace.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from typing import NamedTuple

import pytest

from analysis.analyze import analyze
from analysis.facts import Facts
from analysis.report import Journey, Report, Verdict
from probe.agents.lab import LabSource
from probe.agents.tracing import trace_arguments
from probe.errors import UnavailableError
from probe.lab import Lab, ProxyMode, load_scenario
from probe.lab.plan import Plan
from probe.lab.rules import rule_texts
from probe.objects import facts_from_objects
from probe.playing.play import Played, differences, play, watched_ports
from probe.sessions.folder import Meta
from probe.sessions.session import Session, Words, capture

pytestmark = pytest.mark.lab


class Seen(NamedTuple):
    """What was watched, and what came of it."""

    plan: Plan
    session: Session
    facts: Facts
    report: Report


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
    if mode == "iptables-legacy":
        needs_legacy()
    try:
        return play(load_scenario(name), mode, trace=64, progress=lambda _: None)
    except UnavailableError as error:
        pytest.skip(str(error))


def needs_legacy() -> None:
    if shutil.which("iptables-legacy-restore") is None:
        pytest.skip("iptables-legacy is not installed")


def written(scene: Played) -> dict[str, str]:
    """What the lab fed to the kernel, by network namespace."""
    texts: dict[str, str] = {}
    for text in rule_texts(scene.plan, scene.session.facts):
        texts[text.namespace] = texts.get(text.namespace, "") + text.text
    return texts


@pytest.mark.parametrize("mode", ["iptables", "nftables", "iptables-legacy"])
@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_the_rule_that_is_named_is_the_one_that_was_written_for_it(name: str, mode: ProxyMode) -> None:
    scene = traced(name, mode)
    kind = mode.removesuffix("-legacy")
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
                each
                for each in said
                if re.search(
                    rf" chain {truth.chain[kind]} (handle|rule) \d+( of iptables-legacy.*)?: ", each.rule
                )
            ]
            assert truth.says[kind] in rule.rule
            assert rule.evidence == ("counters" if " of iptables-legacy" in rule.rule else "trace")
            assert truth.finding in journey.findings
            chain = re.findall(r" chain (\S+) (?:handle|rule)", rule.rule)[0]
            pods = {pod.namespace for pod in scene.plan.pods}
            fed = [
                text
                for place, text in texts.items()
                if place == truth.where or (truth.where, place in pods) == ("pod", True)
            ]
            assert any(chain in text for text in fed), f"the lab wrote no {chain} in {truth.where}"
    snats = [snat for journey in scene.report.journeys for snat in journey.snat]
    assert all(snat.rule for snat in snats), "every replacement has its rule"


@pytest.mark.parametrize("mode", ["iptables", "nftables", "iptables-legacy"])
def test_nothing_is_blamed_where_nothing_was_replaced(mode: ProxyMode) -> None:
    scene = traced("local-preserved", mode)
    assert differences(scene) == []
    for journey in scene.report.journeys:
        assert {said.did for said in journey.rules} == {"dnat"}, (
            "kube-proxy chose an endpoint, and that is all"
        )
        assert not {"SIP421", "SIP422", "SIP424"} & set(journey.findings)


def watched(mode: ProxyMode, *before: str, meanwhile: str = "", name: str = "cluster-remote") -> Seen:
    """A scenario with commands that are run on node1 before it is watched, and one while requests are sent."""
    scenario = load_scenario(name)
    with Lab.start(scenario, mode) as lab:

        def run(command: str) -> None:
            assert lab.spawn("node1", shlex.split(command)).wait(20) == 0

        for each in before:
            run(each)
        facts = facts_from_objects(lab.objects())
        ports = watched_ports(facts, scenario)
        source = LabSource(lab, ports, tracing=trace_arguments(64, ports, facts))

        def requests() -> Words:
            lab.send()
            if meanwhile:
                run(meanwhile)
            return Words()

        session = capture(source, requests, facts=facts, meta=Meta(facts=facts))
        plan = lab.plan
    return Seen(plan, session, facts, analyze(session.recording, facts, service="default/web"))


@pytest.mark.parametrize("tool", ["iptables", "iptables-legacy"])
def test_a_firewall_that_comes_before_kube_proxy_is_blamed_instead_of_it(tool: ProxyMode) -> None:
    if tool == "iptables-legacy":
        needs_legacy()
    seen = watched(tool, f"{tool} -t nat -I POSTROUTING 1 -p tcp --dport 8080 -j MASQUERADE")
    assert [journey.verdict for journey in seen.report.journeys] == [Verdict.LOST] * 3
    for journey in seen.report.journeys:
        assert "SIP421" in journey.findings
        assert "SIP101" not in journey.findings
        assert re.search("chain POSTROUTING (handle|rule 1) ", str(journey.snat[0].rule))
    deaf = replace(seen.session.recording, rule_hits=(), rule_counts=())
    by_facts = analyze(deaf, seen.facts, service="default/web")
    assert all("SIP101" in journey.findings for journey in by_facts.journeys), "which facts alone would say"


# ── counters are not a trace ──


def rule_of(journey: Journey) -> str | None:
    return next(snat.rule for snat in journey.snat if snat.node == "node1")


def possible(journey: Journey) -> set[str]:
    """The chains of the rules that the counters allow to have replaced the source."""
    return {
        re.findall(r" chain (\S+) ", said.rule)[0]
        for said in journey.rules
        if said.evidence == "consistent" and said.did == "snat"
    }


def test_other_traffic_through_other_rules_does_not_hide_the_one_that_it_was() -> None:
    """The node's own connections are masqueraded too, by a rule that asks for what no client's packet has."""
    needs_legacy()
    seen = watched(
        "iptables-legacy",
        "iptables-legacy -t nat -A POSTROUTING -p udp --dport 9 -j MASQUERADE",
        meanwhile="bash -c 'for each in 1 2 3; do echo > /dev/udp/172.30.0.12/9; done'",
    )
    for journey in seen.report.journeys:
        assert "chain KUBE-POSTROUTING rule 3 of iptables-legacy, 3 packets counted" in str(rule_of(journey))
        assert journey.findings[0] == "SIP101"


def test_where_the_counters_allow_two_rules_neither_is_blamed() -> None:
    """A rule that chooses at random stands before kube-proxy's, and other traffic makes it count."""
    needs_legacy()
    dice = "-p tcp -m statistic --mode random --probability 0.0000000005 -j MASQUERADE"
    forged = f"-c 5 500 {dice}"
    seen = watched(
        "iptables-legacy",
        f"iptables-legacy -t nat -I POSTROUTING 1 {dice}",
        meanwhile=f"iptables-legacy -t nat -R POSTROUTING 1 {forged}",
    )
    for journey in seen.report.journeys:
        assert rule_of(journey) is None
        assert possible(journey) == {"POSTROUTING", "KUBE-POSTROUTING"}
        assert journey.findings[0] == "SIP101", "as facts have it"
    (finding,) = [each for each in seen.report.findings if each.code == "SIP423"]
    assert finding.evidence == (
        "node1: the counters of iptables-legacy do not tell which of its rules it was",
    )


def test_chains_that_are_written_anew_say_nothing() -> None:
    needs_legacy()
    seen = watched("iptables-legacy", meanwhile="iptables-legacy -t nat -Z KUBE-POSTROUTING")
    for journey in seen.report.journeys:
        assert rule_of(journey) is None
        assert journey.findings[0] == "SIP101"


def test_a_node_with_rules_of_both_kinds_is_said_to_be_one_and_the_trace_names_what_it_can() -> None:
    needs_legacy()
    nft = "table ip own { chain post { type nat hook postrouting priority 90; tcp dport 8080 masquerade; }; }"
    seen = watched("iptables-legacy", f"nft '{nft}'")
    (finding,) = [each for each in seen.report.findings if each.code == "SIP425"]
    assert finding.evidence == ("node1: iptables-legacy has rules in ip filter, ip nat; nftables in ip own",)
    for journey in seen.report.journeys:
        assert "table ip own chain post handle" in str(rule_of(journey)), "the kernel itself named it"
        assert journey.findings[0] == "SIP421"
    alone = watched("iptables-legacy")
    assert "SIP425" not in {each.code for each in alone.report.findings}


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
