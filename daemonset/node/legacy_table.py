"""A table of iptables-legacy as the kernel hands it out → its chains, with each rule in iptables' own words.

Layout: struct ipt_getinfo, ipt_entry, ip6t_entry, xt_entry_match, xt_standard_target and xt_error_target
(linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h, netfilter/x_tables.h), which have been the same since
Linux 2.6. Pure: any bytes give chains or a LegacyTableError.

Rules of this file:

1. What a rule asks of a packet is a list of conditions, each as iptables-save writes it. A match that is not read here
   is still one of them, `-m NAME`, so that nobody takes a rule for one that asks less than it does.
2. Two rules are the same when their bytes are, but for counters and for where in the table their chain stands.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import NamedTuple

from daemonset.node.nft_rules import nat_range

INFO_SIZE = 84  # struct ipt_getinfo, ip6t_getinfo
_NAME = 32  # XT_TABLE_MAXNAMELEN
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")  # NF_INET_*
_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_HEAD = 32  # size, name and revision before the data of a match or target
_MOST_CONDITIONS = 64
_LONGEST = 1000

_VERDICTS = {-1: "DROP", -2: "ACCEPT", -4: "QUEUE", -5: "RETURN"}  # -NF_* - 1, XT_RETURN
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
_GOTO = 0x02  # IPT_F_GOTO; of IPv6 IP6T_F_GOTO is 0x04
_STATES = {1: "INVALID", 8: "NEW", 4: "RELATED", 2: "ESTABLISHED", 256: "UNTRACKED", 64: "SNAT", 128: "DNAT"}
_TYPES = {1: "UNICAST", 2: "LOCAL", 3: "BROADCAST", 5: "MULTICAST"}  # RTN_*
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")


class LegacyTableError(Exception):
    """These bytes are no table of iptables-legacy."""


@dataclass(frozen=True, slots=True)
class LegacyRule:
    """One rule: how many packets it has counted, what makes it this rule, and on demand what it says.

    `identity` is a digest. `target` is the chain that is jumped to.
    """

    packets: int
    identity: bytes
    target: str
    _layout: _Layout = field(repr=False)
    _entry: _Entry = field(repr=False)

    def read(self) -> Said:
        """What it asks and does. Raises LegacyTableError."""
        return _said(self._layout, self._entry, self.target)


class Said(NamedTuple):
    """What a rule asks, each condition by itself; what it does with what it matches, in iptables' words; its comment.

    `action` is as in `observation.Rule`.
    """

    conditions: tuple[str, ...]
    does: str
    action: str
    comment: str


@dataclass(frozen=True, slots=True)
class LegacyChain:
    """One chain; only a built-in one has a hook and a policy (accept, drop)."""

    name: str
    hook: str
    policy: str
    rules: tuple[LegacyRule, ...]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand in an entry of one family."""

    width: int  # of an address
    flags: int  # offset of `flags`; `invflags` is behind it
    protocol: int
    goto: int
    target: int  # offset of target_offset; next_offset is behind it
    counters: int
    size: int


_FOUR = _Layout(4, 82, 80, _GOTO, 88, 96, 112)
_SIX = _Layout(16, 131, 128, 0x04, 140, 152, 168)


@dataclass(frozen=True, slots=True)
class _Entry:
    """The bytes of one rule, and where its target begins."""

    at: int
    data: bytes
    begin: int
    packets: int

    @property
    def target(self) -> tuple[str, int, bytes]:
        """Name, revision and data of what it does."""
        return (_parts(self.data[self.begin :]) or [("", 0, b"")])[0]


def parse_size(info: bytes) -> int:
    """How many bytes of entries a table has, by its struct ipt_getinfo. Raises LegacyTableError."""
    if len(info) < INFO_SIZE:
        raise LegacyTableError("the kernel's account of a table is too short")
    return int(struct.unpack_from("=I", info, INFO_SIZE - 4)[0])


def parse_table(family: str, info: bytes, entries: bytes | memoryview) -> Iterator[LegacyChain]:
    """The chains of a table of `ip` or `ip6`, one by one in the kernel's order. Raises LegacyTableError."""
    if len(info) < INFO_SIZE:
        raise LegacyTableError("the kernel's account of a table is too short")
    valid, *numbers = struct.unpack_from("=I5I5I", info, _NAME)
    begins = {numbers[hook]: hook for hook in range(5) if valid >> hook & 1}
    ends = {numbers[5 + hook] for hook in range(5) if valid >> hook & 1}
    layout = _SIX if family == "ip6" else _FOUR
    names = {entry.at: _text(entry.target[2][:30]) for entry in _entries(layout, entries) if _heads(entry)}
    # A jump leads to the first rule of a chain, which stands behind its head.
    firsts = {at + _head_size(layout): name for at, name in names.items()}
    rules: list[LegacyRule] = []
    name = hook = ""
    for entry in _entries(layout, entries):
        after = entry.at + len(entry.data)
        if entry.at in names:  # the head of a chain; the rules of one before it that has no policy end here
            name, hook, rules = names[entry.at], "", []
            continue
        if entry.at in begins:
            name, hook, rules = _BUILT_IN[begins[entry.at]], _HOOKS[begins[entry.at]], []
        if entry.at in ends and hook:
            yield LegacyChain(name, hook, "drop" if _verdict(entry) == -1 else "accept", tuple(rules))
        elif not hook and (after in names or after == len(entries)):
            yield LegacyChain(name, "", "", tuple(rules))  # what a chain ends with is a plain RETURN
        else:
            rules.append(_rule(layout, entry, firsts))


def _heads(entry: _Entry) -> bool:
    """Whether it is no rule, but the head of a chain, with the chain's name."""
    return entry.data[entry.begin + 2 : entry.begin + 8] == b"ERROR\0"


def _entries(layout: _Layout, data: bytes | memoryview) -> Iterator[_Entry]:
    at = 0
    while at < len(data):
        if at + layout.size > len(data):
            raise LegacyTableError("a rule is cut off")
        target, size = struct.unpack_from("=HH", data, at + layout.target)
        if not layout.size <= target <= size - _HEAD or at + size > len(data):
            raise LegacyTableError("a rule has a size that cannot be")
        packets = struct.unpack_from("=Q", data, at + layout.counters)[0]
        yield _Entry(at, bytes(data[at : at + size]), target, packets)
        at += size


def _parts(data: bytes) -> list[tuple[str, int, bytes]]:
    """Name, revision and data of each match, or of the one target."""
    found = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], sys.byteorder)
        if size < _HEAD or at + size > len(data):
            raise LegacyTableError("a match has a size that cannot be")
        found.append((_text(data[at + 2 : at + 31]), data[at + 31], data[at + _HEAD : at + size]))
        at += size
    return found


def _rule(layout: _Layout, entry: _Entry, firsts: Mapping[int, str]) -> LegacyRule:
    """A rule whose text is read later, if ever."""
    verdict = _verdict(entry)
    target = firsts.get(verdict, "") if verdict > 0 else ""
    # What is asked of addresses, without offsets and counters; matches; and of a jump not where its chain stands.
    digest = hashlib.blake2b(entry.data[: layout.target - 4], digest_size=16)
    digest.update(entry.data[layout.size : entry.begin])
    digest.update(target.encode() if verdict > 0 else entry.data[entry.begin :])
    return LegacyRule(entry.packets, digest.digest(), target, layout, entry)


def _said(layout: _Layout, entry: _Entry, target: str) -> Said:
    conditions = list(_addresses(layout, entry.data))
    comment = ""
    matches = _parts(entry.data[layout.size : entry.begin])
    for name, revision, info in matches[:_MOST_CONDITIONS]:
        if name == "comment":
            comment = comment or _text(info[:256])
        else:
            conditions.append(_condition(name, revision, info)[:_LONGEST])
    if len(matches) > _MOST_CONDITIONS:
        conditions.append("-m …")
    return Said(tuple(conditions), *_deed(layout, entry, target), comment)


def _deed(layout: _Layout, entry: _Entry, target: str) -> tuple[str, str]:
    """What a rule does: in iptables' words, and as an action."""
    name, _, info = entry.target
    if not name:
        verdict = _verdict(entry)
        if verdict < 0:
            word = _VERDICTS.get(verdict, "?")
            return f"-j {word}", word.lower()
        if verdict == entry.at + len(entry.data):
            return "", ""  # it only counts
        goto = entry.data[layout.flags] & layout.goto
        return f"-{'g' if goto else 'j'} {target or '?'}", "goto" if goto else "jump"
    detail = ""
    if name == "MARK" and len(info) >= 8:  # struct xt_mark_tginfo2
        detail = "--set-xmark {:#x}/{:#x}".format(*struct.unpack_from("=II", info))
    elif name in {"DNAT", "SNAT"} and (to := nat_range(info, layout.width)):
        detail = f"--to-{'destination' if name == 'DNAT' else 'source'} {to}"
    return " ".join(filter(None, (f"-j {name}", detail))), name.lower()


def _head_size(layout: _Layout) -> int:
    return layout.size + 64  # struct xt_error_target: a head, and a name of 30 bytes, aligned to 8


def _verdict(entry: _Entry) -> int:
    """The verdict of a standard target, or where a jump leads; 0 for other targets."""
    at = entry.begin
    if entry.data[at + 2] or len(entry.data) < at + _HEAD + 4:
        return 0
    return int(struct.unpack_from("=i", entry.data, at + _HEAD)[0])


# ── what a rule asks ──


def _addresses(layout: _Layout, data: bytes) -> Iterator[str]:
    """-s, -d, -i, -o, -p of struct ipt_ip or ip6t_ip6."""
    width = layout.width
    inverted = data[layout.flags + 1]
    for index, (option, bit) in enumerate((("-s", 0x08), ("-d", 0x10))):  # IPT_INV_SRCIP, IPT_INV_DSTIP
        value = data[index * width : (index + 1) * width]
        mask = data[(2 + index) * width : (3 + index) * width]
        if any(mask):
            yield _not(bool(inverted & bit)) + f"{option} {_network(value, mask)}"
    names = 4 * width
    for index, (option, bit) in enumerate((("-i", 0x01), ("-o", 0x02))):  # IPT_INV_VIA_IN, IPT_INV_VIA_OUT
        name = data[names + 16 * index : names + 16 * (index + 1)]
        mask = data[names + 32 + 16 * index : names + 32 + 16 * (index + 1)]
        if any(mask):
            asked = name[: len(mask.rstrip(b"\0"))]
            whole = asked.endswith(b"\0")
            yield _not(bool(inverted & bit)) + f"{option} {_text(asked)}{'' if whole else '+'}"
    protocol = int.from_bytes(data[layout.protocol : layout.protocol + 2], sys.byteorder)
    if protocol:
        yield _not(bool(inverted & 0x40)) + f"-p {_PROTOCOLS.get(protocol, protocol)}"  # XT_INV_PROTO
    flags = data[layout.flags] & ~layout.goto
    if (width == 4 and flags) or inverted & 0x20 or (width == 16 and flags & ~0x01):
        yield "-m fragment"


def _network(value: bytes, mask: bytes) -> str:
    address = IPv4Address(value) if len(value) == 4 else IPv6Address(value)
    bits = sum(byte.bit_count() for byte in mask)
    try:
        network = ip_network(f"{address}/{bits}", strict=False)
    except ValueError:
        return f"{address}/{bits}"
    whole = (1 << 8 * len(mask)) - (1 << 8 * len(mask) - bits) == int.from_bytes(mask, "big")
    return str(network) if whole else f"{address}/0x{mask.hex()}"


def _condition(name: str, revision: int, info: bytes) -> str:
    """One match in iptables' words; what is not read, by its name alone."""
    reader = _MATCHES.get((name, revision))
    try:
        return (reader(info) if reader is not None else "") or f"-m {name}"
    except (struct.error, IndexError, ValueError):  # shorter than the match's struct
        return f"-m {name}"


def _tcp(info: bytes) -> str:
    """struct xt_tcp."""
    sport, sport_end, dport, dport_end = struct.unpack_from("=4H", info)
    option, mask, wanted, inverted = info[8:12]
    words = [
        *_ports("sport", sport, sport_end, inverted & 1),
        *_ports("dport", dport, dport_end, inverted & 2),
    ]
    if mask:
        words.append(_not(bool(inverted & 4)) + f"--tcp-flags {_flags(mask)} {_flags(wanted)}")
    if option:
        words.append(_not(bool(inverted & 8)) + f"--tcp-option {option}")
    return " ".join(["-m tcp", *words])


def _udp(info: bytes) -> str:
    """struct xt_udp."""
    sport, sport_end, dport, dport_end = struct.unpack_from("=4H", info)
    inverted = info[8]
    words = [
        *_ports("sport", sport, sport_end, inverted & 1),
        *_ports("dport", dport, dport_end, inverted & 2),
    ]
    return " ".join(["-m udp", *words])


def _ports(option: str, first: int, last: int, inverted: int) -> list[str]:
    if (first, last) == (0, 0xFFFF) and not inverted:
        return []
    return [_not(bool(inverted)) + f"--{option} {first}" + (f":{last}" if last != first else "")]


def _flags(bits: int) -> str:
    return ",".join(word for bit, word in enumerate(_FLAGS) if bits >> bit & 1) or "NONE"


def _multiport(info: bytes) -> str:
    """struct xt_multiport_v1."""
    which, count = info[0], info[1]
    ports, spans = struct.unpack_from("=15H", info, 2), info[32:47]
    words = []
    index = 0
    while index < min(count, 15):
        word = str(ports[index])
        if spans[index] and index + 1 < count:
            index += 1
            word += f":{ports[index]}"
        words.append(word)
        index += 1
    option = {0: "--sports", 1: "--dports", 2: "--ports"}.get(which, "?")
    return f"-m multiport {_not(bool(info[47]))}{option} {','.join(words)}"


def _mark(info: bytes) -> str:
    """struct xt_mark_mtinfo1."""
    mark, mask, inverted = struct.unpack_from("=IIB", info)
    return f"-m mark {_not(bool(inverted))}--mark {mark:#x}/{mask:#x}"


def _addrtype(info: bytes) -> str:
    """struct xt_addrtype_info_v1; interfaces that limit it are not read."""
    source, destination, flags = struct.unpack_from("=HHI", info)
    if flags & ~3:
        return ""
    words = [
        _not(bool(flags & bit)) + f"--{side}-type {_kinds(kinds)}"
        for side, kinds, bit in (("src", source, 1), ("dst", destination, 2))
        if kinds
    ]
    return " ".join(["-m addrtype", *words])


def _kinds(bits: int) -> str:
    return ",".join(_TYPES.get(bit, str(bit)) for bit in range(16) if bits >> bit & 1)


def _conntrack(info: bytes) -> str:
    """struct xt_conntrack_mtinfo3 and 2, where it asks for the state alone."""
    asked, inverted, states = struct.unpack_from("=3H", info, 146)
    if asked & ~0x2000 != 1:  # XT_CONNTRACK_STATE, written as `-m state` with XT_CONNTRACK_STATE_ALIAS
        return ""
    words = ("state", "state") if asked & 0x2000 else ("conntrack", "ctstate")
    return f"-m {words[0]} {_not(bool(inverted & 1))}--{words[1]} {_states(states)}"


def _state(info: bytes) -> str:
    """struct xt_state_info."""
    return f"-m state --state {_states(struct.unpack_from('=I', info)[0])}"


def _states(bits: int) -> str:
    return ",".join(word for bit, word in _STATES.items() if bits & bit)


def _statistic(info: bytes) -> str:
    """struct xt_statistic_info."""
    mode, _, value, packet = struct.unpack_from("=HHII", info)
    if mode == 0:
        return f"-m statistic --mode random --probability {value / 0x8000_0000:.11f}"
    return f"-m statistic --mode nth --every {value + 1} --packet {packet}"


_MATCHES: dict[tuple[str, int], Callable[[bytes], str]] = {
    ("tcp", 0): _tcp,
    ("udp", 0): _udp,
    ("multiport", 1): _multiport,
    ("mark", 1): _mark,
    ("addrtype", 1): _addrtype,
    ("conntrack", 2): _conntrack,
    ("conntrack", 3): _conntrack,
    ("state", 0): _state,
    ("statistic", 0): _statistic,
}


def _not(inverted: bool) -> str:
    return "! " if inverted else ""


def _text(value: bytes) -> str:
    return value.partition(b"\0")[0].decode("utf-8", "replace")
