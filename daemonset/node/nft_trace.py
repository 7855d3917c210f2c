"""One message of nftables' trace → what happened to a packet at one rule (NFT_MSG_TRACE, linux/netfilter/nf_tables.h).

The kernel sends such a message for each rule that a traced packet matched, for each return from a chain and for each
policy that decided. The packet's headers come only with the first message of each base chain; what belongs to it
carries the same number. Pure: any bytes give an event or None.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from daemonset.node.nfnetlink import NFTABLES, Message, attributes, number, text
from daemonset.observation import endpoint_text

NFT_MSG_TRACE = 17

_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID = 1, 2, 3, 4, 5, 6  # NFTA_TRACE_*
_NETWORK, _TRANSPORT, _MARK, _POLICY = 8, 9, 14, 16
_CODE, _TARGET = 1, 2  # NFTA_VERDICT_*
_TCP, _UDP = 6, 17
_MAPPED = 0xFFFF_0000_0000

#: NFPROTO_* by the names that nft has for them.
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

#: enum nf_verdict (netfilter.h) and enum nft_verdicts, by the names that nft has for them.
VERDICTS = {
    0: "drop", 1: "accept", 2: "stolen", 3: "queue", -1: "continue", -2: "break", -3: "jump", -4: "goto", -5: "return",
}  # fmt: skip


class TraceType(enum.IntEnum):
    """What a message is about (enum nft_trace_types)."""

    POLICY = 1
    RETURN = 2
    RULE = 3


class Header(NamedTuple):
    """What of a packet's headers tells which connection it begins."""

    protocol: int
    source: str  # ip:port or [ip]:port
    destination: str
    seq: int  # TCP's sequence number; 0: not TCP


class TraceEvent(NamedTuple):
    """One thing that happened to a traced packet. `handle` names the rule within its table; 0: no rule did it."""

    packet: int
    type: TraceType
    family: str
    table: str
    chain: str
    handle: int
    verdict: str
    target: str  # the chain that is jumped to
    mark: int
    header: Header | None


def parse_trace(message: Message) -> TraceEvent | None:
    """The event of one message; None where it is none, or lacks what makes it one."""
    if (message.subsystem, message.kind) != (NFTABLES, NFT_MSG_TRACE):
        return None
    found = message.attributes()
    family = FAMILIES.get(message.family)
    try:
        kind = TraceType(number(found.get(_TYPE)))
    except ValueError:
        return None
    if family is None or _TABLE not in found or _CHAIN not in found or _ID not in found:
        return None
    said = dict(attributes(found.get(_VERDICT, b"")))
    code = said.get(_CODE, found.get(_POLICY))
    return TraceEvent(
        packet=number(found[_ID]) & 0xFFFF_FFFF,
        type=kind,
        family=family,
        table=text(found[_TABLE]),
        chain=text(found[_CHAIN]),
        handle=number(found.get(_HANDLE)),
        verdict=_verdict(code),
        target=text(said.get(_TARGET)),
        mark=number(found.get(_MARK)) & 0xFFFF_FFFF,
        header=parse_headers(found.get(_NETWORK, b""), found.get(_TRANSPORT, b"")),
    )


def _verdict(code: bytes | None) -> str:
    """The verdict's name; the upper half of a verdict of netfilter itself holds an error or a queue's number."""
    if code is None or len(code) != 4:
        return ""
    signed = int.from_bytes(code, "big", signed=True)
    return VERDICTS.get(signed) or VERDICTS.get(signed & 0xFF, "")


def parse_headers(network: bytes, transport: bytes) -> Header | None:
    """A packet's header of network and transport layer; None where they do not hold addresses and ports.

    For IPv6 the protocol is that of the first header; behind extension headers it is not known, and guessed from
    nothing.
    """
    version = network[0] >> 4 if network else 0
    if version == 4 and len(network) >= 20:
        protocol = network[9]
        source, destination = (_mapped(network[at : at + 4]) for at in (12, 16))
    elif version == 6 and len(network) >= 40:
        protocol = network[6]
        source, destination = (int.from_bytes(network[at : at + 16], "big") for at in (8, 24))
    else:
        return None
    if protocol not in {_TCP, _UDP} or len(transport) < 8:
        return None
    sport, dport = (int.from_bytes(transport[at : at + 2], "big") for at in (0, 2))
    seq = int.from_bytes(transport[4:8], "big") if protocol == _TCP else 0
    return Header(protocol, _endpoint(source, sport), _endpoint(destination, dport), seq)


def _mapped(address: bytes) -> int:
    return _MAPPED | int.from_bytes(address, "big")


def _endpoint(address: int, port: int) -> str:
    return endpoint_text(address >> 64, address & 0xFFFF_FFFF_FFFF_FFFF, port)
