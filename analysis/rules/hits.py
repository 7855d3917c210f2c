"""Which rules of the kernel's packet filter a leg met, by its own sequence number and tuples; and what each did.

A hit belongs to a leg when it carries the initial sequence number of the leg and addresses that the leg has.
Datagrams have no such number; there the tuple alone decides. Nothing is concluded from a hit that is not there:
packets beyond the bound of a trace meet rules unheard. Rules of iptables-legacy are not traced; what a leg met of them
follows from their counters (`analysis.rules.counted_hits`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType

from analysis.engine.legs import Leg
from analysis.hops.addresses import PROTOCOLS, endpoint
from analysis.recording import Recording, RuleKey
from analysis.rules.counted_hits import Counted, counted_of
from analysis.rules.counted_rules import CountedRules
from daemonset.observation import Rule, RuleHit, Tap, Topology

_REPLACES_SOURCE = frozenset({"masquerade", "snat"})
_REPLACES_DESTINATION = frozenset({"dnat", "redirect"})

#: Verdicts of a trace by what a rule of iptables-legacy does; others accept.
_VERDICTS = {
    "drop": "drop",
    "reject": "drop",
    "jump": "jump",
    "goto": "goto",
    "return": "return",
    "mark": "continue",
}

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
    counted: int | None = (
        None  # known by counters, not by a trace: so many packets; handle is the rule's number
    )
    sure: bool = True  # False: one of several that the counters allow

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
        if self.counted is not None:
            packets = f"{self.counted} packet{'' if self.counted == 1 else 's'}"
            where = f"{where} rule {self.hit.handle} of iptables-legacy, {packets} counted"
        else:
            where = f"{where} handle {self.hit.handle}"
        if self.rule is None:
            return f"{where} (replaced before it could be read)"
        comment = f'"{self.rule.comment[:_SHOWN]}"' if self.rule.comment else ""
        return f"{where}: {' '.join(filter(None, (self.rule.text[:_SHOWN], comment)))}"


class RuleBook:
    """Looks up what legs met. Built once for an analysis, from hits with their nodes, and the rules that they name.

    `counts` are what rules of iptables-legacy counted, by node and namespace; `taps` are those that legs refer to.
    """

    def __init__(
        self,
        hits: Iterable[tuple[str, RuleHit]] = (),
        rules: Mapping[RuleKey, Rule] = MappingProxyType({}),
        counts: Mapping[tuple[str, str], CountedRules] = MappingProxyType({}),
        taps: Sequence[Tap] = (),
    ) -> None:
        self._rules = rules
        self._counts = counts
        self._taps = taps
        self._by_counters: dict[int, tuple[Leg, tuple[Met, ...]]] = {}
        self._packets: dict[_Packet, list[RuleHit]] = defaultdict(list)
        self._by_tuple: dict[tuple[int, int, str, str], dict[_Packet, None]] = defaultdict(dict)
        for node, hit in hits:
            number = 0 if hit.protocol == PROTOCOLS["tcp"] else hit.packet
            packet = (node, hit.namespace, number, hit.seq)
            if len(self._packets[packet]) < _MOST:
                self._packets[packet].append(hit)
            self._by_tuple[hit.protocol, hit.seq, hit.source, hit.destination].setdefault(packet)

    def __bool__(self) -> bool:
        return bool(self._packets or self._counts)

    def met(self, leg: Leg) -> tuple[Met, ...]:
        """What decided about the leg's packets for certain, in the order in which each node told of it."""
        return (*self._traced(leg), *(met for met in self._counted(leg) if met.sure))

    def possible(self, leg: Leg) -> tuple[Met, ...]:
        """What may have decided: rules of iptables-legacy of which the counters allow several."""
        return tuple(met for met in self._counted(leg) if not met.sure)

    def _counted(self, leg: Leg) -> tuple[Met, ...]:
        if not self._counts:
            return ()
        kept = self._by_counters.get(id(leg))  # legs that were taken apart share their number
        if kept is None:
            counted = counted_of(leg, self._taps, lambda *where: self._counts.get(where))
            kept = self._by_counters[id(leg)] = (leg, tuple(_met(each, leg) for each in counted))
        return kept[1]

    def _traced(self, leg: Leg) -> tuple[Met, ...]:
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


def counted_rules(recording: Recording) -> dict[tuple[str, str], CountedRules]:
    """What rules of iptables-legacy counted on each node and in its pods, with the addresses that are theirs."""
    found = {}
    for node, counts in recording.rule_counts:
        if counts.refused or not counts.tables:
            continue
        topology = recording.topologies.get(node) or Topology()
        addresses = [address for each in topology.interfaces for address in each.addresses]
        if counts.namespace:
            addresses = [
                address
                for pod in topology.pods
                if pod.namespace == counts.namespace
                for address in pod.addresses
            ]
        own = frozenset(address.partition("/")[0] for address in addresses)
        found[node, counts.namespace] = CountedRules(counts, own)
    return found


def _met(counted: Counted, leg: Leg) -> Met:
    """What counters tell, in the form in which a trace would have told it."""
    before: list[Met] = []
    for passed in counted.passed:
        chain, rule = passed.chain, passed.rule
        action = rule.action if rule is not None else chain.policy
        verdict = _VERDICTS.get(action, "accept")
        number = rule.number if rule is not None else 0
        hit = RuleHit(
            time=0,
            packet=0,
            family=chain.family,
            table=chain.table,
            chain=chain.chain,
            handle=number,
            verdict=verdict,
            target=rule.target if rule is not None else "",
            protocol=leg.protocol,
            source=counted.source,
            destination=counted.destination,
            seq=leg.isn,
            namespace=counted.namespace,
        )
        said = None
        if rule is not None:
            words = " ".join((*rule.conditions, rule.does))
            said = Rule(chain.family, chain.table, chain.chain, number, words, rule.comment, action)
        packets = rule.packets if rule is not None else 0
        before.append(Met(counted.node, hit, said, tuple(before), packets, counted.sure))
    return before[-1]
