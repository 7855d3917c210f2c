"""From a captured frame to a row of `observation.PACKET`.

    frame ─ link.network ─▶ IP ─▶ TCP ───────────────▶ row (and a head, if the payload says something)
                            ▲  ├▶ UDP, SCTP ─────────▶ row
                            │  ├▶ VXLAN, Geneve, IPIP, GRE ─┐
                            │  └▶ ICMP error ─▶ its quote ──┤
                            └────────── Envelope ───────────┘

Rules of this file:

1. Any bytes give a row or "nothing of interest"; nothing raises. Everything is read at a checked offset.
2. A capture may be cut anywhere (`tcpdump -s 200`): lengths come from the IP header, and a header that is not
   wholly there is not guessed at.
3. This runs once for every packet of a capture: `struct` at fixed offsets, no object where a tuple does.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from daemonset.decode import link as link_layer
from daemonset.decode.continued import Continued
from daemonset.decode.head import read_payload
from daemonset.observation import PACKET, Head, Payload, Tunnel

ICMP, IPIP, TCP, UDP, IPV6_IN_IP, GRE, ICMP6, SCTP = 1, 4, 6, 17, 41, 47, 58, 132

#: How many payload bytes the digest of a row covers.
DIGEST_BYTES = 256

_HEAD_BYTES = 16384  # more than any header that a proxy takes; bounds the copy of a 64 KiB super packet
_NESTING = 6  # tunnels in tunnels, and the quote of an error in them
_MAPPED = 0xFFFF_0000_0000
_SIGNED = frozenset({Payload.PROXY_V1, Payload.PROXY_V2})

_FRAGMENT, _AUTHENTICATION = 44, 51
# IANA, "IPv6 extension header types", without ESP, behind which nothing can be read.
_EXTENSIONS = frozenset({0, 43, _FRAGMENT, _AUTHENTICATION, 60, 135, 139, 140})
_MOST_EXTENSIONS = 16

# Errors quote the packet that they are about (RFC 792, RFC 4443 §2.1); echo and the like do not.
_ERRORS = {ICMP: frozenset({3, 4, 5, 11, 12}), ICMP6: frozenset({1, 2, 3, 4})}
_ICMP6_BIT = 0x8000

# Protocols with ports at the start of their header, and the header's length without options.
_PORTED = {TCP: 20, UDP: 8, SCTP: 12}

_VXLAN_PORTS = frozenset({4789, 8472})  # IANA's, and the Linux default that flannel and Cilium keep
_GENEVE_PORT = 6081
# What a tunnel's frame may carry: IP, ARP, and the frame itself in those that carry packets too. Anything else
# behind a tunnel's port is an ordinary datagram to a port that NAT happened to choose.
_CARRIED = frozenset({link_layer.IPV4, link_layer.IPV6, link_layer.BRIDGED, 0x0806})
_FRAME_HEADER = 32  # an Ethernet header with as many VLAN tags as are read

# How Linux orders its options: in a SYN, MSS, SACK permitted, timestamps; later, two NOPs and timestamps.
_MSS, _LINUX_SYN, _LINUX_DATA = b"\x02\x04", b"\x04\x02\x08\x0a", b"\x01\x01\x08\x0a"
_NO_TIMESTAMPS = bytes(8)

_ipv4 = struct.Struct("!BxHHHBBxxII").unpack_from
_ipv6 = struct.Struct("!IHBBQQQQ").unpack_from
_tcp = struct.Struct("!HHIIBBH").unpack_from
_ports = struct.Struct("!HH").unpack_from
_u32 = struct.Struct("!I").unpack_from
_timestamps = struct.Struct("!II").unpack_from
_pack = PACKET.struct.pack


#: An IP header: source and destination in two words each, protocol, TTL, identification, and the offsets of
#: the transport header and of the packet's end by the header.
_Ip = tuple[int, int, int, int, int, int, int, int, int]

#: What is known of a packet from outside of its bytes: time, tap, direction, VLAN.
_Where = tuple[int, int, int, int]


class _Envelope(NamedTuple):
    """What a packet was found in: the outermost tunnel, or the ICMP error that quotes it."""

    src_hi: int = 0
    src_lo: int = 0
    dst_hi: int = 0
    dst_lo: int = 0
    tunnel: int = 0
    vni: int = 0
    icmp: int = 0


class _Inner(NamedTuple):
    """A packet inside a packet."""

    ethertype: int
    offset: int
    tunnel: Tunnel
    vni: int = 0


_PLAIN = _Envelope()


class Batch:
    """Collects packet rows and the heads that they refer to, until they are taken.

    With `heads` false the payloads are classified but what they say is not kept.
    """

    def __init__(self, heads: bool = True) -> None:
        self._keep_heads = heads
        self._rows: list[bytes] = []
        self._heads: list[Head] = []
        self._cut = Continued()

    def __len__(self) -> int:
        return len(self._rows)

    def take(self) -> tuple[bytes, tuple[Head, ...]]:
        """Rows in order of arrival, packed as PACKET.struct, and their heads; empties the batch."""
        rows, heads = b"".join(self._rows), tuple(self._heads)
        self._rows.clear()
        self._heads.clear()
        return rows, heads

    def add(
        self,
        frame: bytes | memoryview,
        *,
        link: int,
        time: int,
        tap: int,
        direction: int = 0,
        vlan: int = 0,
        wire_length: int | None = None,
    ) -> bool:
        """Decode one frame; False when it holds nothing of interest (see `_walk`).

        `time` is in ns since the epoch, `vlan` a TCI with `link.VLAN_PRESENT` that the kernel took off the
        frame, `wire_length` the frame's length before the capture cut it.
        """
        if not isinstance(frame, bytes):
            frame = bytes(frame)  # slices of bytes are cheaper by more than this one copy
        found = link_layer.network(frame, link)
        if found is None:
            return False
        ethertype, offset, tag, way = found
        where = (time, tap, direction or way, tag or vlan)
        return self._walk(frame, ethertype, offset, wire_length or len(frame), where)

    def _walk(self, frame: bytes, ethertype: int, offset: int, limit: int, where: _Where) -> bool:
        """Go inwards to the packet that matters: TCP, UDP, SCTP, plain, tunnelled or quoted by an error.

        Later fragments, other protocols, malformed headers and headers that the capture cut are nothing of
        interest; so is what lies deeper than `_NESTING`.
        """
        envelope = _PLAIN
        for _ in range(_NESTING):
            ip = _read_ip(frame, ethertype, offset, limit)
            if ip is None:
                return False
            protocol = ip[4]
            if protocol == TCP:
                return self._add_tcp(frame, ip, where, envelope)
            start, limit = ip[7:]
            inner = _decapsulate(frame, protocol, start)
            if inner is not None:
                if envelope is _PLAIN:
                    envelope = _Envelope(*ip[:4], inner.tunnel, inner.vni)
                ethertype, offset = inner.ethertype, inner.offset
                continue
            error = 0 if envelope.icmp else _icmp_error(frame, protocol, start)
            if not error:
                return self._add_datagram(frame, ip, where, envelope)
            envelope = _Envelope(*ip[:4], envelope.tunnel, envelope.vni, error)
            ethertype, offset = _ip_at(frame, start + 8), start + 8
        return False

    def _add_tcp(self, frame: bytes, ip: _Ip, where: _Where, envelope: _Envelope) -> bool:
        src_hi, src_lo, dst_hi, dst_lo, _, ttl, ipid, start, stop = ip
        outer_src_hi, outer_src_lo, outer_dst_hi, outer_dst_lo, tunnel, vni, icmp = envelope
        time, tap, direction, vlan = where
        captured = len(frame)
        if captured < start + 20 or stop < start + 20:
            return bool(icmp) and self._add_datagram(frame, ip, where, envelope)
        sport, dport, seq, ack, size, flags, window = _tcp(frame, start)
        body = start + (size >> 4) * 4
        if body < start + 20 or body > stop:
            return False
        tsval = tsecr = options = digest = kind = head = 0
        if start + 20 < body <= captured:
            tsval, tsecr, options = _read_options(frame[start + 20 : body])
        if body < stop and not icmp:
            digest, kind, head = self.read_body(frame, body, stop, reads=True)
            if self._keep_heads and stop <= captured and (self._cut or kind in _SIGNED):
                key = (tap, src_hi, src_lo, dst_hi, dst_lo, sport, dport)
                kind, head = self._continue(key, seq, frame[body:stop], (kind, head))
        self._rows.append(
            _pack(
                time, src_hi, src_lo, dst_hi, dst_lo, outer_src_hi, outer_src_lo, outer_dst_hi, outer_dst_lo,
                digest, tap, seq, ack, tsval, tsecr, options, stop - body, head, vni,
                sport, dport, window, ipid, vlan, icmp, TCP, flags, direction, tunnel, kind, ttl,
            )
        )  # fmt: skip
        return True

    def _continue(
        self, key: tuple[int, ...], seq: int, payload: bytes, read: tuple[int, int]
    ) -> tuple[int, int]:
        """Payload and head reference of a segment that may be a part of a PROXY header, by itself `read` so."""
        kind, head = read
        if kind in _SIGNED and head:
            self._cut.begin(key, seq, payload, self._heads[head - 1])
        elif (joined := self._cut.read(key, seq, payload)) is not None:
            self._heads.append(joined[1])
            return joined[0], len(self._heads)
        return kind, head

    def _add_datagram(self, frame: bytes, ip: _Ip, where: _Where, envelope: _Envelope) -> bool:
        """A row with ports only: UDP, SCTP, or as much of a TCP header as a short quote holds (RFC 792).

        Such a quote does not tell how long its TCP header is, so nor the length of its payload.
        """
        *addresses, protocol, ttl, ipid, start, stop = ip
        time, tap, direction, vlan = where
        header = _PORTED.get(protocol)
        if header is None or len(frame) < start + 8 or (stop < start + header and not envelope.icmp):
            return False
        sport, dport = _ports(frame, start)
        seq = _u32(frame, start + 4)[0] if protocol == TCP else 0
        body = start + header if protocol != TCP else stop
        digest = kind = head = 0
        if body < stop and not envelope.icmp:
            digest, kind, head = self.read_body(frame, body, stop, reads=protocol == UDP)
        self._rows.append(
            _pack(
                time, *addresses, *envelope[:4],
                digest, tap, seq, 0, 0, 0, 0, max(stop - body, 0), head, envelope.vni, sport, dport,
                0, ipid, vlan, envelope.icmp, protocol, 0, direction, envelope.tunnel, kind, ttl,
            )
        )  # fmt: skip
        return True

    def read_body(self, frame: bytes, start: int, stop: int, *, reads: bool) -> tuple[int, int, int]:
        """Digest, Payload and head reference of a non-empty payload, as far as it was captured.

        `stop` is where the payload ends by its headers, which may lie behind the end of `frame`. `reads`: it is
        TCP's or UDP's. Who wants the payloads themselves overrides this.
        """
        captured = frame[start : min(stop, start + _HEAD_BYTES)]
        if not captured:
            return 0, Payload.DATA, 0
        digest = int.from_bytes(blake2b(captured[:DIGEST_BYTES], digest_size=8).digest(), "little")
        if not reads:
            return digest or 1, Payload.DATA, 0
        kind, head = read_payload(captured)
        if head is None or not self._keep_heads:
            return digest or 1, kind, 0
        self._heads.append(head)
        return digest or 1, kind, len(self._heads)


def _read_ip(frame: bytes, ethertype: int, offset: int, limit: int) -> _Ip | None:
    """The IP header at `offset`, extension headers included; None: no IP, cut, malformed, a later fragment.

    `limit` is where the enclosing packet ends. It stands in for a length of 0, which super packets (GRO, TSO,
    BIG TCP) longer than 64 KiB carry.
    """
    if ethertype == link_layer.IPV4:
        if len(frame) < offset + 20:
            return None
        first, total, ipid, fragment, ttl, protocol, src, dst = _ipv4(frame, offset)
        start = offset + (first & 15) * 4
        stop = offset + total if total else limit
        if first >> 4 != 4 or start < offset + 20 or stop < start or fragment & 0x1FFF:
            return None
        return 0, _MAPPED | src, 0, _MAPPED | dst, protocol, ttl, ipid, start, stop
    if ethertype != link_layer.IPV6 or len(frame) < offset + 40:
        return None
    word, size, protocol, ttl, src_hi, src_lo, dst_hi, dst_lo = _ipv6(frame, offset)
    start = offset + 40
    stop = start + size if size else limit
    if word >> 28 != 6:
        return None
    if protocol in _EXTENSIONS:
        skipped = _skip_extensions(frame, protocol, start)
        if skipped is None:
            return None
        protocol, start = skipped
    if stop < start:
        return None
    return src_hi, src_lo, dst_hi, dst_lo, protocol, ttl, 0, start, stop


def _skip_extensions(frame: bytes, protocol: int, offset: int) -> tuple[int, int] | None:
    """The upper-layer protocol and its offset (RFC 8200 §4); None for a later fragment or a cut chain."""
    for _ in range(_MOST_EXTENSIONS):
        if protocol not in _EXTENSIONS:
            return protocol, offset
        if len(frame) < offset + 8:
            return None
        size = (frame[offset + 1] + 1) * 8
        if protocol == _FRAGMENT:
            size = 8
            if (frame[offset + 2] << 8 | frame[offset + 3]) >> 3:
                return None
        elif protocol == _AUTHENTICATION:
            size = (frame[offset + 1] + 2) * 4  # RFC 4302 §2.2
        protocol = frame[offset]
        offset += size
    return None


def _read_options(options: bytes) -> tuple[int, int, int]:
    """TSval, TSecr (RFC 7323 §3.2) and the fingerprint of TCP options, which has the timestamps zeroed."""
    if options[4:8] == _LINUX_SYN and options[:2] == _MSS and len(options) >= 16:
        at = 8
    elif options[:4] == _LINUX_DATA and len(options) >= 12:
        at = 4
    else:
        at = _find_timestamps(options)
        if not at:
            return 0, 0, crc32(options) or 1
    tsval, tsecr = _timestamps(options, at)
    return tsval, tsecr, crc32(options[:at] + _NO_TIMESTAMPS + options[at + 8 :]) or 1


def _find_timestamps(options: bytes) -> int:
    """The offset of TSval in options of any order; 0: not there, or the list is broken before it."""
    at, end = 0, len(options)
    while at + 1 < end:
        kind, size = options[at], options[at + 1]
        if kind == 1:
            at += 1
            continue
        if kind == 0 or size < 2:
            break
        if kind == 8 and size == 10 and at + 10 <= end:
            return at + 2
        at += size
    return 0


def _icmp_error(frame: bytes, protocol: int, start: int) -> int:
    """The row's `icmp` value of an error that quotes a packet; 0 for anything else."""
    errors = _ERRORS.get(protocol, ())
    if not errors or len(frame) < start + 8 or frame[start] not in errors:
        return 0
    return (_ICMP6_BIT if protocol == ICMP6 else 0) | frame[start] << 8 | frame[start + 1]


def _ip_at(frame: bytes, offset: int) -> int:
    """The ethertype of the IP packet that begins at `offset`, by its version; 0: none."""
    version = frame[offset] >> 4 if offset < len(frame) else 0
    return {4: link_layer.IPV4, 6: link_layer.IPV6}.get(version, 0)


def _decapsulate(frame: bytes, protocol: int, start: int) -> _Inner | None:
    """The packet that a tunnel carries from `start` on; None when this is no tunnel."""
    if protocol == IPIP:  # RFC 2003
        return _Inner(link_layer.IPV4, start, Tunnel.IPIP)
    if protocol == IPV6_IN_IP:  # RFC 4213, RFC 2473
        return _Inner(link_layer.IPV6, start, Tunnel.IPIP)
    if protocol == UDP:
        inner = _udp_tunnel(frame, start)
    elif protocol == GRE:
        inner = _gre(frame, start)
    else:
        return None
    if inner is None or inner.ethertype != link_layer.BRIDGED:
        return inner
    found = link_layer.network(frame[inner.offset : inner.offset + _FRAME_HEADER], link_layer.ETHERNET)
    if found is None or found[0] not in _CARRIED:
        return None
    return inner._replace(ethertype=found[0], offset=inner.offset + found[1])


def _udp_tunnel(frame: bytes, start: int) -> _Inner | None:
    if len(frame) < start + 16:
        return None
    port = frame[start + 2] << 8 | frame[start + 3]
    at = start + 8
    if frame[at + 7]:  # reserved in both headers, after the network identifier
        return None
    if port in _VXLAN_PORTS and frame[at] & 0x08:  # the I flag, RFC 7348 §5
        return _Inner(link_layer.BRIDGED, at + 8, Tunnel.VXLAN, _u32(frame, at + 4)[0] >> 8)
    if port == _GENEVE_PORT and frame[at] >> 6 == 0:  # RFC 8926 §3.4
        ethertype = frame[at + 2] << 8 | frame[at + 3]
        offset = at + 8 + (frame[at] & 0x3F) * 4
        if ethertype in _CARRIED:
            return _Inner(ethertype, offset, Tunnel.GENEVE, _u32(frame, at + 4)[0] >> 8)
    return None


def _gre(frame: bytes, start: int) -> _Inner | None:
    """RFC 2784 with the key and sequence number of RFC 2890; neither version 1 nor RFC 1701's routing."""
    if len(frame) < start + 4:
        return None
    flags, ethertype = _ports(frame, start)
    if flags & 0x4007:
        return None
    offset = start + 4 + (4 if flags & 0x8000 else 0)
    key = 0
    if flags & 0x2000:
        if len(frame) < offset + 4:
            return None
        (key,) = _u32(frame, offset)
        offset += 4
    return _Inner(ethertype, offset + (4 if flags & 0x1000 else 0), Tunnel.GRE, key)
