"""Where the search begins: an input for each thing that the decoders know. `python -m tests.fuzz.seeds` writes them."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from daemonset import wire
from daemonset.decode.packet import Batch
from daemonset.node.ctnetlink import parse_message
from daemonset.node.health_port import Answered, understood
from daemonset.node.nfnetlink import Order, attribute, name, nested, u32
from daemonset.observation import (
    PACKET,
    Bye,
    Chain,
    ConntrackCounts,
    Gap,
    Heads,
    Hello,
    Interface,
    Loss,
    PodNamespace,
    Route,
    Rule,
    RuleHit,
    RuleHits,
    Ruleset,
    Tap,
    TapKind,
    Taps,
    Topology,
    TracedRules,
    Tracing,
)
from probe.objects import facts_from_objects
from probe.sessions.folder import Meta
from tests.decode.encode import SIGNATURE, inet, tcp4, tlv, v1, v2, with_checksum
from tests.fuzz.texts import (
    ANSWER,
    CONFIGMAP,
    DUMP,
    EVENTS,
    HAPROXY,
    HEALTH,
    KUBECONFIG,
    LIST,
    LOGS,
    NGINX,
    SCENARIO,
    STATUS,
)
from tests.ground.test_conntrack_counters import CPU, FILLED
from tests.ground.test_conntrack_records import WHOLE
from tests.ground.test_legacy_table import entry, info
from tests.ground.test_trace_messages import IPV4, expression, rule, trace
from tests.ground.test_trace_messages import TCP as TCP_HEADER

CORPUS = Path(__file__).parent / "corpus"

LINE = v1("TCP4", "192.0.2.1", "198.51.100.2", 56324, 443)
GET = b"GET / HTTP/1.1\r\nHost: app\r\nX-Forwarded-For: 192.0.2.1, 10.0.0.1\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nContent-Length: 5\r\nForwarded: for=192.0.2.1\r\n\r\nhello"
CHUNKED = b"PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n"
SSL = (
    b"\x05"
    + bytes(4)
    + tlv(0x21, b"TLSv1.3")
    + tlv(0x22, b"cn")
    + tlv(0x26, b"x25519")
    + tlv(0x28, b"\x30\x00")
)
AWS_CHECK = with_checksum(v2(0x11, tlv(3, bytes(4)) + tlv(4, bytes(20)), command=0))

_HELLO_BODY = b"\x03\x03" + bytes(range(32)) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + b"\0\x14"
_HELLO_BODY += b"\0\0\0\x10\0\x0e\0\0\x0bapp.example"
HELLO = b"\x16\x03\x01\0\x43\x01\0\0\x3f" + _HELLO_BODY

HEADERS = {
    "v1-tcp4": LINE + GET,
    "v1-tcp6": v1("TCP6", "2001:db8::1", "::ffff:192.0.2.1", 1, 65535),
    "v1-unknown": b"PROXY UNKNOWN ffff::1 x\r\n",
    "v1-broken": b"PROXY TCP4 192.0.02.1 1.2.3.4 1 2\r\n",
    "v2-tcp4": tcp4() + GET,
    "v2-tcp6": v2(0x21, inet("2001:db8::1", "2001:db8::2", 1, 2)),
    "v2-unix": v2(0x31, b"/run/a".ljust(108, b"\0") + b"\0abstract".ljust(108, b"\0")),
    "v2-local": v2(0x00, b"", command=0),
    "v2-local-aws": AWS_CHECK,
    "v2-unspec": v2(0x00, tlv(1, b"h2")),
    "v2-crc": with_checksum(tcp4(tlv(3, bytes(4)))),
    "v2-tlvs": tcp4(tlv(1, b"\x02h2"), tlv(2, b"app"), tlv(4, b"\0"), tlv(5, b"id"), tlv(0x30, b"ns")),
    "v2-ssl": tcp4(tlv(0x20, SSL)),
    "v2-vendors": tcp4(tlv(0xEA, b"\x01vpce-1"), tlv(0xEE, b"\x01\1\2\3\4"), tlv(0xE0, bytes(8))),
    "v2-bad-version": SIGNATURE + b"\x11\x11\0\0",
    "two": LINE + tcp4() + HELLO,
}
PAYLOADS = {
    **HEADERS,
    "get": GET,
    "pipelined": GET + POST + CHUNKED + GET,
    "response": b"HTTP/1.1 400 Bad Request\r\nVia: 1.1 lb\r\n\r\n",
    "h2": LINE + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "hello": HELLO,
    "begun": b"PROX",
}
_TCP = IP(src="192.0.2.1", dst="10.0.0.1") / TCP(options=[("MSS", 1460), ("Timestamp", (1, 0))]) / LINE
PACKETS = {
    "ethernet": Ether() / _TCP,
    "vlan": Ether() / Dot1Q(vlan=7) / IPv6() / TCP() / GET,
    "vxlan": Ether() / IP() / UDP(dport=4789) / VXLAN(vni=1) / Ether() / _TCP,
    "gre": Ether() / IP() / GRE(key_present=1, key=1) / _TCP,
    "raw-ipip": IP() / _TCP,
    "udp": Ether() / IP() / UDP() / tcp4(),
    "icmp": Ether() / IP() / ICMP(type=3, code=1) / IP(src="10.0.0.1") / TCP(),
}


def stream() -> bytes:
    """A small recording with one of most things."""
    written: list[bytes] = []
    writer = wire.Writer(written.append)
    writer.message(Hello("node1"))
    writer.message(Taps((Tap("node1", TapKind.NIC, "eth0"),)))
    batch = Batch()
    for packet in PACKETS.values():
        batch.add(bytes(packet), link=1, time=1, tap=0)
    writer.packets(*batch.take())
    writer.message(Loss(0, 7, 0))
    writer.message(Bye("end"))
    return b"".join(written)


OBJECTS = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {"kind": "Node", "metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.0.0.0/24"]},
         "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}},
        {"kind": "Pod", "metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n"},
         "status": {"podIPs": [{"ip": "10.0.0.2"}], "phase": "Running"}},
        {"kind": "Service", "metadata": {"name": "s", "namespace": "d"},
         "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIPs": ["10.96.0.1"],
                  "healthCheckNodePort": 32000, "ports": [{"port": 80, "nodePort": 30080, "targetPort": "http"}]},
         "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1", "ipMode": "Proxy"}]}}},
        {"kind": "EndpointSlice", "metadata": {"name": "s-1", "namespace": "d",
                                               "labels": {"kubernetes.io/service-name": "s"}},
         "ports": [{"port": 8080, "protocol": "TCP"}],
         "endpoints": [{"addresses": ["10.0.0.2"], "nodeName": "n", "conditions": {"ready": True}}]},
    ],
}  # fmt: skip
LINES = (
    b"tcp      6 86399 ESTABLISHED src=192.0.2.1 dst=198.51.100.1 sport=1 dport=80 src=10.0.0.2 dst=192.0.2.1 "
    b"sport=8080 dport=1 [ASSURED] mark=0 use=1\n    [NEW] udp      17 30 src=::1 dst=::2 sport=1 dport=2"
)


def chain() -> bytes:
    """A base chain, as NFT_MSG_NEWCHAIN tells it."""
    said = (
        name(1, "nat")
        + name(3, "pre")
        + nested(4, u32(1, 0), u32(2, 0xFFFFFF9C))
        + u32(5, 1)
        + name(7, "nat")
    )
    return Order(3, 0, 2, said).message(1)


def elements() -> bytes:
    """Elements of a map, as NFT_MSG_NEWSETELEM tells them."""
    verdict = nested(2, nested(2, u32(1, -3), name(2, "KUBE-SVC-X")))
    one = nested(1, nested(1, nested(1, attribute(1, bytes([10, 0, 0, 1])))), verdict)
    end = nested(1, nested(1, nested(1, attribute(1, bytes([10, 0, 0, 9])))), u32(3, 1))
    return Order(12, 0, 2, name(1, "nat") + name(2, "m") + nested(3, one, end)).message(1)


ENTRIES = entry(verdict=-1, packets=7) + entry(verdict=-1)


def capture_file() -> bytes:
    """One packet, as pcap."""
    data = bytes(PACKETS["vlan"])
    head = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    return head + struct.pack("=IIII", 1, 2, len(data), len(data)) + data


def capture_file_ng() -> bytes:
    """One packet, as pcapng."""
    data = bytes(PACKETS["gre"])
    section = struct.pack("=IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    interface = struct.pack("=IIHHII", 1, 20, 1, 0, 0, 20)
    size = 32 + len(data) + -len(data) % 4
    packet = struct.pack("=IIIIIII", 6, size, 0, 0, 7, len(data), len(data)) + data + bytes(-len(data) % 4)
    return section + interface + packet + struct.pack("=I", size)


def some(*names: str) -> dict[str, bytes]:
    return {name: HEADERS[name] for name in names}


def framed(kind: int, payload: bytes) -> bytes:
    """A frame for `recordings`: its kind, then what is in it."""
    return bytes([kind]) + payload


def message(value: object) -> bytes:
    return framed(0, msgspec.msgpack.encode(value))


def rows() -> dict[str, bytes]:
    """Rows of a stream, plain and packed."""
    batch = Batch()
    for each in PACKETS.values():
        batch.add(bytes(each), link=1, time=1, tap=0)
    plain, heads = batch.take()
    written: list[bytes] = []
    writer = wire.Writer(written.append)
    writer.packets(plain)
    whole = b"".join(written)
    (nat,) = [row for row in [parse_message(WHOLE, time=1)] if row is not None]
    return {
        "packets": framed(1, bytes(plain[: 2 * PACKET.size])),
        "packed": framed(3, whole[wire.PREAMBLE.size + wire.HEADER.size :]),
        "nat": framed(2, nat),
        "heads": message(Heads(heads)),
    }


RULE = Rule("ip", "nat", "KUBE-SVC-X", 7, "tcp dport 80", "default/web:http", "dnat")
MESSAGES = {
    "hello": message(Hello("node1", features={"ring": "v3"})),
    "taps": message(Taps((Tap("node1", TapKind.NIC, "eth0"),))),
    "topology": message(
        Topology(
            interfaces=(Interface(2, "eth0", addresses=("192.0.2.1/24", "2001:db8::1/64")),),
            routes=(Route("10.0.0.0/8", "192.0.2.254", "eth0"),),
            pods=(PodNamespace("1", ("10.0.0.2/24",), "veth1"),),
        )
    ),
    "loss": message(Loss(0, 7, 0)),
    "gap": message(Gap("conntrack", "more than 7", 1)),
    "bye": message(Bye("end")),
    "conntrack-counts": message(ConntrackCounts(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)),
    "tracing": message(Tracing("1", "nftables trace", unheard=("iptables-legacy nat",))),
    "rules": message(TracedRules((RULE,))),
    "hits": message(RuleHits((RuleHit(1, 2, "ip", "nat", "KUBE-SVC-X", 7, "jump", "KUBE-MARK-MASQ"),))),
    "ruleset": message(Ruleset("nftables", chains=(Chain("ip", "nat", "c"),), rules=(RULE,))),
}


def seeds() -> dict[str, bytes]:
    """Every seed by its file's name: its reader's, and what it is. A seed's first byte is the number beside it."""
    plain = {
        "proxy_headers": HEADERS,
        "payloads": {name: data for name, data in PAYLOADS.items() if name not in HEADERS or name == "two"},
        "requests": {name: PAYLOADS[name] for name in ("get", "pipelined", "response")},
        "hellos": {"hello": HELLO},
        "packets": {name: bytes(packet) for name, packet in PACKETS.items()},
        "streams": some("v1-tcp4", "two"),
        "claims": {"lists": b'192.0.2.1, 10.0.0.1\nfor=192.0.2.1;by=x, for="[2001:db8::1]:80"\n192.0.2.1'},
        "conntrack": {"message": WHOLE},
        "conntrack_counters": {"filled": FILLED, "cpu": CPU},
        "conntrack_tables": {"lines": LINES},
        "netfilter": {
            "trace": trace(attribute(8, IPV4), attribute(9, TCP_HEADER), u32(14, 0x4000)),
            "odd-name": trace().replace(b"KUBE", b"KUB\xff").replace(b"EXT", b"\n\x1b["),
            "rule": rule(expression("meta", u32(2, 12), u32(3, 1)), expression("masq", u32(1, 0))),
        },
        "rule_expressions": {"each": bytes(number * 7 % 256 for number in range(240))},
        "legacy_rules": {"each": bytes(number * 5 % 61 for number in range(400))},
        "rule_sets": {"chain": chain(), "elements": elements()},
        "legacy_tables": {"output": info(ENTRIES, 0, len(ENTRIES) // 2) + ENTRIES},
        "frames": {"stream": stream()},
        "session_indices": {
            "whole": msgspec.json.encode(Meta(places=("n",), facts=facts_from_objects(OBJECTS)))
        },
        "health_answers": {"weight": ANSWER + HEALTH},
        "health_lines": {
            "answered": msgspec.json.encode(understood(Answered(0, 1, "closed"), ANSWER + HEALTH)) + b"\n"
        },
        "channel_messages": {
            "failed": b"\3" + msgspec.json.encode(STATUS),
            "status": msgspec.json.encode(STATUS),
        },
        "http_answers": {
            "length": b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"ip": 1}',
            "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
        },
        "echoes": {
            "json": b'{"client_host": ["192.0.2.1", 5000]}',
            "lines": b"RemoteAddr: 192.0.2.1:5000\nIP: ::1\n",
        },
        "capture_files": {"pcap": capture_file(), "pcapng": capture_file_ng()},
        "headers_in_files": {"pcap": capture_file(), "pcapng": capture_file_ng()},
        "hex_lines": {"line": LINE.hex(" ").encode()},
        "scenarios": {"small": SCENARIO},
        "manifests": {"yaml": CONFIGMAP, "json": msgspec.json.encode(OBJECTS)},
        "watch_events": {"two": EVENTS},
        "kubeconfigs": {"small": KUBECONFIG},
        "objects": {"list": msgspec.json.encode(OBJECTS)},
        "odd_scenarios": {"orders": bytes(range(24))},
        "odd_sessions": {"orders": bytes(range(24))},
        "rule_ways": {
            "some": b"-p tcp;-m tcp --dport 80\n-s 192.0.2.0/24;! -d ::1/128\n--set-xmark 0x4000/0x4000\n"
            b"--to-destination 10.0.0.2:8080\n-m mark ! --mark 0x4000/0x4000\n-m addrtype --dst-type LOCAL\n"
            b"-m multiport --dports 80,443:445\n-m conntrack --ctstate NEW"
        },
        "believed": {
            "lists": b'203.0.113.9\n192.0.2.1, 10.0.0.1\nfor=192.0.2.1;proto=http, for="[::1]:80"\n192.0.2.1:80'
        },
        "odd_clusters": {"orders": bytes(range(24))},
        "odd_manifests": {"orders": bytes(range(24))},
        "pods_and_nodes": {"orders": bytes(range(24))},
        "pod_commands": {
            "uvicorn": b"uvicorn\napp:main\n--proxy-headers\n--forwarded-allow-ips=$(A)\n10.0.0.0/8",
            "shell": b"sh\n-c\nexec gunicorn app:main --forwarded-allow-ips '*' -k uvicorn.workers.UvicornWorker",
            "kube-proxy": b"/usr/local/bin/kube-proxy\n--config=/x\n--cluster-cidr\n10.0.0.0/8\n--masquerade-all",
        },
        "told_settings": {
            "kube-proxy": b"mode: nftables\nclusterCIDR: 10.244.0.0/16\niptables: {masqueradeAll: true}\n"
        },
        "api_answers": {"status": msgspec.json.encode(STATUS), "list": msgspec.json.encode(LIST)},
        "answers": some("v1-tcp4", "v2-ssl", "v2-vendors", "two"),
        "receivers": some("v1-tcp6", "v1-broken", "v2-tlvs", "v2-local-aws", "v2-ssl"),
        "configurations": {"nginx": NGINX, "haproxy": HAPROXY, "configmap": CONFIGMAP, "dump": DUMP},
        "logs": LOGS,
    }
    numbered = {
        "recordings": rows() | MESSAGES,
        "ring_frames": {
            "syn": b"\0" + bytes(PACKETS["raw-ipip"]),
            "syn-ack": b"\1" + bytes(IPv6() / TCP(flags="SA", options=[("MSS", 1460), ("Timestamp", (1, 0))])),
        },
        "command_lines": {
            "uvicorn": b"\1--proxy-headers --forwarded-allow-ips 10.0.0.0/8,::1",
            "gunicorn": b"\2-b :80 --forwarded-allow-ips=* --proxy-protocol",
            "whole": b"\0A=b python -m uvicorn app:main",
        },
    }  # fmt: skip
    named = {
        f"{reader}.{name}": b"\7" + data for reader, each in plain.items() for name, data in each.items()
    }
    return named | {
        f"{reader}.{name}": data for reader, each in numbered.items() for name, data in each.items()
    }


if __name__ == "__main__":
    CORPUS.mkdir(exist_ok=True)
    for old in CORPUS.iterdir():
        old.unlink()
    for name, data in seeds().items():
        (CORPUS / name).write_bytes(data)
