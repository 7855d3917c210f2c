"""Capture files as taps: every form that can be read, every way that one can be wrong."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemonset.decode.packet import Batch
from daemonset.observation import Direction
from daemonset.taps.pcap import Capture, CapturedPacket, CaptureFileError, read_packets, read_tap
from tests.ground.rows import packets

FIRST, SECOND = b"\0" * 12 + b"\x08\x06" + bytes(28), b"\1" * 60
SYN = bytes.fromhex("45000028000000004006000001020304050607089c400050000000010000000050022000 00000000")


def pcap(
    *records: tuple[int, int, bytes],
    order: str = "<",
    magic: int = 0xA1B2C3D4,
    link: int = 1,
    length: int = 0,
) -> bytes:
    """draft-ietf-opsawg-pcap §4 and §5."""
    file = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for seconds, fraction, data in records:
        file += struct.pack(order + "IIII", seconds, fraction, len(data), length or len(data)) + data
    return file


class Pcapng:
    """draft-ietf-opsawg-pcapng §3 and §4, of one byte order."""

    def __init__(self, order: str = "<") -> None:
        self.order = order

    def pack(self, layout: str, *values: int) -> bytes:
        return struct.pack(self.order + layout, *values)

    def block(self, kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        size = self.pack("I", len(body) + 12)
        return self.pack("I", kind) + size + body + size

    def option(self, code: int, value: bytes) -> bytes:
        return self.pack("HH", code, len(value)) + value + bytes(-len(value) % 4)

    def section(self) -> bytes:
        return self.block(0x0A0D0D0A, self.pack("IHHq", 0x1A2B3C4D, 1, 0, -1))

    def interface(self, link: int = 1, options: bytes = b"", snaplen: int = 0) -> bytes:
        return self.block(1, self.pack("HHI", link, 0, snaplen) + options)

    def packet(
        self, ticks: int, data: bytes, interface: int = 0, options: bytes = b"", length: int = 0
    ) -> bytes:
        head = self.pack("IIIII", interface, ticks >> 32, ticks & 0xFFFFFFFF, len(data), length or len(data))
        return self.block(6, head + data + bytes(-len(data) % 4) + options)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file.pcap"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_pcap_of_either_order_and_resolution(tmp_path: Path, order: str, magic: int, unit: int) -> None:
    path = written(tmp_path, pcap((1, 2, FIRST), (3, 4, SECOND), order=order, magic=magic, length=1500))
    assert list(read_packets(path)) == [
        CapturedPacket(1_000_000_000 + 2 * unit, 1, FIRST, 1500),
        CapturedPacket(3_000_000_000 + 4 * unit, 1, SECOND, 1500),
    ]


def test_the_frame_check_bits_above_the_link_type_are_not_the_link_type(tmp_path: Path) -> None:
    assert len(list(read_packets(written(tmp_path, pcap((1, 2, SECOND), link=0x5400_0001))))) == 1


@pytest.mark.parametrize("order", "<>")
def test_pcapng_with_interfaces_of_their_own_clock_name_and_link(tmp_path: Path, order: str) -> None:
    ng = Pcapng(order)
    file = (
        ng.section()
        + ng.interface(1, ng.option(2, b"eth0\0"))
        + ng.interface(101, ng.option(2, b"tun0") + ng.option(9, b"\x09") + ng.option(14, ng.pack("q", 100)))
        + ng.interface(276, ng.option(9, b"\x8a"))
        + ng.packet(5, FIRST, options=ng.option(2, ng.pack("I", 1)) + ng.option(0, b""))
        + ng.block(0xBAD, b"something newer")
        + ng.packet(7, SYN, interface=1, options=ng.option(1, b"comment") + ng.option(2, ng.pack("I", 2)))
        + ng.packet(1024, SECOND, interface=2, length=9000)
    )
    assert list(read_packets(written(tmp_path, file))) == [
        CapturedPacket(5000, 1, FIRST, len(FIRST), "eth0", Direction.IN),
        CapturedPacket(100_000_000_007, 101, SYN, len(SYN), "tun0", Direction.OUT),
        CapturedPacket(1_000_000_000, 276, SECOND, 9000, ""),
    ]


def test_a_second_section_starts_its_interfaces_anew_and_may_turn_the_bytes(tmp_path: Path) -> None:
    little, big = Pcapng("<"), Pcapng(">")
    file = little.section() + little.interface(1) + little.packet(1, FIRST)
    file += big.section() + big.interface(101) + big.packet(2, SYN)
    assert [(packet.time, packet.link) for packet in read_packets(written(tmp_path, file))] == [
        (1000, 1),
        (2000, 101),
    ]


def test_older_and_simpler_packet_blocks(tmp_path: Path) -> None:
    ng = Pcapng()
    old = ng.block(2, ng.pack("HHIIII", 0, 0, 0, 9, 60, 60) + SECOND + ng.option(2, ng.pack("I", 2)))
    simple = ng.block(3, ng.pack("I", 60) + SECOND[:40])
    file = ng.section() + ng.interface(1, snaplen=40) + old + simple
    assert list(read_packets(written(tmp_path, file))) == [
        CapturedPacket(9000, 1, SECOND, 60, "", Direction.OUT),
        CapturedPacket(0, 1, SECOND[:40], 60),
    ]


def test_drops_that_the_capturing_host_counted_are_told(tmp_path: Path) -> None:
    ng = Pcapng()

    def statistics(drops: int) -> bytes:
        return ng.block(5, ng.pack("III", 0, 0, 0) + ng.option(5, ng.pack("Q", drops)))

    file = ng.section() + ng.interface(1) + statistics(3) + ng.packet(1, FIRST) + statistics(5)
    assert read_tap(written(tmp_path, file + file), 0, Batch()).dropped == 10


def test_reading_a_tap_counts_what_was_read_and_what_was_of_interest(tmp_path: Path) -> None:
    path = written(tmp_path, pcap((1, 2, SYN), (1, 3, b"\0" * 20), link=101))
    batch = Batch()
    tap = read_tap(path, 9, batch)
    assert tap == (2, None, 0, 1)
    (row,) = packets(batch.take()[0])
    assert (row.tap, row.time, row.source) == (9, 1_000_002_000, "1.2.3.4:40000")


def test_a_capture_without_packets_is_one(tmp_path: Path) -> None:
    assert read_tap(written(tmp_path, pcap()), 0, Batch()) == (0, None, 0, 0)


def test_a_file_cut_anywhere_gives_what_stands_before_the_cut_and_says_so(tmp_path: Path) -> None:
    ng = Pcapng()
    for file, header in (
        (pcap((1, 2, FIRST), (3, 4, SECOND)), 24),
        (ng.section() + ng.interface() + ng.packet(1, FIRST) + ng.packet(2, SECOND), 28),
    ):
        boundaries = set()
        for cut in range(header, len(file)):
            tap = read_tap(written(tmp_path, file[:cut]), 0, Batch())
            if tap.truncated is None:
                boundaries.add(cut)
            else:
                assert tap.truncated.endswith(f"after {tap.packets} packets")
        assert len(boundaries) in {2, 3}, "whole only where a record ends"
        assert read_tap(written(tmp_path, file), 0, Batch()).packets == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\xd4\xc3", "not a pcap or pcapng"),
        (pcap()[:20], "truncated"),
        (Pcapng().section()[:13], "in the middle"),
        (b"\x0a\x0d\x0d\x0a\x1c\0\0\0\0\0\0\0", "byte order 00 00 00 00"),
        (b"hello, world", "begins with 68 65 6c 6c"),
        (b"\x1f\x8b\x08\x00abcdef", "gunzip"),
        (b"\x28\xb5\x2f\xfdabcdef", "unzstd"),
        (b"snoop\0\0\0", "editcap"),
        (pcap(link=147), "link type 147"),
        (Pcapng().section() + Pcapng().interface(249) + Pcapng().packet(1, FIRST), "link type 249"),
    ],
)
def test_what_is_no_usable_capture_is_refused_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(CaptureFileError, match=r"file\.pcap") as refused:
        list(read_packets(path))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pcap", tmp_path):
        with pytest.raises(CaptureFileError, match="cannot be read"):
            read_packets(path)


@pytest.mark.parametrize(
    "damage",
    [
        pcap((1, 2, FIRST)) + struct.pack("<IIII", 1, 2, 0x7FFFFFFF, 60) + bytes(100),
        Pcapng().section() + Pcapng().interface() + Pcapng().packet(1, FIRST) + struct.pack("<II", 6, 2**31),
        Pcapng().section() + Pcapng().interface() + Pcapng().packet(1, FIRST) + struct.pack("<II", 6, 4),
        Pcapng().section()
        + Pcapng().interface()
        + Pcapng().packet(1, FIRST)
        + struct.pack("<IIII", 9, 16, 0, 20),
        Pcapng().section() + Pcapng().interface() + Pcapng().packet(1, FIRST) + Pcapng().packet(1, FIRST, 1),
        Pcapng().section()
        + Pcapng().interface()
        + Pcapng().packet(1, FIRST)
        + Pcapng().packet(2**64 - 1, FIRST),
        Pcapng().section() + Pcapng().interface() + Pcapng().packet(1, FIRST) + Pcapng().block(6, b"short"),
    ],
)
def test_damage_ends_the_reading_and_is_told(tmp_path: Path, damage: bytes) -> None:
    capture = read_packets(written(tmp_path, damage))
    assert len(list(capture)) == 1
    assert capture.truncated is not None
    assert "after 1 packets" in capture.truncated


def test_files_are_closed_whatever_happens(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for content in (pcap((1, 2, FIRST)), pcap((1, 2, FIRST))[:-1]):
        list(read_packets(written(tmp_path, content)))
    for content in (b"", pcap(link=147)):
        with pytest.raises(CaptureFileError):
            read_packets(written(tmp_path, content))
    Capture(written(tmp_path, pcap((1, 2, FIRST)))).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(
        [
            pcap((1, 2, SYN), link=101),
            Pcapng().section()
            + Pcapng().interface(101, Pcapng().option(9, b"\x03"))
            + Pcapng().packet(1, SYN),
            Pcapng(">").section()
            + Pcapng(">").interface(101)
            + Pcapng(">").packet(1, SYN, options=b"\0\2\0\4\0\0\0\1"),
        ]
    ),
    st.data(),
)
def test_any_damage_gives_packets_a_fact_or_our_error(
    tmp_path: Path, content: bytes, data: st.DataObject
) -> None:
    broken = bytearray(content + data.draw(st.binary(max_size=8)))
    for _ in range(data.draw(st.integers(1, 5))):
        broken[data.draw(st.integers(4, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CaptureFileError):
        read_tap(written(tmp_path, bytes(broken)), 0, Batch())


@pytest.mark.skipif(shutil.which("editcap") is None, reason="editcap is not installed")
@pytest.mark.parametrize("form", ["pcap", "nsecpcap", "pcapng"])
def test_what_wireshark_writes_is_read(tmp_path: Path, form: str) -> None:
    source = written(tmp_path, pcap((1, 2, SYN), (3, 4, SYN), link=101))
    target = tmp_path / form
    subprocess.run(["editcap", "-F", form, source, target], check=True)
    found = [(packet.time, packet.link, packet.data) for packet in read_packets(target)]
    assert found == [(1_000_002_000, 101, SYN), (3_000_004_000, 101, SYN)]
