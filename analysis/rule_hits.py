"""Which rules of the kernel's packet filter a leg met, by its own sequence number and tuples; and what each did.

A hit belongs to a leg when it carries the initial sequence number of the leg and addresses that the leg has.
Datagrams have no such number; there the tuple alone decides. Nothing is concluded from a hit that is not there:
packets beyond the bound of a trace meet rules unheard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType

from analysis.addresses import PROTOCOLS, endpoint
from analysis.legs import Leg
from analysis.recording import RuleKey
from daemonset.observation import Rule, RuleHit

_REPLACES_SOURCE = frozenset({"masquerade", "snat"})
_REPLACES_DESTINATION = frozenset({"dnat", "redirect"})

_SHOWN = 300  # characters of what a rule says
_NAME = 80
_MOST = 300  # hits of one packet that are looked at

#: Node, network namespace, the kernel's number of a packet, its sequence number. The kernel makes its number from the
#: interface too (net/netfilter/nf_tables_trace.c), and what comes from a pod meets rules first by its port of the
#: bridge, then by the bridge. So what has a sequence number is known by that, and the first number is 0.
_Packet = tuple[str, str, int, int]


@dataclass(frozen=True, slots=True)
class Met:
    """One packet at one rule, or at the policy of a base chain, where no rule decided."""

    node: str
    hit: RuleHit
    rule: Rule | None
    before: tuple[Met, ...] = field(
        default=(), compare=False, repr=False
    )  # what the same packet met on this node until then

    @property
    def does(self) -> str:
        """snat, dnat, reject or drop; empty for what decides nothing of these."""
        action = self.rule.action if self.rule is not None else ""
        if self.hit.verdict == "drop":
            return "reject" if action == "reject" else "drop"
        if self.hit.verdict != "accept":
            return ""
        if action in _REPLACES_SOURCE:
            return "snat"
        return "dnat" if action in _REPLACES_DESTINATION else ""

    @property
    def text(self) -> str:
        """A rule as a person would look for it: its table, chain and handle, what it says, and its comment."""
        family, table, chain = (name[:_NAME] for name in (self.hit.family, self.hit.table, self.hit.chain))
        where = f"table {family} {table} chain {chain}"
        if not self.hit.handle:
            return f"{where} policy {self.hit.verdict}"
        where = f"{where} handle {self.hit.handle}"
        if self.rule is None:
            return f"{where} (replaced before it could be read)"
        comment = f'"{self.rule.comment[:_SHOWN]}"' if self.rule.comment else ""
        return f"{where}: {' '.join(filter(None, (self.rule.text[:_SHOWN], comment)))}"


class RuleBook:
    """Looks up what legs met. Built once for an analysis, from hits with their nodes, and the rules that they name."""

    def __init__(
        self, hits: Iterable[tuple[str, RuleHit]] = (), rules: Mapping[RuleKey, Rule] = MappingProxyType({})
    ) -> None:
        self._rules = rules
        self._packets: dict[_Packet, list[RuleHit]] = defaultdict(list)
        self._by_tuple: dict[tuple[int, int, str, str], dict[_Packet, None]] = defaultdict(dict)
        for node, hit in hits:
            number = 0 if hit.protocol == PROTOCOLS["tcp"] else hit.packet
            packet = (node, hit.namespace, number, hit.seq)
            if len(self._packets[packet]) < _MOST:
                self._packets[packet].append(hit)
            self._by_tuple[hit.protocol, hit.seq, hit.source, hit.destination].setdefault(packet)

    def __bool__(self) -> bool:
        return bool(self._packets)

    def met(self, leg: Leg) -> tuple[Met, ...]:
        """What decided about the leg's packets, in the order in which each node told of it."""
        if not self._packets:
            return ()
        tuples = dict.fromkeys(sighting.addresses for sighting in leg.sightings)
        for record in leg.nat:
            tuples |= dict.fromkeys((record.original, record.translated))
        ends = [(endpoint(each.src, each.sport), endpoint(each.dst, each.dport)) for each in tuples]
        # Between its two translations a packet has an old source and a new destination, which no tap need have seen.
        mixed = list(product(dict.fromkeys(end[0] for end in ends), dict.fromkeys(end[1] for end in ends)))[
            :_MOST
        ]
        numbered = leg.protocol == PROTOCOLS["tcp"]
        packets: dict[_Packet, None] = {}
        for each in mixed if numbered else ends[:_MOST]:
            packets |= self._by_tuple.get((leg.protocol, leg.isn if numbered else 0, *each), {})
        return tuple(met for packet in packets for met in self._walk(packet, frozenset(mixed)))

    def _walk(self, packet: _Packet, own: frozenset[tuple[str, str]]) -> list[Met]:
        """Everything that one packet met. Numbers of packets are used again, so that its tuples are looked at, too."""
        node, namespace, _, _ = packet
        before: list[Met] = []
        for hit in self._packets[packet]:
            if (hit.source, hit.destination) in own:
                rule = self._rules.get((node, namespace, hit.family, hit.table, hit.handle))
                before.append(Met(node, hit, rule, tuple(before)))
        return before
