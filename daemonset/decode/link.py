"""The link layer: where in a captured frame the network packet begins, and what it is.

Link types are the LINKTYPE_ numbers of capture files (https://www.tcpdump.org/linktypes.html). A packet
socket of type SOCK_DGRAM delivers no link header at all, only the ethertype beside the packet;
`bare(ethertype)` names that case in the same number space.

This file knows nothing of IP. It reads bytes as they come and never raises on any of them.
"""

from __future__ import annotations

import struct

from daemonset.observation import Direction

NULL = 0  # BSD loopback, address family in the capturing host's byte order
ETHERNET = 1
RAW_BSD = 12  # raw IP as some systems number it
RAW_OPENBSD = 14
RAW = 101
LOOP = 108  # as NULL, with the family in network byte order
LINUX_SLL = 113
IPV4_ONLY = 228
IPV6_ONLY = 229
LINUX_SLL2 = 276

IPV4 = 0x0800
IPV6 = 0x86DD
BRIDGED = 0x6558  # Transparent Ethernet bridging (RFC 1701), the "ethertype" of a whole frame in a tunnel

SUPPORTED = frozenset(
    {
        NULL, ETHERNET, RAW_BSD, RAW_OPENBSD, RAW, LOOP, LINUX_SLL, IPV4_ONLY, IPV6_ONLY, LINUX_SLL2,
    }
)  # fmt: skip

#: Set in a row's `vlan` when a tag was there, so that VLAN 0 (priority only) differs from "no tag".
VLAN_PRESENT = 0x1000

_IP = frozenset({IPV4, IPV6})
_BARE = 0x1_0000
_VLAN_TAGS = frozenset({0x8100, 0x88A8, 0x9100})  # 802.1Q, 802.1ad, and what was used before 802.1ad
_MOST_TAGS = 4
_AF_INET = 2
_AF_INET6 = frozenset({10, 24, 28, 30})  # Linux, NetBSD/OpenBSD, FreeBSD, Darwin

# sockaddr_ll.sll_pkttype (linux/if_packet.h): to us, broadcast, multicast, to somebody else, from us.
_PACKET_TYPES = (Direction.IN, Direction.IN, Direction.IN, Direction.UNKNOWN, Direction.OUT)

_u16 = struct.Struct("!H").unpack_from
_pair = struct.Struct("!HH").unpack_from

#: Ethertype, offset of the network header, VLAN (0: untagged), direction (0: unknown).
Network = tuple[int, int, int, int]


def bare(ethertype: int) -> int:
    """The link number of packets without a link header whose ethertype is known otherwise (sll_protocol)."""
    return _BARE | ethertype


def network(frame: bytes, link: int) -> Network | None:
    """Where the network packet of `frame` begins; None if the frame is too short or the type unknown.

    VLAN tags are taken off. Of stacked tags (802.1ad) the innermost is reported: it names the network that
    the packet belongs to.
    """
    if link == ETHERNET:
        if len(frame) < 14:
            return None
        ethertype = frame[12] << 8 | frame[13]
        if ethertype in _IP:
            return ethertype, 14, 0, 0
        return _untag(frame, ethertype, 14, 0)
    if link >= _BARE:
        return _bare(frame, link & 0xFFFF)
    if link in {LINUX_SLL, LINUX_SLL2}:
        return _cooked(frame, link)
    if link in {RAW, RAW_BSD, RAW_OPENBSD, IPV4_ONLY, IPV6_ONLY}:
        return _raw(frame)
    if link in {NULL, LOOP}:
        return _loopback(frame)
    return None


def _bare(frame: bytes, ethertype: int) -> Network | None:
    """Of stacked tags the kernel takes off one, and since Linux 6.11 names the protocol behind those that are left."""
    if (
        ethertype in _IP
        and len(frame) > 4
        and frame[0] >> 4 != frame[4] >> 4 == (4 if ethertype == IPV4 else 6)
    ):
        tci, behind = _pair(frame, 0)
        if behind == ethertype:
            return ethertype, 4, tci | VLAN_PRESENT, 0
    return _untag(frame, ethertype, 0, 0)


def direction_of(packet_type: int) -> Direction:
    """The direction that sockaddr_ll.sll_pkttype tells."""
    return _PACKET_TYPES[packet_type] if 0 <= packet_type < len(_PACKET_TYPES) else Direction.UNKNOWN


def _untag(frame: bytes, ethertype: int, offset: int, direction: int) -> Network | None:
    vlan = 0
    for _ in range(_MOST_TAGS):
        if ethertype not in _VLAN_TAGS:
            break
        if len(frame) < offset + 4:
            return None
        tci, ethertype = _pair(frame, offset)
        vlan = tci | VLAN_PRESENT
        offset += 4
    return ethertype, offset, vlan, direction


def _cooked(frame: bytes, link: int) -> Network | None:
    """LINKTYPE_LINUX_SLL: type, ARPHRD, length, address, protocol; _SLL2: protocol first, then an ifindex."""
    size = 16 if link == LINUX_SLL else 20
    if len(frame) < size:
        return None
    if link == LINUX_SLL:
        (packet_type,) = _u16(frame, 0)
        (ethertype,) = _u16(frame, 14)
    else:
        (ethertype,) = _u16(frame, 0)
        packet_type = frame[10]
    return _untag(frame, ethertype, size, direction_of(packet_type))


def _raw(frame: bytes) -> Network | None:
    version = frame[0] >> 4 if len(frame) else 0
    if version == 4:
        return IPV4, 0, 0, 0
    return (IPV6, 0, 0, 0) if version == 6 else None


def _loopback(frame: bytes) -> Network | None:
    """A family of four bytes: big-endian in LOOP, of the capturing host's order in NULL. All are small."""
    if len(frame) < 4:
        return None
    family = int.from_bytes(frame[:4], "big")
    if family > 0xFFFF:
        family = int.from_bytes(frame[:4], "little")
    if family == _AF_INET:
        return IPV4, 4, 0, 0
    return (IPV6, 4, 0, 0) if family in _AF_INET6 else None
