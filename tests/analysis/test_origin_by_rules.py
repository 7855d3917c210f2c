"""What is expected of a node, held against the rules that a real kube-proxy wrote there (Kubernetes 1.36, iptables).

The rules are walked for a packet: who is led past policy Local, who is sent to an endpoint of the node, who is dropped.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import msgspec
import pytest

from analysis.facts import Facts, LocalDetection, Service
from analysis.hops.addresses import EXTERNAL, Owner, OwnerKind, Target, TargetKind, integer
from analysis.hops.origin import Caller
from analysis.judging.expectation import Expected, expected_at
from analysis.rules.counted_rules import CountedRules, FirstPacket
from daemonset.observation import CountedChain, CountedRule, RuleCounts
from probe.objects import facts_from_objects

NODES = {f"node{number}": f"172.30.0.{10 + number}" for number in (1, 2, 3)}
BRIDGES = {f"node{number}": f"10.244.{number}.1" for number in (1, 2, 3)}
HOOKS = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue("evidence") / "kubernetes-1.36-iptables"
    return found


@pytest.fixture(scope="module")
def facts(folder: Path) -> Facts:
    """The cluster's objects, and what its rules show of kube-proxy's configuration: clusterCIDR 10.244.0.0/16."""
    told = facts_from_objects(json.loads((folder / "objects.json").read_text()))
    return msgspec.structs.replace(
        told,
        proxy_mode="iptables",
        cluster_cidrs=("10.244.0.0/16",),
        local_detection=LocalDetection("ClusterCIDR"),
    )


def counted(number: int, line: str) -> CountedRule:
    """A line of iptables-save as a rule that counted once."""
    words = shlex.split(line)[2:]
    asks, does = [], ""
    while words:
        taken = 1 + next(
            (at for at, word in enumerate(words[1:]) if re.fullmatch(r"-[sdiopmjg]|!", word)), len(words)
        )
        if words[0] == "!" and not words[1].startswith("--"):
            taken = 3
        part, words = words[:taken], words[taken:]
        while words and words[0] == "!" and words[1].startswith("--"):  # an inverted option of the same match
            part, words = part + words[:3], words[3:]
        if part[:2] == ["-m", "comment"]:
            continue
        if part[0] in {"-j", "-g"}:
            does = " ".join([*part, *words])
            break
        asks.append(" ".join(part))
    word = does.split()[1]
    known = {"MARK", "DNAT", "MASQUERADE", "DROP", "ACCEPT", "RETURN", "REJECT"}
    action = word.lower() if word in known else "jump"
    return CountedRule(number, 1, tuple(asks), does, action, "" if word in known else word)


def rules_of(folder: Path, node: str) -> CountedRules:
    """All rules of a node, as if each of them had counted: whoever was there went through any of them."""
    chains: dict[tuple[str, str], list[CountedRule]] = {}
    table = ""
    for line in (folder / f"{node}.iptables-save").read_text().splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chains.setdefault((table, line[1:].split()[0]), [])
        elif line.startswith("-A") and table in {"nat", "filter"}:
            kept = chains[table, line.split()[1]]
            kept.append(counted(len(kept) + 1, line))
    told = tuple(
        CountedChain("ip", table, name, name.lower() if name in HOOKS else "", rules=tuple(rules))
        for (table, name), rules in chains.items()
    )
    own = frozenset({NODES[node], BRIDGES[node]})
    return CountedRules(RuleCounts("", "", ("ip nat",), told), own)


def does(rules: CountedRules, source: str, destination: str, port: int) -> set[str]:
    """What becomes of a packet: "drop", or the addresses of the endpoints that it may be sent to."""
    found = set()
    packet = FirstPacket("tcp", source, 40_000, destination, port)
    for way in rules.ways("nat", "output" if source in rules.local else "prerouting", packet):
        if way.action == "dnat":
            assert way.end is not None
            assert way.end.rule is not None
            found.add(way.end.rule.does.split()[-1].partition(":")[0])
            continue
        hook = "input" if destination in rules.local else "forward"
        found |= {after.action for after in rules.ways("filter", hook, packet)} - {"accept"}
    return found


@pytest.mark.parametrize("node", sorted(NODES))
@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("172.30.0.101", OwnerKind.EXTERNAL), ("10.244.1.99", OwnerKind.POD), ("10.244.2.99", OwnerKind.POD),
        ("172.30.0.11", OwnerKind.NODE), ("172.30.0.13", OwnerKind.NODE),
    ],
)  # fmt: skip
def test_a_node_does_with_a_caller_what_is_expected(
    folder: Path, facts: Facts, node: str, source: str, kind: OwnerKind
) -> None:
    service = next(each for each in facts.services if each.name == "web-local")
    (port,) = service.ports
    homes = {address: name for name, address in NODES.items()} | {
        "10.244.1.99": "node1",
        "10.244.2.99": "node2",
    }
    owner = EXTERNAL if kind is OwnerKind.EXTERNAL else Owner(kind, source, homes[source])
    caller = Caller(node, integer(source), owner)
    wanted = expected_at(Target(service, TargetKind.NODE_PORT, port.name), caller, facts)
    met = does(rules_of(folder, node), source, NODES[node], port.node_port)
    assert met, "something becomes of it"
    assert (wanted is Expected.DROP_NO_LOCAL_ENDPOINT) == (met == {"drop"})
    if wanted is Expected.FORWARD:
        assert met <= addresses(service)


def addresses(service: Service) -> set[str]:
    return {endpoint.address for endpoint in service.endpoints}
