"""A second opinion: what tshark's dissector reads from headers that we generate.

Known limits of the dissector (4.0): it is a heuristic one, it leaves TLVs that begin within the last 16 bytes
unread, misses headers that are split over segments, and checks no checksum. The headers here keep clear of that.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from daemonset.decode.proxy_protocol import decode
from daemonset.observation import ProxyHeader
from tests.decode.capture import segment, write
from tests.decode.encode import inet, tlv, v1, v2, with_checksum

FIELDS = (
    "proxy.src.ipv4", "proxy.src.ipv6", "proxy.srcport", "proxy.dst.ipv4", "proxy.dst.ipv6",
    "proxy.dstport", "proxy.v1.proto", "proxy.v2.cmd", "proxy.v2.protocol", "proxy.v2.tlv.type",
    "proxy.v2.tlv.ssl.version", "proxy.v2.tlv.ssl.cn",
)  # fmt: skip

pytestmark = pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")


def some_headers(count: int) -> list[bytes]:
    """Valid headers of both versions and families, with TLVs; the same ones in every run."""
    chance = random.Random(20260427)
    found = []
    for _ in range(count):
        if chance.random() < 0.5:
            addresses = [str(IPv4Address(chance.getrandbits(32))) for _ in range(2)]
        else:
            addresses = [str(IPv6Address(chance.getrandbits(128))) for _ in range(2)]
        ports = [chance.randrange(65536) for _ in range(2)]
        family = 2 if ":" in addresses[0] else 1
        if chance.random() < 0.4:
            found.append(v1(f"TCP{'46'[family - 1]}", *addresses, *ports))  # type: ignore[arg-type]  # two of each
            continue
        block = inet(*addresses, *ports)  # type: ignore[arg-type]  # two of each
        tlvs = [
            tlv(1, b"h2"), tlv(2, b"app.example"), tlv(5, chance.randbytes(20)), tlv(0xE5, chance.randbytes(5)),
            tlv(0x20, b"\x01" + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"client.example")),
        ]  # fmt: skip
        chosen = chance.sample(tlvs, chance.randrange(len(tlvs)))
        last = tlv(4, bytes(32))  # everything that counts begins before the last 16 bytes
        header = v2(family << 4 | chance.choice([1, 2]), b"".join([block, tlv(3, bytes(4)), *chosen, last]))
        found.append(with_checksum(header))
    return found


def by_tshark(path: Path) -> list[dict[str, str]]:
    command = ["tshark", "-n", "-r", path, "-o", "tcp.try_heuristic_first:TRUE", "-T", "fields"]
    result = subprocess.run(
        [*command, *(part for field in FIELDS for part in ("-e", field))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in result.stdout.splitlines()]


def endpoint(row: dict[str, str], side: str) -> str:
    port = row[f"proxy.{side}port"]
    if address := row[f"proxy.{side}.ipv4"]:
        return f"{address}:{port}"
    return f"[{IPv6Address(row[f'proxy.{side}.ipv6'])}]:{port}"


def plain(text: str | None) -> str:
    """An endpoint with its address in one spelling, whatever the library's taste in mapped addresses."""
    assert text is not None
    address, _, port = text.rpartition(":")
    return f"[{IPv6Address(address[1:-1])}]:{port}" if address.startswith("[") else text


def test_tshark_reads_the_same_headers(tmp_path: Path) -> None:
    headers = some_headers(200)
    packets = [segment(header + b"GET /", sport=20000 + number) for number, header in enumerate(headers)]
    rows = by_tshark(write(tmp_path / "headers.pcap", packets))
    assert len(rows) == len(headers)
    for data, row in zip(headers, rows, strict=True):
        found = decode(data)
        assert isinstance(found, ProxyHeader)
        assert (row["proxy.v1.proto"] != "", row["proxy.v2.cmd"] != "") == (
            found.version == 1,
            found.version == 2,
        )
        assert (plain(found.source), plain(found.destination)) == (endpoint(row, "src"), endpoint(row, "dst"))
        if found.version == 1:
            assert row["proxy.v1.proto"] == {"inet": "TCP4", "inet6": "TCP6"}[found.family]
            continue
        assert row["proxy.v2.cmd"] == "1"
        assert int(row["proxy.v2.protocol"], 0) == {"stream": 1, "dgram": 2}[found.transport]
        read = [int(kind, 0) for kind in row["proxy.v2.tlv.type"].split(",")]
        assert [kind for kind in read if kind not in {0x21, 0x22}] == [each.type for each in found.tlvs]
        for each in found.tlvs:
            if each.name == "SSL":
                names = (row["proxy.v2.tlv.ssl.version"], row["proxy.v2.tlv.ssl.cn"])
                assert names == (each.decoded["version"], each.decoded["cn"])
