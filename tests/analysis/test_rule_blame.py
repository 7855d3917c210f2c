"""What the kernel says of its own rules wins over what is concluded from facts, and never changes a verdict."""

from __future__ import annotations

import pytest

from analysis.report import Journey, Report, Verdict
from daemonset.observation import Tracing
from tests.analysis.rule_stories import MARK, MASQUERADE, Said, with_rules, with_tracing
from tests.analysis.story import NODES, PODS, Story, cluster

C, NODE_PORT, POD = "203.0.113.9:40000", f"{NODES['node1']}:30080", f"{PODS['node2']}:8080"
MASQUERADED = f"{NODES['node1']}:61000"
REMOTE = [
    ("nic:node1/eth0", C, NODE_PORT),
    ("nic:node1/eth0", MASQUERADED, POD),
    ("nic:node2/eth0", MASQUERADED, POD),
    ("pod:node2/web", MASQUERADED, POD),
]
AT_POSTROUTING = (C, POD)


def only(report: Report) -> Journey:
    (journey,) = report.journeys
    return journey


def masqueraded(policy: str, *said: Said) -> Journey:
    journey = only(with_rules(Story(cluster(policy)).connection(REMOTE), "node1", AT_POSTROUTING, *said))
    assert journey.verdict is Verdict.LOST, "whatever rules say"
    return journey


def test_the_rule_of_kube_proxy_is_named_with_the_one_that_marked() -> None:
    journey = masqueraded("Cluster", MARK, MASQUERADE)
    assert journey.findings[0] == "SIP101"
    (snat,) = journey.snat
    assert snat.rule == (
        'table ip nat chain KUBE-POSTROUTING handle 2: masquerade "kubernetes service traffic requiring SNAT"; '
        "marked by table ip nat chain KUBE-EXT-X handle 1: jump "
        '"masquerade traffic for shop/web:http external destinations"'
    )
    assert [(said.did, said.owner) for said in journey.rules] == [
        ("mark", "kube-proxy"),
        ("snat", "kube-proxy"),
    ]
    assert journey.rules[0].words == (
        "KUBE-EXT-X of shop/web:http: policy Cluster marks every external packet for masquerade"
    )


def test_in_nftables_mode_chains_tell_the_same() -> None:
    journey = masqueraded(
        "Cluster",
        Said("ip kube-proxy external-ABCDEFGH-shop/web/tcp/http", "jump", "", "mark-for-masquerade"),
        Said("ip kube-proxy masquerading", "masquerade"),
    )
    assert journey.rules[0].words.startswith(
        "external-ABCDEFGH-shop/web/tcp/http of shop/web:http: policy Cluster"
    )
    assert journey.findings[0] == "SIP101"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Said("ip nat FLANNEL-POSTRTG", "masquerade", "flanneld masq"), "SIP102"),
        (Said("ip nat cali-nat-outgoing", "masquerade", "cali:abc"), "SIP102"),
        (Said("ip nat CILIUM_POST_nat", "snat", "cilium masquerade non-cluster"), "SIP102"),
        (Said("ip flannel-ipv4 postrtg", "masquerade"), "SIP102"),
        (Said("ip nat POSTROUTING", "masquerade"), "SIP421"),
        (Said("inet firewalld nat_POST_public_allow", "masquerade"), "SIP421"),
        (Said("ip nat DOCKER-POSTROUTING", "masquerade"), "SIP421"),
    ],
)
def test_a_rule_that_is_not_kube_proxys_is_blamed_although_policy_cluster_would_explain_it(
    said: Said, code: str
) -> None:
    journey = masqueraded("Cluster", said)
    assert journey.findings[0] == code
    assert "SIP101" not in journey.findings


@pytest.mark.parametrize(
    ("chain", "text", "comment", "code"),
    [
        ("KUBE-SVC-X", "ip saddr != 10.244.0.0/16 jump", "shop/web:http cluster IP", "SIP107"),
        ("KUBE-SVC-X", "jump", "shop/web:http cluster IP", "SIP106"),
        ("KUBE-SEP-X", "ip saddr 10.244.2.5 jump", "shop/web:http", "SIP109"),
        ("KUBE-EXT-X", "jump", "masquerade LOCAL traffic for shop/web:http external destinations", "SIP110"),
        ("KUBE-SERVICES", "jump", "Kubernetes service external ip + port", "SIP108"),
    ],
)
def test_why_kube_proxy_masquerades_is_told_by_who_marked(
    chain: str, text: str, comment: str, code: str
) -> None:
    mark = Said(f"ip nat {chain}", "jump", comment, "KUBE-MARK-MASQ", text)
    assert masqueraded("Local", mark, MASQUERADE).findings[0] == code


def test_policy_cluster_in_rules_and_local_in_objects_is_said() -> None:
    assert masqueraded("Local", MARK, MASQUERADE).findings[:2] == ("SIP101", "SIP424")
    assert "SIP424" not in masqueraded("Cluster", MARK, MASQUERADE).findings


def test_what_one_leg_met_is_true_of_others_that_took_the_same_way() -> None:
    other = [(tap, src.replace("40000", "41000").replace("61000", "62000"), dst) for tap, src, dst in REMOTE]
    story = Story(cluster()).connection(REMOTE).connection(other, isn=9_000)
    report = with_rules(story, "node1", AT_POSTROUTING, Said("ip nat POSTROUTING", "masquerade"))
    assert [journey.findings[0] for journey in report.journeys] == ["SIP421", "SIP421"]
    assert [bool(journey.snat[0].rule) for journey in report.journeys] == [True, False]
    assert len(report.paths) == 1


def test_hits_of_other_connections_say_nothing() -> None:
    story = Story(cluster()).connection(REMOTE)
    host = Said("ip nat POSTROUTING", "masquerade")
    foreign = with_rules(story, "node1", AT_POSTROUTING, host, seq=1)
    elsewhere = with_rules(story, "node3", AT_POSTROUTING, host)
    another = with_rules(story, "node1", ("203.0.113.77:40000", POD), host)
    for report in (foreign, elsewhere, another):
        assert only(report).findings[0] == "SIP101"
        assert only(report).snat[0].rule is None


def test_a_rule_inside_a_pod_does_not_stand_for_the_nodes() -> None:
    report = with_rules(
        Story(cluster()).connection(REMOTE), "node1", AT_POSTROUTING, Said("ip nat POSTROUTING", "masquerade"),
        namespace="4026531840",
    )  # fmt: skip
    assert only(report).findings[0] == "SIP101"
    assert only(report).rules[0].namespace == "4026531840"


# ── drops ──


def unanswered(policy: str, *said: Said) -> Journey:
    story = Story(cluster(policy)).watch("bridge:node1/cni0")
    for attempt in range(3):
        story.syn([("nic:node1/eth0", C, NODE_PORT)], isn=7_000, tsval=1_000 + attempt * 1_000).wait(1)
    without = only(story.report())
    journey = only(with_rules(story, "node1", (C, NODE_PORT), *said))
    assert journey.verdict is without.verdict
    return journey


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Said("ip filter KUBE-EXTERNAL-SERVICES", "drop", "shop/web:http has no local endpoints"), "SIP201"),
        (Said("ip kube-proxy nodeport-endpoints-check", "drop"), "SIP201"),
        (
            Said("ip filter KUBE-PROXY-FIREWALL", "drop", "shop/web:http traffic not accepted by KUBE-FW-X"),
            "SIP205",
        ),
        (Said("ip kube-proxy firewall-ABCDEFGH-shop/web/tcp/http", "drop"), "SIP205"),
        (Said("ip filter cali-fw-cali123", "drop", "cali:xyz Drop if no policies passed packet"), "SIP422"),
        (Said("ip filter INPUT", "drop"), "SIP422"),
        (Said("ip filter KUBE-FIREWALL", "drop", "block incoming localnet connections"), "SIP422"),
    ],
)
@pytest.mark.parametrize("policy", ["Local", "Cluster"])
def test_the_rule_that_drops_is_the_cause(policy: str, said: Said, code: str) -> None:
    journey = unanswered(policy, said)
    assert journey.findings == (code,)
    last = journey.hops[-1]
    assert (last.evidence, last.node, last.source) == ("rule", "node1", C)
    assert last.note is not None
    assert last.note.startswith(f"dropped by table {said.where.split(' ')[0]} ")
    assert journey.rules[0].did == "drop"


def test_a_connection_that_was_answered_was_not_dropped_at_last() -> None:
    drop = Said("ip filter INPUT", "drop")
    journey = only(with_rules(Story(cluster()).connection(REMOTE), "node1", (C, NODE_PORT), drop))
    assert "SIP422" not in journey.findings
    assert journey.hops[-1].evidence == "packet"


# ── what was not traced ──


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (Tracing(refused="another program listens"), "node1: another program listens"),
        (Tracing("4026", refused="no"), "node1, pod namespace 4026: no"),
        (Tracing(unheard=("nat",)), "node1: rules of iptables-legacy are not told (tables nat)"),
        (Tracing(overrun=True), "node1: the kernel told of more than could be read"),
        (
            Tracing(limit=64, packets=64, full=True),
            "node1: only the first 64 packets were traced; --trace-limit allows more",
        ),
    ],
)
def test_what_was_not_traced_is_said_once(state: Tracing, line: str) -> None:
    report = with_tracing(Story(cluster()).connection(REMOTE), state)
    (finding,) = [finding for finding in report.findings if finding.code == "SIP423"]
    assert finding.evidence == (line,)


def test_the_last_state_counts_and_a_good_one_is_not_told() -> None:
    report = with_tracing(Story(cluster()).connection(REMOTE), Tracing(limit=9), Tracing(limit=9, packets=3))
    assert "SIP423" not in {finding.code for finding in report.findings}


def test_hostile_names_are_bounded() -> None:
    said = Said("ip nat " + "A" * 10_000, "masquerade", "B" * 10_000)
    journey = masqueraded("Cluster", said)
    assert journey.snat[0].rule is not None
    assert len(journey.snat[0].rule) < 1_000
