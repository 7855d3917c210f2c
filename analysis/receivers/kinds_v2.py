"""The kind of a version 2 header (proxy-protocol.txt section 2.2): its fixed part, its addresses, its TLVs."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from analysis.receivers.kinds import Kind
from analysis.receivers.kinds_v1 import address_features

PROXY, LOCAL = "version 2 PROXY", "version 2 LOCAL"
NO_TLVS = "bytes that do not divide into TLVs"
TLVS = "TLVs"

_FIXED = 16
_BLOCKS = {1: 12, 2: 36, 3: 216}
_FAMILIES = {1: "inet", 2: "inet6", 3: "unix"}
_TRANSPORTS = {1: "stream", 2: "dgram"}

_ALPN, _AUTHORITY, _CRC32C, _NOOP, _UNIQUE_ID, _SSL, _NETNS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30
# Types that were measured as an option that nothing is wrong with. Custom ones (E0 to EF) are passed over by all.
_PLAIN = frozenset({_CRC32C, _NOOP, _SSL, *range(0xE0, 0xF0)})
_NAMES = {_ALPN: "ALPN", _AUTHORITY: "AUTHORITY", _UNIQUE_ID: "UNIQUE_ID", _NETNS: "NETNS"}
_MEANT = frozenset({_CRC32C, _SSL, *_NAMES})
_SUB_TYPES = frozenset({0x21, 0x22})

_Tlv = tuple[int, int, int]  # type, begin and end of the value


def classify(data: bytes, instead: str = "") -> Kind:
    """The kind of bytes that begin with the signature. `instead` names the form where that decides."""
    if len(data) < _FIXED:
        return Kind("version 2, cut within its first 16 bytes", frozenset(), 0, len(data))
    end = _FIXED + int.from_bytes(data[14:16], "big")
    form = instead or _form(data)
    features = set(_features_of_local(data[13])) if form == LOCAL else set()
    if len(data) < end:
        return Kind(f"{form}, cut short", frozenset(features), end, len(data))
    header = data[:end]
    features.update(_local(header) if form == LOCAL else _proxy(header))
    return Kind(form, frozenset(features), end, end)


def _form(data: bytes) -> str:
    """What a receiver branches on: version, command, family with transport."""
    if data[12] >> 4 != 2:
        return "a version other than 2"
    if data[12] & 15 == 0:
        return LOCAL
    if data[12] & 15 > 1:
        return "version 2 with an undefined command"
    family, transport = data[13] >> 4, data[13] & 15
    if family > 3:
        return f"{PROXY} with an undefined family"
    if transport > 2:
        return f"{PROXY} with an undefined transport"
    return f"{PROXY} {_FAMILIES.get(family, 'unspec')}/{_TRANSPORTS.get(transport, 'unspec')}"


def _features_of_local(family_transport: int) -> Iterator[str]:
    if family_transport >> 4 > 3 or family_transport & 15 > 2:
        yield "an undefined family or transport"
    elif family_transport:
        yield "inet/stream as family" if family_transport == 0x11 else "another family"


def _local(header: bytes) -> Iterator[str]:
    """LOCAL: the rest is to be skipped. Whether a receiver reads TLVs in it shows from byte 16 on."""
    if len(header) < _FIXED + _BLOCKS.get(header[13] >> 4, 0):
        yield "less than the addresses of its family"
    tlvs, left = _divide(header, _FIXED, len(header))
    if left:
        yield NO_TLVS
    elif tlvs:
        yield TLVS
        if any(kind in _MEANT for kind, _, _ in tlvs):
            yield "TLVs that have a meaning"


def _proxy(header: bytes) -> Iterator[str]:
    family = header[13] >> 4
    block = _BLOCKS.get(family, 0)
    if len(header) < _FIXED + block:
        yield "a length less than the addresses need"
        return
    if family > 3:
        return  # nobody can know where its addresses end
    if not block:
        if len(header) > _FIXED:
            yield "bytes behind the fixed part"
        return
    yield from _addresses(header, family)
    tlvs, left = _divide(header, _FIXED + block, len(header))
    if left:
        yield "one or two bytes behind the last TLV" if left < 3 else "a TLV longer than the rest"
    if tlvs:
        yield TLVS
        for tlv in tlvs:
            yield from _tlv(header, *tlv)
        yield from _checksums(header, [tlv for tlv in tlvs if tlv[0] == _CRC32C])


def _addresses(header: bytes, family: int) -> Iterator[str]:
    size = {1: 4, 2: 16}.get(family)
    if size is None:
        return
    ports = _FIXED + 2 * size
    for name, at in (("source", 0), ("destination", 1)):
        packed = header[_FIXED + at * size : _FIXED + (at + 1) * size]
        address = IPv4Address(packed) if family == 1 else IPv6Address(packed)
        yield from address_features(f"{name} address", address)
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            yield f"an IPv4-mapped {name} address"
        if header[ports + 2 * at : ports + 2 * at + 2] == b"\0\0":
            yield f"{name} port 0"


def _divide(header: bytes, start: int, stop: int) -> tuple[list[_Tlv], int]:
    """The whole TLVs between two offsets, and how many bytes are left behind them."""
    tlvs: list[_Tlv] = []
    while start + 3 <= stop:
        end = start + 3 + int.from_bytes(header[start + 1 : start + 3], "big")
        if end > stop:
            break
        tlvs.append((header[start], start + 3, end))
        start = end
    return tlvs, stop - start


def _tlv(header: bytes, kind: int, start: int, end: int) -> Iterator[str]:
    size = end - start
    if kind in _NAMES:
        yield f"{_NAMES[kind]}"
        if kind == _UNIQUE_ID and size > 128:
            yield "UNIQUE_ID over 128 bytes"
        if kind == _AUTHORITY and size > 255:
            yield "AUTHORITY over 255 bytes"
    elif kind == _CRC32C and size != 4:
        yield "a CRC32C that is not 4 bytes"
    elif kind == _SSL:
        yield from _ssl(header, start, end)
    elif kind not in _PLAIN:
        yield "TLVs of other types"


def _ssl(header: bytes, start: int, end: int) -> Iterator[str]:
    if end - start < 5:
        yield "an SSL TLV of less than 5 bytes"
        return
    parts, left = _divide(header, start + 5, end)
    if left:
        yield "an SSL TLV that does not divide"
    if any(kind not in _SUB_TYPES for kind, _, _ in parts):
        yield "SSL details other than version and name"


def _checksums(header: bytes, found: list[_Tlv]) -> Iterator[str]:
    values = [(start, end) for _, start, end in found if end - start == 4]
    if len(found) > 1:
        yield "more than one CRC32C"
    zeroed = bytearray(header)
    for start, end in values:
        zeroed[start:end] = bytes(4)
    computed = crc32c(zeroed) if values else 0
    if any(int.from_bytes(header[start:end], "big") != computed for start, end in values):
        yield "a CRC32C that does not verify"


def crc32c(data: bytes | bytearray) -> int:
    """CRC-32C (RFC 4960 appendix B), a byte at a time."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _STEPS[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _step(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_STEPS = tuple(map(_step, range(256)))
