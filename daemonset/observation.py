"""The observation schema: the only thing that agents and analysis share.

An observation is one thing seen at one point at one time by one agent. There are two shapes of it:

* **rows** of fixed layout, for what comes by the million: packets (`PACKET`) and kernel NAT records (`NAT`).
  Little-endian, no padding; `Layout.dtype()` reads a whole batch as columns, `Layout.struct` one row.
* **messages**, for what comes rarely: who the agent is, its taps, the node's topology, loss counters, and on
  request the rules that packets met.

Rules of this file:

1. It imports nothing that captures, decodes or judges; reading an old recording must not need them.
2. Fields are only ever added at the end of a layout or message, with a default; `SCHEMA_VERSION` rises when
   an older reader would misread a newer stream, and every older version stays readable.
3. Addresses are 128 bits in two words, IPv4 as ::ffff:a.b.c.d (RFC 4291 §2.5.5.2), so that one column type
   serves both families. Times are integer nanoseconds since the epoch, by the node's own clock.
4. Every string and byte that came from the wire is bounded where it is decoded, and hostile ever after.
"""

from __future__ import annotations

import enum
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    import numpy as np

#: 2: rules, as traced and as a whole, are messages that a reader of version 1 takes for damage. 3: so is what rules of
#: iptables-legacy counted. 4: so is what conntrack counted.
SCHEMA_VERSION = 4

#: Longest part of a header value that is kept, in characters. What is cut says so where it is shown.
VALUE_LIMIT = 2048


class TapKind(enum.StrEnum):
    """Where packets are captured (docs/architecture.md, "The words")."""

    CLIENT = "client"
    LB = "lb"
    NIC = "nic"
    BRIDGE = "bridge"
    VETH = "veth"
    TUNNEL = "tunnel"
    POD = "pod"


class Direction(enum.IntEnum):
    """Way of a packet at its tap, from sockaddr_ll.sll_pkttype (if_packet.h); files seldom know it."""

    UNKNOWN = 0
    IN = 1
    OUT = 2


class Tunnel(enum.IntEnum):
    """The encapsulation that a packet was found in."""

    NONE = 0
    VXLAN = 1  # RFC 7348
    GENEVE = 2  # RFC 8926
    IPIP = 3  # RFC 2003, RFC 4213 (6in4), RFC 2473
    GRE = 4  # RFC 2784, RFC 2890


class Payload(enum.IntEnum):
    """What the first bytes of a segment or datagram look like."""

    NONE = 0
    DATA = 1
    PROXY_V1 = 2
    PROXY_V2 = 3
    TLS_CLIENT_HELLO = 4
    HTTP_REQUEST = 5
    HTTP_RESPONSE = 6
    H2_PREFACE = 7
    TLS_OTHER = 8


class TcpFlag(enum.IntFlag):
    """RFC 9293 §3.1, the low byte of the flags."""

    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    ECE = 64
    CWR = 128


class Column(NamedTuple):
    """One field of a row: its name and its `struct` code (B, H, I or Q)."""

    name: str
    code: str


#: Bytes of whole rows of a layout; nobody changes them once they are made.
RowBytes = bytes | bytearray


class Layout:
    """The fixed layout of one kind of row, usable one at a time (`struct`) or as columns (`dtype`)."""

    def __init__(self, *columns: tuple[str, str]) -> None:
        self.columns = tuple(Column(name, code) for name, code in columns)
        self.struct = struct.Struct("<" + "".join(column.code for column in self.columns))

    @property
    def size(self) -> int:
        """Bytes in one row."""
        return self.struct.size

    def offset(self, name: str) -> int:
        """Where in a row a column begins, in bytes."""
        before = [column.name for column in self.columns].index(name)
        return struct.calcsize("<" + "".join(column.code for column in self.columns[:before]))

    def dtype(self) -> np.dtype[Any]:
        """The same layout for numpy, which is imported only here."""
        import numpy as np  # noqa: PLC0415 - readers of single messages need no numpy

        widths = {"B": "u1", "H": "<u2", "I": "<u4", "Q": "<u8"}
        return np.dtype([(column.name, widths[column.code]) for column in self.columns])


#: One packet at one tap. Tunnelled packets are described by their innermost headers; the tunnel's own
#: addresses stand in outer_*. For an ICMP error, the tuple, seq and protocol are those of the packet that it
#: quotes, `icmp` is type << 8 | code (ICMPv6: with bit 15 set), and outer_* are the error's own addresses.
PACKET = Layout(
    ("time", "Q"),  # ns since the epoch
    ("src_hi", "Q"), ("src_lo", "Q"),
    ("dst_hi", "Q"), ("dst_lo", "Q"),
    ("outer_src_hi", "Q"), ("outer_src_lo", "Q"),
    ("outer_dst_hi", "Q"), ("outer_dst_lo", "Q"),
    ("digest", "Q"),  # blake2b-64 of the payload's first 256 bytes; 0: no payload
    ("tap", "I"),  # index into the stream's (or the recording's) list of taps
    ("seq", "I"), ("ack", "I"),
    ("tsval", "I"), ("tsecr", "I"),  # RFC 7323; 0: option absent
    ("options", "I"),  # crc32 over the TCP options with timestamps zeroed; 0: none
    ("length", "I"),  # payload bytes according to the IP header, not to what was captured
    ("head", "I"),  # 1 + index into the batch's (or the recording's) heads; 0: none
    ("vni", "I"),  # VXLAN/Geneve network identifier, GRE key
    ("sport", "H"), ("dport", "H"),
    ("window", "H"), ("ipid", "H"), ("vlan", "H"),  # vlan: TCI with bit 12 set when a tag was present
    ("icmp", "H"),
    ("protocol", "B"),  # IANA: 6 TCP, 17 UDP, 132 SCTP
    ("flags", "B"),  # TcpFlag
    ("direction", "B"), ("tunnel", "B"), ("payload", "B"), ("ttl", "B"),
)  # fmt: skip

#: One NAT record of a node's conntrack table: the tuple as it entered, and the reply that the kernel expects.
#: DNAT is orig_dst != reply_src, SNAT is orig_src != reply_dst.
NAT = Layout(
    ("time", "Q"),
    ("orig_src_hi", "Q"), ("orig_src_lo", "Q"),
    ("orig_dst_hi", "Q"), ("orig_dst_lo", "Q"),
    ("reply_src_hi", "Q"), ("reply_src_lo", "Q"),
    ("reply_dst_hi", "Q"), ("reply_dst_lo", "Q"),
    ("status", "I"),  # IPS_* bits, nf_conntrack_common.h
    ("mark", "I"),
    ("node", "H"),  # index into the recording's nodes; 0 within one stream
    ("orig_sport", "H"), ("orig_dport", "H"),
    ("reply_sport", "H"), ("reply_dport", "H"),
    ("zone", "H"),
    ("protocol", "B"),
    ("event", "B"),  # NatEvent
)  # fmt: skip


class NatEvent(enum.IntEnum):
    """How a NAT record came to be known."""

    DUMP = 0
    NEW = 1
    UPDATE = 2
    DESTROY = 3


class Tap(msgspec.Struct, frozen=True):
    """A place where packets are captured.

    `namespace` tells pods of one node apart: the inode of the network namespace live, the given name offline.
    """

    node: str
    kind: TapKind
    interface: str
    namespace: str = ""
    addresses: tuple[str, ...] = ()


class Tlv(msgspec.Struct, frozen=True):
    """One type-length-value of a PROXY v2 header (proxy-protocol.txt §2.2.1)."""

    type: int
    name: str
    value: bytes
    decoded: Any = None


class ProxyHeader(msgspec.Struct, frozen=True):
    """One PROXY protocol header, v1 or v2, as decoded.

    `source` and `destination` are "ip:port" or "[ip]:port", a socket path for AF_UNIX, or None where the
    header carries no usable address (LOCAL, UNKNOWN, UNSPEC). `length` is the whole header's, in bytes.
    """

    version: int
    command: str
    family: str
    transport: str
    source: str | None
    destination: str | None
    tlvs: tuple[Tlv, ...]
    length: int
    warnings: tuple[str, ...] = ()


class HttpHead(msgspec.Struct, frozen=True):
    """The start line of an HTTP/1 message and those of its fields that speak about who the client is."""

    start: str  # "GET /debug/ip HTTP/1.1" or "HTTP/1.1 400 Bad Request"
    fields: tuple[tuple[str, str], ...] = ()  # lower-case name, value; order and repetitions kept


class TlsHello(msgspec.Struct, frozen=True):
    """What identifies a TLS ClientHello (RFC 8446 §4.1.2) at both sides of an L4 proxy."""

    random: bytes
    server_name: str | None = None


class HealthAnswer(msgspec.Struct, frozen=True):
    """What a health check node port says of the endpoints on its node; None where it does not say."""

    local_endpoints: int | None = None
    healthy: bool | None = None  # serviceProxyHealthy: kube-proxy itself
    service: str = ""  # namespace/name
    weight: int | None = None  # X-Load-Balancing-Endpoint-Weight


class Head(msgspec.Struct, frozen=True):
    """What the first bytes of a payload said: PROXY headers, one after the other, and what follows them."""

    proxy: tuple[ProxyHeader, ...] = ()
    proxy_error: str | None = None
    proxy_complete: bool = True  # False: the segment ends inside a header
    http: HttpHead | None = None
    tls: TlsHello | None = None
    raw: bytes = b""  # the PROXY header bytes as seen, at most 536 + 16
    more: tuple[HttpHead, ...] = ()  # requests pipelined behind the first in the same segment
    h2: bool = False  # an HTTP/2 connection preface (RFC 9113 §3.4) follows
    echo: str | None = None  # of a response: whom the body of what may be an echo's answer calls its client
    health: HealthAnswer | None = None  # of a response: what a health check node port's body and weight say


class Interface(msgspec.Struct, frozen=True):
    """A network interface of a node or pod, as rtnetlink names it."""

    index: int
    name: str
    kind: str = ""  # IFLA_INFO_KIND: veth, bridge, vxlan …; "" for hardware
    addresses: tuple[str, ...] = ()  # with prefix length
    peer: int = 0  # veth: index of the other end, in its own namespace
    master: int = 0


class Route(msgspec.Struct, frozen=True):
    """One route of the main table."""

    destination: str  # "default" or a prefix
    via: str | None = None
    interface: str | None = None


class PodNamespace(msgspec.Struct, frozen=True):
    """A pod's network namespace as found on the node."""

    namespace: str  # inode
    addresses: tuple[str, ...] = ()
    veth: str | None = None  # the host end
    process: int = 0


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First message of a stream: who speaks, which schema, and what this kernel allowed.

    `features` are facts such as {"ring": "v3", "sockbuf": "4194304"}; they end up in the session's facts.
    """

    node: str
    schema: int = SCHEMA_VERSION
    agent: str = ""
    time: int = 0
    features: dict[str, str] = {}


class Taps(msgspec.Struct, frozen=True, tag="taps"):
    """The taps opened since the last such message; indices of rows count them in order of arrival."""

    taps: tuple[Tap, ...]


class Topology(msgspec.Struct, frozen=True, tag="topology"):
    """Interfaces, routes and pod namespaces of the node."""

    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    pods: tuple[PodNamespace, ...] = ()


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """All taps of the beginning are open: what is sent from now on is seen.

    Said again, with the time, in answer to each beat of the lifeline.
    """

    time: int = 0


class Heads(msgspec.Struct, frozen=True, tag="heads"):
    """Heads referred to by the rows of the packet batch that follows."""

    heads: tuple[Head, ...]


class Loss(msgspec.Struct, frozen=True, tag="loss"):
    """What a kernel socket received and dropped since the last such message (PACKET_STATISTICS).

    One socket watches all interfaces of a network namespace: `tap` is the first of its taps, and a drop may have
    hit any tap of the same node and namespace.
    """

    tap: int
    received: int
    dropped: int
    time: int = 0


class Gap(msgspec.Struct, frozen=True, tag="gap"):
    """A known hole in what was observed: conntrack overrun, a tap that went away, a namespace not entered."""

    what: str
    detail: str
    time: int = 0


class Bye(msgspec.Struct, frozen=True, tag="bye"):
    """Last message of a stream that ended in order. A stream without one was cut off."""

    reason: str
    time: int = 0


class Tracing(msgspec.Struct, frozen=True, tag="tracing"):
    """Whether the kernel names the rules that packets meet in one network namespace, and how; said again at the end.

    `refused` says why it does not. `packets` were traced so far, at most `limit` that arrived and as many that began
    there; with `full`, one of the two is reached. With `overrun`, the kernel named more than could be read. `unheard`:
    tables of iptables-legacy, of whose rules the trace does not tell.
    """

    namespace: str = ""  # a pod's, by its inode; "": the node's own
    mechanism: str = ""  # "nftables trace"; "": none
    refused: str = ""
    limit: int = 0
    packets: int = 0
    overrun: bool = False
    time: int = 0
    full: bool = False
    unheard: tuple[str, ...] = ()


class Rule(msgspec.Struct, frozen=True):
    """A rule of the kernel's packet filter that a traced packet met, as far as it can be read.

    `action` is what it does with a packet that it matches: drop, reject, accept, dnat, redirect, snat, masquerade,
    mark, jump, goto, return, or another target's name in lower case. `text` is written as nft and iptables would.
    """

    family: str  # ip, ip6, inet, bridge, netdev, arp
    table: str
    chain: str
    handle: int  # within the table
    text: str = ""
    comment: str = ""
    action: str = ""
    namespace: str = ""


class TracedRules(msgspec.Struct, frozen=True, tag="traced-rules"):
    """Rules that the hits that follow refer to; each is told once."""

    rules: tuple[Rule, ...] = ()


class RuleHit(msgspec.Struct, frozen=True):
    """What the kernel says of one packet at one rule, or at the policy of a base chain (`handle` 0).

    Addresses, ports and sequence number are those with which the packet came to the base chain that led here;
    `packet` is the kernel's number of it, the same at all rules of one node and soon another's.
    """

    time: int
    packet: int
    family: str
    table: str
    chain: str
    handle: int
    verdict: str  # accept, drop, continue, jump, goto, return, queue, stolen
    target: str = ""  # the chain that is jumped to
    mark: int = 0
    protocol: int = 0
    source: str = ""  # ip:port or [ip]:port
    destination: str = ""
    seq: int = 0  # TCP
    namespace: str = ""


class RuleHits(msgspec.Struct, frozen=True, tag="rule-hits"):
    """Hits in the order in which the kernel told of them."""

    hits: tuple[RuleHit, ...] = ()


class Chain(msgspec.Struct, frozen=True):
    """A chain of the kernel's packet filter; only a base chain has a hook."""

    family: str
    table: str
    chain: str
    hook: str = ""  # prerouting, input, forward, output, postrouting; by its number where it has no name
    priority: int = 0
    policy: str = ""  # accept, drop
    type: str = ""  # filter, nat, route


class RuleSet(msgspec.Struct, frozen=True):
    """A set or map that rules look into. `elements` are written as nft would, "KEY" or "KEY : VALUE"."""

    family: str
    table: str
    name: str
    elements: tuple[str, ...] = ()


class Ruleset(msgspec.Struct, frozen=True, tag="ruleset"):
    """The packet filter of a node at one moment, as the kernel tells it: nftables' rules and those of iptables-nft.

    `refused` says why there is none. `omitted`: how many rules, and elements of sets, were too many to be kept.
    `unread` names tables of another kind, which the kernel does not tell here (iptables-legacy, IPVS).
    """

    mechanism: str = ""
    refused: str = ""
    chains: tuple[Chain, ...] = ()
    rules: tuple[Rule, ...] = ()
    sets: tuple[RuleSet, ...] = ()
    omitted: int = 0
    unread: tuple[str, ...] = ()
    time: int = 0


class CountedRule(msgspec.Struct, frozen=True):
    """A rule of iptables-legacy that counted packets during the capture.

    `number` is its place in its chain from 1, as `iptables -L --line-numbers` counts. `conditions` are what it asks of
    a packet, each as iptables-save writes it, all that there are; `does` is the rest of it. `action` is as in `Rule`.
    """

    number: int
    packets: int
    conditions: tuple[str, ...] = ()
    does: str = ""
    action: str = ""
    target: str = ""  # the chain that is jumped to
    comment: str = ""


class CountedChain(msgspec.Struct, frozen=True):
    """A chain of iptables-legacy with those of its rules that counted packets; the others matched none.

    `changed`: it was written anew meanwhile, so that its counters say nothing, and none of its rules is here.
    """

    family: str  # ip, ip6
    table: str
    chain: str
    hook: str = ""  # of a built-in chain: prerouting, input, forward, output, postrouting
    policy: str = ""  # accept, drop
    changed: bool = False
    rules: tuple[CountedRule, ...] = ()


class RuleCounts(msgspec.Struct, frozen=True, tag="rule-counts"):
    """What rules of iptables-legacy counted in one network namespace from `began` to `time`.

    `refused` says why there is nothing. `tables` are those with rules, as "ip nat". `rivals` are tables of nftables,
    and so of iptables-nft, that have rules too; with `rival_nat`, one of them translates addresses. `omitted`: how many
    rules were too many to be told.
    """

    namespace: str = ""
    refused: str = ""
    tables: tuple[str, ...] = ()
    chains: tuple[CountedChain, ...] = ()
    rivals: tuple[str, ...] = ()
    rival_nat: bool = False
    omitted: int = 0
    began: int = 0
    time: int = 0


class ConntrackCounts(msgspec.Struct, frozen=True, tag="conntrack-counts"):
    """What a node's conntrack counted from `began` to `time`, and how full its table was at both moments.

    `maximum` is nf_conntrack_max; 0: there is none, or the kernel does not say. The counters are the kernel's own, of
    all CPUs together; `daemonset.node.conntrack_counters` tells what each of them counts.
    """

    entries_before: int = 0
    maximum_before: int = 0
    entries: int = 0
    maximum: int = 0
    drop: int = 0
    early_drop: int = 0
    insert_failed: int = 0
    invalid: int = 0
    chain_too_long: int = 0
    began: int = 0
    time: int = 0


Message = (
    Hello
    | Taps
    | Topology
    | Ready
    | Heads
    | Loss
    | Gap
    | Bye
    | Tracing
    | TracedRules
    | RuleHits
    | Ruleset
    | RuleCounts
    | ConntrackCounts
)


def address_words(address: str | IPv4Address | IPv6Address) -> tuple[int, int]:
    """The two 64-bit words of an address; IPv4 is mapped into ::ffff:0:0/96.

    Raises ValueError where the text is no address.
    """
    parsed = ip_address(address) if isinstance(address, str) else address
    value = int(parsed)
    if parsed.version == 4:
        return 0, 0xFFFF_0000_0000 | value
    return value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF


def address_text(high: int, low: int) -> str:
    """The address of two words as people write it; mapped IPv4 in dotted form."""
    if high == 0 and low >> 32 == 0xFFFF:
        return str(IPv4Address(low & 0xFFFF_FFFF))
    return str(IPv6Address(high << 64 | low))


def endpoint_text(high: int, low: int, port: int) -> str:
    """`ip:port`, or `[ip]:port` for IPv6."""
    text = address_text(high, low)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
