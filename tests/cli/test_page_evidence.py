"""The evidence of each hop in the HTML report: the observation that showed it and no other, and nothing made up."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from analysis.analyze import analyze
from daemonset.taps.pcap import read_packets
from probe.commands.inputs import recorded
from probe.render.html.evidence import SHOWN, Evidence, Shown, hexdump
from probe.render.html.page import to_html
from tests import hostile
from tests.analysis.story import NODES, PODS, Story, cluster
from tests.analysis.test_stories import MASQUERADED, NODE_PORT, POD, REMOTE, C
from tests.cli.helpers import Probe
from tests.cli.test_pcapng import EXAMPLES, TAPS, given
from tests.decode.encode import tcp4, tlv

values = pytest.mark.parametrize("value", hostile.VALUES.values(), ids=hostile.VALUES.keys())


def lost() -> Story:
    return Story(cluster()).connection(REMOTE).conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD))


def shown_of(story: Story) -> list[tuple[str, Shown | None]]:
    journey = story.journey()
    shown = Evidence(story.recording()).of(journey)
    assert len(shown) == len(journey.hops)
    return [(hop.evidence, each) for hop, each in zip(journey.hops, shown, strict=True)]


class TestEvidence:
    def test_each_packet_is_shown_as_it_was_seen_at_its_place(self) -> None:
        told = shown_of(lost())
        packets = [shown for evidence, shown in told if evidence == "packet"]
        assert len(packets) == len(REMOTE)
        for shown, (_, source, destination) in zip(packets, REMOTE, strict=True):
            assert shown is not None
            ends = [text.rpartition(":")[0] for text in (source, destination)]
            addresses = struct.pack("!8B", *(int(part) for end in ends for part in end.split(".")))
            ports = struct.pack("!HH", *(int(text.rpartition(":")[2]) for text in (source, destination)))
            assert shown.data[12:20] == addresses
            assert shown.data[20:24] == ports
            assert shown.lines[0].startswith("TCP, SYN, seq ")
            assert "rebuilt" in shown.about

    def test_the_kernels_record_is_written_as_conntrack_does(self) -> None:
        [nat] = [shown for evidence, shown in shown_of(lost()) if evidence == "conntrack"]
        assert nat is not None
        (line,) = nat.lines
        client, node_port, pod, masqueraded = (text.split(":") for text in (C, NODE_PORT, POD, MASQUERADED))
        assert f"src={client[0]} dst={node_port[0]} sport={client[1]} dport={node_port[1]}" in line
        assert f"src={pod[0]} dst={masqueraded[0]} sport={pod[1]} dport={masqueraded[1]}" in line
        assert line.startswith("tcp 6 src=")

    def test_a_record_of_another_connection_is_no_evidence(self) -> None:
        """The same reply, of a tuple that this connection never had: ports were used again."""
        story = lost()
        journey, recording = story.journey(), story.recording()
        nat = recording.nat.copy()
        nat["orig_sport"] += 1
        other = Evidence(replace(recording, nat=nat))
        shown = other.of(journey)
        assert [
            each for hop, each in zip(journey.hops, shown, strict=True) if hop.evidence == "conntrack"
        ] == [None]

    def test_a_packet_of_another_tap_or_moment_is_no_evidence(self) -> None:
        story = lost()
        journey, evidence = story.journey(), Evidence(story.recording())
        for change in (
            {"time": journey.hops[0].time + 1},
            {"interface": "eth9"},
            {"node": "node7"},
            {"source": "x"},
        ):
            hop = msgspec.structs.replace(journey.hops[0], **change)
            (shown,) = evidence.of(msgspec.structs.replace(journey, hops=(hop,)))
            assert shown is None, change

    def test_a_recording_of_nothing_shows_nothing(self) -> None:
        journey = lost().journey()
        assert set(Evidence(Story(cluster()).recording()).of(journey)) == {None}

    def test_the_bytes_of_a_header_are_those_on_the_wire(self) -> None:
        header = tcp4(tlv(2, b"shop.example"))
        balancer = "172.30.0.150:40000"
        path = [
            ("nic:node2/eth0", balancer, f"{NODES['node2']}:30080"),
            ("pod:node2/web", balancer, f"{PODS['node2']}:8080"),
        ]
        story = Story(cluster("Local", balancer="172.30.0.150"))
        story.relayed((path, 5000, header + b"GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"))
        report = story.report()
        evidence = Evidence(story.recording())
        found = [
            shown
            for journey in report.journeys
            for hop, shown in zip(journey.hops, evidence.of(journey), strict=True)
            if hop.point == "proxy-header"
        ]
        assert found
        for shown in found:
            assert shown is not None
            assert shown.data == header
            assert "as they were seen" in shown.about
            assert any("PROXY v2" in line for line in shown.lines)

    def test_a_header_that_is_cut_says_so(self) -> None:
        header = tcp4(tlv(0xE0, b"x" * 2000))
        path = [
            ("nic:node2/eth0", "172.30.0.150:40000", f"{NODES['node2']}:30080"),
            ("pod:node2/web", "172.30.0.150:40000", f"{PODS['node2']}:8080"),
        ]
        story = Story(cluster("Local", balancer="172.30.0.150"))
        story.relayed((path, 5000, header[:1400]))
        evidence = Evidence(story.recording())
        for journey in story.report().journeys:
            for hop, shown in zip(journey.hops, evidence.of(journey), strict=True):
                if hop.point == "proxy-header" and shown is not None:
                    assert any("are shown" in line for line in shown.lines)

    def test_what_is_rebuilt_of_a_file_agrees_with_its_packets(self) -> None:
        """Addresses, ports, sequence numbers, flags, window and TTL, byte for byte, from the captures themselves."""
        taps = [f"{tap}={EXAMPLES / '-'.join(tap.partition(':')[2].split('/'))}.pcap" for tap in TAPS]
        loaded = recorded([], taps, EXAMPLES / "objects.json", [])
        report = analyze(loaded.recording, loaded.facts)
        evidence, compared = Evidence(loaded.recording), 0
        files = {tap.partition(":")[2]: tap.partition("=")[2] for tap in taps}
        originals = {
            name.partition("=")[0]: {packet.time: packet for packet in read_packets(Path(file))}
            for name, file in files.items()
        }
        for journey in report.journeys:
            for hop, shown in zip(journey.hops, evidence.of(journey), strict=True):
                if hop.evidence != "packet":
                    continue
                assert shown is not None
                known = originals[f"{hop.node}/{hop.interface}"]
                moment = min(known, key=lambda time: abs(time - hop.time * 1e9))
                packet = known[moment].data
                at = packet.index(bytes.fromhex("0800")) + 2
                ip = packet[at:]
                assert shown.data[8:10] == ip[8:10], "TTL and protocol"
                assert shown.data[4:6] == ip[4:6], "identification"
                assert shown.data[12:20] == ip[12:20]
                assert shown.data[20:32] == ip[20:32], "ports and numbers"
                assert shown.data[33:36] == ip[33:36], "flags and window"
                compared += 1
        assert compared > 10


class TestHexdump:
    def test_it_reads_as_others_write_it(self) -> None:
        assert hexdump(b"PROXY \r\n\x00\xff<b>abcdefgh")[0] == (
            "0000  50 52 4f 58 59 20 0d 0a  00 ff 3c 62 3e 61 62 63  PROXY ....<b>abc"
        )
        assert hexdump(b"") == []

    @values
    def test_any_bytes_are_plain_characters(self, value: bytes) -> None:
        for line in hexdump(value[:SHOWN]):
            assert line.isascii()
            assert line.isprintable()


class TestPage:
    def test_it_stands_below_the_hops(self) -> None:
        story = lost()
        text = to_html(story.report(), Evidence(story.recording()))
        assert "What was recorded of " in text
        assert re.search(r"0000  45 00 00 34 |0000  45 00 00", text)
        assert "tcp 6 src=" in text
        assert "What was recorded of " not in to_html(story.report())

    def test_of_hops_that_nothing_shows_the_page_says_so(self) -> None:
        story = lost()
        report = story.report()
        (journey,) = report.journeys
        hops = (*journey.hops[:2], msgspec.structs.replace(journey.hops[2], time=1.0))
        report = msgspec.structs.replace(report, journeys=(msgspec.structs.replace(journey, hops=hops),))
        assert "1 hop more nothing was recorded" in to_html(report, Evidence(story.recording()))

    @values
    def test_no_header_becomes_markup(self, value: bytes) -> None:
        data = next(iter(hostile.requests(value[:900]).values()))
        story = Story(cluster()).relayed((REMOTE, 7000, data))
        plain = Story(cluster()).relayed((REMOTE, 7000, next(iter(hostile.requests(b"x").values()))))
        for told in (story, plain):
            hostile.safe_text(to_html(told.report(), Evidence(told.recording())))

    def test_it_is_written_with_html(self, probe: Probe, tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        assert probe("analyze", *given(), "--html", path).code == 3
        assert "What was recorded of " in path.read_text(encoding="utf-8")
