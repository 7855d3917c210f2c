"""Which rules of iptables-legacy a packet went through, by the counters of a capture and by what the rules ask.

The kernel counts what a rule matched; it does not say whose packet it was. So every way is walked that a packet can
have gone: a rule that counted nothing matched nothing, one whose conditions the packet does not meet neither, and
where neither tells, both are tried. What all ways have in common is certain, whatever else went through these rules.

Rules of this file:

1. A condition that is not understood may hold or not. A target that is not understood may do anything: then nothing is
   concluded at all, as where a chain was written anew during the capture, or the ways are too many.
2. The packet is the first of its connection. Nothing here may be used for later ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from daemonset.observation import CountedChain, CountedRule, RuleCounts

#: Rules that are looked at for one packet, and for all of one node.
MOST_STEPS = 20_000
#: Ways of one packet: a few rules of which neither is known whether they hold have thousands.
MOST_WAYS = 500
MOST_STEPS_IN_ALL = 5_000_000

_DEEPEST = 64  # chains within chains
_NAT = frozenset({"dnat", "snat", "masquerade", "redirect"})
_ENDS = _NAT | {"accept", "drop", "reject"}
_HARMLESS = frozenset(
    {"", "log", "nflog", "tcpmss", "notrack", "ct", "trace", "set", "dscp", "tos", "ttl", "hl"}
)
_BEFORE = frozenset({"raw", "mangle", "security"})
_XMARK = re.compile(r"--set-xmark (0x[0-9a-f]+)/(0x[0-9a-f]+)")
_TO = re.compile(r"--to-(?:destination|source) (\S+)")
_LOOPBACK = {4: ip_network("127.0.0.0/8"), 6: ip_network("::1/128")}


class UnclearError(Exception):
    """What a packet went through cannot be known; nothing is to be concluded."""


@dataclass(frozen=True, slots=True)
class FirstPacket:
    """The first packet of a connection at a hook. Addresses as text; of `mark` only the bits in `known` are known."""

    protocol: str  # tcp, udp
    source: str
    sport: int
    destination: str
    dport: int
    mark: int = 0
    known: int = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Passed:
    """One rule that a packet matched, with the chain that it stands in; `rule` None: the policy of the chain."""

    chain: CountedChain
    rule: CountedRule | None


@dataclass(frozen=True, slots=True)
class Way:
    """One way through the chains of a hook: the rules that matched, and the mark at its end.

    `end` is what decided: the rule that accepts, drops, rejects or translates, or a policy that drops; None where
    none did, and the packet goes on.
    """

    passed: tuple[Passed, ...]
    mark: int
    known: int
    end: Passed | None

    @property
    def action(self) -> str:
        """What became of the packet: accept, drop, reject, dnat, redirect, snat or masquerade."""
        if self.end is None:
            return "accept"
        return self.end.rule.action if self.end.rule is not None else self.end.chain.policy


class CountedRules:
    """The rules of one network namespace that counted. `local` are its own addresses; empty: not known."""

    def __init__(self, counts: RuleCounts, local: frozenset[str] = frozenset()) -> None:
        self.local = local
        self.whole = not counts.refused and not counts.omitted
        self.rivals = bool(counts.rivals)
        self.rival_nat = counts.rival_nat
        self.began, self.ended = counts.began, counts.time
        self._chains = {(each.family, each.table, each.chain): each for each in counts.chains}
        self._hooks = {(each.family, each.table, each.hook): each for each in counts.chains if each.hook}
        self._meddling = {each.family for each in counts.chains if each.table in _BEFORE and _meddles(each)}
        self._steps = self._spent = 0
        self._held: dict[tuple[int, int, int], bool | None] = {}  # of one packet, by rule and mark

    def meddled(self, family: str) -> bool:
        """Whether anything else may have marked, dropped or moved packets: nftables, or the tables raw and mangle."""
        return self.rivals or family in self._meddling

    def ways(self, table: str, hook: str, packet: FirstPacket) -> list[Way]:
        """Every way that the packet can have gone through a table at a hook. Raises UnclearError."""
        if not self.whole:
            raise UnclearError("the rules are not all known")
        family = "ip6" if ":" in packet.source else "ip"
        first = self._hooks.get((family, table, hook))
        if self.meddled(family):
            packet = replace(packet, known=0)
        if first is None:
            return [_on((), packet)]
        self._steps = 0
        self._held.clear()
        try:
            return self._limited(first, packet)
        except RecursionError:  # a few hundred rules in a row of which it is not known whether they hold
            raise UnclearError("there are too many ways") from None

    def _limited(self, first: CountedChain, packet: FirstPacket) -> list[Way]:
        found: list[Way] = []
        for way in self._from(first, 0, packet, (), 0):
            if len(found) >= MOST_WAYS:
                raise UnclearError("there are too many ways")
            if way.end is None and first.policy == "drop":
                found.append(replace(way, end=Passed(first, None)))
            else:
                found.append(way)
        return found

    def _from(
        self, chain: CountedChain, index: int, packet: FirstPacket, passed: tuple[Passed, ...], depth: int
    ) -> Iterator[Way]:
        """The ways from one rule of a chain on; those without an end have left the chain at its end."""
        if chain.changed or depth > _DEEPEST:
            raise UnclearError("the chain was written anew")
        for at in range(index, len(chain.rules)):
            rule = chain.rules[at]
            self._steps += 1
            self._spent += 1
            if self._steps > MOST_STEPS or self._spent > MOST_STEPS_IN_ALL:
                raise UnclearError("there are too many ways")
            holds = self._holds(rule, packet)
            if holds is False:
                continue
            if holds is None:
                yield from self._from(chain, at + 1, packet, passed, depth)
            on = (*passed, Passed(chain, rule))
            if rule.action in {"jump", "goto"}:
                yield from self._through(chain, at, packet, on, depth)
                return
            if rule.action == "return":
                yield _on(on, packet)
                return
            if rule.action in _ENDS:
                yield _on(on, packet, on[-1])
                return
            if rule.action == "mark":
                packet = _marked(packet, rule.does)
            elif rule.action not in _HARMLESS:
                raise UnclearError(f"what {rule.does} does is not known")
            passed = on
        yield _on(passed, packet)

    def _through(
        self, chain: CountedChain, at: int, packet: FirstPacket, passed: tuple[Passed, ...], depth: int
    ) -> Iterator[Way]:
        """The ways through the chain that a rule leads to, and on from there."""
        rule = chain.rules[at]
        inner = self._chains.get((chain.family, chain.table, rule.target))
        # A chain that is not told has counted nothing, so nothing in it matched.
        ways = (
            self._from(inner, 0, packet, passed, depth + 1)
            if inner is not None
            else iter([_on(passed, packet)])
        )
        for way in ways:
            if way.end is not None or rule.action == "goto":
                yield way
            else:
                yield from self._from(
                    chain, at + 1, replace(packet, mark=way.mark, known=way.known), way.passed, depth
                )

    def _holds(self, rule: CountedRule, packet: FirstPacket) -> bool | None:
        """Whether the packet meets what a rule asks; None where that cannot be known."""
        key = (id(rule), packet.mark, packet.known)
        if key not in self._held:
            self._held[key] = self._asked(rule, packet)
        return self._held[key]

    def _asked(self, rule: CountedRule, packet: FirstPacket) -> bool | None:
        result: bool | None = True
        for condition in rule.conditions:
            holds = self._meets(_words(condition), packet)
            if holds is False:
                return False
            result = result if holds else None
        return result

    def _meets(self, words: Sequence[str], packet: FirstPacket) -> bool | None:
        inverted = words[:1] == ("!",)
        option, *values = words[inverted:] or ("",)
        if option == "-m":
            return self._matches(values, packet)
        if len(values) != 1:
            return None
        value = values[0]
        match option:
            case "-s":
                holds = _within(packet.source, value)
            case "-d":
                holds = _within(packet.destination, value)
            case "-p":
                holds = packet.protocol == value
            case _:
                holds = None
        return None if holds is None else holds is not inverted

    def _matches(self, values: Sequence[str], packet: FirstPacket) -> bool | None:
        """A match by its name and options; None where one of them is not understood."""
        result: bool | None = True
        rest = list(values[1:])
        while rest:
            inverted = rest[0] == "!"
            option, value = (rest[1:3] if inverted else rest[:2]) if len(rest) > inverted + 1 else ("", "")
            del rest[: 2 + inverted + (option == "--tcp-flags")]
            holds = self._option(option, value, packet)
            if holds is not None and holds is inverted:
                return False
            result = result if holds is not None else None
        return result if len(values) > 1 or values[:1] in (["tcp"], ["udp"]) else None

    def _option(self, option: str, value: str, packet: FirstPacket) -> bool | None:
        match option:
            case "--sport" | "--sports":
                return _port(packet.sport, value)
            case "--dport" | "--dports":
                return _port(packet.dport, value)
            case "--mark":
                return _has_mark(packet, value)
            case "--ctstate" | "--state":
                states = set(value.split(","))
                return True if "NEW" in states else None if states & {"SNAT", "DNAT", "UNTRACKED"} else False
            case "--src-type":
                return self._of_type(packet.source, value)
            case "--dst-type":
                return self._of_type(packet.destination, value)
        return None

    def _of_type(self, address: str, kinds: str) -> bool | None:
        """Whether an address is one of the node's own; of other types nothing is known."""
        if kinds != "LOCAL":
            return None
        if _within(address, str(_LOOPBACK[ip_address(address).version])):
            return True
        return address in self.local if self.local else None


def translation(way: Way) -> str | None:
    """The one address (and port) that a way's end translates to; None where it is not one."""
    rule = way.end.rule if way.end is not None else None
    found = _TO.search(rule.does) if rule is not None else None
    return found[1] if found is not None else None


def _within(address: str, network: str) -> bool | None:
    try:
        return _address(address) in _network(network)
    except ValueError:
        return None


# The same few texts are read for every packet.
_address = lru_cache(maxsize=1 << 14)(ip_address)


@lru_cache(maxsize=1 << 14)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text, strict=False)


@lru_cache(maxsize=1 << 14)
def _words(condition: str) -> tuple[str, ...]:
    return tuple(condition.split())


def _port(port: int, ports: str) -> bool | None:
    """Whether a port is among `1,3:5`."""
    try:
        spans = [[int(each) for each in span.split(":", 1)] for span in ports.split(",")]
    except ValueError:
        return None
    return any(span[0] <= port <= span[-1] for span in spans)


def _marks(text: str) -> tuple[int, int] | None:
    value, _, mask = text.partition("/")
    try:
        return int(value, 16), int(mask, 16)
    except ValueError:
        return None


def _has_mark(packet: FirstPacket, text: str) -> bool | None:
    wanted = _marks(text)
    if wanted is None:
        return None
    value, mask = wanted
    if (packet.mark ^ value) & mask & packet.known:
        return False
    return True if mask & ~packet.known == 0 and value & ~mask == 0 else None


def _marked(packet: FirstPacket, does: str) -> FirstPacket:
    """The packet after `--set-xmark VALUE/MASK`: the mask's bits go, then the value's are turned over."""
    found = _XMARK.search(does)
    if found is None:
        return replace(packet, known=0)
    value, mask = int(found[1], 16), int(found[2], 16)
    return replace(packet, mark=(packet.mark & ~mask) ^ value, known=packet.known | mask)


def _on(passed: tuple[Passed, ...], packet: FirstPacket, end: Passed | None = None) -> Way:
    return Way(passed, packet.mark, packet.known, end)


def _meddles(chain: CountedChain) -> bool:
    """Whether a chain of another table may have done something to packets that is seen later on."""
    idle = _HARMLESS | {"accept", "return", "jump", "goto"}
    return chain.changed or chain.policy == "drop" or any(rule.action not in idle for rule in chain.rules)
