"""One rule of the kernel's packet filter → what it says, in the words of nft and iptables (NFT_MSG_NEWRULE).

Rules of nftables and of iptables-nft are the same kind of message: a list of expressions. Those that say whom a rule
is about and what it does are written out; what is not understood stands in brackets by its kind, so that a text never
says less than it seems to. Pure: any bytes give a rule or None.
"""

from __future__ import annotations

import struct
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from daemonset.node.nfnetlink import LISTED, NFTABLES, Message, attributes, number, text
from daemonset.node.nft_trace import FAMILIES, VERDICTS
from daemonset.observation import Rule

NFT_MSG_NEWRULE = 6

_TABLE, _CHAIN, _HANDLE, _EXPRESSIONS, _USERDATA = 1, 2, 3, 4, 7  # NFTA_RULE_*
_MOST_EXPRESSIONS = 128  # NFT_RULE_MAXEXPRS
_TEXT_LIMIT = 1000
_COMMENT = 0  # NFTNL_UDATA_RULE_COMMENT: nft's own record in what the kernel keeps for it
_NATIVE = sys.byteorder

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
_META = {
    3: "mark",
    4: "iif",
    5: "oif",
    6: "iifname",
    7: "oifname",
    12: "nftrace",
    15: "nfproto",
    16: "l4proto",
}
_CT = {0: "state", 1: "direction", 2: "status", 3: "mark"}
_CT_STATES = {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"}
_ADDRESS_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast"}  # RTN_*
_NETWORK = {  # (length of an address, where it begins in the IP header) → its name
    (4, 12): "ip saddr", (4, 16): "ip daddr", (16, 8): "ip6 saddr", (16, 24): "ip6 daddr",
}  # fmt: skip
_OPERATORS = {0: "==", 1: "!=", 2: "<", 3: "<=", 4: ">", 5: ">="}
_TARGETS = {
    "DNAT": "dnat",
    "SNAT": "snat",
    "MASQUERADE": "masquerade",
    "REDIRECT": "redirect",
    "REJECT": "reject",
}
_VERDICTS = {"accept", "drop", "return", "jump", "goto", "continue", "queue"}


class _Value(NamedTuple):
    """What a register holds: its name, its width in bytes, the mask that was laid over it; of a constant, its bytes."""

    name: str
    width: int
    mask: bytes = b""
    constant: bytes = b""


def parse_rule(message: Message, namespace: str = "") -> Rule | None:
    """The rule of one message; None where it is none."""
    if (message.subsystem, message.kind) != (NFTABLES, NFT_MSG_NEWRULE):
        return None
    found = message.attributes()
    family = FAMILIES.get(message.family)
    if family is None or not {_TABLE, _CHAIN, _HANDLE} <= found.keys():
        return None
    writer = _Writer(family)
    listed = [value for kind, value in attributes(found.get(_EXPRESSIONS, b"")) if kind == LISTED]
    for value in listed[:_MOST_EXPRESSIONS]:
        parts = dict(attributes(value))
        writer.write(text(parts.get(1)), dict(attributes(parts.get(2, b""))))
    comment = writer.comment or _own_comment(found.get(_USERDATA, b""))
    return Rule(
        family=family,
        table=text(found[_TABLE]),
        chain=text(found[_CHAIN]),
        handle=number(found[_HANDLE]),
        text=" ".join(writer.words)[:_TEXT_LIMIT],
        comment=comment,
        action=writer.action,
        namespace=namespace,
    )


def sets_trace(message: Message) -> bool:
    """Whether a rule has packets traced: `meta nftrace set`, or iptables' TRACE."""
    found = message.attributes()
    for kind, value in attributes(found.get(_EXPRESSIONS, b"")):
        parts = dict(attributes(value))
        data = dict(attributes(parts.get(2, b"")))
        which = text(parts.get(1))
        if (
            kind == LISTED and which == "meta" and 3 in data and number(data.get(2)) == 12
        ):  # NFTA_META_SREG, _KEY
            return True
        if kind == LISTED and which == "target" and text(data.get(1)) == "TRACE":
            return True
    return False


def _own_comment(data: bytes) -> str:
    """The comment in nft's user data: records of type, length and value (struct nftnl_udata)."""
    start = 0
    while start + 2 <= len(data):
        kind, length = data[start], data[start + 1]
        if kind == _COMMENT:
            return text(data[start + 2 : start + 2 + length])
        start += 2 + length
    return ""


class _Writer:
    """Follows what registers hold from expression to expression, and writes down what is asked of it and done."""

    def __init__(self, family: str) -> None:
        self.words: list[str] = []
        self.comment = ""
        self.action = ""
        self._address = 16 if family == "ip6" else 4
        self._registers: dict[int, _Value] = {}

    def write(self, kind: str, data: dict[int, bytes]) -> None:
        """Take the next expression."""
        known = getattr(self, f"_{kind}", None) if kind in _KINDS else None
        if known is not None:
            known(data)
        elif kind not in _SILENT:
            self.words.append(f"[{kind}]")

    def _say(self, *words: str, action: str = "") -> None:
        self.words.extend(word for word in words if word)
        self.action = action or self.action

    def _put(self, register: bytes | None, value: _Value) -> None:
        self._registers[number(register)] = value

    def _get(self, register: bytes | None) -> _Value:
        return self._registers.get(number(register), _Value("?", 0))

    # ── what a rule looks at ──

    def _meta(self, data: dict[int, bytes]) -> None:
        key = number(data.get(2))
        name = f"meta {_META.get(key, key)}"
        if 3 in data:
            held = self._get(data.get(3))
            value = _native(held.constant) if held.constant else held.name
            self._say(f"{name} set {value}", action="mark" if key == 3 else "trace" if key == 12 else "")
        else:
            self._put(data.get(1), _Value(name, 1 if key in {15, 16} else 16 if key in {6, 7} else 4))

    def _ct(self, data: dict[int, bytes]) -> None:
        key = number(data.get(2))
        self._put(data.get(1), _Value(f"ct {_CT.get(key, key)}", 4))

    def _payload(self, data: dict[int, bytes]) -> None:
        base, offset, length = number(data.get(2)), number(data.get(3)), number(data.get(4))
        name = f"@{base},{offset},{length}"
        if base == 1:
            for (width, at), known in _NETWORK.items():
                if at == offset and length <= width and (width == 16 or self._address == 4):
                    name = known
            name = "ip protocol" if (offset, length, self._address) == (9, 1, 4) else name
        elif base == 2 and length == 2 and offset in {0, 2}:
            name = "sport" if offset == 0 else "dport"
        self._put(data.get(1), _Value(name, length))

    def _fib(self, data: dict[int, bytes]) -> None:
        flags, result = number(data.get(3)), number(data.get(2))
        side = "saddr" if flags & 1 else "daddr"
        self._put(data.get(1), _Value(f"fib {side} {'type' if result == 3 else 'oif'}", 4))

    def _numgen(self, data: dict[int, bytes]) -> None:
        self._put(data.get(1), _Value(f"numgen random mod {number(data.get(2))}", 4))

    def _bitwise(self, data: dict[int, bytes]) -> None:
        held = self._get(data.get(1))
        mask = dict(attributes(data.get(4, b""))).get(1, b"")
        xor = dict(attributes(data.get(5, b""))).get(1, b"")
        if any(xor):  # what was masked away is what is set: an "or"
            word = "or" if all(a ^ b == 0xFF for a, b in zip(mask, xor, strict=False)) else "xor"
            self._put(data.get(2), _Value(f"{held.name} {word} {_native(xor)}", held.width))
        else:
            self._put(data.get(2), _Value(held.name, held.width, mask if mask.strip(b"\xff") else b""))

    def _cmp(self, data: dict[int, bytes]) -> None:
        held = self._get(data.get(1))
        value = dict(attributes(data.get(3, b""))).get(1, b"")
        operator = _OPERATORS.get(number(data.get(2)), "?")
        said = _written(held, value)
        self._say(held.name if operator == "==" else f"{held.name} {operator}", said)

    def _range(self, data: dict[int, bytes]) -> None:
        held = self._get(data.get(1))
        ends = [dict(attributes(data.get(at, b""))).get(1, b"") for at in (3, 4)]
        self._say(held.name, "-".join(_written(held, end) for end in ends))

    def _lookup(self, data: dict[int, bytes]) -> None:
        name = text(data.get(1))
        named = "{ … }" if name.startswith("__") else f"@{name}"
        # A key of several parts stands in neighbouring registers, in the order in which it was loaded.
        key = " . ".join(value.name for value in self._registers.values()) or "?"
        self._registers.clear()
        if 3 in data:
            self._say(key, "vmap" if number(data.get(3)) == 0 else "map", named)
        else:
            self._say(key, "!=" if number(data.get(5)) & 1 else "", named)

    def _match(self, data: dict[int, bytes]) -> None:
        name, info = text(data.get(1)), data.get(3, b"")
        if name == "comment":
            self.comment = self.comment or text(info)
        elif name == "mark" and len(info) >= 9:  # struct xt_mark_mtinfo1
            mark, mask, inverted = struct.unpack_from("=IIB", info)
            self._say("-m mark", "!" if inverted else "", f"--mark {mark:#x}/{mask:#x}")
        else:
            self._say(f"-m {name}")

    # ── what it does ──

    def _immediate(self, data: dict[int, bytes]) -> None:
        held = dict(attributes(data.get(2, b"")))
        if 2 not in held:
            value = held.get(1, b"")
            self._put(data.get(1), _Value(_plain(value), len(value), constant=value))
            return
        said = dict(attributes(held[2]))
        verdict = VERDICTS.get(int.from_bytes(said.get(1, b""), "big", signed=True), "")
        self._say(verdict, text(said.get(2)), action=verdict if verdict in _VERDICTS else "")

    def _target(self, data: dict[int, bytes]) -> None:
        name, info = text(data.get(1)), data.get(3, b"")
        detail = ""
        if name == "MARK" and len(info) >= 8:  # struct xt_mark_tginfo2
            mark, mask = struct.unpack_from("=II", info)
            detail = f"--set-xmark {mark:#x}/{mask:#x}"
        elif name in {"DNAT", "SNAT"} and (to := nat_range(info, self._address)):
            detail = f"--to-{'destination' if name == 'DNAT' else 'source'} {to}"
        self._say(f"-j {name}", detail, action=_TARGETS.get(name, name.lower()))

    def _masq(self, _: dict[int, bytes]) -> None:
        self._say("masquerade", action="masquerade")

    def _redir(self, _: dict[int, bytes]) -> None:
        self._say("redirect", action="redirect")

    def _reject(self, _: dict[int, bytes]) -> None:
        self._say("reject", action="reject")

    def _tproxy(self, _: dict[int, bytes]) -> None:
        self._say("tproxy", action="tproxy")

    def _nat(self, data: dict[int, bytes]) -> None:
        kind = "dnat" if number(data.get(1)) == 1 else "snat"  # NFTA_NAT_TYPE: NFT_NAT_SNAT 0, NFT_NAT_DNAT 1
        address, port = self._registers.get(number(data.get(3))), self._registers.get(number(data.get(5)))
        to = address.name if address is not None else ""
        if port is not None and port.constant:
            to = f"[{to}]:{number(port.constant)}" if ":" in to else f"{to}:{number(port.constant)}"
        self._say(f"{kind} to", to, action=kind)


_KINDS = frozenset({
    "meta", "ct", "payload", "fib", "numgen", "bitwise", "cmp", "range", "lookup", "match", "immediate", "target",
    "masq", "redir", "reject", "tproxy", "nat",
})  # fmt: skip
_SILENT = frozenset({"counter"})


def _written(held: _Value, value: bytes) -> str:
    """A value as people write one of that kind."""
    if held.name.endswith("addr"):
        whole = 16 if held.name.startswith("ip6") else 4
        bits = sum(byte.bit_count() for byte in held.mask) if held.mask else len(value) * 8
        address = _address(value.ljust(whole, b"\0")[:whole])
        return address if bits == whole * 8 else f"{address}/{bits}"
    if held.name.endswith("l4proto") or held.name == "ip protocol":
        return _PROTOCOLS.get(number(value), str(number(value)))
    if held.name.endswith("port"):
        return str(number(value))
    if held.name.endswith("ifname"):
        return f'"{text(value)}"' if b"\0" in value else f'"{text(value)}*"'
    if held.name.startswith("fib") and held.name.endswith("type"):
        return _ADDRESS_TYPES.get(int.from_bytes(value, _NATIVE), _native(value))
    if held.name == "ct state" and held.mask:
        states = int.from_bytes(held.mask, _NATIVE)
        return ",".join(word for bit, word in _CT_STATES.items() if states & bit)
    return _native(value) + (f"/{_native(held.mask)}" if held.mask else "")


def _plain(value: bytes) -> str:
    """A value whose kind is not known: an address by its width, else a number in network order."""
    return _address(value) if len(value) in {4, 16} else _hex(value)


def _native(value: bytes) -> str:
    return f"{int.from_bytes(value[:8], _NATIVE):#x}"


def _hex(value: bytes) -> str:
    return f"{int.from_bytes(value[:8], 'big'):#x}"


def _address(value: bytes) -> str:
    return str(IPv4Address(value)) if len(value) == 4 else str(IPv6Address(value))


def nat_range(info: bytes, width: int) -> str:
    """The first address and port of what NAT chooses from, where it has them.

    The target's older form is of IPv4 alone (struct nf_nat_ipv4_multi_range_compat), the later ones of either family
    (nf_nat_range, nf_nat_range2). All begin with flags, then addresses, then ports.
    """
    if len(info) >= 40:
        start, at, port_at = 0, 4, 36
    elif len(info) >= 20 and width == 4:
        start, at, port_at = 4, 8, 16
    else:
        return ""
    flags = struct.unpack_from("=I", info, start)[0]
    address = _address(info[at : at + width]) if flags & 1 else ""  # NF_NAT_RANGE_MAP_IPS
    if not flags & 2:  # NF_NAT_RANGE_PROTO_SPECIFIED
        return address
    port = int.from_bytes(info[port_at : port_at + 2], "big")
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
