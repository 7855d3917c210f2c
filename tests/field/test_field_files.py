"""Captures of other makes: cooked links, raw IP, short snaplens, clocks that differ, noise, ports used again."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from probe.lab import Lab
from tests.cli.helpers import ended, start
from tests.field import twins
from tests.field.asking import Wish, ask, finish, start_asking
from tests.field.judging import Expected, contradictions, differences, judge, tap_options
from tests.field.recorded import once
from tests.field.watching import ETHERNET_HEADER, Captures, Packet, Watch, Watched, usual_taps

pytestmark = pytest.mark.lab

RAW, RAW_BSD = 101, 12  # LINKTYPE_RAW, and DLT_RAW as BSD numbers it
IP_TYPES = {b"\x08\x00", b"\x86\xdd"}
COOKED = {"v1": "LINUX_SLL", "v2": "LINUX_SLL2"}

ASKED = (
    "client to web-cluster's node port of node2",
    "client to web-local's node port of node1",
    "client to web-local's node port of node2",
    "pod to web-cluster's cluster IP",
    "pod to web-cluster's VIP",
    "pod to web-local's VIP",
    "host to web-cluster's cluster IP",
    "endpoint to web-local's cluster IP",
)


@dataclass(frozen=True)
class Recorded:
    """Some ways into a Service, captured in several makes at the same time."""

    captures: Captures
    objects: twins.Json
    expected: list[Expected]

    def of(self, keep: Callable[[Watched], bool]) -> Captures:
        """The captures at some taps."""
        return self.captures.without(taps=lambda tap: not keep(tap))

    @property
    def usual(self) -> Captures:
        """The captures at the usual taps."""
        return self.of(lambda tap: tap.device != "any" and tap.kind != "veth")


def record(folder: Path) -> Recorded:
    with Lab.start(twins.scenario(("ipv4",), "routed"), "iptables") as lab:
        objects = twins.objects(lab)
        twins.settle(lab, objects)
        taps = usual_taps(lab)
        for version, name in COOKED.items():
            taps += [
                Watched("nic", node.name, f"any-{version}", node.name, "any", ("-y", name))
                for node in lab.plan.nodes
            ]
        taps += [Watched("veth", pod.pod.node, pod.veth, pod.pod.node, pod.veth) for pod in lab.plan.pods]
        ways = [way for way in twins.ways("iptables", "ipv4") if way.name in ASKED]
        assert len(ways) == len(ASKED)
        with Watch(lab, folder, taps, extended=True) as watch:
            answers = twins.send(lab, ways)
    expected = [twins.expectation(way, told, "routed") for way in ways for told in answers[way]]
    return Recorded(watch.captures, objects, expected)


@pytest.fixture
def recorded(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Recorded:
    return once(tmp_path_factory, worker_id, "makes", record)


def test_more_taps_than_needed_change_nothing(recorded: Recorded) -> None:
    more = recorded.of(lambda tap: tap.device != "any")
    assert differences(judge(more, recorded.objects), recorded.expected) == []


@pytest.mark.parametrize("link", [RAW, RAW_BSD])
def test_raw_ip_will_do(recorded: Recorded, link: int, tmp_path: Path) -> None:
    def bare(_: Watched, packet: Packet) -> Packet | None:
        data, kind = packet.data[ETHERNET_HEADER:], packet.data[12:14]
        shorter = packet.wire_length - ETHERNET_HEADER
        return replace(packet, data=data, wire_length=shorter) if kind in IP_TYPES else None

    raw = recorded.usual.rewritten(tmp_path / "raw", bare, link)
    assert differences(judge(raw, recorded.objects), recorded.expected) == []


def test_the_beginning_of_each_packet_will_do(recorded: Recorded, tmp_path: Path) -> None:
    def short(_: Watched, packet: Packet) -> Packet:
        return replace(packet, data=packet.data[:80])  # tcpdump's default of old was 68, then 96

    cut = recorded.usual.rewritten(tmp_path / "cut", short)
    assert differences(judge(cut, recorded.objects), recorded.expected) == []


@pytest.mark.parametrize("shifts", [(0.0, -7.0, 20.0), (30.0, 0.0, -30.0)])
def test_the_nodes_clocks_need_not_agree(
    recorded: Recorded, shifts: tuple[float, ...], tmp_path: Path
) -> None:
    by_node = dict(zip(("node1", "node2", "node3"), shifts, strict=True))

    def late(tap: Watched, packet: Packet) -> Packet:
        return replace(packet, time=packet.time + by_node.get(tap.node, 0))

    shifted = recorded.usual.rewritten(tmp_path / "shifted", late)
    assert differences(judge(shifted, recorded.objects), recorded.expected) == []


def test_a_mirrored_port_shows_every_packet_twice(recorded: Recorded, tmp_path: Path) -> None:
    doubled = recorded.usual.rewritten(tmp_path / "doubled", lambda _, packet: packet)
    for tap in doubled.taps:
        file = doubled.folder / tap.file
        content = file.read_bytes()
        whole, offset = content[:24], 24
        while offset < len(content):
            [length] = struct.unpack_from("<I", content, offset + 8)
            whole += content[offset : offset + 16 + length] * 2
            offset += 16 + length
        file.write_bytes(whole)
    assert differences(judge(doubled, recorded.objects), recorded.expected) == []


@pytest.mark.parametrize("version", COOKED)
def test_one_capture_on_any_interface_of_each_node_says_nothing_false(
    recorded: Recorded, version: str
) -> None:
    cooked = recorded.of(lambda tap: tap.kind == "client" or tap.interface == f"any-{version}")
    for objects in (recorded.objects, None):
        for tables in (True, False):
            report = judge(cooked, objects, tables=tables)
            assert contradictions(report, recorded.expected) == []
    report = judge(cooked, recorded.objects)
    assert len(report.journeys) == len(recorded.expected)
    truth = {(entry.told.client, entry.told.port): entry for entry in recorded.expected}
    for journey in report.journeys:
        assert journey.client is not None
        entry = truth[journey.client.address, journey.client.port]
        assert entry.snat is not None
        assert {snat.to for snat in journey.snat} <= {snat.to for snat in entry.snat}
        assert journey.seen_by_app in {entry.seen, None}


def test_the_command_says_it_all_and_ends_with_the_right_code(recorded: Recorded, tmp_path: Path) -> None:
    import json

    objects = tmp_path / "objects.json"
    objects.write_text(json.dumps(recorded.objects))
    preserved = {"client1": 0, "client2": 0}
    all_of_it = ended(start("analyze", *tap_options(recorded.usual, objects), "-o", "json"))
    assert all_of_it.code == 3
    assert all_of_it.json["summary"]["journeys"] == len(recorded.expected)
    assert all_of_it.json["capture"]["complete"] is True
    lonely = recorded.of(lambda tap: tap.kind == "client" and tap.node in preserved)
    alone = ended(start("analyze", *tap_options(lonely, objects), "-o", "json"))
    assert alone.code == 4
    assert alone.json["summary"]["inconclusive"] == alone.json["summary"]["journeys"] > 0
    assert "node1 has no tap" in alone.json["capture"]["reasons"]


NODE_PORT: Wish = {"target": "172.30.0.12", "port": 30080}
CLIENT = "172.30.0.101"


def test_noise_is_no_journey_and_a_port_used_again_is_another(tmp_path: Path) -> None:
    """kubelet's probes, pods among themselves, a connection from before: none of it is judged."""
    with Lab.start(twins.scenario(("ipv4",), "routed"), "nftables") as lab:
        objects = twins.objects(lab)
        twins.settle(lab, objects)
        ways = {way.name: way for way in twins.ways("nftables", "ipv4")}
        cluster = ways["client to web-cluster's node port of node2"]
        local = ways["client to web-local's node port of node2"]
        old = start_asking(lab, "client1", [[NODE_PORT | {"keep": 6}]])
        assert old.stderr is not None
        assert old.stderr.readline() == b"kept\n"
        with Watch(lab, tmp_path / "a", usual_taps(lab), flush=False) as watch:
            noise = threading.Thread(target=make_noise, args=(lab,))
            noise.start()
            again = [NODE_PORT | {"from_port": 45555, "reset": True}] * 3
            reused = ask(lab, "client1", CLIENT, *again, again[0] | {"port": 30081})
            fresh = ask(lab, "client1", CLIENT, *[NODE_PORT] * 3)
            noise.join()
            [[told]] = finish(old, CLIENT)
            assert told.outcome == "answered"
    expected = [twins.expectation(cluster, told, "routed") for told in [*reused[:3], *fresh]]
    expected.insert(3, twins.expectation(local, reused[3], "routed"))
    assert differences(judge(watch.captures, objects), expected) == []
    assert contradictions(judge(watch.captures, None), expected) == []


def make_noise(lab: Lab) -> None:
    """What goes on in a cluster all day."""
    pods = {pod.name: pod.addresses["ipv4"] for pod in lab.plan.pods}
    for _ in range(2):
        for node, pod in (("node2", "web-1"), ("node3", "web-2")):
            ask(lab, node, "", {"target": pods[pod], "port": 8080})
        ask(lab, "tool", pods["tool"], {"target": pods["web-1"], "port": 8080})
        ask(lab, "node1", "", {"target": "172.30.0.12", "port": 32100})
