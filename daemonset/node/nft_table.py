"""The table of our own that has the kernel trace the packets which begin connections: what nft would write as

    table inet client-ip-probe {
      flags owner
      set ports { type inet_service; elements = { … } }
      chain choose-arriving { limit rate 1/week burst N packets meta nftrace set 1 }
      chain choose-leaving { limit rate 1/week burst N packets meta nftrace set 1 }
      chain arriving { type filter hook prerouting priority -350; … jump choose-arriving }
      chain leaving { type filter hook output priority -350; … jump choose-leaving }
    }

where … is `tcp flags & (fin | syn | rst | ack) == syn th dport @ports`, and the same for UDP. Pure: answers with the
orders to the kernel.

Rules of this file:

1. The owner flag ties the table to the netlink socket that made it: when that closes, for whatever reason, the kernel
   takes the table away (Linux 5.12). A kernel that does not know the flag refuses the whole transaction.
2. The bound is the kernel's: after N packets nothing is marked any more, whether or not anybody listens. What begins
   on the node itself has a bound of its own, or a kubelet's probes would use up the clients'.
3. Nothing but `meta nftrace` is ever set, and no packet is held up: both base chains accept what they do not mark.
"""

from __future__ import annotations

from collections.abc import Iterable

from daemonset.node.nfnetlink import (
    APPEND,
    CREATE,
    EXCLUSIVE,
    LISTED,
    Order,
    attribute,
    name,
    nested,
    u32,
    u64,
)

TABLE = "client-ip-probe"
INET = 1  # NFPROTO_INET: IPv4 and IPv6

_NEWTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWSETELEM = 0, 3, 6, 9, 12  # NFT_MSG_*
_OWNER = 0x2  # NFT_TABLE_F_OWNER
_PREROUTING, _OUTPUT = 0, 3  # NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT
_PRIORITY = -350  # before NF_IP_PRI_RAW, after defragmentation (NF_IP_PRI_CONNTRACK_DEFRAG, -400)
_TCP, _UDP = 6, 17
_SYN, _OF = 0x02, 0x17  # SYN of FIN, SYN, RST, ACK
_WEEK = 604_800  # seconds
_PORT_TYPE = 13  # nft's own number of inet_service, which `nft list` shows the set by
_SET = "ports"

#: The chains that mark, by what for; each mark is one packet that is traced.
CHOOSE_ARRIVING, CHOOSE_LEAVING = "choose-arriving", "choose-leaving"
_CHAINS = ((CHOOSE_ARRIVING, "arriving", _PREROUTING), (CHOOSE_LEAVING, "leaving", _OUTPUT))
_MOST_ELEMENTS = 1000  # in one message: an attribute holds 64 KiB

_VERDICT_REGISTER, _REGISTER = 0, 1
_JUMP = -3  # NFT_JUMP
_META_L4PROTO, _META_NFTRACE = 16, 12  # NFT_META_*


def table_orders(ports: Iterable[int], packets: int) -> list[Order]:
    """What makes the table. No ports: all of TCP, no UDP. `packets`: how many are marked at most, each way."""
    wanted = sorted(set(ports))
    return [
        Order(_NEWTABLE, CREATE | EXCLUSIVE, INET, name(1, TABLE) + u32(2, _OWNER)),
        *(_port_set(wanted) if wanted else ()),
        *(
            order
            for choose, base, hook in _CHAINS
            for order in _chains(choose, base, hook, packets, bool(wanted))
        ),
    ]


def _chains(choose: str, base: str, hook: int, packets: int, ports: bool) -> list[Order]:
    """A chain that marks, and the base chain that chooses for it."""
    mark = _expression("meta", u32(2, _META_NFTRACE), u32(3, _REGISTER))
    orders = [
        _chain(choose),
        _rule(choose, _limit(packets), _immediate(b"\1"), mark),
        _chain(base, hook),
        _rule(base, *_protocol(_TCP), *_begins(), *(_port() if ports else ()), _jump(choose)),
    ]
    return [*orders, _rule(base, *_protocol(_UDP), *_port(), _jump(choose))] if ports else orders


def _port_set(ports: list[int]) -> list[Order]:
    made = name(1, TABLE) + name(2, _SET) + u32(4, _PORT_TYPE) + u32(5, 2) + u32(10, 1)
    orders = [Order(_NEWSET, CREATE, INET, made)]
    for start in range(0, len(ports), _MOST_ELEMENTS):
        elements = [
            nested(LISTED, nested(1, attribute(1, port.to_bytes(2, "big"))))
            for port in ports[start : start + _MOST_ELEMENTS]
        ]
        listed = name(1, TABLE) + name(2, _SET) + nested(3, *elements)
        orders.append(Order(_NEWSETELEM, CREATE, INET, listed))
    return orders


def _chain(chain: str, hook: int | None = None) -> Order:
    base = b""
    if hook is not None:
        base = nested(4, u32(1, hook), u32(2, _PRIORITY)) + name(7, "filter")
    return Order(_NEWCHAIN, CREATE, INET, name(1, TABLE) + name(3, chain) + base)


def _rule(chain: str, *expressions: bytes) -> Order:
    listed = nested(4, *expressions)
    return Order(_NEWRULE, CREATE | APPEND, INET, name(1, TABLE) + name(2, chain) + listed)


def _expression(kind: str, *values: bytes) -> bytes:
    return nested(LISTED, name(1, kind), nested(2, *values))


def _equals(value: bytes) -> bytes:
    return _expression("cmp", u32(1, _REGISTER), u32(2, 0), nested(3, attribute(1, value)))


def _load(offset: int, length: int) -> bytes:
    """Bytes of the transport header."""
    return _expression("payload", u32(1, _REGISTER), u32(2, 2), u32(3, offset), u32(4, length))


def _protocol(number: int) -> tuple[bytes, ...]:
    return _expression("meta", u32(2, _META_L4PROTO), u32(1, _REGISTER)), _equals(bytes([number]))


def _begins() -> tuple[bytes, ...]:
    """TCP: SYN without ACK, FIN and RST."""
    mask = (nested(4, attribute(1, bytes([_OF]))), nested(5, attribute(1, b"\0")))
    masked = _expression("bitwise", u32(1, _REGISTER), u32(2, _REGISTER), u32(3, 1), *mask)
    return _load(13, 1), masked, _equals(bytes([_SYN]))


def _port() -> tuple[bytes, ...]:
    """The destination port is one of the set's."""
    return _load(2, 2), _expression("lookup", name(1, _SET), u32(2, _REGISTER), u32(4, 1))


def _limit(packets: int) -> bytes:
    """A bucket that begins full and is refilled by one a week."""
    return _expression("limit", u64(1, 1), u64(2, _WEEK), u32(3, packets), u32(4, 0), u32(5, 0))


def _immediate(value: bytes) -> bytes:
    return _expression("immediate", u32(1, _REGISTER), nested(2, attribute(1, value)))


def _jump(chain: str) -> bytes:
    verdict = nested(2, u32(1, _JUMP), name(2, chain))
    return _expression("immediate", u32(1, _VERDICT_REGISTER), nested(2, verdict))
