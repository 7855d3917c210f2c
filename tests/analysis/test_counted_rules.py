"""What counters of iptables-legacy allow a packet to have met: all ways, and never fewer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from analysis.analyze import analyze
from analysis.report import Journey, Verdict
from analysis.rules.counted_rules import CountedRules, FirstPacket, UnclearError, Way
from daemonset.observation import CountedChain, CountedRule, Interface, RuleCounts, Topology
from tests.analysis.story import NODES, PODS, Story, cluster

CLIENT = FirstPacket("tcp", "203.0.113.9", 40_000, "172.30.0.11", 30_080)
LOCAL = frozenset({"172.30.0.11"})
LATE = 1 << 62


def rule(number: int, line: str, packets: int = 3, comment: str = "") -> CountedRule:
    """A rule as iptables-save writes it; conditions are parted by commas with blanks."""
    asks, _, does = line.rpartition("-j " if "-j " in line else "-g ")
    kind = "-g" if "-g " in line else "-j"
    word = does.split()[0] if does else ""
    action = word.lower() if word.isupper() and "-" not in word else "goto" if kind == "-g" else "jump"
    conditions = tuple(part.strip() for part in asks.split(", ") if part.strip())
    target = word if action in {"jump", "goto"} else ""
    return CountedRule(number, packets, conditions, f"{kind} {does}" if does else "", action, target, comment)


def chain(
    name: str, *lines: str, table: str = "nat", policy: str = "", changed: bool = False
) -> CountedChain:
    hook = name.lower() if name.isupper() and "-" not in name else ""
    rules = tuple(rule(number, line) for number, line in enumerate(lines, 1))
    return CountedChain(
        "ip", table, name, hook, policy or ("accept" if hook else ""), changed, () if changed else rules
    )


def counts(*chains: CountedChain, rivals: Sequence[str] = (), rival_nat: bool = False) -> RuleCounts:
    return RuleCounts("", "", ("ip nat",), chains, tuple(rivals), rival_nat, 0, 0, LATE)


def ways(*chains: CountedChain, packet: FirstPacket = CLIENT, hook: str = "prerouting") -> list[Way]:
    return CountedRules(counts(*chains), LOCAL).ways("nat", hook, packet)


def met(found: Sequence[Way]) -> list[list[str]]:
    return [
        [f"{each.chain.chain} {each.rule.number}" for each in way.passed if each.rule is not None]
        for way in found
    ]


@pytest.mark.parametrize(
    ("asks", "holds"),
    [
        ("-s 203.0.113.0/24", True),
        ("! -s 203.0.113.0/24", False),
        ("-s 10.244.0.0/16", False),
        ("-d 172.30.0.11/32", True),
        ("-p udp", False),
        ("! -p udp", True),
        ("-p tcp, -m tcp --dport 30080", True),
        ("-m tcp --dport 30000:30079", False),
        ("-m tcp ! --dport 30080", False),
        ("-m multiport --dports 80,30000:30100", True),
        ("-m multiport ! --dports 80,30000:30100", False),
        ("-m addrtype --dst-type LOCAL", True),
        ("-m addrtype ! --dst-type LOCAL", False),
        ("-m addrtype --src-type LOCAL", False),
        ("-m conntrack --ctstate NEW,RELATED", True),
        ("-m conntrack ! --ctstate NEW", False),
        ("-m state --state RELATED,ESTABLISHED", False),
        ("-m mark --mark 0x4000/0x4000", False),
        ("-m mark ! --mark 0x4000/0x4000", True),
        ("-m tcp", True),
        ("-i eth0", None),
        ("-m addrtype --dst-type UNICAST", None),
        ("-m conntrack --ctstate DNAT", None),
        ("-m statistic --mode random --probability 0.5", None),
        ("-m set", None),
        ("-m fragment", None),
        ("-m conntrack", None),
        ("-m strange --dport 1", False),
        ("-m tcp --dport what", None),
        ("-s what", None),
        ("-m tcp --dport", None),
        ("", True),
    ],
)
def test_what_a_rule_asks_is_met_or_not_or_not_known(asks: str, holds: bool | None) -> None:
    found = met(ways(chain("PREROUTING", f"{asks}, -j ACCEPT" if asks else "-j ACCEPT")))
    assert found == {True: [["PREROUTING 1"]], False: [[]], None: [[], ["PREROUTING 1"]]}[holds]


def test_the_way_leads_through_chains_and_back() -> None:
    found = ways(
        chain("PREROUTING", "-j KUBE-SERVICES", "-j ACCEPT"),
        chain("KUBE-SERVICES", "-p udp, -j KUBE-NO", "-p tcp, -j KUBE-MARK-MASQ", "-j RETURN", "-j DROP"),
        chain("KUBE-MARK-MASQ", "-j MARK --set-xmark 0x4000/0x4000"),
    )
    assert met(found) == [
        ["PREROUTING 1", "KUBE-SERVICES 2", "KUBE-MARK-MASQ 1", "KUBE-SERVICES 3", "PREROUTING 2"]
    ]
    assert found[0].mark == 0x4000
    assert found[0].action == "accept"


def test_goto_does_not_come_back() -> None:
    found = ways(
        chain("PREROUTING", "-g KUBE-X", "-j DROP", policy="drop"), chain("KUBE-X", "-p tcp, -j RETURN")
    )
    assert met(found) == [["PREROUTING 1", "KUBE-X 1"]]
    assert found[0].action == "drop", "by the policy"


def test_a_chain_that_counted_nothing_was_left_as_it_was_entered() -> None:
    assert met(ways(chain("PREROUTING", "-j KUBE-QUIET", "-j ACCEPT"))) == [["PREROUTING 1", "PREROUTING 2"]]


@pytest.mark.parametrize(
    "chains",
    [
        (chain("PREROUTING", "-j KUBE-X"), chain("KUBE-X", changed=True)),
        (chain("PREROUTING", "-j NFQUEUE --queue-num 1"),),
        (chain("PREROUTING", "-j KUBE-X"), chain("KUBE-X", "-j KUBE-X")),
        (chain("PREROUTING", *("-m set, -j LOG" for _ in range(40))),),
    ],
    ids=["written-anew", "unknown-target", "circle", "too-many-ways"],
)
def test_what_cannot_be_followed_concludes_nothing(chains: Sequence[CountedChain]) -> None:
    with pytest.raises(UnclearError):
        ways(*chains)


def test_a_changed_chain_that_is_not_entered_hinders_nothing() -> None:
    assert ways(chain("PREROUTING", "-p udp, -j KUBE-X"), chain("KUBE-X", changed=True))


@pytest.mark.parametrize("meddler", ["-j MARK --set-xmark 0x1/0xffffffff", "-j CONNMARK --restore-mark"])
def test_marks_that_others_may_have_set_are_not_known(meddler: str) -> None:
    asks = chain("PREROUTING", "-m mark --mark 0x4000/0x4000, -j ACCEPT")
    assert len(ways(asks)) == 1
    assert len(ways(asks, chain("PREROUTING", meddler, table="mangle"))) == 2
    known = chain(
        "PREROUTING", "-j MARK --set-xmark 0x4000/0x4000", "-m mark --mark 0x4000/0x4000, -j ACCEPT"
    )
    assert len(ways(known, chain("PREROUTING", meddler, table="mangle"))) == 1, "what is set here is known"


# ── and in a story ──

C, NODE_PORT, POD = "203.0.113.9:40000", f"{NODES['node1']}:30080", f"{PODS['node2']}:8080"
MASQUERADED = f"{NODES['node1']}:61000"
REMOTE = [
    ("nic:node1/eth0", C, NODE_PORT),
    ("nic:node1/eth0", MASQUERADED, POD),
    ("nic:node2/eth0", MASQUERADED, POD),
    ("pod:node2/web", MASQUERADED, POD),
]
KUBE_PROXY = (
    chain("PREROUTING", "-m tcp --dport 30080, -j KUBE-EXT-X"),
    CountedChain(
        "ip", "nat", "KUBE-EXT-X",
        rules=(rule(1, "-j KUBE-MARK-MASQ", comment="masquerade traffic for shop/web:http external destinations"),
               rule(2, f"-p tcp, -j DNAT --to-destination {POD}")),
    ),
    chain("KUBE-MARK-MASQ", "-j MARK --set-xmark 0x4000/0x4000"),
    chain("POSTROUTING", "-j FLANNEL-POSTRTG", "-j KUBE-POSTROUTING"),
    chain("FLANNEL-POSTRTG", "-s 10.244.0.0/16, ! -d 224.0.0.0/4, -j MASQUERADE"),
    CountedChain(
        "ip", "nat", "KUBE-POSTROUTING",
        rules=(rule(1, "-m mark ! --mark 0x4000/0x4000, -j RETURN"), rule(3, "-j MASQUERADE")),
    ),
)  # fmt: skip


def journey(*chains: CountedChain, began: int = 0, local: str = NODES["node1"], **how: bool) -> Journey:
    story = Story(cluster()).connection(REMOTE)
    story.conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD))
    recording = story.recording()
    told = RuleCounts(
        "", "", ("ip nat",), chains, ("ip own",) if how.get("rival") else (), how.get("rival", False),
        0, began, LATE,
    )  # fmt: skip
    addresses = Topology((Interface(1, "eth0", addresses=(f"{local}/24",)),))
    topologies = {**recording.topologies, "node1": addresses}
    counted = dataclasses.replace(recording, rule_counts=(("node1", told),), topologies=topologies)
    (found,) = analyze(counted, story.facts).journeys
    assert found.verdict is Verdict.LOST
    return found


def test_the_rule_that_all_ways_share_is_blamed_whatever_else_went_through_others() -> None:
    found = journey(*KUBE_PROXY)
    assert found.snat[0].rule == (
        "table ip nat chain KUBE-POSTROUTING rule 3 of iptables-legacy, 3 packets counted: -j MASQUERADE; "
        "marked by table ip nat chain KUBE-EXT-X rule 1 of iptables-legacy, 3 packets counted: -j KUBE-MARK-MASQ "
        '"masquerade traffic for shop/web:http external destinations"'
    )
    assert {(said.did, said.evidence) for said in found.rules} == {
        ("mark", "counters"), ("snat", "counters"), ("dnat", "counters"),
    }  # fmt: skip


def test_a_rule_of_the_host_that_has_to_have_been_it_wins_over_facts() -> None:
    host = chain("POSTROUTING", "-p tcp, -j MASQUERADE")
    assert journey(*KUBE_PROXY[:3], host).findings[0] == "SIP421"


def test_two_rules_that_may_have_been_it_are_both_told_and_neither_is_blamed() -> None:
    dice = chain("POSTROUTING", "-m statistic, -j MASQUERADE", "-j KUBE-POSTROUTING")
    found = journey(*KUBE_PROXY[:3], dice, KUBE_PROXY[-1])
    assert found.snat[0].rule is None
    assert [said.evidence for said in found.rules if said.did == "snat"] == ["consistent"] * 2
    assert found.findings[0] == "SIP101", "as without counters"


@pytest.mark.parametrize(
    "how",
    [{"rival": True}, {"began": LATE}],
    ids=["nftables-translates-too", "counted-from-later-on"],
)
def test_what_may_have_happened_elsewhere_or_before_is_not_blamed(how: dict[str, int]) -> None:
    assert journey(*KUBE_PROXY, **how).snat[0].rule is None


def test_counters_that_no_way_explains_say_nothing() -> None:
    assert journey(KUBE_PROXY[0], KUBE_PROXY[1]).snat[0].rule is None
    assert journey().snat[0].rule is None


def test_hundreds_of_rules_of_which_nothing_is_known_are_unclear() -> None:
    rules = tuple(CountedRule(at, 1, ("-m set --match-set x src",), "-j LOG", "log") for at in range(2_000))
    walked = CountedRules(
        RuleCounts(chains=(CountedChain("ip", "nat", "PREROUTING", "prerouting", rules=rules),))
    )
    with pytest.raises(UnclearError, match="too many ways"):
        walked.ways("nat", "prerouting", FirstPacket("tcp", "192.0.2.1", 5000, "10.96.0.1", 80))
