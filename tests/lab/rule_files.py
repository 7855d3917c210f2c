"""Reading rule files so that two spellings of one rule are equal."""

from __future__ import annotations

import shlex
from collections import defaultdict

Rule = tuple[str, ...]
Chains = dict[str, list[Rule]]

#: The API server's and kubelet's own: kube-proxy does not write them as part of forwarding.
CANARIES = {"KUBE-KUBELET-CANARY", "KUBE-PROXY-CANARY", "KUBE-IPTABLES-HINT"}


def iptables_tables(text: str) -> dict[str, Chains]:
    """Tables and chains of iptables-save or iptables-restore text; a rule is its options in sorted order."""
    tables: dict[str, Chains] = defaultdict(dict)
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            tables[table].setdefault(line[1:].split()[0], [])
        elif line.startswith("-A "):
            _, chain, rest = line.split(" ", 2)
            if rule := normal(rest):
                tables[table].setdefault(chain, []).append(rule)
    return {
        name: {chain: rules for chain, rules in chains.items() if chain not in CANARIES}
        for name, chains in tables.items()
    }


def normal(rule: str) -> Rule | None:
    """A rule's options, sorted. None for rules that only count: kube-proxy's nfacct counters of localhost traffic."""
    options: list[str] = []
    negated = ""
    for word in shlex.split(rule):
        if word == "!":
            negated = "! "
        elif word.startswith("-"):
            options.append(negated + word)
            negated = ""
        else:
            options[-1] += " " + _value(word)
    if any("localhost_nps_accepted_pkts" in option for option in options):
        return None
    return tuple(sorted(option for option in options if "nfacct" not in option))


def _value(word: str) -> str:
    try:
        return f"{float(word):.6f}" if "." in word else word
    except ValueError:
        return word
