"""The kernel filter: which packets reach user space at all.

A verdict needs how connections begin and end and what their first bytes say about the client, not what they
carry. So this program passes

* TCP SYN, SYN-ACK, FIN and RST,
* payloads that begin like a PROXY header (v1 or v2) or a TLS ClientHello, and the two ways in which a server
  answers to a PROXY header that it did not expect: an HTTP status 400 and a TLS alert in the clear,
* on request HTTP/1 request and response heads (all of them: a keep-alive connection has many),
* ICMP and ICMPv6 errors,
* UDP of the given ports,

in IPv4 and IPv6, plain or inside VXLAN, Geneve, IPIP/6in4 or GRE; of all ports, or of those given, on either
side of the packet. One list serves both sides of NAT if it names the Service's port, node port, target ports
and health port.

With `sample`, of the connections only those are passed whose initial sequence number (ISN) `sampling.chosen` names.
No NAT rewrites it, so every node passes the same connections, without a word between them. Only what tells its
connection's ISN by itself can be decided here: a SYN (its sequence number), a SYN-ACK (what it acknowledges, less
one), and a PROXY header, which is a connection's first data (its sequence number, less one). FIN, RST, ClientHellos,
requests and answers stand anywhere in a connection; they all pass, and `sampling.Sampler` drops those of other
connections.

It is written for a packet socket of type SOCK_DGRAM, where the packet begins at its network header and the
kernel knows the ethertype besides (SKF_AD_PROTOCOL).

The way through the program, with X always at the start of the header that is looked at:

    ethertype ─ VLAN? ─▶ ip0 ─▶ transport0 ─┬─▶ tcp ─▶ flags? payload? ─▶ ports ─▶ keep
                                            ├─▶ udp ─────────────────────▶ ports
                                            ├─▶ icmp, icmp6 ─▶ errors? ─▶ keep
                                            └─▶ vxlan, geneve, ipip, gre ─▶ ip1 ─▶ transport1 ─▶ the same

Classic BPF has no loop, so the reading of an IP header stands there twice, once for the outer and once for
the inner packet. Bulk data leaves at the first word of its payload.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from daemonset.taps import bpf, remembered
from daemonset.taps.bpf import Op
from daemonset.taps.remembered import ETHERTYPE, FLAGS, KEEP, NETWORK, PROTOCOL, TRANSPORT, Memory
from daemonset.taps.sampling import MULTIPLIER, bits_of

#: Bytes kept of a packet that has nothing to say but its headers and what it carries with them: tunnel and IPv6
#: headers with options, a full TCP header, and the 256 bytes that a digest covers.
CONTROL_BYTES = 432

#: More ranges of ports than this are widened until they are no more. What passes then is more than was asked
#: for, never less, and the program stays well below the kernel's limit.
MOST_RANGES = 200

_IPV4, _IPV6, _ETHERNET = 0x0800, 0x86DD, 0x6558
_VLANS = (0x8100, 0x88A8)
_LOOPBACK_INDEX = 1  # LOOPBACK_IFINDEX, net/flow.h: the same in every network namespace

_ICMP, _IPIP, _TCP, _UDP, _IPV6_IN_IP, _GRE, _ICMP6 = 1, 4, 6, 17, 41, 47, 58
_EXTENSIONS, _FRAGMENT = (0, 43, 60), 44  # RFC 8200 §4.1
_MOST_EXTENSIONS = 3  # one after the other
_VXLAN_PORTS, _GENEVE_PORT = (4789, 8472), 6081
_FIN_SYN_RST, _SYN, _ACK = 0x07, 0x02, 0x10

_PROXY_V1 = int.from_bytes(b"PROX", "big")
_PROXY_V2 = (0x0D0A0D0A, 0x000D0A51)  # proxy-protocol.txt §2.2
_METHODS = tuple(
    int.from_bytes(start, "big")
    for start in (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"PATC", b"OPTI", b"CONN", b"PRI ")
)
_HTTP, _HTTP_1, _STATUS_400 = (int.from_bytes(start, "big") for start in (b"HTTP", b"/1.", b" 400"))
_TLS_HANDSHAKE_3, _TLS_ALERT_3, _CLIENT_HELLO = 0x1603, 0x1503, 1  # RFC 8446 §5.1, §4


def build(ports: Collection[int] = (), **options: Any) -> bpf.Program:
    """The program of `listing` for the classic machine. Raises as that does, and `bpf.ProgramTooLongError`."""
    return bpf.assemble(listing(ports, **options))


def listing(
    ports: Collection[int] = (),
    *,
    heads: bool = False,
    head_ports: Collection[int] = (),
    snaplen: int = 2048,
    loopback: bool = False,
    sample: int = 1,
    memory: Memory | None = None,
) -> list[Op]:
    """The filter for a Service that is known by `ports`; without any, for all TCP and no UDP.

    `heads` passes HTTP heads of all these ports, `head_ports` those of health checks in any case (they should
    be among `ports` too). `snaplen` is how many bytes of a packet with a head are kept. Packets on the
    loopback interface are passed only with `loopback`. `sample` N: one TCP connection of N. With `memory` the
    program remembers connections (`remembered.py`) and is for eBPF; without, for the classic machine. Raises ValueError
    where a port is none, or N no power of two.
    """
    bits = bits_of(sample)
    for port in (*ports, *head_ports):
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"{port} is not a port")
    return [
        *_entrance(loopback),
        *_network(0, noted=memory is not None),
        *_transport(0),
        *_tunnels(),
        *_network(1, noted=memory is not None),
        *_transport(1),
        *_tcp("some-head" if heads else "head-ports" if head_ports else "", snaplen, bits, memory),
        *(_match_ports("head-ports", head_ports) if head_ports else ()),
        *_icmp_errors(),
        Op(bpf.JA, yes="ports" if ports else "reject", label="udp"),
        *_match_ports("ports", ports),
        *(remembered.passing(memory) if memory else [Op(bpf.LD_MEM, KEEP, label="keep")]),
        Op(bpf.RET_A),
        Op(bpf.RET, 0, label="reject"),
    ]


def _entrance(loopback: bool) -> list[Op]:
    """Look at the ethertype; an 802.1Q tag that is still in the packet stands before the network header."""
    not_loopback = [Op(bpf.LD_W, bpf.AD_IFINDEX), Op(bpf.JEQ, _LOOPBACK_INDEX, "reject")]
    return [
        *([] if loopback else not_loopback),
        Op(bpf.LD_IMM, CONTROL_BYTES),
        Op(bpf.ST, KEEP),
        Op(bpf.LDX_IMM, 0),
        Op(bpf.LD_W, bpf.AD_PROTOCOL),
        *(Op(bpf.JEQ, tag, "tagged") for tag in _VLANS),
        Op(bpf.JA, yes="ip0"),
        Op(bpf.LD_H, 2, label="tagged"),
        Op(bpf.LDX_IMM, 4),
    ]


def _network(level: int, *, noted: bool) -> list[Op]:
    """From A = ethertype, X = network header to M[protocol], X = transport header. Later fragments go.

    `noted`: M[NETWORK] says where the header was.
    """
    ip, ip4, ip6, done = f"ip{level}", f"ip4-{level}", f"ip6-{level}", f"transport{level}"
    return [
        Op(bpf.STX, NETWORK, label=ip) if noted else Op(bpf.OR, 0, label=ip),
        Op(bpf.JEQ, _IPV4, ip4),
        Op(bpf.JEQ, _IPV6, ip6, "reject"),
        Op(bpf.IND_H, 6, label=ip4),
        Op(bpf.JSET, 0x1FFF, "reject"),
        Op(bpf.IND_B, 9),
        Op(bpf.ST, PROTOCOL),
        Op(bpf.IND_B, 0),
        Op(bpf.AND, 0x0F),
        Op(bpf.LSH, 2),
        Op(bpf.ADD_X),
        Op(bpf.TAX),
        Op(bpf.JA, yes=done),
        Op(bpf.IND_B, 6, label=ip6),
        Op(bpf.ST, PROTOCOL),
        *_advance(40),
        *(op for number in range(_MOST_EXTENSIONS) for op in _extension(f"{level}-{number}", done)),
    ]


def _extension(place: str, done: str) -> list[Op]:
    """Pass over one IPv6 extension header, where there is one; a fragment header is the last that is passed."""
    extension, fragment = f"extension{place}", f"fragment{place}"
    return [
        Op(bpf.LD_MEM, PROTOCOL),
        *(Op(bpf.JEQ, number, extension) for number in _EXTENSIONS),
        Op(bpf.JEQ, _FRAGMENT, fragment),
        Op(bpf.JA, yes=done),
        Op(bpf.IND_H, 2, label=fragment),
        Op(bpf.JSET, 0xFFF8, "reject"),
        Op(bpf.IND_B, 0),
        Op(bpf.ST, PROTOCOL),
        *_advance(8),
        Op(bpf.JA, yes=done),
        Op(bpf.IND_B, 0, label=extension),
        Op(bpf.ST, PROTOCOL),
        Op(bpf.IND_B, 1),
        Op(bpf.ADD, 1),
        Op(bpf.LSH, 3),
        Op(bpf.ADD_X),
        Op(bpf.TAX),
    ]


def _transport(level: int) -> list[Op]:
    """Dispatch on the protocol; only the outer packet can be a tunnel's."""
    tunnels = [
        Op(bpf.JEQ, _IPIP, "ipip"),
        Op(bpf.JEQ, _IPV6_IN_IP, "6in4"),
        Op(bpf.JEQ, _GRE, "gre"),
        Op(bpf.JEQ, _UDP, "outer-udp", "reject"),
    ]
    return [
        Op(bpf.LD_MEM, PROTOCOL, label=f"transport{level}"),
        Op(bpf.JEQ, _TCP, "tcp"),
        Op(bpf.JEQ, _ICMP, "icmp"),
        Op(bpf.JEQ, _ICMP6, "icmp6"),
        *(tunnels if level == 0 else [Op(bpf.JEQ, _UDP, "udp", "reject")]),
    ]


def _tunnels() -> list[Op]:
    """Each leads to ip1 with A = inner ethertype, X = inner network header."""
    return [
        Op(bpf.IND_H, 2, label="outer-udp"),
        *(Op(bpf.JEQ, port, "vxlan") for port in _VXLAN_PORTS),
        Op(bpf.JEQ, _GENEVE_PORT, "geneve", "udp"),
        *_advance(8 + 8, label="vxlan"),
        Op(bpf.JA, yes="ethernet"),
        Op(bpf.IND_H, 8 + 2, label="geneve"),
        Op(bpf.ST, ETHERTYPE),
        Op(bpf.IND_B, 8),
        Op(bpf.AND, 0x3F),  # options, in words (RFC 8926 §3.4)
        Op(bpf.LSH, 2),
        Op(bpf.ADD, 8 + 8),
        Op(bpf.ADD_X),
        Op(bpf.TAX),
        Op(bpf.JA, yes="bridged?"),
        Op(bpf.IND_H, 0, label="gre"),
        Op(bpf.JSET, 0x4007, "reject"),  # source routing (RFC 1701), versions other than 0
        Op(bpf.ST, FLAGS),
        Op(bpf.IND_H, 2),
        Op(bpf.ST, ETHERTYPE),
        *_add_word_if(0x8000),  # checksum
        *_add_word_if(0x2000),  # key
        *_add_word_if(0x1000),  # sequence number
        *_advance(4),
        Op(bpf.LD_MEM, ETHERTYPE, label="bridged?"),
        Op(bpf.JEQ, _ETHERNET, "ethernet", "ip1"),
        Op(bpf.IND_H, 12, label="ethernet"),
        Op(bpf.ST, ETHERTYPE),
        *_advance(14),
        Op(bpf.LD_MEM, ETHERTYPE),
        Op(bpf.JA, yes="ip1"),
        Op(bpf.LD_IMM, _IPV6, label="6in4"),
        Op(bpf.JA, yes="ip1"),
        Op(bpf.LD_IMM, _IPV4, label="ipip"),
    ]


def _tcp(http: str, snaplen: int, bits: int, memory: Memory | None) -> list[Op]:
    """Flags first, then the first words of the payload; a segment without payload ends at their load.

    `http`: whether HTTP heads pass, "some-head", "head-ports" or "". What is no known beginning goes, or is looked up.
    """
    other = "other" if memory and memory.first else "reject"
    enough = remembered.enough if other == "other" else lambda _: []
    proxy = "header" if bits else "proxied"
    return [
        Op(bpf.STX, TRANSPORT, label="tcp"),
        Op(bpf.IND_B, 13),
        Op(bpf.JSET, _FIN_SYN_RST, "control" if bits or memory else "ports"),
        Op(bpf.IND_B, 12),
        Op(bpf.AND, 0xF0),
        Op(bpf.RSH, 2),
        Op(bpf.ADD_X),
        Op(bpf.TAX),
        *enough(4),
        Op(bpf.IND_W, 0),
        Op(bpf.JEQ, _PROXY_V1, proxy),
        Op(bpf.JEQ, _PROXY_V2[0], "v2"),
        Op(bpf.JEQ, _HTTP, "response"),
        *(Op(bpf.JEQ, method, "request") for method in _METHODS),
        Op(bpf.RSH, 16),
        Op(bpf.JEQ, _TLS_HANDSHAKE_3, "handshake"),
        Op(bpf.JEQ, _TLS_ALERT_3, "alert", other),
        *_labelled("handshake", enough(6)),
        Op(bpf.IND_B, 5),
        Op(bpf.JEQ, _CLIENT_HELLO, "head", other),
        *_labelled("alert", enough(5)),
        Op(bpf.IND_H, 3),
        Op(bpf.JEQ, 2, "head", other),  # an encrypted one is longer
        *_labelled("v2", enough(8)),
        Op(bpf.IND_W, 4),
        Op(bpf.JEQ, _PROXY_V2[1], proxy, other),
        *_labelled("response", enough(12)),
        Op(bpf.IND_W, 4),
        Op(bpf.RSH, 8),
        Op(bpf.JEQ, _HTTP_1, "", other),
        Op(bpf.IND_W, 8),
        Op(bpf.JEQ, _STATUS_400, "head"),
        Op(bpf.JA, yes="request" if http else "other" if other == "other" else "reject"),
        *_end(http, snaplen, bits, memory),
    ]


def _end(http: str, snaplen: int, bits: int, memory: Memory | None) -> list[Op]:
    """What becomes of each kind of payload, and of what begins or ends a connection."""
    head = remembered.because(remembered.KNOWN if bits else remembered.HEAD) if memory else []
    proxied = remembered.because(remembered.HEAD) if memory else []
    chosen = _chosen(bits, "chosen", "others") if bits else []
    control = remembered.control(chosen) if memory else _sampled(bits) if bits else []
    return [
        *_payload("request", snaplen, head, "ports" if http == "some-head" else http or "reject"),
        *_payload("head", snaplen, head, "ports"),
        *(_header(bits) if bits else ()),
        *_payload("proxied", snaplen, proxied, "ports"),
        *control,
        *(remembered.other(snaplen) if memory and memory.first else ()),
    ]


def _payload(label: str, snaplen: int, why: list[Op], then: str) -> list[Op]:
    """A payload that says something: so many bytes of it, if its ports are right."""
    return [*_keep(snaplen, label), *why, Op(bpf.LDX_MEM, TRANSPORT), Op(bpf.JA, yes=then)]


def _labelled(label: str, ops: list[Op]) -> list[Op]:
    """The same with a name for where they begin."""
    return [ops[0]._replace(label=label), *ops[1:]] if ops else [Op(bpf.OR, 0, label=label)]


def _header(bits: int) -> list[Op]:
    """A PROXY header is a connection's first data: its sequence number, less one, is the ISN."""
    return [
        Op(bpf.LDX_MEM, TRANSPORT, label="header"),
        Op(bpf.IND_W, 4),
        Op(bpf.SUB, 1),
        *_chosen(bits, "proxied", "reject"),
    ]


def _sampled(bits: int) -> list[Op]:
    """From a handshake's numbers to its connection's ISN, and on to "ports" if that is chosen; X = TCP header."""
    return [
        Op(bpf.JSET, _SYN, "", "ports", label="control"),  # what ends a connection is not known by its ISN
        Op(bpf.JSET, _ACK, "", "opening"),
        Op(bpf.IND_W, 8),
        Op(bpf.SUB, 1),
        Op(bpf.JA, yes="isn"),
        Op(bpf.IND_W, 4, label="opening"),
        *_labelled("isn", _chosen(bits, "ports", "reject")),
    ]


def _chosen(bits: int, then: str, otherwise: str) -> list[Op]:
    """`sampling.chosen` of A."""
    return [
        Op(bpf.MUL, MULTIPLIER),
        Op(bpf.RSH, 32 - bits),
        Op(bpf.JEQ, 0, then, otherwise),
    ]


def _icmp_errors() -> list[Op]:
    """Unreachable, time exceeded, parameter problem (RFC 792); the same and "too big" (RFC 4443 §3)."""
    return [
        Op(bpf.IND_B, 0, label="icmp"),
        *(Op(bpf.JEQ, kind, "keep") for kind in (3, 11)),
        Op(bpf.JEQ, 12, "keep", "reject"),
        Op(bpf.IND_B, 0, label="icmp6"),
        Op(bpf.JEQ, 0, "reject"),
        Op(bpf.JGT, 4, "reject", "keep"),
    ]


def _match_ports(name: str, ports: Collection[int]) -> list[Op]:
    """From X = TCP or UDP header: keep where source or destination port is one of `ports`; none: any is."""
    if not ports:
        return [Op(bpf.JA, yes="keep", label=name)]
    ranges = _ranges(ports)
    destination = f"{name}:destination"
    return [
        Op(bpf.IND_H, 0, label=name),
        *_search(f"{name}:source", ranges, "keep", destination),
        Op(bpf.IND_H, 2, label=destination),
        *_search(f"{name}:second", ranges, "keep", "reject"),
    ]


def _ranges(ports: Collection[int]) -> list[tuple[int, int]]:
    """Neighbouring ports as (first, last); where there are too many, the narrowest gaps are closed."""
    ordered = sorted(set(ports))
    gaps = sorted(range(1, len(ordered)), key=lambda at: ordered[at - 1] - ordered[at])
    borders = sorted(at for at in gaps[: MOST_RANGES - 1] if ordered[at] - ordered[at - 1] > 1)
    starts, ends = [0, *borders], [*borders, len(ordered)]
    return [(ordered[start], ordered[end - 1]) for start, end in zip(starts, ends, strict=True)]


def _search(name: str, ranges: list[tuple[int, int]], found: str, missed: str) -> list[Op]:
    """A binary search for A among sorted ranges."""
    if len(ranges) > 1:
        middle = len(ranges) // 2
        upper = f"{name}>"
        lower_half = _search(f"{name}<", ranges[:middle], found, missed)
        upper_half = _search(upper, ranges[middle:], found, missed)
        return [Op(bpf.JGE, ranges[middle][0], upper, "", label=name), *lower_half, *upper_half]
    first, last = ranges[0]
    if first == last:
        return [Op(bpf.JEQ, first, found, missed, label=name)]
    return [Op(bpf.JGE, first, "", missed, label=name), Op(bpf.JGT, last, missed, found)]


def _advance(size: int, label: str = "") -> list[Op]:
    """X += size."""
    return [Op(bpf.TXA, label=label), Op(bpf.ADD, size), Op(bpf.TAX)]


def _add_word_if(bit: int) -> list[Op]:
    """X += 4 where `bit`, one above 4, is set in M[flags]."""
    shift = bit.bit_length() - 3
    return [Op(bpf.LD_MEM, FLAGS), Op(bpf.RSH, shift), Op(bpf.AND, 4), Op(bpf.ADD_X), Op(bpf.TAX)]


def _keep(size: int, label: str) -> list[Op]:
    return [Op(bpf.LD_IMM, size, label=label), Op(bpf.ST, KEEP)]
