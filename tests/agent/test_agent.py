"""The agent on a small node of its own: a client in front, a bridge, a pod behind it, real NAT in between."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daemonset.lifeline import BEAT, END
from daemonset.observation import (
    NAT,
    PACKET,
    Bye,
    Gap,
    Hello,
    Loss,
    NatEvent,
    Payload,
    Ready,
    RuleHits,
    Tap,
    TapKind,
    Taps,
    TcpFlag,
    Topology,
    TracedRules,
    Tracing,
    endpoint_text,
)
from daemonset.taps.sampling import chosen
from daemonset.wire import Frame, NatRows, PacketRows, Reader
from tests.agent.scene import NOBODY, ROOT, Scene, python_for, python_path, scene, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

PATIENCE = 20.0  # seconds until something that should have come has not
NAT_RULES = """
table ip t {
  chain pre { type nat hook prerouting priority dstnat; tcp dport 80 dnat to 10.1.0.2:8080; }
  chain post { type nat hook postrouting priority srcnat; tcp dport 8080 masquerade; }
}
"""


class Seen(NamedTuple):
    """A packet row, readable."""

    tap: TapKind
    source: str
    destination: str
    flags: TcpFlag
    seq: int
    payload: Payload


class Agent:
    """A running agent and what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.frames: list[Frame] = []
        self._reader = Reader()
        self._output = process.stdout

    def until(self, wanted: Callable[[], bool]) -> None:
        """Read on until something holds."""
        give_up = time.monotonic() + PATIENCE
        while not wanted():
            ready, _, _ = select.select([self._output], [], [], max(0.0, give_up - time.monotonic()))
            assert ready, f"still not: {self.frames[-5:]}"
            data = os.read(self._output.fileno(), 1 << 16)
            assert data, f"the agent ended: {self.frames[-5:]}"
            self.frames += self._reader.feed(data)

    def until_ready(self) -> None:
        self.until(lambda: any(isinstance(frame, Ready) for frame in self.frames))

    def rest(self) -> int:
        """Read to the end; answers with the exit code."""
        while data := self._output.read(1 << 16):
            self.frames += self._reader.feed(data)
        self._reader.finish()
        self._output.close()
        return self.process.wait(PATIENCE)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.rest()

    def of(self, kind: type[Any]) -> list[Any]:
        return [frame for frame in self.frames if isinstance(frame, kind)]

    def taps(self) -> list[Tap]:
        return [tap for frame in self.of(Taps) for tap in frame.taps]

    def packets(self) -> list[Seen]:
        taps = self.taps()
        return [
            seen(dict(zip((column.name for column in PACKET.columns), row, strict=True)), taps)
            for frame in self.of(PacketRows)
            for row in PACKET.struct.iter_unpack(frame.rows)
        ]

    def nat(self) -> list[tuple[NatEvent | str, ...]]:
        records: list[tuple[NatEvent | str, ...]] = []
        for frame in self.of(NatRows):
            for row in NAT.struct.iter_unpack(frame.rows):
                one = dict(zip((column.name for column in NAT.columns), row, strict=True))
                ends = [
                    endpoint_text(one[f"{end}_hi"], one[f"{end}_lo"], one[f"{end[:-4]}_{end[-3]}port"])
                    for end in ("orig_src", "orig_dst", "reply_src", "reply_dst")
                ]
                records.append((NatEvent(one["event"]), *ends))
        return records


def seen(row: dict[str, int], taps: list[Tap]) -> Seen:
    return Seen(
        taps[row["tap"]].kind,
        endpoint_text(row["src_hi"], row["src_lo"], row["sport"]),
        endpoint_text(row["dst_hi"], row["dst_lo"], row["dport"]),
        TcpFlag(row["flags"]),
        row["seq"],
        Payload(row["payload"]),
    )


@pytest.fixture(params=[False, True], ids=["self", "nobody"])
def node(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with scene(as_nobody=request.param) as made:
        client = made.add("client")
        made.ip("link set lo up", f"link add name eth0 type veth peer name eth0 netns {client}")
        made.ip("addr add 10.0.0.1/24 dev eth0", "link set eth0 up")
        made.ip("addr add 10.0.0.2/24 dev eth0", "link set eth0 up", name="client")
        made.ip("link add name br0 type bridge", "addr add 10.1.0.1/24 dev br0", "link set br0 up")
        add_pod(made, "pod", "10.1.0.2")
        made.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        made.run("sh", "-c", f"nft -f - <<'E'\n{NAT_RULES}\nE")
        yield made


def add_pod(node: Scene, name: str, address: str) -> None:
    process = node.add(name)
    node.ip(f"link add name veth-{name} type veth peer name eth0 netns {process}")
    node.ip(f"link set veth-{name} master br0 up")
    node.ip("link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up", name=name)
    node.ip("route add default via 10.1.0.1", name=name)


def start(node: Scene, *arguments: str, **how: Any) -> Agent:
    how = {"stdout": subprocess.PIPE, **how}
    return Agent(node.module("daemonset.agent", "--node", "n1", *arguments, **how))


def talk(node: Scene, count: int = 1, text: str = "PROXY TCP4 192.0.2.1 10.0.0.1 5 80\r\n") -> None:
    size = len(text.replace("|", ""))
    server = node.module("tests.agent.talk", "server", "8080", str(count), str(size), name="pod", stdout=-1)
    assert server.stdout is not None
    assert server.stdout.readline() == b"listening\n"
    client = node.module(
        "tests.agent.talk", "client", "10.0.0.1", "80", str(count), text, name="client", stdout=-1
    )
    assert client.communicate(timeout=PATIENCE)[0] == b"done\n"
    server.stdout.close()
    assert server.wait(PATIENCE) == 0


def test_one_connection_through_nat_is_seen_at_every_tap(node: Scene) -> None:
    agent = start(node, "--port", "80", "8080")
    agent.until_ready()
    talk(node)
    assert agent.stop() == 0

    assert isinstance(agent.frames[0], Hello)
    assert agent.frames[0].features["ring"] == "v2"
    assert isinstance(agent.frames[1], Topology)
    assert [pod.addresses for pod in agent.frames[1].pods] == [("10.1.0.2",)]
    kinds = [tap.kind for tap in agent.taps()]
    assert sorted(kinds) == [TapKind.BRIDGE, TapKind.NIC, TapKind.POD, TapKind.VETH]
    assert agent.frames[-1] == Bye("SIGTERM", agent.frames[-1].time)  # type: ignore[union-attr]

    syns = {packet.tap: packet for packet in agent.packets() if packet.flags == TcpFlag.SYN}
    assert set(syns) == set(kinds)
    assert len({syn.seq for syn in syns.values()}) == 1
    assert syns[TapKind.NIC].destination == "10.0.0.1:80"
    assert syns[TapKind.NIC].source.startswith("10.0.0.2:")
    for inside in (TapKind.BRIDGE, TapKind.VETH, TapKind.POD):
        assert syns[inside].destination == "10.1.0.2:8080"
        assert syns[inside].source.startswith("10.1.0.1:")

    headers = [packet.tap for packet in agent.packets() if packet.payload is Payload.PROXY_V1]
    assert sorted(headers) == sorted(kinds)
    heads = [head for frame in agent.of(PacketRows) for head in frame.heads]
    assert {head.proxy[0].source for head in heads} == {"192.0.2.1:5"}

    client = syns[TapKind.NIC].source
    masked = syns[TapKind.POD].source
    assert (NatEvent.NEW, client, "10.0.0.1:80", "10.1.0.2:8080", masked) in agent.nat()
    assert (NatEvent.DUMP, client, "10.0.0.1:80", "10.1.0.2:8080", masked) in agent.nat()
    assert sum(loss.received for loss in agent.of(Loss)) == len(agent.packets())
    assert not any(loss.dropped for loss in agent.of(Loss))


def remembers(agent: Agent) -> bool:
    """Whether its kernel filter remembers connections; whoever may not load eBPF is told so."""
    told = str(agent.of(Hello)[0].features["memory"])
    assert told in {"eBPF", "none: Operation not permitted"}
    return told == "eBPF"


def test_first_payloads_pass_whatever_they_are_where_the_kernel_remembers_connections(node: Scene) -> None:
    agent = start(node, "--port", "80", "8080", "--heads")
    agent.until_ready()
    talk(node, text="EHLO me|and|so|on|and|on")
    assert agent.stop() == 0
    first = [packet for packet in agent.packets() if packet.payload is Payload.DATA]
    assert ({packet.tap for packet in first} == {tap.kind for tap in agent.taps()}) == remembers(agent)
    assert all(packet.destination.endswith((":80", ":8080")) for packet in first)
    assert len({packet.seq for packet in first}) == (3 if remembers(agent) else 0)


def test_a_header_in_two_segments_is_read_where_the_kernel_remembers_connections(node: Scene) -> None:
    agent = start(node, "--port", "80", "8080", "--heads")
    agent.until_ready()
    talk(node, text="PROXY TCP4 192.0.|2.1 10.0.0.1 5 80\r\n")
    assert agent.stop() == 0
    heads = [head for frame in agent.of(PacketRows) for head in frame.heads if head.proxy]
    named = {proxy.source for head in heads for proxy in head.proxy if head.proxy_complete}
    assert named == ({"192.0.2.1:5"} if remembers(agent) else set())


def test_of_a_sample_each_connection_is_kept_whole_and_little_else_leaves_the_kernel(node: Scene) -> None:
    agent = start(node, "--port", "80", "8080", "--heads", "--sample", "1/4")
    agent.until_ready()
    talk(node, count=60, text="GET / HTTP/1.1\r\n\r\n")
    assert agent.stop() == 0
    taps = {tap.kind for tap in agent.taps()}
    packets = agent.packets()
    kept = {packet.seq for packet in packets if packet.flags == TcpFlag.SYN}
    assert 0 < len(kept) < 60
    assert all(chosen(isn, 4) for isn in kept)
    for tap in taps:
        here = [packet for packet in packets if packet.tap is tap]
        assert {packet.seq for packet in here if packet.flags == TcpFlag.SYN} == kept
        assert len({packet.seq for packet in here if packet.payload is Payload.HTTP_REQUEST}) == len(kept)
        ends = {(packet.source, packet.seq) for packet in here if TcpFlag.FIN in packet.flags}
        assert len(ends) >= 2 * len(kept)
    passed = sum(loss.received for loss in agent.of(Loss))
    assert (passed == len(packets)) == remembers(agent)


def test_it_counts_as_tcpdump_does(node: Scene, tmp_path: Path) -> None:
    if node.prefix or os.geteuid():
        pytest.skip("tcpdump gives up its user, which root of a user namespace may not")
    capture = tmp_path / "pcap"
    peer = node.start(
        # Short frames, and 4 MiB of them: of whole ones some thirty fit, too few while tcpdump waits its turn.
        *("tcpdump", "--immediate-mode", "-Z", "root", "-s", "128", "-B", "4096"),
        *("-nUi", "br0", "-w", str(capture), "tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0"),
        stderr=subprocess.PIPE,
    )
    assert peer.stderr is not None
    assert b"listening on" in peer.stderr.readline()
    agent = start(node, "--port", "80", "8080", "--no-pods")
    agent.until_ready()
    talk(node, count=50, text="hello")

    # The server is gone, so one more client is reset: the last packet, which both have to have seen before they stop.
    node.run(node.python, "-c", "import socket; socket.socket().connect_ex(('10.0.0.1', 80))", name="client")
    agent.until(lambda: any(bridged(packet) and TcpFlag.RST in packet.flags for packet in agent.packets()))
    until_last(capture, TcpFlag.RST)
    assert agent.stop() == 0
    peer.send_signal(signal.SIGINT)
    said = peer.stderr.read()
    peer.stderr.close()
    assert peer.wait(PATIENCE) == 0
    assert b"\n0 packets dropped by kernel" in said, said
    counted = len(tcp_flags(capture.read_bytes()))
    assert counted >= 50 * 4 + 2
    assert sum(map(bridged, agent.packets())) == counted


def bridged(packet: Seen) -> bool:
    return packet.tap is TapKind.BRIDGE


def until_last(capture: Path, flag: TcpFlag) -> None:
    """Until the last packet of a capture that is being written has this flag."""
    give_up = time.monotonic() + PATIENCE
    while not (flags := tcp_flags(capture.read_bytes())) or flag not in flags[-1]:
        assert time.monotonic() < give_up, f"{len(flags)} packets, and none with {flag!r} at the end"
        time.sleep(0.002)


def tcp_flags(data: bytes) -> list[TcpFlag]:
    """The flags of each packet that is whole: Ethernet, IPv4, TCP."""
    at, found = 24, []
    while at + 16 <= len(data) and (end := at + 16 + int.from_bytes(data[at + 8 : at + 12], "little")) <= len(
        data
    ):
        internet = at + 16 + 14
        found.append(TcpFlag(data[internet + (data[internet] & 0xF) * 4 + 13]))
        at = end
    return found


def test_it_ends_when_its_reader_goes_away_while_nothing_happens(node: Scene) -> None:
    agent = start(node)
    agent.until_ready()
    assert agent.process.stdout is not None
    agent.process.stdout.close()
    assert agent.process.wait(PATIENCE) == 0


def test_it_ends_when_its_reader_is_killed_under_traffic(node: Scene) -> None:
    reader = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE)
    agent = node.module("daemonset.agent", "--node", "n1", stdout=reader.stdin, stderr=subprocess.PIPE)
    assert reader.stdin is not None
    assert agent.stderr is not None
    reader.stdin.close()
    talk(node, count=5)
    reader.kill()
    reader.wait()
    assert agent.wait(PATIENCE) == 0
    assert agent.stderr.read() == b""
    agent.stderr.close()


def test_it_ends_with_its_lifeline(node: Scene) -> None:
    agent = start(node, "--lifeline", stdin=subprocess.PIPE)
    agent.until_ready()
    assert agent.process.stdin is not None
    agent.process.stdin.close()
    assert agent.rest() == 0
    assert agent.of(Bye)[0].reason == "lifeline cut"


def test_it_ends_when_its_lifeline_falls_silent(node: Scene) -> None:
    agent = start(node, "--lifeline", "0.5", stdin=subprocess.PIPE)
    assert agent.rest() == 0
    assert agent.of(Bye)[0].reason == "lifeline silent"
    assert agent.process.stdin is not None
    agent.process.stdin.close()


def test_it_answers_each_beat_with_its_time_and_ends_when_it_is_asked_to(node: Scene) -> None:
    agent = start(node, "--lifeline", "60", stdin=subprocess.PIPE)
    agent.until_ready()
    assert agent.process.stdin is not None
    before = time.time_ns()
    agent.process.stdin.write(BEAT)
    agent.process.stdin.flush()
    agent.until(lambda: len(agent.of(Ready)) == 2)
    assert before <= agent.of(Ready)[1].time <= time.time_ns()
    agent.process.stdin.write(END)
    agent.process.stdin.flush()
    assert agent.rest() == 0
    assert agent.of(Bye)[0].reason == "asked to"
    agent.process.stdin.close()


def test_it_ends_after_its_duration_and_on_ctrl_c(node: Scene) -> None:
    agent = start(node, "--duration", "0.2")
    assert agent.rest() == 0
    assert agent.of(Bye)[0].reason == "duration over"
    agent = start(node)
    agent.until_ready()
    assert agent.stop(signal.SIGINT) == 0
    assert agent.of(Bye)[0].reason == "SIGINT"


def test_a_signal_that_another_of_its_threads_takes_ends_it_too(node: Scene) -> None:
    """As one that comes just before it waits: nothing interrupts the waiting, and nothing else may happen for hours."""
    agent = start(node, "--no-conntrack")
    agent.until_ready()
    pid = agent.process.pid
    others = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid]
    signalled = ctypes.CDLL(None).syscall(
        ctypes.c_long({"x86_64": 234, "aarch64": 131}[os.uname().machine]), pid, others[0], signal.SIGTERM
    )
    assert signalled == 0
    agent.until(lambda: bool(agent.of(Bye)))
    assert agent.rest() == 0
    assert agent.of(Bye)[0].reason == "SIGTERM"


def test_pods_come_and_go(node: Scene) -> None:
    agent = start(node)
    agent.until_ready()
    add_pod(node, "late", "10.1.0.3")

    def pod_addresses() -> set[tuple[str, ...]]:
        return {tap.addresses for tap in agent.taps() if tap.kind is TapKind.POD}

    agent.until(lambda: ("10.1.0.3",) in pod_addresses())
    assert "veth-late" in {tap.interface for tap in agent.taps()}
    node.remove("late")
    # The namespace, and with it the veth, goes only when nobody holds it open any more.
    give_up = time.monotonic() + PATIENCE
    while "veth-late" in node.run("ip", "-o", "link"):
        assert time.monotonic() < give_up, "the agent holds on to a namespace that has gone"
        time.sleep(0.05)
    agent.until(lambda: len(agent.of(Topology)[-1].pods) == 1)
    assert agent.stop() == 0


POD_RULES = (
    "table ip mesh { chain in { type nat hook prerouting priority 0; tcp dport 8080 redirect to 8080; }; }"
)


def test_rules_are_named_on_request_on_the_node_and_in_pods_that_have_some(node: Scene) -> None:
    node.run("sh", "-c", f"nft -f - <<'E'\n{POD_RULES}\nE", name="pod")
    agent = start(node, "--port", "80", "8080", "--trace-rules", "5")
    agent.until_ready()
    talk(node)
    agent.until(lambda: sum(len(frame.hits) for frame in agent.of(RuleHits)) >= 3)
    assert agent.stop() == 0
    (pod,) = agent.of(Topology)[0].pods
    rules = [rule for frame in agent.of(TracedRules) for rule in frame.rules]
    assert {(rule.namespace, rule.table, rule.chain, rule.action) for rule in rules} == {
        ("", "t", "pre", "dnat"),
        ("", "t", "post", "masquerade"),
        (pod.namespace, "mesh", "in", "redirect"),
    }
    hits = [hit for frame in agent.of(RuleHits) for hit in frame.hits]
    syn = next(packet for packet in agent.packets() if packet.flags == TcpFlag.SYN)
    assert {hit.seq for hit in hits} == {syn.seq}
    arrived = {hit.chain: hit.destination for hit in hits}
    assert arrived == {"pre": "10.0.0.1:80", "post": "10.1.0.2:8080", "in": "10.1.0.2:8080"}
    told = [(state.namespace, state.packets, state.refused) for state in agent.of(Tracing)]
    assert told == [("", 0, ""), (pod.namespace, 0, ""), ("", 1, ""), (pod.namespace, 1, "")]


def test_a_trace_that_others_run_is_left_alone_and_the_capture_goes_on(node: Scene) -> None:
    node.run("nft", "insert rule ip t pre tcp dport 81 meta nftrace set 1")
    agent = start(node, "--port", "80", "8080", "--trace-rules")
    agent.until_ready()
    talk(node)
    assert agent.stop() == 0
    (state,) = agent.of(Tracing)
    assert state.refused == "a rule marks packets for tracing already: table ip t, chain pre; remove it first"
    assert not agent.of(RuleHits)
    assert {gap.what for gap in agent.of(Gap)} <= {"namespaces"}, "it is no hole in what was captured"
    assert agent.packets()


def test_a_killed_agent_leaves_no_table_behind_on_the_node_nor_in_pods(node: Scene) -> None:
    node.run("sh", "-c", f"nft -f - <<'E'\n{POD_RULES}\nE", name="pod")
    before = [node.run("nft", "list", "ruleset", name=name) for name in ("", "pod")]
    agent = start(node, "--port", "80", "8080", "--trace-rules")
    agent.until_ready()
    assert "client-ip-probe" in node.run("nft", "list", "tables")
    assert "client-ip-probe" in node.run("nft", "list", "tables", name="pod")
    agent.process.kill()
    while agent._output.read(1 << 16):
        pass  # to its end: the process is gone
    agent._output.close()
    agent.process.wait(PATIENCE)
    assert [node.run("nft", "list", "ruleset", name=name) for name in ("", "pod")] == before


def test_a_pod_that_is_traced_can_go(node: Scene) -> None:
    add_pod(node, "late", "10.1.0.3")
    node.run("sh", "-c", f"nft -f - <<'E'\n{POD_RULES}\nE", name="late")
    agent = start(node, "--port", "80", "--trace-rules")
    agent.until_ready()
    assert len(agent.of(Tracing)) == 2
    node.remove("late")
    give_up = time.monotonic() + PATIENCE
    while "veth-late" in node.run("ip", "-o", "link"):
        assert time.monotonic() < give_up, "the agent holds on to a namespace that has gone"
        time.sleep(0.05)
    assert agent.stop() == 0


def test_roles_and_switches(node: Scene) -> None:
    agent = start(node, "--role", "lb", "--no-pods", "--no-conntrack")
    agent.until_ready()
    talk(node)
    assert agent.stop() == 0
    assert {tap.kind for tap in agent.taps()} == {TapKind.LB, TapKind.BRIDGE, TapKind.VETH}
    assert not agent.of(NatRows)
    assert not agent.of(Gap)
    assert not agent.of(Topology)[0].pods


def test_without_a_ring_a_plain_socket_does(node: Scene) -> None:
    process = node.module("tests.agent.agent_without_ring", "--node", "n1", stdout=subprocess.PIPE)
    agent = Agent(process)
    agent.until_ready()
    talk(node, count=20)
    assert agent.stop() == 0
    features = agent.of(Hello)[0].features
    assert features["ring"] == "none"
    assert "Cannot allocate memory" in features["fallback"]
    for kind in TapKind.NIC, TapKind.BRIDGE, TapKind.VETH, TapKind.POD:
        syns = [packet for packet in agent.packets() if packet.tap is kind and packet.flags == TcpFlag.SYN]
        assert len(syns) == 20


def test_a_stalled_reader_costs_nothing(node: Scene) -> None:
    """What does not fit into the pipe waits in the agent, until its reader goes on."""
    agent = start(node, "--no-pods", "--no-conntrack")
    agent.until_ready()
    talk(node, count=300)
    assert agent.stop() == 0
    syns = [packet for packet in agent.packets() if packet.tap is TapKind.NIC and packet.flags == TcpFlag.SYN]
    assert len(syns) == 300
    assert not any(loss.dropped for loss in agent.of(Loss))


def test_http_heads_only_on_request(node: Scene) -> None:
    for arguments, wanted in ((("--heads",), True), ((), False), (("--port", "80", "8080"), False)):
        agent = start(node, *arguments)
        agent.until_ready()
        talk(node, text="GET / HTTP/1.1\r\nx-real-ip: 192.0.2.7\r\n\r\n")
        assert agent.stop() == 0
        assert (Payload.HTTP_REQUEST in {packet.payload for packet in agent.packets()}) is wanted


def test_it_keeps_to_itself(node: Scene, tmp_path: Path) -> None:
    """It writes no file, opens no port, and stays small."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    tmp_path.chmod(0o755)
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    agent = start(node, environment=environment)
    agent.until_ready()
    talk(node)
    facts = Path(f"/proc/{agent.process.pid}")
    size = next(line for line in (facts / "status").read_text().splitlines() if line.startswith("VmHWM"))
    assert int(size.split()[1]) <= 80 * 1024
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        listening = [
            line for line in (facts / "net" / protocol).read_text().splitlines()[1:] if " 0A " in line
        ]
        assert not listening
    assert agent.stop() == 0
    assert not list(home.rglob("*"))


def test_without_privilege_it_says_so_in_a_line() -> None:
    prefix = NOBODY if os.geteuid() == 0 else []
    python = python_for(prefix)
    if python is None:
        pytest.skip("no Python that nobody may execute")
    done = subprocess.run(
        [*prefix, python, "-m", "daemonset.agent", "--node", "n1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **python_path()},
        check=False,
    )
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "NET_RAW" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["--node"], ["--node", "n", "--port", "0"], ["--node", "n", "--port", "9-5"], ["--node", "n", "--role", "x"],
     ["--node", "n", "--duration", "-1"], ["--node", "n", "--snaplen", "9"], ["--node", "n", "--port", "²"],
     ["--node", "n", "--trace-rules", "0"], ["--node", "n", "--trace-rules", "99999"]],
)  # fmt: skip
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from daemonset.agent import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
