"""B9: what decoding a PROXY header costs, beside the package `proxy-protocol` from PyPI.

Both get the same bytes and must come to the same addresses. The peer looks into TLVs only when it is asked to,
so with TLVs it is asked for what ours has decoded by then. Without a C extension the peer does not verify
checksums; the row with one is shown without a verdict.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.result import ProxyResult, is_ipv4, is_ipv6

from bench.row import Row, interleaved
from daemonset.decode.crc32c import crc32c
from daemonset.decode.proxy_protocol import decode

GOAL = "≥ 3 times faster"
ROUNDS = 9
REPEATS = 5_000

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_INET = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + b"\xdc\x04\x01\xbb"
_INET6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + b"\xdc\x04\x01\xbb"
)


def _v2(kind: int, body: bytes, command: int = 0x21) -> bytes:
    return _SIGNATURE + bytes([command, kind]) + len(body).to_bytes(2, "big") + body


def _tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def _with_checksum() -> bytes:
    header = _v2(0x11, _INET + _tlv(3, bytes(4)))
    return header[:-4] + crc32c(header).to_bytes(4, "big")


_SSL = b"\x01" + bytes(4) + _tlv(0x21, b"TLSv1.3") + _tlv(0x22, b"client.example")

HEADERS = {
    "v1 TCP4": b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
    "v1 TCP6": b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n",
    "v2 TCP4": _v2(0x11, _INET),
    "v2 TCP6": _v2(0x21, _INET6),
    "v2 LOCAL": _v2(0x00, b"", 0x20),
    "v2 with AUTHORITY and ALPN": _v2(0x11, _INET + _tlv(2, b"app.example") + _tlv(1, b"h2")),
    "v2 with SSL": _v2(0x11, _INET + _tlv(0x20, _SSL)),
}
CHECKSUM = "v2 with CRC32C, verified by ours alone"

_unpack = ProxyProtocolDetect().unpack


def rows() -> Iterator[Row]:
    """One row for all kinds together, which is judged, and one for each of them."""
    total_ours = total_peer = 0.0
    each: list[Row] = []
    for what, data in {**HEADERS, CHECKSUM: _with_checksum()}.items():
        agree = _same(data)
        peer = _peer_with_tlvs if " with " in what else _unpack
        seconds = interleaved(ROUNDS, {"ours": _timed(decode, data), "peer": _timed(peer, data)})
        if what in HEADERS:
            total_ours += seconds["ours"]
            total_peer += seconds["peer"]
        note = "" if agree else "the two do not agree on the addresses"
        each.append(_row(what, seconds["ours"], seconds["peer"], None, note))
    yield _row(
        f"PROXY headers, one of each of the {len(HEADERS)} kinds",
        total_ours,
        total_peer,
        total_peer >= 3 * total_ours,
        "",
    )
    yield from each


def _row(what: str, ours: float, peer: float, met: bool | None, note: str) -> Row:
    goal = GOAL if met is not None else ""
    return Row("B9", what, f"{ours * 1e6:.2f} µs", f"{peer * 1e6:.2f} µs", peer / ours, goal, met, note)


def _timed(function: Callable[[bytes], object], data: bytes) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        for _ in range(REPEATS):
            function(data)
        return (time.perf_counter() - start) / REPEATS

    return run


def _peer_with_tlvs(data: bytes) -> object:
    tlv = _unpack(data).tlv
    if tlv.ssl:
        return tlv.ssl.has_ssl, tlv.ssl.verify, tlv.ssl.version, tlv.ssl.cn
    return tlv.authority, tlv.alpn, tlv.crc32c


def _same(data: bytes) -> bool:
    ours, peer = decode(data), _unpack(data)
    return ours is not None and ours.source == _source(peer)


def _source(result: ProxyResult) -> str | None:
    if is_ipv4(result):
        return f"{result.source[0]}:{result.source[1]}"
    if is_ipv6(result):
        return f"[{result.source[0]}]:{result.source[1]}"
    return None
