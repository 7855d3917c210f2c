"""What the counters of iptables-legacy say of one leg: the rules that it met for certain, and those it may have met.

What became of the leg is known from packets and the kernel's NAT record. Of all ways through the rules that it can
have gone (`analysis.rules.counted_rules`), those stay that end so. A rule is named only where all of them share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from analysis.engine.legs import FourTuple, Leg, NatRecord, Sighting
from analysis.hops.addresses import PROTOCOL_NAMES, endpoint, text
from analysis.ports import is_port
from analysis.rules.counted_rules import CountedRules, FirstPacket, Passed, UnclearError, Way, translation
from daemonset.observation import Tap, TapKind

_SNAT = frozenset({"snat", "masquerade"})
_DNAT = frozenset({"dnat", "redirect"})
_MARKERS = frozenset({"KUBE-MARK-MASQ"})
_MOST_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Counted:
    """A rule that a leg met, with those that led there; not `sure`: one of several that the counters allow."""

    node: str
    source: str
    destination: str
    passed: tuple[Passed, ...]  # the last is the rule itself
    sure: bool = True
    namespace: str = ""  # of the pod whose rule it is


#: The rules that were counted on a node, in the network namespace of a pod or, with "", in its own.
Lookup = Callable[[str, str], CountedRules | None]


def counted_of(leg: Leg, taps: Sequence[Tap], rules: Lookup) -> Iterator[Counted]:
    """What rules of iptables-legacy did to a leg, on each node and in each pod whose counters are known."""
    protocol = PROTOCOL_NAMES.get(leg.protocol)
    if protocol not in {"tcp", "udp"}:
        return
    recorded = set()
    for record in leg.nat:
        counted = rules(record.node, "")
        if counted is not None and record.node not in recorded and _within(leg, record, taps, counted):
            recorded.add(record.node)
            yield from _translated(record, protocol, counted)
    for namespace, record in _in_pods(leg, taps):
        counted = rules(record.node, namespace)
        if counted is not None and counted.began <= record.time <= counted.ended:
            for each in _translated(record, protocol, counted):
                yield replace(each, namespace=namespace)
    if leg.answered or protocol != "tcp":
        return
    for node, sighting in _ended(leg, taps):
        counted = rules(node, "") if all(record.node != node for record in leg.nat) else None
        if counted is not None and sighting.first is not None and counted.began <= sighting.first:
            yield from _stopped(node, sighting, protocol, counted)


def _within(leg: Leg, record: NatRecord, taps: Sequence[Tap], rules: CountedRules) -> bool:
    """Whether the leg began on that node after the counters were read first, and before they were read again."""
    seen = [each.first for each in leg.sightings if taps[each.tap].node == record.node]
    times = [first for first in seen if first is not None] if seen else [record.time]
    return bool(times) and rules.began <= min(times) <= rules.ended


def _in_pods(leg: Leg, taps: Sequence[Tap]) -> Iterator[tuple[str, NatRecord]]:
    """Pods that the leg came to with one tuple and left with another: what their kernels did, as the taps show it."""
    seen: dict[tuple[str, str], list[Sighting]] = {}
    for sighting in leg.sightings:
        tap = taps[sighting.tap]
        if tap.kind is TapKind.POD and tap.namespace and sighting.first is not None:
            seen.setdefault((tap.node, tap.namespace), []).append(sighting)
    for (node, namespace), sights in seen.items():
        if len(sights) == 2:
            came, went = sorted(sights, key=lambda each: each.first or 0)
            yield namespace, NatRecord(node, came.first or 0, came.addresses, went.addresses)


def _ended(leg: Leg, taps: Sequence[Tap]) -> Iterator[tuple[str, Sighting]]:
    """The nodes at which the leg was seen arriving with one tuple, and nowhere further on."""
    seen: dict[str, list[Sighting]] = {}
    for sighting in leg.sightings:
        seen.setdefault(taps[sighting.tap].node, []).append(sighting)
    for node, sights in seen.items():
        if len(sights) == 1 and taps[sights[0].tap].kind is TapKind.NIC:
            yield node, sights[0]


def _packet(protocol: str, addresses: FourTuple) -> FirstPacket:
    return FirstPacket(protocol, text(addresses.src), addresses.sport, text(addresses.dst), addresses.dport)


def _translated(record: NatRecord, protocol: str, rules: CountedRules) -> Iterator[Counted]:
    """The rules that made a NAT record what it is."""
    came, went = record.original, record.translated
    packet = _packet(protocol, came)
    hook = "output" if packet.source in rules.local else "prerouting"
    redirected = (came.dst, came.dport) != (went.dst, went.dport)
    replaced = (came.src, came.sport) != (went.src, went.sport)
    aim = endpoint(went.dst, went.dport)
    try:
        before = [way for way in rules.ways("nat", hook, packet) if _leads(way, redirected, aim)]
        pairs = list(_masqueraded(before, packet, went, rules)) if replaced else []
    except UnclearError:
        return
    source = endpoint(came.src, came.sport)
    # What a datagram belongs to may have been translated long before the capture.
    certain = protocol == "tcp" and not rules.rival_nat
    ends = {_key(way.end): way for way in before}
    if redirected and len(ends) == 1:
        (way,) = ends.values()
        yield Counted(record.node, source, endpoint(came.dst, came.dport), way.passed, certain)
    rules_of = {_key(after.end): after for _, after in pairs}
    marks = {_key(_marking(way)) for way, _ in pairs}
    for way, after in ((pairs[0][0], each) for each in list(rules_of.values())[:_MOST_SHOWN]):
        # Whoever marked is told only where all ways agree on it.
        led = way.passed if len(marks) == 1 else ()
        sure = len(rules_of) == 1 and certain
        yield Counted(record.node, source, aim, (*led, *after.passed), sure)


def _leads(way: Way, redirected: bool, aim: str) -> bool:
    if not redirected:
        return way.action == "accept"
    to = translation(way)
    return way.action in _DNAT and (way.action == "redirect" or to is None or to == aim or "-" in to)


def _masqueraded(
    before: Sequence[Way], packet: FirstPacket, went: FourTuple, rules: CountedRules
) -> Iterator[tuple[Way, Way]]:
    """Ways to the endpoint, each with one behind it that ends in a new source."""
    for way in before:
        leaving = FirstPacket(
            packet.protocol, packet.source, packet.sport, text(went.dst), went.dport, way.mark, way.known
        )
        for after in rules.ways("nat", "postrouting", leaving):
            if after.action in _SNAT:
                yield way, after


def _stopped(node: str, sighting: Sighting, protocol: str, rules: CountedRules) -> Iterator[Counted]:
    """The rule of the filter that lets a packet go no further, where every way that it can have gone ends there.

    That it came so far is not seen. So nothing else may have stopped it before, and the rule has to have counted as
    often as the packet came.
    """
    addresses = sighting.addresses
    packet = _packet(protocol, addresses)
    if not rules.local or rules.meddled("ip6" if ":" in packet.source else "ip"):
        return
    ends: dict[object, tuple[Way, FirstPacket]] = {}
    try:
        for way in rules.ways("nat", "prerouting", packet):
            moved = _moved(way, packet)
            hook = "input" if moved.destination in rules.local else "forward"
            for after in rules.ways("filter", hook, moved):
                ends.setdefault(
                    _key(after.end) if after.action in {"drop", "reject"} else None, (after, moved)
                )
    except UnclearError:
        return
    if len(ends) != 1 or None in ends:
        return
    ((after, moved),) = ends.values()
    assert after.end is not None
    if after.end.rule is not None and after.end.rule.packets < sighting.syns:
        return
    passed = after.passed if after.end.rule else (*after.passed, after.end)
    aim = (
        f"[{moved.destination}]:{moved.dport}"
        if ":" in moved.destination
        else f"{moved.destination}:{moved.dport}"
    )
    yield Counted(node, endpoint(addresses.src, addresses.sport), aim, passed)


def _moved(way: Way, packet: FirstPacket) -> FirstPacket:
    """The packet behind a way: with another destination where that was translated. Raises UnclearError."""
    destination, dport = packet.destination, packet.dport
    if way.action in _DNAT:
        to = translation(way)
        host, _, port = (to or "").rpartition(":")
        if not host or not is_port(port) or host.strip("[]").count("-"):
            raise UnclearError("where it is sent is not one address")
        destination, dport = host.strip("[]"), int(port)
    return FirstPacket(packet.protocol, packet.source, packet.sport, destination, dport, way.mark, way.known)


def _marking(way: Way) -> Passed | None:
    """The rule that had the packet marked for masquerade."""
    return next(
        (each for each in reversed(way.passed) if each.rule is not None and each.rule.target in _MARKERS),
        None,
    )


def _key(passed: Passed | None) -> object:
    if passed is None:
        return None
    number = passed.rule.number if passed.rule is not None else 0
    return passed.chain.family, passed.chain.table, passed.chain.chain, number
