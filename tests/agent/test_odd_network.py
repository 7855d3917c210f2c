"""Networks are odd: what a textbook leaves out reaches the agent all the same, from a real kernel where it makes it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from daemonset.observation import PACKET, Bye, Gap, Loss, Payload, TapKind, TcpFlag, Topology
from daemonset.taps.ring import FRAMES
from daemonset.wire import PacketRows
from tests.agent.scene import Scene, scene, why_not
from tests.agent.test_agent import PATIENCE, Agent, add_pod, start

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

HEADER = "PROXY TCP4 192.0.2.1 10.0.0.1 5 80\r\n"
REQUEST = "GET / HTTP/1.1\r\nHost: odd\r\n\r\n"


@pytest.fixture
def node() -> Iterator[Scene]:
    """A server on the node itself, and a client at the other end of a cable."""
    with scene() as made:
        client = made.add("client")
        made.ip(
            "link set lo up", f"link add name eth0 mtu 9000 type veth peer name eth0 mtu 9000 netns {client}"
        )
        made.ip("addr add 10.0.0.1/24 dev eth0", "link set eth0 up", "addr add fd00::1/64 dev eth0 nodad")
        made.ip("addr add 10.0.0.2/24 dev eth0", "link set eth0 up", name="client")
        yield made


def client_speaks(node: Scene, *words: str) -> None:
    client = node.module("tests.agent.odd", *words, name="client", stdout=subprocess.PIPE)
    assert client.communicate(timeout=PATIENCE)[0] == b"done\n"


def serve(node: Scene, port: int = 80) -> subprocess.Popen[bytes]:
    server = node.module("tests.agent.talk", "server", str(port), "1", stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"listening\n"
    return server


def finish(server: subprocess.Popen[bytes]) -> None:
    assert server.stdout is not None
    server.stdout.close()
    assert server.wait(PATIENCE) == 0


def watching(node: Scene, *more: str) -> Agent:
    agent = start(node, "--port", "80", *more)
    agent.until_ready()
    return agent


def rows(agent: Agent) -> list[dict[str, int]]:
    assert agent.stop() == 0
    assert not any(loss.dropped for loss in agent.of(Loss))
    return [
        dict(zip((column.name for column in PACKET.columns), values, strict=True))
        for frame in agent.of(PacketRows)
        for values in PACKET.struct.iter_unpack(frame.rows)
    ]


def frames(node: Scene, *packets: Packet) -> list[str]:
    """Frames from the client to the node, as text."""
    (target,) = json.loads(node.run("ip", "-j", "link", "show", "eth0"))
    return [bytes(Ether(dst=target["address"], src="02:00:00:00:00:02") / each).hex() for each in packets]


def injected(node: Scene, *packets: Packet) -> list[dict[str, int]]:
    agent = watching(node)
    client_speaks(node, "inject", "eth0", *frames(node, *packets))
    agent.until(lambda: len(agent.packets()) >= len(packets))
    return rows(agent)


def sysctl(node: Scene, name: str, value: str, place: str = "") -> None:
    node.run("sh", "-c", f"echo {value} > /proc/sys/{name}", name=place)


def test_a_proxy_header_inside_the_syn(node: Scene) -> None:
    """TCP Fast Open: the first bytes come with the SYN, before there is a connection."""
    sysctl(node, "net/ipv4/tcp_fastopen", "0x602")
    sysctl(node, "net/ipv4/tcp_fastopen", "0x5", "client")
    agent, server = watching(node), serve(node)
    client_speaks(node, "fast", "10.0.0.1", "80", HEADER + REQUEST)
    finish(server)
    first = next(row for row in rows(agent) if TcpFlag(row["flags"]) & TcpFlag.SYN)
    assert first["flags"] & TcpFlag.ACK == 0
    assert (first["payload"], first["length"]) == (Payload.PROXY_V1, len(HEADER + REQUEST))
    heads = [head for frame in agent.of(PacketRows) for head in frame.heads]
    assert heads[0].proxy[0].source == "192.0.2.1:5"


def test_explicit_congestion_notification_sets_more_flags_on_a_syn(node: Scene) -> None:
    sysctl(node, "net/ipv4/tcp_ecn", "1")
    sysctl(node, "net/ipv4/tcp_ecn", "1", "client")
    agent, server = watching(node), serve(node)
    client = node.module(
        "tests.agent.talk", "client", "10.0.0.1", "80", "1", HEADER, name="client", stdout=-1
    )
    assert client.communicate(timeout=PATIENCE)[0] == b"done\n"
    finish(server)
    flags = {TcpFlag(row["flags"]) for row in rows(agent)}
    assert TcpFlag.SYN | TcpFlag.ECE | TcpFlag.CWR in flags
    assert TcpFlag.SYN | TcpFlag.ACK | TcpFlag.ECE in flags


def test_a_jumbo_frame_keeps_its_true_length(node: Scene) -> None:
    text = HEADER + "x" * 4000
    agent, server = watching(node), serve(node)
    client = node.module("tests.agent.talk", "client", "10.0.0.1", "80", "1", text, name="client", stdout=-1)
    assert client.communicate(timeout=PATIENCE)[0] == b"done\n"
    finish(server)
    (row,) = [row for row in rows(agent) if row["payload"] == Payload.PROXY_V1]
    assert row["length"] == len(text), "by the IP header, not by what was captured"


@pytest.mark.parametrize(
    "tagged",
    [
        Dot1Q(vlan=100) / Dot1Q(vlan=200),
        Dot1AD(vlan=100) / Dot1Q(vlan=200),
    ],
    ids=["two of 802.1Q", "802.1ad and 802.1Q"],
)
def test_a_tag_within_a_tag(node: Scene, tagged: Packet) -> None:
    syn = tagged / IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=1025, dport=80, seq=77)
    (row,) = injected(node, syn)
    assert (row["seq"], row["dport"]) == (77, 80)


def test_options_before_the_segment(node: Scene) -> None:
    """IPv4 options, IPv6 hop-by-hop and destination options: the segment begins later."""
    four = IP(src="10.0.0.2", dst="10.0.0.1", options=[IPOption_Router_Alert()])
    six = IPv6(src="fd00::2", dst="fd00::1") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
    found = injected(
        node, four / TCP(sport=1025, dport=80, seq=4), six / TCP(sport=1026, dport=80, seq=6),
    )  # fmt: skip
    assert sorted(row["seq"] for row in found if row["dport"] == 80) == [4, 6]


def test_both_ends_open_at_once(node: Scene) -> None:
    """Simultaneous open (RFC 9293 §3.5): a SYN in each direction, and neither is an answer."""
    one = IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=1025, dport=80, seq=100, flags="S")
    other = IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=80, dport=1025, seq=200, flags="S")
    both = IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=1025, dport=80, seq=100, ack=201, flags="SA")
    syns = [row for row in injected(node, one, other, both) if row["flags"] & TcpFlag.SYN]
    assert {(row["sport"], row["seq"]) for row in syns} >= {(1025, 100), (80, 200)}


def test_the_first_fragment_of_a_segment(node: Scene) -> None:
    whole = (
        IP(src="10.0.0.2", dst="10.0.0.1", id=9)
        / TCP(sport=1025, dport=80, seq=5, flags="PA")
        / (HEADER + "x" * 100)
    )
    data = bytes(whole)
    first = IP(src="10.0.0.2", dst="10.0.0.1", id=9, flags="MF", proto=6) / data[20:100]
    rest = IP(src="10.0.0.2", dst="10.0.0.1", id=9, frag=10, proto=6) / data[100:]
    agent = watching(node)
    client_speaks(node, "inject", "eth0", *frames(node, first, rest))
    agent.until(lambda: any(packet.payload is Payload.PROXY_V1 for packet in agent.packets()))
    found = [row for row in rows(agent) if row["payload"] == Payload.PROXY_V1]
    assert {(row["seq"], row["dport"]) for row in found} == {(5, 80)}


def odd_server(node: Scene, *words: str) -> subprocess.Popen[bytes]:
    server = node.module("tests.agent.odd", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"listening\n"
    return server


@pytest.mark.skipif(
    not Path("/proc/sys/net/mptcp/enabled").exists(), reason="this kernel has no Multipath TCP"
)
def test_multipath_tcp_is_a_connection_like_others(node: Scene) -> None:
    """Its SYN carries a key as an option, its data a mapping; the header is where it always is (RFC 8684 §3)."""
    for place in ("", "client"):
        sysctl(node, "net/mptcp/enabled", "1", place)
    agent, server = watching(node), odd_server(node, "multipath-server", "80")
    client_speaks(node, "multipath", "10.0.0.1", "80", HEADER + REQUEST)
    assert server.communicate(timeout=PATIENCE)[0] == b"done\n"
    sysctls = node.run("cat", "/proc/net/netstat")
    assert re.search(r"MPTcpExt: .*\nMPTcpExt: 1 ", sysctls), "it fell back, or this test says nothing"
    found = rows(agent)
    syn = next(row for row in found if TcpFlag(row["flags"]) == TcpFlag.SYN)
    (header,) = [row for row in found if row["payload"] == Payload.PROXY_V1]
    assert header["seq"] == syn["seq"] + 1
    heads = [head for frame in agent.of(PacketRows) for head in frame.heads]
    assert heads[0].proxy[0].source == "192.0.2.1:5"


def test_a_server_that_closes_its_window(node: Scene) -> None:
    """The client asks again and again whether there is room now (RFC 9293 §3.8.6.1): nothing of that is a beginning."""
    text = HEADER + "x" * 100_000
    agent, server = watching(node), odd_server(node, "slow-server", "80", str(len(text)))
    client = node.module(
        "tests.agent.talk", "client", "10.0.0.1", "80", "1", text, name="client", stdout=subprocess.PIPE
    )

    def counted(name: str) -> int:
        names, values = (line.split() for line in node.run("cat", "/proc/net/netstat").splitlines()[:2])
        return int(dict(zip(names, values, strict=True))[name])

    for _ in range(5_000):
        if counted("TCPToZeroWindowAdv"):
            break
        assert client.poll() is None
    else:
        raise AssertionError("the window stayed open, and this test says nothing")
    assert server.communicate(b"go on\n", timeout=PATIENCE)[0] == b"0 missing\ndone\n"
    assert client.communicate(timeout=PATIENCE)[0] == b"done\n"
    found = rows(agent)
    assert len([row for row in found if TcpFlag(row["flags"]) == TcpFlag.SYN]) == 1
    assert [row["length"] > 0 for row in found if row["payload"] == Payload.PROXY_V1] == [True]


def test_a_header_whose_first_byte_comes_as_a_window_probe(node: Scene) -> None:
    """The window is shut from the beginning: one byte goes first, and all of it again when there is room."""
    ends = {"sport": 1025, "dport": 80}
    syn = IP(src="10.0.0.2", dst="10.0.0.1") / TCP(**ends, seq=100, flags="S")
    one = IP(src="10.0.0.2", dst="10.0.0.1") / TCP(**ends, seq=101, ack=1, flags="A") / HEADER[:1]
    whole = IP(src="10.0.0.2", dst="10.0.0.1") / TCP(**ends, seq=101, ack=1, flags="PA") / HEADER
    agent = watching(node)
    client_speaks(node, "inject", "eth0", *frames(node, syn, one, whole))
    agent.until(lambda: any(packet.payload is Payload.PROXY_V1 for packet in agent.packets()))
    found = [row for row in rows(agent) if row["seq"] == 101 and row["dport"] == 80]
    assert [row["length"] for row in found if row["payload"] == Payload.PROXY_V1] == [len(HEADER)]


def test_more_packets_than_the_ring_holds_are_counted_as_lost(node: Scene) -> None:
    """The agent stands still while they come. What it could not see it says, and no packet counts twice."""
    count = FRAMES + 5_000
    nobodys = IP(src="10.0.0.2", dst="10.0.0.9") / TCP(sport=1025, dport=80, seq=77)
    (frame,) = frames(node, nobodys)
    agent = watching(node)
    agent.process.send_signal(signal.SIGSTOP)
    client_speaks(node, "flood", "eth0", str(count), frame)
    agent.process.send_signal(signal.SIGCONT)
    assert agent.stop() == 0
    seen, dropped = len(agent.packets()), sum(loss.dropped for loss in agent.of(Loss))
    assert dropped >= 5_000
    assert seen + dropped == count
    assert sum(loss.received for loss in agent.of(Loss)) == seen


def test_pods_for_which_there_are_no_descriptors_left_are_gaps() -> None:
    """It goes on with what it has, and says what it does not see."""
    with scene() as made:
        made.ip(
            "link set lo up",
            "link add name br0 type bridge",
            "addr add 10.1.0.1/24 dev br0",
            "link set br0 up",
        )
        for number in range(24):
            add_pod(made, f"pod{number}", f"10.1.0.{number + 10}")
        command = [
            "prlimit",
            "--nofile=32",
            made.python,
            "-m",
            "daemonset.agent",
            "--node",
            "n1",
            "--port",
            "80",
        ]
        agent = Agent(made.start(*command, stdout=subprocess.PIPE))
        agent.until_ready()
        assert agent.stop() == 0
        pods = [tap for tap in agent.taps() if tap.kind is TapKind.POD]
        assert len(pods) < 24
        assert any("Too many open files" in gap.detail for gap in agent.of(Gap)), agent.of(Gap)
        assert agent.of(Bye)


def test_many_pods_come_and_go_at_once() -> None:
    """Namespaces end under open taps, and new ones take their place."""
    with scene() as made:
        made.ip(
            "link set lo up",
            "link add name br0 type bridge",
            "addr add 10.1.0.1/24 dev br0",
            "link set br0 up",
        )
        agent = watching(made)
        for number in range(20):
            add_pod(made, f"pod{number}", f"10.1.0.{number + 10}")
            if number >= 3:
                made.remove(f"pod{number - 3}")

        def seen() -> set[Any]:
            return {tap.addresses for tap in agent.taps() if tap.kind is TapKind.POD}

        agent.until(lambda: ("10.1.0.29",) in seen())
        assert agent.stop() == 0
        assert agent.of(Bye)


def test_a_pod_whose_interfaces_have_names_that_are_no_text() -> None:
    """Whoever rules a pod's network can call its interfaces by any bytes; the node is watched all the same."""
    with scene() as made:
        made.ip(
            "link set lo up",
            "link add name br0 type bridge",
            "addr add 10.1.0.1/24 dev br0",
            "link set br0 up",
        )
        add_pod(made, "pod", "10.1.0.10")
        odd = "a\udcff\x1b[2J"  # as Python hands over a byte that is no text
        made.run("ip", "link", "add", "name", odd, "type", "veth", "peer", "name", "b\udcfe", name="pod")
        for name in (odd, "b\udcfe"):
            made.run("ip", "link", "set", name, "up", name="pod")
        made.run("ip", "link", "add", "name", odd, "type", "veth", "peer", "name", "other")
        made.run("ip", "link", "set", odd, "up")
        agent = watching(made)
        assert agent.stop() == 0
        assert agent.of(Bye)
        inside = {tap.interface for tap in agent.taps() if tap.kind is TapKind.POD}
        assert "a\\xff\x1b[2J" in inside, inside
        (topology, *_) = agent.of(Topology)
        assert "a\\xff\x1b[2J" in {each.name for each in topology.interfaces}
