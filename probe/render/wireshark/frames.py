"""A packet row made into a frame again, for tools that read frames.

An agent keeps of a packet what a verdict needs (`daemonset/observation.py`), not its bytes. So the frame is rebuilt:

1. Addresses, ports, sequence numbers, flags, window, TTL, identification, VLAN tag, timestamps, a tunnel's addresses
   and identifier are as they were seen. Of the payload the PROXY header is, where there was one.
2. What was not kept is not made up: a payload is left out, the frame being as much longer than its captured bytes, as
   when a capture is cut with a snapshot length. Other TCP options than timestamps are left out of the header.
3. A frame needs more: MAC addresses are zero; a tunnel's outer header has TTL 64, and VXLAN and Geneve source port 0
   and their assigned ports.
4. Checksums are valid, or 0 where the bytes they cover are not there (ffff in UDP over IPv6, which has no 0).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from daemonset.observation import Head, Tunnel

ETHERNET = 1  # LINKTYPE_ETHERNET

_IPV4, _IPV6, _VLAN, _BRIDGED = 0x0800, 0x86DD, 0x8100, 0x6558
_ICMP, _IPIP, _TCP, _UDP, _IPV6_IN_IP, _GRE, _ICMP6 = 1, 4, 6, 17, 41, 47, 58
_VXLAN_PORT, _GENEVE_PORT = 4789, 6081
_TAGGED, _TCI = 0x1000, 0xEFFF  # daemonset.observation: bit 12 says that there was a tag
_ICMP6_BIT = 0x8000
_TTL = 64

Row = Mapping[str, int]  # the columns of observation.PACKET
Address = tuple[int, int]  # its two words


class Frame(NamedTuple):
    """The bytes that are known, and the length of the whole."""

    data: bytes
    length: int


class _Part(NamedTuple):
    """Bytes of a layer and what it carries, and how many more follow that are not known."""

    data: bytes
    missing: int = 0


def rebuild(row: Row, head: Head | None) -> Frame:
    """The Ethernet frame of a packet row."""
    source, destination = (row["src_hi"], row["src_lo"]), (row["dst_hi"], row["dst_lo"])
    outer = (row["outer_src_hi"], row["outer_src_lo"]), (row["outer_dst_hi"], row["outer_dst_lo"])
    ip = _ip(source, destination, row["protocol"], _transport(row, head), ttl=row["ttl"], ipid=row["ipid"])
    family = _family(source, destination)
    if row["icmp"]:
        ip, family = _error(row["icmp"], ip, *outer), _family(*outer)
    elif row["tunnel"]:
        ip, family = _tunnelled(row, ip, family, *outer), _family(*outer)
    frame = _ethernet(family, ip, row["vlan"])
    return Frame(frame.data, len(frame.data) + frame.missing)


def _family(source: Address, destination: Address) -> int:
    mapped = all(high == 0 and low >> 32 == 0xFFFF for high, low in (source, destination))
    return _IPV4 if mapped else _IPV6


def _ethernet(ethertype: int, carried: _Part, vlan: int = 0) -> _Part:
    tag = struct.pack("!HH", _VLAN, vlan & _TCI) if vlan & _TAGGED else b""
    return _Part(bytes(12) + tag + struct.pack("!H", ethertype) + carried.data, carried.missing)


def _ip(
    source: Address, destination: Address, protocol: int, carried: _Part, *, ttl: int = _TTL, ipid: int = 0
) -> _Part:
    """An IP packet; a length that does not fit into its field is 0 there, as in super packets (GRO, BIG TCP)."""
    body = _with_checksum(carried, protocol, source, destination)
    size = len(carried.data) + carried.missing
    if _family(source, destination) == _IPV6:
        addresses = struct.pack("!QQQQ", *source, *destination)
        head = struct.pack("!IHBB", 6 << 28, size if size <= 0xFFFF else 0, protocol, ttl) + addresses
        return _Part(head + body, carried.missing)
    size += 20
    addresses = struct.pack("!II", source[1] & 0xFFFF_FFFF, destination[1] & 0xFFFF_FFFF)
    start = struct.pack("!BBHHHBB", 0x45, 0, size if size <= 0xFFFF else 0, ipid, 0, ttl, protocol)
    checksum = struct.pack("!H", _checksum(start + b"\0\0" + addresses))
    return _Part(start + checksum + addresses + body, carried.missing)


def _transport(row: Row, head: Head | None) -> _Part:
    """The transport header, its checksum still 0, and what is known of the payload."""
    ports = struct.pack("!HH", row["sport"], row["dport"])
    known = head.raw[: row["length"]] if head is not None and (head.proxy or head.proxy_error) else b""
    missing = row["length"] - len(known)
    if row["protocol"] == _TCP:
        if row["icmp"] and not row["flags"]:  # an error that quotes eight bytes
            return _Part(ports + struct.pack("!I", row["seq"]), missing)
        options = b""
        if row["tsval"] or row["tsecr"]:
            options = b"\x01\x01\x08\x0a" + struct.pack("!II", row["tsval"], row["tsecr"])
        size = (20 + len(options)) // 4 << 4
        rest = struct.pack("!IIBBHHH", row["seq"], row["ack"], size, row["flags"], row["window"], 0, 0)
        return _Part(ports + rest + options + known, missing)
    if row["protocol"] == _UDP:
        size = 8 + row["length"]
        return _Part(ports + struct.pack("!HH", size if size <= 0xFFFF else 0, 0) + known, missing)
    return _Part(ports + bytes(8), missing)  # SCTP: verification tag and checksum were not kept


def _tunnelled(row: Row, ip: _Part, family: int, source: Address, destination: Address) -> _Part:
    """The packet that carried the packet."""
    vni = row["vni"]
    if row["tunnel"] == Tunnel.IPIP:
        return _ip(source, destination, _IPIP if family == _IPV4 else _IPV6_IN_IP, ip)
    if row["tunnel"] == Tunnel.GRE:
        key = struct.pack("!I", vni) if vni else b""
        head = struct.pack("!HH", 0x2000 if vni else 0, family) + key
        return _ip(source, destination, _GRE, _Part(head + ip.data, ip.missing))
    frame = _ethernet(family, ip)
    identifier = (vni & 0xFF_FFFF) << 8
    if row["tunnel"] == Tunnel.GENEVE:
        port, head = _GENEVE_PORT, struct.pack("!HHI", 0, _BRIDGED, identifier)
    else:
        port, head = _VXLAN_PORT, struct.pack("!II", 0x0800_0000, identifier)
    size = 8 + len(head) + len(frame.data) + frame.missing
    udp = struct.pack("!HHHH", 0, port, size if size <= 0xFFFF else 0, 0)
    return _ip(source, destination, _UDP, _Part(udp + head + frame.data, frame.missing))


def _error(icmp: int, quoted: _Part, source: Address, destination: Address) -> _Part:
    """The ICMP error that quotes a packet; its last four bytes of header were not kept."""
    protocol = _ICMP6 if icmp & _ICMP6_BIT else _ICMP
    head = struct.pack("!BBHI", icmp >> 8 & 0x7F, icmp & 0xFF, 0, 0)
    return _ip(source, destination, protocol, _Part(head + quoted.data))


#: Where the checksum stands in the headers of these protocols.
_CHECKSUM_AT = {_ICMP: 2, _TCP: 16, _UDP: 6, _ICMP6: 2}


def _with_checksum(part: _Part, protocol: int, source: Address, destination: Address) -> bytes:
    at = _CHECKSUM_AT.get(protocol)
    if at is None or len(part.data) < at + 2:
        return part.data
    if part.missing:
        unknown = b"\xff\xff" if protocol == _UDP and _family(source, destination) == _IPV6 else b"\0\0"
        return part.data[:at] + unknown + part.data[at + 2 :]
    pseudo = b""
    if protocol != _ICMP:
        # IPv4's pseudo header sums up to the same as IPv6's over the addresses that stand for it.
        pseudo = struct.pack("!QQQQII", *_summed(source, destination), len(part.data), protocol)
    value = _checksum(pseudo + part.data) or 0xFFFF
    return part.data[:at] + struct.pack("!H", value) + part.data[at + 2 :]


def _summed(source: Address, destination: Address) -> tuple[int, int, int, int]:
    if _family(source, destination) == _IPV6:
        return *source, *destination
    return 0, source[1] & 0xFFFF_FFFF, 0, destination[1] & 0xFFFF_FFFF


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
