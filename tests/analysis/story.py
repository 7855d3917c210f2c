"""A small language for tests: this packet here, then there, so this verdict.

story = Story(cluster(policy="Cluster", endpoints=["node2"]))
story.connection("client:c/eth0 nic:node1/eth0", "203.0.113.9:40000", "172.30.0.11:30080") ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from analysis.analyze import analyze
from analysis.facts import Balancer, Endpoint, Facts, Node, Pod, Policy, Service, ServicePort
from analysis.recording import Recording, RecordingBuilder
from analysis.report import Journey, Report
from daemonset.decode.head import read_payload
from daemonset.observation import NAT, PACKET, Head, Tap, TapKind, TcpFlag, Tunnel, address_words

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
CLIENT = "203.0.113.9"
NODES = {f"node{n}": f"172.30.0.{10 + n}" for n in (1, 2, 3)}
PODS = {f"node{n}": f"10.244.{n}.5" for n in (1, 2, 3)}
HTTP = b"GET /debug/ip HTTP/1.1\r\nHost: shop.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def cluster(
    policy: str = "Cluster",
    endpoints: tuple[str, ...] = ("node2",),
    *,
    vip: str | None = None,
    balancer: str | None = None,
    external_ip: str | None = None,
    proxy_mode: str = "iptables",
    ready: bool = True,
    **facts: Any,
) -> Facts:
    """Three nodes, a Service `shop/web` on node port 30080 and port 80, and a client pod on node1."""
    balancers = [Balancer(vip, None, "VIP")] if vip else []
    balancers += [Balancer(balancer, None, "Proxy")] if balancer else []
    service = Service(
        namespace="shop",
        name="web",
        type="LoadBalancer",
        external_policy=Policy(policy),
        cluster_ips=("10.96.0.80",),
        external_ips=(external_ip,) if external_ip else (),
        balancers=tuple(balancers),
        ports=(ServicePort("http", "tcp", 80, 30080), ServicePort("dns", "udp", 53, 30053)),
        endpoints=tuple(
            Endpoint(PODS[node], port, protocol, name, node, f"web-{node}", ready, True, not ready)
            for node in endpoints
            for port, protocol, name in ((8080, "tcp", "http"), (5353, "udp", "dns"))
        ),
        health_check_node_port=32100,
    )
    pods = [Pod("shop", f"web-{node}", node, (PODS[node],)) for node in endpoints]
    pods.append(Pod("shop", "tool", "node1", ("10.244.1.9",)))
    nodes = tuple(Node(name, (address,), (f"10.244.{name[-1]}.0/24",)) for name, address in NODES.items())
    return Facts(nodes=nodes, pods=tuple(pods), services=(service,), proxy_mode=proxy_mode, **facts)


def _split(endpoint: str) -> tuple[int, int, int]:
    address, _, port = endpoint.rpartition(":")
    return *address_words(address.strip("[]")), int(port)


def _tap(text: str) -> Tap:
    kind, _, where = text.partition(":")
    node, _, interface = where.partition("/")
    return Tap(node, TapKind(kind), interface)


@dataclass
class Story:
    """Packets in the order in which they are told; `clocks` shifts a place's clock by seconds."""

    facts: Facts
    clocks: dict[str, float] = field(default_factory=dict)
    taps: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[int, bytes, Head | None]] = field(default_factory=list)
    records: list[tuple[str, bytes]] = field(default_factory=list)
    now: int = START

    def watch(self, *taps: str) -> Story:
        """Open taps that may stay silent."""
        for tap in taps:
            self.taps.setdefault(tap, len(self.taps))
        return self

    def wait(self, seconds: float) -> Story:
        """Let time pass."""
        self.now += int(seconds * SECOND)
        return self

    def packet(
        self, tap: str, src: str, dst: str, *, protocol: int = 6, flags: int = 0, seq: int = 0, ack: int = 0,
        tsval: int = 0, tsecr: int = 0, payload: bytes = b"", tunnel: Tunnel = Tunnel.NONE, icmp: int = 0,
        sender: str = "0.0.0.0",
    ) -> Story:  # fmt: skip
        """One packet at one tap."""
        self.watch(tap)
        self.now += 10_000
        kind, head = read_payload(payload)
        digest = int.from_bytes(blake2b(payload[:256], digest_size=8).digest(), "little") if payload else 0
        (src_hi, src_lo, sport), (dst_hi, dst_lo, dport) = _split(src), _split(dst)
        values = dict.fromkeys((column.name for column in PACKET.columns), 0)
        outer = address_words(sender)
        values |= {
            "time": self.now + int(self.clocks.get(_tap(tap).node, 0) * SECOND),
            "src_hi": src_hi, "src_lo": src_lo, "sport": sport,
            "dst_hi": dst_hi, "dst_lo": dst_lo, "dport": dport,
            "outer_src_hi": outer[0] if icmp else 0, "outer_src_lo": outer[1] if icmp else 0,
            "protocol": protocol, "flags": flags, "seq": seq, "ack": ack, "tsval": tsval, "tsecr": tsecr,
            "length": len(payload), "payload": kind, "digest": digest, "tunnel": tunnel, "icmp": icmp,
            "tap": self.taps[tap],
        }  # fmt: skip
        row = PACKET.struct.pack(*(values[column.name] for column in PACKET.columns))
        self.rows.append((self.taps[tap], row, head))
        return self

    def syn(self, path: list[tuple[str, str, str]], isn: int, tsval: int = 1000, **more: Any) -> Story:
        """A SYN that is seen at each tap of the path with these addresses."""
        for tap, src, dst in path:
            self.packet(tap, src, dst, flags=TcpFlag.SYN, seq=isn, tsval=tsval, **more)
        return self

    def connection(
        self,
        path: list[tuple[str, str, str]],
        isn: int = 7_000,
        tsval: int = 1_000,
        data: bytes = HTTP,
        response: bytes = OK,
        server_isn: int | None = None,
        **more: Any,
    ) -> Story:
        """Handshake, first bytes of the client and of the server, seen at each tap of the path."""
        server = server_isn if server_isn is not None else isn ^ 0x5555_5555
        stamp = {"tsval": tsval} if tsval else {}
        echo = {"tsecr": tsval, "tsval": tsval + 7} if tsval else {}
        self.syn(path, isn, tsval, **more)
        for tap, src, dst in reversed(path):
            self.packet(
                tap, dst, src, flags=TcpFlag.SYN | TcpFlag.ACK, seq=server, ack=isn + 1, **echo, **more
            )
        if data:
            for tap, src, dst in path:
                self.packet(
                    tap, src, dst, flags=TcpFlag.PSH | TcpFlag.ACK, seq=isn + 1, ack=server + 1, payload=data,
                    **stamp, **more,
                )  # fmt: skip
        if response:
            for tap, src, dst in reversed(path):
                self.packet(
                    tap, dst, src, flags=TcpFlag.PSH | TcpFlag.ACK, seq=server + 1, ack=isn + 1 + len(data),
                    payload=response, **echo, **more,
                )  # fmt: skip
        return self

    def respond(
        self, path: list[tuple[str, str, str]], isn: int, data: bytes, response: bytes = OK, sent: int = 0
    ) -> Story:
        """The server's bytes, later than the client's `data`; it had sent `sent` bytes before."""
        for tap, src, dst in reversed(path):
            self.packet(
                tap, dst, src, flags=TcpFlag.PSH | TcpFlag.ACK, seq=(isn ^ 0x5555_5555) + 1 + sent,
                ack=isn + 1 + len(data), payload=response,
            )  # fmt: skip
        return self

    def say(self, path: list[tuple[str, str, str]], isn: int, data: bytes, sent: int) -> Story:
        """More bytes of the client, which had sent `sent` bytes before."""
        for tap, src, dst in path:
            self.packet(
                tap, src, dst, flags=TcpFlag.PSH | TcpFlag.ACK, seq=isn + 1 + sent,
                ack=(isn ^ 0x5555_5555) + 1, payload=data,
            )  # fmt: skip
        return self

    def close(
        self, path: list[tuple[str, str, str]], isn: int, *, sent: int = 0, flag: TcpFlag = TcpFlag.FIN
    ) -> Story:
        """The server ends the connection after `sent` bytes."""
        for tap, src, dst in reversed(path):
            self.packet(
                tap, dst, src, flags=flag | TcpFlag.ACK, seq=(isn ^ 0x5555_5555) + 1 + sent, ack=isn + 9
            )
        return self

    def relayed(self, *legs: tuple[list[tuple[str, str, str]], int, bytes], response: bytes = OK) -> Story:
        """Connections that carry one another on, the client's first: each opened in turn, answered in reverse."""
        for path, isn, data in legs:
            self.connection(path, isn=isn, tsval=isn, data=data, response=b"")
        for path, isn, data in reversed(legs):
            self.respond(path, isn, data, response)
        return self

    def conntrack(
        self, node: str, original: tuple[str, str], translated: tuple[str, str], protocol: int = 6
    ) -> Story:
        """The node's kernel translated `original` into `translated` (client's direction both)."""
        values = dict.fromkeys((column.name for column in NAT.columns), 0)
        values["protocol"], values["time"] = protocol, self.now
        order = {
            "orig_src": original[0],
            "orig_dst": original[1],
            "reply_dst": translated[0],
            "reply_src": translated[1],
        }
        for name, text in order.items():
            high, low, port = _split(text)
            side, _, end = name.partition("_")
            values[f"{name}_hi"], values[f"{name}_lo"] = high, low
            values[f"{side}_{'sport' if end == 'src' else 'dport'}"] = port
        self.records.append((node, NAT.struct.pack(*(values[column.name] for column in NAT.columns))))
        return self

    def recording(self) -> Recording:
        """All that was told, as a recording."""
        builder = RecordingBuilder()
        stream = builder.stream("story")
        for tap in self.taps:
            stream.tap(_tap(tap))
        for _, row, head in self.rows:
            if head is None:
                stream.packets(row)
            else:
                names = [column.name for column in PACKET.columns]
                values = dict(zip(names, PACKET.struct.unpack(row), strict=True)) | {"head": 1}
                stream.packets(PACKET.struct.pack(*values.values()), (head,))
        for node, record in self.records:
            builder.stream(node).nat(record)
        return builder.build()

    def report(self, **options: Any) -> Report:
        """The analysis of it."""
        return analyze(self.recording(), self.facts, **options)

    def journey(self, **options: Any) -> Journey:
        """The only journey of it."""
        report = self.report(**options)
        assert len(report.journeys) == 1, [(j.client, j.verdict, j.reason) for j in report.journeys]
        return report.journeys[0]
