"""The packets of a session as pcapng, read back by tshark and capinfos, which know nothing of us."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from analysis.facts import Facts, Node, Pod, Service
from analysis.report import Report
from daemonset.decode.packet import Batch
from daemonset.observation import PACKET, Tap, TapKind, TcpFlag, Tunnel, address_words
from daemonset.taps.pcap import read_packets
from probe.commands import files
from probe.commands.files import Files
from probe.render.wireshark.frames import rebuild
from probe.render.wireshark.marks import Marks
from probe.render.wireshark.names import names_of
from probe.render.wireshark.packets import Seen, write_packets
from tests import hostile
from tests.analysis.story import CLIENT, NODES, PODS, Story, cluster
from tests.cli.helpers import Probe, ended, start
from tests.decode.encode import tcp4

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
TAPS = ("client:client1/eth0", "nic:node1/eth0", "nic:node2/eth0", "bridge:node2/cni0")

needs_tshark = pytest.mark.skipif(
    shutil.which("tshark") is None or shutil.which("capinfos") is None, reason="needs tshark and capinfos"
)
values = pytest.mark.parametrize("value", hostile.VALUES.values(), ids=hostile.VALUES.keys())

WAY_IN = [
    ("client:c/eth0", f"{CLIENT}:40000", f"{NODES['node1']}:30080"),
    ("nic:node1/eth0", f"{CLIENT}:40000", f"{NODES['node1']}:30080"),
    ("nic:node1/eth0", f"{NODES['node1']}:61000", f"{PODS['node2']}:8080"),
    ("nic:node2/eth0", f"{NODES['node1']}:61000", f"{PODS['node2']}:8080"),
    ("pod:node2/eth0", f"{NODES['node1']}:61000", f"{PODS['node2']}:8080"),
]


def given() -> list[str]:
    """The captures of docs/examples as options."""
    options = []
    for tap in TAPS:
        node, interface = tap.partition(":")[2].split("/")
        options += ["--tap", f"{tap}={EXAMPLES / f'{node}-{interface}.pcap'}"]
    return [
        *options,
        "--objects",
        str(EXAMPLES / "objects.json"),
        "--conntrack",
        f"node1={EXAMPLES / 'conntrack-node1.txt'}",
    ]


def written(story: Story, tmp_path: Path, report: Report | None = None) -> Path:
    path = tmp_path / "all.pcapng"
    with path.open("wb") as file:
        write_packets(file, report or story.report(), Seen(story.recording(), story.facts))
    return path


def tshark(path: Path, *fields: str, wanted: str = "frame") -> list[tuple[str, ...]]:
    """These fields of the packets that are wanted, checksums checked, names resolved by the file alone."""
    command = ["tshark", "-r", str(path), "-Nn", "-Y", wanted, "-T", "fields", "-E", "separator=/t"]
    for layer in ("ip", "tcp", "udp"):
        command += ["-o", f"{layer}.check_checksum:TRUE"]
    done = subprocess.run(
        [*command, *(part for field in fields for part in ("-e", field))],
        capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


def capinfos(path: Path) -> str:
    return subprocess.run(["capinfos", str(path)], capture_output=True, text=True, check=True).stdout


def opens_cleanly(path: Path, *, rebuilt: bool = True) -> None:
    """Nothing is malformed; in what was rebuilt no checksum is wrong either, as they are in real captures."""
    if not rebuilt:
        assert tshark(path, "frame.number", wanted="_ws.malformed") == []
        return
    trouble = (
        "_ws.malformed || _ws.expert.severity == error || tcp.checksum.status == 0 || ip.checksum.status == 0"
    )
    trouble += " || udp.checksum.status == 0"
    assert tshark(path, "frame.number", "_ws.expert.message", wanted=trouble) == []


@needs_tshark
class TestCapturesGiven:
    def test_every_packet_is_there_as_it_was_captured(self, probe: Probe, tmp_path: Path) -> None:
        out = tmp_path / "all.pcapng"
        probe("analyze", *given(), "-w", out)
        before = sorted(
            (packet.time, packet.data)
            for tap in TAPS
            for packet in read_packets(EXAMPLES / f"{_file(tap)}.pcap")
        )
        after = [(packet.time, packet.data) for packet in read_packets(out)]
        assert sorted(after) == before
        assert [time for time, _ in after] == sorted(time for time, _ in after)
        opens_cleanly(out, rebuilt=False)

    def test_each_tap_is_an_interface_and_says_what_it_is(self, probe: Probe, tmp_path: Path) -> None:
        out = tmp_path / "all.pcapng"
        probe("analyze", *given(), "-w", out)
        told = capinfos(out)
        for tap in TAPS:
            kind, _, where = tap.partition(":")
            node, interface = where.split("/")
            assert f"Name = {node}/{kind}/{interface}" in told
        assert "packets as captured" in told
        assert "rebuilt" not in told
        assert told.count("Time precision = nanoseconds (9)") == len(TAPS)
        assert "Capture application: probe" in told

    def test_a_packet_says_what_became_of_its_journey(self, probe: Probe, tmp_path: Path) -> None:
        out = tmp_path / "all.pcapng"
        report = probe("analyze", *given(), "-w", out, "-o", "json").json
        for journey in report["journeys"]:
            own = f'frame.comment contains "journey {journey["id"]}:"'
            packets = tshark(
                out, "frame.interface_name", "frame.comment", "ip.src", "tcp.srcport", wanted=own
            )
            assert {name for name, *_ in packets} == {_name(tap) for tap in TAPS}
            assert all(f"journey {journey['id']}: lost" in comment for _, comment, *_ in packets)
            first = packets[0]
            assert (first[2], int(first[3])) == (journey["client"]["address"], journey["client"]["port"])
            # The display filter of the report finds these packets, and no others.
            numbers = [
                tshark(out, "frame.number", wanted=wanted) for wanted in (own, journey["displayFilter"])
            ]
            assert numbers[0] == numbers[1]

    def test_the_place_where_the_address_changes_says_so(self, probe: Probe, tmp_path: Path) -> None:
        out = tmp_path / "all.pcapng"
        probe("analyze", *given(), "-w", out)
        wanted = 'frame.comment contains "source replaced on the way here: kube-proxy masquerade"'
        changed = tshark(out, "frame.interface_name", "ip.src", "tcp.flags.syn", wanted=wanted)
        assert changed == [("node1/nic/eth0", "172.30.0.11", "1")] * 3

    def test_addresses_have_names(self, probe: Probe, tmp_path: Path) -> None:
        out = tmp_path / "all.pcapng"
        probe("analyze", *given(), "-w", out)
        hosts = {host for line in tshark(out, "ip.src_host", "ip.dst_host") for host in line}
        assert {"node1", "web-1.default.pod"} <= hosts


def _file(tap: str) -> str:
    return tap.partition(":")[2].replace("/", "-")


def _name(tap: str) -> str:
    kind, _, where = tap.partition(":")
    node, interface = where.split("/")
    return f"{node}/{kind}/{interface}"


@needs_tshark
class TestRebuilt:
    def test_a_connection_reads_as_it_was(self, tmp_path: Path) -> None:
        story = Story(cluster()).connection(WAY_IN, data=tcp4() + b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")
        path = written(story, tmp_path)
        opens_cleanly(path)
        told = capinfos(path)
        assert "frames rebuilt from what the agent recorded" in told
        assert "Not kept, so cut off: other payload" in told
        rows = tshark(
            path, "frame.interface_name", "ip.src", "tcp.srcport", "tcp.flags.str", "tcp.seq_raw", "tcp.len",
            "tcp.options.timestamp.tsval", "frame.time_epoch",
        )  # fmt: skip
        assert len(rows) == len(story.rows)
        assert rows[2][:6] == ("node1/nic/eth0", NODES["node1"], "61000", "··········S·", "7000", "0")
        assert rows[2][6] == "1000"
        times = [PACKET.struct.unpack(row)[0] for _, row, _ in story.rows]
        assert [int(row[7].replace(".", "")) for row in rows] == sorted(times)
        data = tshark(path, "proxy.src.ipv4", "tcp.len", wanted="proxy")
        assert {length for _, length in data} == {str(len(tcp4()) + 29)}

    def test_what_is_rebuilt_is_decoded_as_the_same_again(self) -> None:
        for row, head in observed():
            frame = rebuild(row, head)
            assert len(frame.data) <= frame.length
            batch = Batch()
            assert batch.add(
                frame.data, link=1, time=row["time"], tap=row["tap"], direction=row["direction"],
                wire_length=frame.length,
            )  # fmt: skip
            again = dict(zip(row, PACKET.struct.unpack(batch.take()[0]), strict=True))
            kept = set(row) - {"digest", "payload", "head", "options"}
            if not row["flags"] & TcpFlag.ACK and row["icmp"]:
                kept -= {"length"}
            assert {name: again[name] for name in kept} == {name: row[name] for name in kept}

    def test_tunnels_errors_tags_and_other_protocols_open_cleanly(self, tmp_path: Path) -> None:
        story = Story(Facts(known=False))
        story.watch("nic:node1/eth0")
        for row, head in observed():
            story.rows.append((0, PACKET.struct.pack(*(row | {"tap": 0, "head": 0}).values()), head))
        path = written(story, tmp_path)
        opens_cleanly(path)
        assert len(tshark(path, "vxlan.vni", wanted="vxlan")) == 2
        assert tshark(path, "geneve.vni", wanted="geneve") == [("0x000007",)]
        assert len(tshark(path, "frame.number", wanted="gre")) == 1
        assert len(tshark(path, "frame.number", wanted="icmp || icmpv6")) == 3
        assert [vlan for (vlan,) in tshark(path, "vlan.id", wanted="vlan")] == ["42"]
        assert len(tshark(path, "frame.number", wanted="sctp")) == 1

    def test_any_row_makes_a_frame(self) -> None:
        most = {name: 2 ** (8 * {"B": 1, "H": 2, "I": 4, "Q": 8}[code]) - 1 for name, code in PACKET.columns}
        for protocol in (0, 6, 17, 58, 132, 255):
            for tunnel in range(7):
                for icmp in (0, 0x0301, 0xFFFF):
                    frame = rebuild(most | {"protocol": protocol, "tunnel": tunnel, "icmp": icmp}, None)
                    assert len(frame.data) < 300

    def test_what_kernels_dropped_is_told(self, tmp_path: Path) -> None:
        story = Story(cluster()).connection(WAY_IN)
        recording = story.recording()
        path = tmp_path / "all.pcapng"
        lossy = replace(recording, losses=((recording.taps[1], 30, 5), (recording.taps[1], 12, 2)))
        with path.open("wb") as file:
            write_packets(file, story.report(), Seen(lossy, story.facts))
        capture = read_packets(path)
        assert len(list(capture)) == len(story.rows)
        assert capture.dropped == 7


def observed() -> Iterator[tuple[dict[str, int], Any]]:
    """Rows of every kind that agents make."""
    four = address_words("192.0.2.10"), address_words("10.244.2.5")
    six = address_words("2001:db8::10"), address_words("2001:db8::8")
    outer4 = address_words("172.30.0.11"), address_words("172.30.0.12")
    outer6 = address_words("2001:db8:1::11"), address_words("2001:db8:1::12")

    def row(addresses: Any = four, outer: Any = None, **more: int) -> dict[str, int]:
        values = dict.fromkeys((column.name for column in PACKET.columns), 0)
        values |= {"time": 1_760_000_000_123_456_789, "ttl": 61, "sport": 40000, "dport": 8080, "protocol": 6}
        values["src_hi"], values["src_lo"], values["dst_hi"], values["dst_lo"] = *addresses[0], *addresses[1]
        if outer:
            values["outer_src_hi"], values["outer_src_lo"] = outer[0]
            values["outer_dst_hi"], values["outer_dst_lo"] = outer[1]
        return values | more

    syn = {"flags": 2, "seq": 77, "window": 64240, "tsval": 5}
    for addresses, outer in ((four, outer4), (six, outer6)):
        yield row(addresses, **syn), None
        yield row(addresses, outer, tunnel=Tunnel.VXLAN, vni=1, **syn), None
    yield row(ipid=9, **syn, vlan=0x1000 | 42), None
    yield row(six, outer4, tunnel=Tunnel.IPIP, **syn), None
    yield row(four, outer6, tunnel=Tunnel.IPIP, **syn), None
    yield row(four, outer4, tunnel=Tunnel.GENEVE, vni=7, flags=16, length=1400), None
    yield row(four, outer4, tunnel=Tunnel.GRE, vni=7, **syn), None
    yield row(flags=24, seq=1, ack=2, length=500, direction=1), None
    yield row(flags=16, length=90_000, direction=2), None
    yield row(protocol=17, length=33), None
    yield row(six, protocol=17, length=33), None
    yield row(protocol=132, length=40), None
    yield row(four, outer4, icmp=0x0301, seq=77), None
    yield row(four, outer4, icmp=0x0B00, protocol=17, length=12), None
    yield row(six, outer6, icmp=0x8000 | 0x0104, seq=77, flags=2), None


class TestWhosePacketItIs:
    def test_a_port_that_is_used_again_is_another_connections(self) -> None:
        story = Story(cluster()).connection(WAY_IN, isn=7_000)
        told = story.report().journeys
        story.wait(100).connection(WAY_IN, isn=90_000, tsval=500_000)
        assert len(story.report().journeys) == 2
        marked = [mark is not None for _, mark in _marks(story, told)]
        half = len(story.rows) // 2
        assert marked == [True] * half + [False] * half

    def test_a_packet_that_came_before_the_journey_began_is_nobodys(self) -> None:
        story = Story(cluster())
        for tap, source, destination in WAY_IN:
            story.packet(tap, source, destination, flags=TcpFlag.ACK, seq=3)
        story.wait(100).connection(WAY_IN)
        marks = _marks(story, story.report().journeys)
        assert [mark is not None for _, mark in marks] == [False] * len(WAY_IN) + [True] * (
            len(marks) - len(WAY_IN)
        )

    def test_an_error_that_quotes_a_packet_belongs_to_it(self) -> None:
        story = Story(cluster()).connection(WAY_IN)
        story.packet(*WAY_IN[1], icmp=0x0301, seq=7_000, sender=NODES["node1"])
        assert _marks(story, story.report().journeys)[-1][1] is not None


def _marks(story: Story, journeys: Any) -> list[tuple[dict[str, int], Any]]:
    recording = story.recording()
    marks = Marks(journeys, recording.taps)
    names = [column.name for column in PACKET.columns]
    rows = [dict(zip(names, values, strict=True)) for values in recording.packets.tolist()]
    return [(row, marks.of(row)) for row in sorted(rows, key=lambda row: row["time"])]


@needs_tshark
class TestHostile:
    @values
    def test_no_value_says_anything_in_a_comment_or_a_name(self, value: bytes, tmp_path: Path) -> None:
        text = value[:3000].decode("utf-8", "surrogateescape")
        tap = Tap(text, TapKind.NIC, text)
        story = Story(
            Facts(
                nodes=(Node(text, (NODES["node1"],)),),
                pods=(Pod(text, text, None, (PODS["node2"],)),),
                services=(Service(text, text, cluster_ips=("10.96.0.80", text)),),
            )
        )
        story.connection(WAY_IN[:2], data=b"GET / HTTP/1.1\r\nX-Forwarded-For: " + value[:3000] + b"\r\n\r\n")
        recording = story.recording()
        recording = replace(recording, taps=(tap, *recording.taps[1:]))
        report = story.report()
        journeys = tuple(
            msgspec.structs.replace(each, reason=text, findings=(text,)) for each in report.journeys
        )
        path = tmp_path / "all.pcapng"
        with path.open("wb") as file:
            write_packets(
                file,
                msgspec.structs.replace(report, journeys=journeys, title=text),
                Seen(recording, story.facts),
            )
        for line in tshark(path, "frame.interface_name", "frame.interface_description", "frame.comment"):
            hostile.safe_text("\n".join(line))
        assert all(name.isascii() and " " not in name for name in names_of(recording, story.facts).values())

    def test_the_values_do_arrive(self, tmp_path: Path) -> None:
        story = Story(cluster()).connection(WAY_IN, data=b"GET / HTTP/1.1\r\nX-Forwarded-For: MARK\r\n\r\n")
        assert "MARK" in str(tshark(written(story, tmp_path), "frame.comment"))


class TestCommand:
    @needs_tshark
    def test_packets_go_to_stdout_and_the_report_to_stderr(self, tmp_path: Path) -> None:
        process = start("analyze", *given(), "-w", "-")
        out, err = process.communicate(timeout=60)
        path = tmp_path / "piped.pcapng"
        path.write_bytes(out)
        assert process.returncode == 3
        assert b"LOST" in err
        opens_cleanly(path, rebuilt=False)

    def test_a_reader_that_leaves_early_had_enough(self) -> None:
        process = start("analyze", *given(), "-w", "-")
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"defect" not in process.stderr.read()
        process.stderr.close()
        assert process.wait() == 3

    def test_a_file_that_is_read_is_not_written_over(self, probe: Probe, tmp_path: Path) -> None:
        capture = tmp_path / "a.pcap"
        shutil.copy(EXAMPLES / "node1-eth0.pcap", capture)
        before = capture.read_bytes()
        probe("analyze", "--tap", f"nic:node1/eth0={capture}", "-w", capture).complains(
            2, "it is read as well"
        )
        assert capture.read_bytes() == before

    @pytest.mark.parametrize("name", ["", "nowhere/a.pcapng"])
    def test_where_nothing_can_be_written_nothing_is_begun(
        self, name: str, probe: Probe, tmp_path: Path
    ) -> None:
        probe("analyze", *given(), "-w", f"{tmp_path}/{name}").complains(2, "cannot write")

    def test_the_tour_has_two_reports(self, probe: Probe, tmp_path: Path) -> None:
        probe("demo", "-w", tmp_path / "a.pcapng").complains(2, "--scenario")

    def test_a_full_disk_leaves_nothing_half_written(self, probe: Probe) -> None:
        ending = probe("analyze", *given(), "-w", "/dev/full", "-o", "json")
        assert (ending.code, "free some space" in ending.err) == (5, True)

    def test_packets_are_not_for_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr(sys, "stdout", Terminal())
        with pytest.raises(Exception, match="not for a terminal"):
            Files("-").prepare()

    def test_wireshark_is_started_where_there_is_one(
        self, probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: list[list[str]] = []
        monkeypatch.setattr(files.shutil, "which", lambda name: f"/opt/{name}")
        monkeypatch.setattr(files.subprocess, "Popen", lambda command, **_: started.append(command))
        out = tmp_path / "a.pcapng"
        probe("analyze", *given(), "-w", out, "--open")
        assert started == [["/opt/wireshark", "-r", str(out)]]

    def test_where_there_is_no_wireshark_the_file_is_kept(
        self, probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files.shutil, "which", lambda _: None)
        monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
        ending = probe("analyze", *given(), "--open")
        assert "there is no Wireshark" in ending.err
        [kept] = tmp_path.iterdir()
        assert len(list(read_packets(kept))) == 150


def test_a_piped_end_is_an_ending_like_others() -> None:
    assert ended(start("analyze", "--tap", "nic:node1/eth0=/nowhere", "-w", "-")).code == 2
