"""The rules of a node's packet filter as a whole, as nftables tells them over netlink: no program of the node is run.

What is kept is for people who look at a recorded session later: which rules there were, not only which were met. It is
bounded, and says what it leaves out. Rules of iptables-legacy and of IPVS are not nftables', and are told by name only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from daemonset.node.nat_rules import TraceRefusedError, listed
from daemonset.node.nfnetlink import DUMP, LISTED, Message, Order, attributes, name, number, text
from daemonset.node.nft_rules import parse_rule
from daemonset.node.nft_trace import FAMILIES, VERDICTS
from daemonset.observation import Chain, Rule, RuleSet, Ruleset

MECHANISM = "nftables netlink"

#: What is kept of a node: so many rules and so many elements of sets; about 10 MiB at most.
MOST_RULES = 20_000
MOST_ELEMENTS = 50_000

_GETCHAIN, _GETRULE, _GETSET, _GETSETELEM = 4, 7, 10, 13  # NFT_MSG_*
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")  # NF_INET_*
_POLICIES = ("drop", "accept")  # NF_DROP, NF_ACCEPT
_NUMBERS = {word: each for each, word in FAMILIES.items()}
_INTERVAL_END = 1  # NFT_SET_ELEM_INTERVAL_END

# nft's numbers of data types, six bits for each part of a key (enum datatypes of nftables' datatype.h).
_TYPE_BITS = 6
_ADDRESS4, _ADDRESS6, _PROTOCOL, _PORT, _INTERFACE = 7, 8, 12, 13, 41
_WIDTHS = {_ADDRESS4: 4, _ADDRESS6: 16, _PROTOCOL: 1, _PORT: 2, _INTERFACE: 16}
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}

_LEGACY = (
    ("ip_tables_names", "iptables-legacy"),
    ("ip6_tables_names", "ip6tables-legacy"),
)


def ruleset() -> Ruleset:
    """The rules of the network namespace of the calling thread; where they cannot be had, why."""
    unread = tuple(_unread())
    try:
        chains = [chain for message in listed(_all(_GETCHAIN)) if (chain := parse_chain(message)) is not None]
        rules, omitted = _rules()
        sets, left_out = _sets()
    except (TraceRefusedError, OSError) as error:
        return Ruleset(MECHANISM, refused=str(error), unread=unread, time=time.time_ns())
    return Ruleset(
        MECHANISM,
        chains=tuple(chains),
        rules=tuple(rules),
        sets=tuple(sets),
        omitted=omitted + left_out,
        unread=unread,
        time=time.time_ns(),
    )


def tables_with_rules(but: str = "") -> tuple[tuple[str, ...], bool]:
    """The tables that have rules, as "ip nat", without those named `but`; and whether one of them translates addresses.

    Raises TraceRefusedError and OSError where nftables cannot be asked.
    """
    found: dict[tuple[str, str], None] = {}
    for message in listed(_all(_GETRULE)):
        said = message.attributes()
        if (family := FAMILIES.get(message.family)) is not None and (table := text(said.get(1))) != but:
            found.setdefault((family, table))
    chains = [chain for message in listed(_all(_GETCHAIN)) if (chain := parse_chain(message)) is not None]
    translates = any(chain.type == "nat" and (chain.family, chain.table) in found for chain in chains)
    return tuple(f"{family} {table}" for family, table in found), translates


def _all(kind: int) -> Order:
    return Order(kind, DUMP, 0, b"")


def _rules() -> tuple[list[Rule], int]:
    rules: list[Rule] = []
    omitted = 0
    for message in listed(_all(_GETRULE)):
        if len(rules) >= MOST_RULES:
            omitted += 1
        elif (rule := parse_rule(message)) is not None:
            rules.append(rule)
    return rules, omitted


def parse_chain(message: Message) -> Chain | None:
    """A chain out of the kernel's message of it; None where it is of no family that is known."""
    found = message.attributes()
    family = FAMILIES.get(message.family)
    if family is None or not {1, 3} <= found.keys():  # NFTA_CHAIN_TABLE, _NAME
        return None
    hook = dict(attributes(found.get(4, b"")))  # NFTA_CHAIN_HOOK: NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY
    named, policy = "", ""
    if 1 in hook:
        at = number(hook[1])
        named = _HOOKS[at] if at < len(_HOOKS) and family in {"ip", "ip6", "inet"} else str(at)
        policy = _POLICIES[number(found[5])] if number(found.get(5)) < 2 and 5 in found else ""
    priority = int.from_bytes(hook.get(2, b""), "big", signed=True)
    return Chain(family, text(found[1]), text(found[3]), named, priority, policy, text(found.get(7)))


def _sets() -> tuple[list[RuleSet], int]:
    found: list[RuleSet] = []
    kept = omitted = 0
    for message in list(listed(_all(_GETSET))):
        said = message.attributes()
        family = FAMILIES.get(message.family)
        if family is None or not {1, 2} <= said.keys():  # NFTA_SET_TABLE, _NAME
            continue
        table, named, types = text(said[1]), text(said[2]), number(said.get(4))  # _KEY_TYPE
        elements = []
        order = Order(_GETSETELEM, DUMP, _NUMBERS[family], name(1, table) + name(2, named))
        for element in (each for message in listed(order) for each in parse_elements(message, types)):
            if kept < MOST_ELEMENTS:
                kept += 1
                elements.append(element)
            else:
                omitted += 1
        found.append(RuleSet(family, table, named, tuple(elements)))
    return found, omitted


def parse_elements(message: Message, types: int) -> Iterator[str]:
    """The elements of a set in one message, written down; `types` are those of its key's parts."""
    for kind, element in attributes(message.attributes().get(3, b"")):  # NFTA_SET_ELEM_LIST_ELEMENTS
        parts = dict(attributes(element))
        if kind != LISTED:
            continue
        key = dict(attributes(parts.get(1, b""))).get(1)  # NFTA_SET_ELEM_KEY: NFTA_DATA_VALUE
        written = "*" if key is None else _key(key, types)
        if number(parts.get(3)) & _INTERVAL_END:
            if key is not None and any(key):  # the end of what no element begins
                yield f"< {written}"
            continue
        end = dict(attributes(parts.get(10, b""))).get(1)  # NFTA_SET_ELEM_KEY_END
        written += "" if end is None or end == key else f"-{_key(end, types)}"
        value = _value(dict(attributes(parts.get(2, b""))))  # NFTA_SET_ELEM_DATA
        yield f"{written} : {value}" if value else written


def _key(key: bytes, types: int) -> str:
    """A key by the types of its parts; of parts that are not known, its bytes."""
    kinds: list[int] = []
    while types:
        kinds.insert(0, types & (1 << _TYPE_BITS) - 1)
        types >>= _TYPE_BITS
    widths = [_WIDTHS.get(kind, 0) for kind in kinds]
    padded = [width + 3 & ~3 for width in widths]
    if not kinds or not all(widths) or len(key) < sum(padded[:-1]) + widths[-1]:
        return f"0x{key.hex()}"
    words, at = [], 0
    for kind, width, room in zip(kinds, widths, padded, strict=True):
        words.append(_part(kind, key[at : at + width]))
        at += room
    return " . ".join(words)


def _part(kind: int, value: bytes) -> str:
    if kind == _ADDRESS4:
        return str(IPv4Address(value))
    if kind == _ADDRESS6:
        return str(IPv6Address(value))
    if kind == _PROTOCOL:
        return _PROTOCOLS.get(value[0], str(value[0]))
    return f'"{text(value)}"' if kind == _INTERFACE else str(number(value))


def _value(data: dict[int, bytes]) -> str:
    """What a map answers with: a verdict, or a plain value."""
    if 2 in data:  # NFTA_DATA_VERDICT
        verdict = dict(attributes(data[2]))
        word = VERDICTS.get(int.from_bytes(verdict.get(1, b""), "big", signed=True), "?")
        return " ".join(filter(None, (word, text(verdict.get(2)))))
    value = data.get(1, b"")
    if len(value) in {4, 16}:
        return str(IPv4Address(value) if len(value) == 4 else IPv6Address(value))
    if len(value) == 8:  # an address and a port, as dnat's maps have them
        return f"{IPv4Address(value[:4])} . {number(value[4:6])}"
    return f"0x{value.hex()}" if value else ""


def _unread(net: Path = Path("/proc/thread-self/net")) -> Iterator[str]:
    """What else may forward or drop packets here, and is not told by nftables."""
    for file, what in _LEGACY:
        try:
            tables = (net / file).read_text().split()
        except OSError:
            continue  # the module is not loaded, or we may not look
        if tables:
            yield f"{what}: {', '.join(sorted(tables)[:8])}"
    if (net / "ip_vs").exists():
        try:
            services = sum(line.startswith(("TCP ", "UDP ", "SCTP ")) for line in (net / "ip_vs").open())
        except OSError:
            return
        if services:
            yield f"IPVS: {services} virtual services"
