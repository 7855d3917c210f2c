"""Which packets reach user space: the program's answers, and that the kernel gives the same."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemonset.taps import bpf, kernel_filter
from daemonset.taps.bpf import Op
from daemonset.taps.kernel_filter import CONTROL_BYTES, build
from daemonset.taps.sampling import chosen
from tests.agent.scene import scene, why_not

V4, V6 = 0x0800, 0x86DD
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
HELLO = b"\x16\x03\x01\x00\x20\x01\x00\x00\x1c\x03\x03" + bytes(30)
PROXY_1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 80\r\n"
PROXY_2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12)

Packet = tuple[int, bytes]  # ethertype, bytes from the network header on


def tcp(
    flags: int,
    payload: bytes = b"",
    *,
    sport: int = 40000,
    dport: int = 80,
    options: bytes = b"",
    seq: int = 1,
    ack: int = 2,
) -> bytes:
    return (
        struct.pack("!HHIIBBHHH", sport, dport, seq, ack, (20 + len(options)) << 2, flags, 9, 0, 0)
        + options
        + payload
    )


def udp(payload: bytes = b"", *, sport: int = 40000, dport: int = 53) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def ip4(protocol: int, payload: bytes, *, fragment: int = 0, options: bytes = b"") -> Packet:
    addresses = ip_address("192.0.2.1").packed + ip_address("198.51.100.2").packed
    size = 20 + len(options)
    header = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), 7, fragment, 64, protocol, 0)
    return V4, header + addresses + options + payload


def ip6(protocol: int, payload: bytes) -> Packet:
    addresses = ip_address("2001:db8::1").packed + ip_address("2001:db8::2").packed
    return V6, struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload


def ethernet(packet: Packet) -> bytes:
    return bytes(12) + struct.pack("!H", packet[0]) + packet[1]


def vxlan(packet: Packet, port: int = 4789) -> Packet:
    return ip4(17, udp(b"\x08\0\0\0\0\0\x2a\0" + ethernet(packet), dport=port))


def geneve(packet: Packet, options: bytes = b"") -> Packet:
    head = struct.pack("!BBHI", len(options) // 4, 0, 0x6558, 42 << 8)
    return ip4(17, udp(head + options + ethernet(packet), dport=6081))


def gre(packet: Packet, flags: int = 0) -> Packet:
    words = sum(bool(flags & bit) for bit in (0x8000, 0x2000, 0x1000))
    return ip4(47, struct.pack("!HH", flags, packet[0]) + bytes(4 * words) + packet[1])


def ipip(packet: Packet) -> Packet:
    return ip4(4 if packet[0] == V4 else 41, packet[1])


WRAPS: dict[str, Callable[[Packet], Packet]] = {
    "plain": lambda packet: packet,
    "vxlan": vxlan,
    "vxlan-flannel": lambda packet: vxlan(packet, 8472),
    "geneve": geneve,
    "geneve-options": lambda packet: geneve(packet, bytes(12)),
    "gre": gre,
    "gre-key": lambda packet: gre(packet, 0x2000),
    "gre-all": lambda packet: gre(packet, 0xB000),
    "ipip": ipip,
    "vxlan-over-6": lambda packet: ip6(17, udp(b"\x08" + bytes(7) + ethernet(packet), dport=4789)),
}
FAMILIES: dict[str, Callable[[bytes], Packet]] = {
    "4": lambda payload: ip4(6, payload),
    "4-options": lambda payload: ip4(6, payload, options=bytes(8)),
    "6": lambda payload: ip6(6, payload),
    "6-hop-by-hop": lambda payload: ip6(0, b"\x06\x00" + bytes(6) + payload),
    "6-first-fragment": lambda payload: ip6(44, b"\x06\x00\x00\x01" + bytes(4) + payload),
}


def keeps(program: bpf.Program, packet: Packet) -> int:
    return bpf.run(program, packet[1], protocol=packet[0])


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ports", [(), (80, 443)], ids=["all", "ports"])
def test_how_connections_begin_and_end(wrap: str, family: str, ports: tuple[int, ...]) -> None:
    program = build(ports)

    def kept(segment: bytes) -> int:
        return keeps(program, WRAPS[wrap](FAMILIES[family](segment)))

    for flags in (SYN, SYN | ACK, FIN | ACK, RST, RST | ACK):
        assert kept(tcp(flags)) == CONTROL_BYTES
    for payload in (
        PROXY_1,
        PROXY_2,
        HELLO,
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46",
    ):
        assert kept(tcp(PSH | ACK, payload, options=bytes(12))) > CONTROL_BYTES
    for payload in (b"", b"data", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"\x17\x03\x03\x00\x02ab"):
        assert kept(tcp(PSH | ACK, payload)) == 0


@pytest.mark.parametrize("wrap", WRAPS)
def test_ports_on_either_side_of_nat(wrap: str) -> None:
    program = build([80, 30080, 8080])
    for sport, dport, passes in ((1, 80, 1), (30080, 1, 1), (8080, 8080, 1), (1, 2, 0), (81, 79, 0)):
        kept = keeps(program, WRAPS[wrap](ip4(6, tcp(SYN, sport=sport, dport=dport))))
        assert bool(kept) == bool(passes)


@given(st.sets(st.integers(0, 0xFFFF), min_size=1, max_size=300), st.integers(0, 0xFFFF))
@settings(max_examples=50, deadline=None)
def test_any_set_of_ports(ports: set[int], other: int) -> None:
    program = build(ports)
    few = len(ports) < kernel_filter.MOST_RANGES
    for port in (other, *sorted(ports)[:3], *(port + 1 & 0xFFFF for port in sorted(ports)[:3])):
        kept = keeps(program, ip4(6, tcp(SYN, sport=port, dport=port)))
        assert kept or port not in ports
        assert not (kept and few and port not in ports)


def test_heads_on_request_and_of_health_checks() -> None:
    request, answer = b"GET /healthz HTTP/1.1\r\n", b"HTTP/1.1 503 Service Unavailable\r\n"
    for payload, sport, dport in ((request, 40000, 80), (answer, 80, 40000)):
        packet = ip4(6, tcp(PSH | ACK, payload, sport=sport, dport=dport))
        assert keeps(build(heads=True, snaplen=999), packet) == 999
        assert keeps(build([80], heads=True), packet)
        assert not keeps(build([81], heads=True), packet)
        assert not keeps(build([80]), packet)
        assert keeps(build([80, 81], head_ports=[80]), packet)
        assert not keeps(build([80, 81], head_ports=[81]), packet)
    for method in (b"POST", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS", b"CONNECT", b"PRI"):
        assert keeps(build(heads=True), ip4(6, tcp(ACK, method + b" * HTTP/1.1")))


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("family", FAMILIES)
@given(isn=st.integers(0, 0xFFFF_FFFF), bits=st.integers(1, 16))
@settings(max_examples=20, deadline=None)
def test_of_a_sample_what_tells_its_connections_number_is_decided_by_it(
    wrap: str, family: str, isn: int, bits: int
) -> None:
    program, wanted = build([80], heads=True, sample=1 << bits), chosen(isn, 1 << bits)

    def kept(segment: bytes) -> bool:
        return bool(keeps(program, WRAPS[wrap](FAMILIES[family](segment))))

    after = isn + 1 & 0xFFFF_FFFF
    assert kept(tcp(SYN, seq=isn)) == wanted
    assert kept(tcp(SYN | ACK, sport=80, dport=40000, seq=77, ack=after)) == wanted
    for header in (PROXY_1, PROXY_2):
        assert kept(tcp(PSH | ACK, header, seq=after)) == wanted
    assert not kept(tcp(SYN, seq=isn, dport=81)), "the ports count as before"
    for flags, payload in ((FIN | ACK, b""), (RST, b""), (ACK, HELLO), (ACK, b"GET / HTTP/1.1\r\n")):
        assert kept(tcp(flags, payload, seq=after)), "nothing tells whose it is"


def test_a_sample_is_one_of_so_many() -> None:
    steps = [number * 64_000 & 0xFFFF_FFFF for number in range(1 << 14)]  # as old stacks count
    for numbers in (range(1 << 14), steps):
        assert 0.8 < sum(chosen(isn, 16) for isn in numbers) * 16 / (1 << 14) < 1.2
    for wrong in (0, 3, 1 << 17, -2):
        with pytest.raises(ValueError, match="power of two"):
            build(sample=wrong)


def test_icmp_errors_pass_and_echoes_do_not() -> None:
    for kind, passes in ((3, 1), (11, 1), (12, 1), (0, 0), (8, 0)):
        assert bool(keeps(build([80]), ip4(1, bytes([kind]) + bytes(35)))) == bool(passes)
    for kind, passes in ((1, 1), (2, 1), (3, 1), (4, 1), (0, 0), (128, 0), (135, 0)):
        assert bool(keeps(build([80]), ip6(58, bytes([kind]) + bytes(35)))) == bool(passes)


def test_datagrams_only_of_given_ports() -> None:
    for wrap in WRAPS.values():
        assert keeps(build([53]), wrap(ip4(17, udp(b"x")))) == CONTROL_BYTES
        assert keeps(build([53]), wrap(ip6(17, udp(b"x", sport=53, dport=1))))
        assert not keeps(build([54]), wrap(ip4(17, udp(b"x"))))
        assert not keeps(build(), wrap(ip4(17, udp(b"x"))))


def test_fragments_other_protocols_and_loopback() -> None:
    program = build()
    assert keeps(program, ip4(6, tcp(SYN), fragment=0x2000))
    assert not keeps(program, ip4(6, tcp(SYN), fragment=0x2001))
    assert not keeps(program, ip6(44, b"\x06\x00\x00\x08" + bytes(4) + tcp(SYN)))
    assert not keeps(program, ip4(50, tcp(SYN)))
    assert not keeps(program, (0x0806, bytes(28)))
    tagged = struct.pack("!HH", 42, V4) + ip4(6, tcp(SYN))[1]
    assert keeps(program, (0x8100, tagged))
    assert not bpf.run(program, ip4(6, tcp(SYN))[1], protocol=V4, ifindex=1)
    assert bpf.run(build(loopback=True), ip4(6, tcp(SYN))[1], protocol=V4, ifindex=1)


def test_far_jumps_are_bridged() -> None:
    middle = [Op(bpf.OR, 0)] * 700
    program = bpf.assemble(
        [Op(bpf.LD_B, 0), Op(bpf.JEQ, 1, "far"), Op(bpf.JEQ, 2, "", "far"), *middle, Op(bpf.RET, 1),
         Op(bpf.RET, 2, label="far")]
    )  # fmt: skip
    assert [bpf.run(program, bytes([first]), protocol=0) for first in (1, 2, 3)] == [2, 1, 2]


def test_programs_longer_than_the_kernel_takes_are_refused() -> None:
    with pytest.raises(bpf.ProgramTooLongError, match="4096"):
        bpf.assemble([Op(bpf.OR, 0)] * 4096 + [Op(bpf.RET, 0)])
    with pytest.raises(ValueError, match="not a port"):
        build([70000])


PAYLOADS = [
    *(b"", b"x", b"GE", b"GET / HTTP/1.1", b"HTTP/1.1 400 B", b"HTTP/1.1 200", PROXY_1, PROXY_1[:5], PROXY_2),
    *(PROXY_2[:6], HELLO, b"\x15\x03\x03\x00\x02\x02\x46", bytes(900)),
]


def sample(dice: random.Random) -> Packet:
    """Something between a well-formed packet and noise."""
    payload = dice.choice(PAYLOADS)
    sport, dport = dice.choice([80, 443, 40000, 30080]), dice.choice([80, 81, 53, 4789, 6081, 8472])
    transports = [
        tcp(
            dice.randrange(64),
            payload,
            options=bytes(4 * dice.randrange(4)),
            sport=sport,
            dport=dport,
            seq=dice.getrandbits(32),
            ack=dice.getrandbits(32),
        ),
        udp(payload, sport=sport, dport=dport),
        bytes([dice.randrange(16)]) + bytes(dice.randrange(40)),
    ]
    families: list[Callable[[bytes], Packet]] = [
        *FAMILIES.values(),
        lambda body: ip4(dice.choice([1, 6, 17, 4, 41, 47, 58]), body),
        lambda body: ip6(dice.choice([6, 17, 43, 44, 58, 60]), body),
    ]
    ethertype, packet = dice.choice([*WRAPS.values()])(dice.choice(families)(dice.choice(transports)))
    if dice.random() < 0.3:
        packet = packet[: dice.randrange(len(packet) + 1)]
    damaged = bytearray(packet)
    for _ in range(dice.choice([0, 0, 1, 2])):
        if damaged:
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
    return ethertype, bytes(damaged)


FILTERS: list[dict[str, Any]] = [
    {},
    {"ports": [80, 443, 30080]},
    {"ports": list(range(53, 2000, 3)), "heads": True},
    {"ports": [80, 81], "head_ports": [81], "snaplen": 700},
    {"ports": [80, 443], "heads": True, "sample": 4},
]


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("filter_", FILTERS, ids=["all", "ports", "many-ports-heads", "head-ports", "sample"])
@pytest.mark.parametrize("as_nobody", [False, True], ids=["self", "nobody"])
def test_the_kernel_answers_as_the_interpreter_does(filter_: dict[str, Any], as_nobody: bool) -> None:
    dice = random.Random(repr(filter_))
    packets = [packet for packet in (sample(dice) for _ in range(1500)) if packet[1]]
    program = build(**filter_)
    assert kernel_answers(filter_, packets, as_nobody) == [
        min(keeps(program, packet), len(packet[1])) for packet in packets
    ]


def kernel_answers(
    filter_: dict[str, Any], packets: Sequence[Packet], as_nobody: bool = False, ebpf: list[int] | None = None
) -> list[int]:
    sent = [[kind, body.hex()] for kind, body in packets]
    task = json.dumps({"filter": filter_, "packets": sent, "ebpf": ebpf})
    with scene(as_nobody=as_nobody) as here:
        here.ip(
            "link add name left type veth peer name right",
            "link set left mtu 9000 up",
            "link set right mtu 9000 up",
        )
        process = here.module("tests.agent.kernel_verdicts", stdin=-1, stdout=-1)
        answer, _ = process.communicate(task.encode(), timeout=60)
    assert process.returncode == 0
    return list(json.loads(answer))
