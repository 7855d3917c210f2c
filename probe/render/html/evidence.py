"""What a recording holds of each hop of a journey: the packet that showed it, the kernel's NAT record, header bytes.

Only what was kept is shown. Of a packet that is its headers, rebuilt from the row that the agent or a capture file gave
(`probe.render.wireshark.frames`); of a PROXY header its very bytes; of a request head the fields that speak about the
client. A hop whose observation cannot be told from another's has none: somebody else's packet would be worse than none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from analysis.recording import Recording
from analysis.report import Hop, Journey
from daemonset.observation import (
    NAT,
    PACKET,
    Direction,
    Head,
    Payload,
    TcpFlag,
    Tunnel,
    address_text,
    address_words,
)
from probe.render.rows import SAID
from probe.render.wireshark.frames import rebuild
from probe.render.wireshark.packets import said

#: How far the time of a hop, which is a float of seconds, may be off, in nanoseconds (as in
#: `probe.render.wireshark.marks`).
_ROUNDING = 1_000

#: Bytes of a packet or header that are shown.
SHOWN = 512

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_COLUMNS = [column.name for column in PACKET.columns]
_NAT_COLUMNS = [column.name for column in NAT.columns]
_ETHERNET, _TAG, _TAGGED = 14, 4, 0x1000

#: ip_conntrack_status (nf_conntrack_common.h).
_SEEN_REPLY, _ASSURED = 1 << 1, 1 << 2

_PACKET_BYTES = (
    "Headers from IP on, rebuilt from what was recorded. Checksums are computed; TCP options but timestamps, and "
    "payload, were not kept."
)
_TUNNEL_BYTES = " Of the tunnel's outer headers only the addresses and the identifier are as they were seen."
_HEADER_BYTES = "The bytes of the PROXY header as they were seen."

Socket = tuple[int, int, int]  # the two words of the address, and the port
Row = dict[str, int]


class Shown(NamedTuple):
    """The evidence of one hop: lines that say what was decoded, and bytes with what is to be known of them."""

    lines: tuple[str, ...]
    data: bytes = b""
    about: str = ""


class Evidence:
    """Finds the observations behind hops. Hops are those of reports that were made from this recording."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._order = np.argsort(recording.packets["time"], kind="stable")
        self._times = recording.packets["time"][self._order]

    def of(self, journey: Journey) -> list[Shown | None]:
        """For each hop what shows it; None where nothing does that could be told apart."""
        return [self._hop(journey, hop) for hop in journey.hops]

    def _hop(self, journey: Journey, hop: Hop) -> Shown | None:
        if hop.point == "proxy-header":
            return self._header(hop)
        if hop.point in SAID:
            return self._head(hop)
        if hop.evidence == "conntrack":
            return self._nat(journey, hop)
        return self._packet(journey, hop) if hop.evidence == "packet" else None

    def _packet(self, journey: Journey, hop: Hop) -> Shown | None:
        source, destination = _socket(hop.source), _socket(hop.destination)
        protocol = _PROTOCOLS.get(journey.protocol)
        for row in self._at(hop):
            if (
                row["protocol"] == protocol
                and (row["src_hi"], row["src_lo"], row["sport"]) == source
                and (row["dst_hi"], row["dst_lo"], row["dport"]) == destination
                and self._is_tap(row["tap"], hop)
            ):
                return self._shown(row)
        return None

    def _shown(self, row: Row) -> Shown:
        head = self._recording.heads[row["head"] - 1] if row["head"] else None
        frame = rebuild(row, head).data
        ethernet = _ETHERNET + (_TAG if row["vlan"] & _TAGGED else 0)
        about = _PACKET_BYTES + (_TUNNEL_BYTES if row["tunnel"] else "")
        return Shown((*_decoded(row), *said(head)), frame[ethernet : ethernet + SHOWN], about)

    def _header(self, hop: Hop) -> Shown | None:
        heads = [
            self._recording.heads[row["head"] - 1]
            for row in self._at(hop)
            if row["head"] and self._is_tap(row["tap"], hop)
        ]
        named = [head for head in heads if any(each.source == hop.source for each in head.proxy)]
        named = named or [head for head in heads if head.proxy]
        if len(named) != 1:
            return None
        (head,) = named
        lines = [
            f"PROXY v{each.version} {each.command} {each.family} {each.transport}, {each.length} bytes: "
            f"{each.source or 'nobody'} to {each.destination or 'nowhere'}"
            for each in head.proxy
        ]
        lines += [
            f"TLV {tlv.name} (0x{tlv.type:02x}), {len(tlv.value)} bytes"
            for each in head.proxy
            for tlv in each.tlvs
        ]
        size = sum(each.length for each in head.proxy)
        data = head.raw[: min(size, SHOWN)]
        if len(data) < size:
            lines.append(f"of {size} bytes the first {len(data)} are shown")
        return Shown(tuple(lines), data, _HEADER_BYTES)

    def _head(self, hop: Hop) -> Shown | None:
        """Of a request or an answer, what was kept; several at the same moment are nobody's."""
        heads = {row["head"]: self._recording.heads[row["head"] - 1] for row in self._at(hop) if row["head"]}
        lines = {lines for head in heads.values() if (lines := _words(head, hop))}
        return Shown(lines.pop()) if len(lines) == 1 else None

    def _nat(self, journey: Journey, hop: Hop) -> Shown | None:
        """The record whose reply leads to this hop, of a tuple that the same connection had before."""
        nat = self._recording.nat
        if hop.node not in self._recording.nodes:
            return None
        node, protocol = self._recording.nodes.index(hop.node), _PROTOCOLS.get(journey.protocol, 0)
        before = {
            (_socket(each.source), _socket(each.destination)) for each in journey.hops if each.leg == hop.leg
        }
        mask = (nat["node"] == node) & (nat["protocol"] == protocol)
        for end, socket in (("dst", _socket(hop.source)), ("src", _socket(hop.destination))):
            high, low, port = socket
            mask &= (nat[f"reply_{end}_hi"] == high) & (nat[f"reply_{end}_lo"] == low)
            mask &= nat["reply_dport" if end == "dst" else "reply_sport"] == port
        rows = [dict(zip(_NAT_COLUMNS, row, strict=True)) for row in nat[mask].tolist()]
        rows = [row for row in rows if _original(row) in before]
        if not rows:
            return None
        moment = round(hop.time * 1e9)
        return Shown((_conntrack(min(rows, key=lambda row: abs(row["time"] - moment))),))

    def _at(self, hop: Hop) -> Iterator[Row]:
        """Packets of that very moment, at any place."""
        moment = round(hop.time * 1e9)
        if moment <= _ROUNDING:
            return
        first = np.searchsorted(self._times, np.uint64(moment - _ROUNDING), "left")
        last = np.searchsorted(self._times, np.uint64(moment + _ROUNDING), "right")
        for values in self._recording.packets[self._order[first:last]].tolist():
            yield dict(zip(_COLUMNS, values, strict=True))

    def _is_tap(self, tap: int, hop: Hop) -> bool:
        place = self._recording.taps[tap]
        return (place.node, str(place.kind), place.interface) == (hop.node, hop.tap, hop.interface)


def hexdump(data: bytes) -> list[str]:
    """Lines of sixteen bytes: offset, bytes, and those that are characters of ASCII."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        left, right = row[:8].hex(" "), row[8:].hex(" ")
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{at:04x}  {left:<23}  {right:<23}  {shown}")
    return lines


def _words(head: Head, hop: Hop) -> tuple[str, ...]:
    if hop.point == "http-header" and head.http is None:
        return ()
    if hop.point == "app" and head.echo is None:
        return ()
    return said(head)


def _decoded(row: Row) -> list[str]:
    """The fields of a packet's headers that were kept."""
    protocol = _NAMES.get(row["protocol"], f"protocol {row['protocol']}")
    if row["icmp"]:
        kind = "ICMPv6" if row["icmp"] & 0x8000 else "ICMP"
        return [
            f"{kind} error, type {row['icmp'] >> 8 & 0x7F} code {row['icmp'] & 0xFF}, that quotes {protocol}"
        ]
    parts = [protocol.upper()]
    if row["protocol"] == _PROTOCOLS["tcp"]:
        flags = [flag.name or "" for flag in TcpFlag if row["flags"] & flag]
        parts += [
            " ".join(flags) or "no flags",
            f"seq {row['seq']}",
            f"ack {row['ack']}",
            f"window {row['window']}",
        ]
    parts += [f"TTL {row['ttl']}", f"id {row['ipid']}", f"{row['length']} bytes of payload"]
    lines = [", ".join(parts)]
    if row["tsval"] or row["tsecr"]:
        lines.append(f"timestamps {row['tsval']} echoing {row['tsecr']}")
    if row["vlan"] & _TAGGED:
        lines.append(f"VLAN {row['vlan'] & 0xFFF}")
    if row["tunnel"]:
        ends = (address_text(row[f"outer_{end}_hi"], row[f"outer_{end}_lo"]) for end in ("src", "dst"))
        lines.append(f"within {Tunnel(row['tunnel']).name}, identifier {row['vni']}: {' to '.join(ends)}")
    if row["payload"] not in {Payload.NONE, Payload.DATA} and row["payload"] in set(Payload):
        lines.append(f"payload begins as {Payload(row['payload']).name.replace('_', ' ')}")
    if row["direction"] in {Direction.IN, Direction.OUT}:
        lines[0] += f", {'arriving' if row['direction'] == Direction.IN else 'leaving'}"
    return lines


def _conntrack(row: Row) -> str:
    """As conntrack(8) writes it; its state and time-outs are not kept."""
    ways = []
    for way in ("orig", "reply"):
        source, destination = (
            address_text(row[f"{way}_{end}_hi"], row[f"{way}_{end}_lo"]) for end in ("src", "dst")
        )
        ports = f"sport={row[f'{way}_sport']} dport={row[f'{way}_dport']}"
        ways.append(f"src={source} dst={destination} {ports}")
    if not row["status"] & _SEEN_REPLY:
        ways.insert(1, "[UNREPLIED]")
    if row["status"] & _ASSURED:
        ways.append("[ASSURED]")
    mark = f" mark={row['mark']}" if row["mark"] else ""
    zone = f" zone={row['zone']}" if row["zone"] else ""
    return f"{_NAMES.get(row['protocol'], 'unknown')} {row['protocol']} {' '.join(ways)}{mark}{zone}"


def _original(row: Row) -> tuple[Socket, Socket]:
    """The two sockets of a connection as it came to the node."""
    source, destination = (
        (row[f"orig_{end}_hi"], row[f"orig_{end}_lo"], row[f"orig_{end[0]}port"]) for end in ("src", "dst")
    )
    return source, destination


def _socket(endpoint: str) -> Socket:
    """The socket of a hop; one that is no address is met by no packet."""
    address, _, port = endpoint.rpartition(":")
    try:
        return (*address_words(address.strip("[]")), int(port))
    except ValueError:
        return 0, 0, -1
