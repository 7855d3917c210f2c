"""All observations of one session as columns, whoever made them: live agents, a folder, or files of others.

A `Recording` is the input of the analysis and is never changed by it. `RecordingBuilder` gathers it from any
number of streams; what each stream could not see (drops, gaps, an end without a goodbye) is gathered with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from analysis.engine.gathering import Gathered, Rows
from daemonset.observation import (
    NAT,
    PACKET,
    Bye,
    ConntrackCounts,
    Gap,
    Head,
    Hello,
    Loss,
    Message,
    RowBytes,
    Rule,
    RuleCounts,
    RuleHit,
    RuleHits,
    Tap,
    Taps,
    Topology,
    TracedRules,
    Tracing,
)

#: Hits of rules that are kept, of all places together; agents are bounded themselves.
MOST_HITS = 500_000

#: By what a rule is found: node, network namespace, family, table and handle.
RuleKey = tuple[str, str, str, str, int]


@dataclass(frozen=True, slots=True)
class Stream:
    """What one source of observations said of itself."""

    node: str
    hello: Hello | None
    bye: Bye | None
    truncated: str | None = None

    @property
    def sample(self) -> int:
        """One connection of so many was kept (`daemonset.taps.sampling`); 1: all, also where it does not say."""
        text = self.hello.features.get("sample", "") if self.hello is not None else ""
        return int(text) if text.isdecimal() and 0 < len(text) < 6 else 1


@dataclass(frozen=True, slots=True)
class Recording:
    """Observations of a session.

    packets: structured array of `PACKET` rows; `tap` indexes `taps`, `head` - 1 indexes `heads`.
    nat: structured array of `NAT` rows; `node` indexes `nodes`.
    expected_nodes: nodes that were to be watched; one that sent nothing makes the capture incomplete.
    """

    taps: tuple[Tap, ...]
    nodes: tuple[str, ...]
    packets: Rows
    nat: Rows
    heads: tuple[Head, ...] = ()
    losses: tuple[tuple[Tap, int, int], ...] = ()  # tap, received, dropped
    gaps: tuple[tuple[str, Gap], ...] = ()  # node, gap
    streams: tuple[Stream, ...] = ()
    topologies: dict[str, Topology] = field(default_factory=dict)
    expected_nodes: tuple[str, ...] = ()
    tracings: tuple[tuple[str, Tracing], ...] = ()  # node, how rules were traced there
    rule_hits: tuple[tuple[str, RuleHit], ...] = ()  # node, hit; in the order in which each node told of them
    rules: dict[RuleKey, Rule] = field(default_factory=dict)
    rule_counts: tuple[tuple[str, RuleCounts], ...] = ()  # node, what rules of iptables-legacy counted there
    conntrack_counts: tuple[tuple[str, ConntrackCounts], ...] = ()  # node, and what was counted

    @property
    def sample(self) -> int:
        """One connection of so many was kept, the same ones everywhere (`daemonset.taps.sampling`); 1: all."""
        return max((stream.sample for stream in self.streams), default=1)

    @property
    def dropped(self) -> int:
        """Packets that the kernels dropped before the agents could read them."""
        return sum(loss[2] for loss in self.losses)


class StreamBuilder:
    """Gathers one stream into its recording. Rows of a stream count its own taps and its own heads."""

    def __init__(self, owner: RecordingBuilder, node: str) -> None:
        self._owner = owner
        self.node = node
        self._taps: list[int] = []
        self._hello: Hello | None = None
        self._bye: Bye | None = None
        self.truncated: str | None = None

    def tap(self, tap: Tap) -> int:
        """Open one more tap of this stream; returns its index for the rows of `packets`."""
        self._taps.append(self._owner.tap_index(tap))
        return len(self._taps) - 1

    def message(self, message: Message) -> None:
        """Take one message in the order in which it came."""
        match message:
            case Hello():
                self._hello = message
                self.node = message.node or self.node
            case Taps(taps):
                for tap in taps:
                    self.tap(tap)
            case Topology():
                self._owner.topologies[self.node] = message
            case Loss(tap, received, dropped):
                if tap < len(self._taps):
                    self._owner.losses.append((self._owner.taps[self._taps[tap]], received, dropped))
            case Gap():
                self._owner.gaps.append((self.node, message))
            case Bye():
                self._bye = message
            case ConntrackCounts():
                self._owner.conntrack_counts.append((self.node, message))
            case Tracing() | TracedRules() | RuleHits() | RuleCounts():
                self._about_rules(message)
            case _:  # heads travel with their packets; of a message of a later minor version there is nothing to gather
                pass

    def _about_rules(self, message: Tracing | TracedRules | RuleHits | RuleCounts) -> None:
        owner = self._owner
        match message:
            case RuleCounts():
                owner.rule_counts.append((self.node, message))
            case Tracing():
                owner.tracings.append((self.node, message))
            case TracedRules(rules):
                for rule in rules:
                    owner.rules[self.node, rule.namespace, rule.family, rule.table, rule.handle] = rule
            case RuleHits(hits):
                owner.rule_hits.extend((self.node, hit) for hit in hits[: MOST_HITS - len(owner.rule_hits)])

    def packets(self, rows: RowBytes, heads: tuple[Head, ...] = ()) -> int:
        """Take a batch of `PACKET` rows; returns how many. Rows of unknown taps are refused with ValueError."""
        table = np.frombuffer(rows, dtype=PACKET.dtype())
        if not len(table):
            return 0
        if int(table["tap"].max()) >= len(self._taps):
            raise ValueError(f"the stream of {self.node} has a packet of a tap that it never announced")
        if int(table["head"].max()) > len(heads):
            raise ValueError(f"the stream of {self.node} has a packet whose decoded head is missing")
        other_taps = self._taps != list(range(len(self._taps)))
        other_heads = bool(heads and self._owner.heads)
        if other_taps or other_heads:
            table = np.frombuffer(bytearray(rows), dtype=PACKET.dtype())  # a copy field by field is dear
        if other_taps:
            table["tap"] = np.asarray(self._taps, dtype=np.uint32)[table["tap"]]
        if other_heads:
            table["head"] = np.where(table["head"] > 0, table["head"] + len(self._owner.heads), 0)
        self._owner.heads.extend(heads)
        self._owner.packets.add(table)
        return len(table)

    def nat(self, rows: RowBytes) -> int:
        """Take a batch of `NAT` rows of this node; returns how many."""
        table = np.frombuffer(rows, dtype=NAT.dtype()).copy()
        table["node"] = self._owner.node_index(self.node)
        self._owner.nat.add(table)
        return len(table)

    def finish(self) -> Stream:
        """What is known of the stream as a whole."""
        return Stream(self.node, self._hello, self._bye, self.truncated)


class RecordingBuilder:
    """Gathers streams into a `Recording`."""

    def __init__(self) -> None:
        self.taps: list[Tap] = []
        self.nodes: list[str] = []
        self.heads: list[Head] = []
        self.losses: list[tuple[Tap, int, int]] = []
        self.gaps: list[tuple[str, Gap]] = []
        self.topologies: dict[str, Topology] = {}
        self.packets = Gathered(PACKET.dtype())  # numbers of taps and heads are the recording's
        self.nat = Gathered(NAT.dtype())
        self.tracings: list[tuple[str, Tracing]] = []
        self.rule_hits: list[tuple[str, RuleHit]] = []
        self.rules: dict[RuleKey, Rule] = {}
        self.rule_counts: list[tuple[str, RuleCounts]] = []
        self.conntrack_counts: list[tuple[str, ConntrackCounts]] = []
        self._streams: list[StreamBuilder] = []
        self._tap_numbers: dict[Tap, int] = {}
        self._node_numbers: dict[str, int] = {}

    def stream(self, node: str) -> StreamBuilder:
        """Begin one more stream, of `node` until its Hello says otherwise."""
        stream = StreamBuilder(self, node)
        self._streams.append(stream)
        return stream

    def tap_index(self, tap: Tap) -> int:
        """The number of a tap in the recording; the same tap has one number."""
        number = self._tap_numbers.setdefault(tap, len(self.taps))
        if number == len(self.taps):
            self.taps.append(tap)
        return number

    def node_index(self, node: str) -> int:
        """The number of a node in the recording."""
        number = self._node_numbers.setdefault(node, len(self.nodes))
        if number == len(self.nodes):
            self.nodes.append(node)
        return number

    def build(self, expected_nodes: tuple[str, ...] = ()) -> Recording:
        """The finished recording."""
        for tap in self.taps:
            self.node_index(tap.node)
        return Recording(
            taps=tuple(self.taps),
            nodes=tuple(self.nodes),
            packets=self.packets.rows(),
            nat=self.nat.rows(),
            heads=tuple(self.heads),
            losses=tuple(self.losses),
            gaps=tuple(self.gaps),
            streams=tuple(stream.finish() for stream in self._streams),
            topologies=dict(self.topologies),
            expected_nodes=expected_nodes,
            tracings=tuple(self.tracings),
            rule_hits=tuple(self.rule_hits),
            rules=dict(self.rules),
            rule_counts=tuple(self.rule_counts),
            conntrack_counts=tuple(self.conntrack_counts),
        )
