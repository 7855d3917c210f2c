"""What kernels say of their rules, beside the packets of a story."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from analysis.analyze import analyze
from analysis.report import Report
from daemonset.observation import Rule, RuleCounts, RuleHit, Tracing
from tests.analysis.story import Story


class Said(NamedTuple):
    """One rule that a packet met: `family/table/chain`, what the rule does, its comment, and where it leads."""

    where: str
    action: str
    comment: str = ""
    target: str = ""
    text: str = ""


MARK = Said(
    "ip nat KUBE-EXT-X",
    "jump",
    "masquerade traffic for shop/web:http external destinations",
    "KUBE-MARK-MASQ",
)
MASQUERADE = Said("ip nat KUBE-POSTROUTING", "masquerade", "kubernetes service traffic requiring SNAT")


def with_rules(
    story: Story, node: str, ends: tuple[str, str], *said: Said, seq: int = 7_000, namespace: str = ""
) -> Report:
    """The report of a story in which the kernel of a node says that a packet met these rules."""
    recording = story.recording()
    rules, hits = dict(recording.rules), list(recording.rule_hits)
    for handle, each in enumerate(said, 1):
        family, table, chain = each.where.split(" ")
        rule = Rule(
            family, table, chain, handle, each.text or each.action, each.comment, each.action, namespace
        )
        rules[node, namespace, family, table, handle] = rule
        dropping = each.action in {"drop", "reject"}
        verdict = "jump" if each.target else "drop" if dropping else "accept"
        hits.append(
            (
                node,
                RuleHit(
                    1, 7, family, table, chain, handle, verdict, each.target, 0, 6, *ends, seq, namespace
                ),
            )
        )
    traced = dataclasses.replace(recording, rules=rules, rule_hits=tuple(hits))
    return analyze(traced, story.facts)


def with_tracing(story: Story, *states: Tracing) -> Report:
    """The report of a story in which node1 says so of its trace."""
    traced = dataclasses.replace(story.recording(), tracings=tuple(("node1", state) for state in states))
    return analyze(traced, story.facts)


def with_counts(story: Story, counts: RuleCounts) -> Report:
    """The report of a story in which node1 says what its rules of iptables-legacy counted."""
    counted = dataclasses.replace(story.recording(), rule_counts=(("node1", counts),))
    return analyze(counted, story.facts)
