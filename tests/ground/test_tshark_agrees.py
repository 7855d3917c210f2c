"""A second opinion on real captures: what tshark reads of every TCP packet, we read too."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from operator import itemgetter
from pathlib import Path

import pytest

from daemonset.decode.packet import Batch
from daemonset.observation import PACKET, address_text
from daemonset.taps.pcap import read_packets

EVIDENCE = Path(__file__).parents[2].parent / "shared/evidence"
FIELDS = (
    "frame.time_epoch", "ip.src", "ip.dst", "tcp.srcport", "tcp.dstport", "tcp.seq_raw", "tcp.ack_raw",
    "tcp.flags", "tcp.len", "tcp.options.timestamp.tsval", "tcp.options.timestamp.tsecr", "tcp.window_size_value",
    "ip.id", "ip.ttl",
)  # fmt: skip
FOLDERS = sorted({path.parent for path in EVIDENCE.rglob("*.pcap")})

COLUMNS = [column.name for column in PACKET.columns]
TIME, PROTOCOL, ICMP = (COLUMNS.index(name) for name in ("time", "protocol", "icmp"))
SRC, DST = (slice(COLUMNS.index(name), COLUMNS.index(name) + 2) for name in ("src_hi", "dst_hi"))
NUMBERS = ("sport", "dport", "seq", "ack", "flags", "length", "tsval", "tsecr", "window", "ipid", "ttl")
numbers = itemgetter(*(COLUMNS.index(name) for name in NUMBERS))
address = cache(address_text)

pytestmark = [
    pytest.mark.skipif(not FOLDERS, reason="the captures of ../shared/evidence are not here"),
    pytest.mark.skipif(
        shutil.which("tshark") is None or shutil.which("mergecap") is None, reason="tshark is not installed"
    ),
]


def by_tshark(path: Path) -> list[tuple[str, ...]]:
    shown = [argument for field in FIELDS for argument in ("-e", field)]
    listing = subprocess.run(
        ["tshark", "-n", "-r", path, "-Y", "tcp && !icmp", "-o", "tcp.desegment_tcp_streams:FALSE", "-T", "fields",
         *shown],
        capture_output=True,
        text=True,
        check=True,
    ).stdout  # fmt: skip
    return [normal(line.split("\t")) for line in listing.splitlines()]


def normal(fields: list[str]) -> tuple[str, ...]:
    time, src, dst, *numbers = fields
    seconds, fraction = time.split(".")
    return (
        f"{seconds}{fraction.ljust(9, '0')[:9]}",
        src,
        dst,
        *(str(int(text or "0", 0)) for text in numbers),
    )


def by_us(path: Path) -> list[tuple[str, ...]]:
    batch = Batch(heads=False)
    for packet in read_packets(path):
        batch.add(packet.data, link=packet.link, time=packet.time, tap=0, wire_length=packet.wire_length)
    # Tens of thousands of rows: by position, for `rows.packets` would take half a minute.
    return [
        (str(row[TIME]), address(*row[SRC]), address(*row[DST]), *map(str, numbers(row)))
        for row in PACKET.struct.iter_unpack(batch.take()[0])
        if row[PROTOCOL] == 6 and not row[ICMP]
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_tcp_packet_of_the_evidence(folder: Path, tmp_path: Path) -> None:
    merged = tmp_path / "all.pcapng"
    subprocess.run(["mergecap", "-a", "-w", merged, *sorted(folder.glob("*.pcap"))], check=True)
    ours, theirs = by_us(merged), by_tshark(merged)
    assert len(ours) == len(theirs) > 0
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert mine == other, f"TCP packet {number}"
    separate = [row for path in sorted(folder.glob("*.pcap")) for row in by_us(path)]
    assert separate == ours, "pcap and pcapng differ"
