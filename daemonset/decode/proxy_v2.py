r"""PROXY protocol version 2: a binary header (proxy-protocol.txt section 2.2).

    signature (12)  0x2 and command  family and transport  length (2)  addresses (12, 36 or 216)  TLVs

Where the specification leaves a receiver free (the UNSPEC family or transport under PROXY) or does not agree
with itself (an undefined family under LOCAL, where the family is to be ignored), the header is taken with a
warning. LOCAL never gives addresses: the block, family included, is to be discarded.
"""

from __future__ import annotations

from struct import Struct

import msgspec

from daemonset.decode.crc32c import crc32c
from daemonset.decode.errors import ProxyProtocolError
from daemonset.decode.proxy_tlv import EMPTY, TlvArea, read_tlvs
from daemonset.decode.proxy_v1 import ipv6_text
from daemonset.observation import ProxyHeader

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

_RULE = "2.2"
_FIXED = 16
_LOCAL = 0
_FAMILIES = ("unspec", "inet", "inet6", "unix")
_TRANSPORTS = ("unspec", "stream", "dgram")
_BLOCKS = (0, 12, 36, 216)  # bytes of the two addresses, by family
_SIGNATURE_CHECKSUM = crc32c(SIGNATURE)

_fixed_part = Struct("!HH").unpack_from
_inet = Struct("!4B4BHH").unpack_from
_inet6 = Struct("!16s16sHH").unpack_from
_unix = Struct("!108s108s").unpack_from
_u32 = Struct("!I").unpack_from


# Version 2, PROXY, and one of the six "expected protocol bytes" that carry addresses: what real traffic is.
_COMMON = {
    0x2100 | family << 4 | transport: (_FAMILIES[family], _TRANSPORTS[transport], _BLOCKS[family])
    for family in (1, 2, 3)
    for transport in (1, 2)
}

_DOTTED = tuple(f"{octet}." for octet in range(256))


def decode_v2(data: bytes | bytearray | memoryview) -> ProxyHeader | None:
    """The header that `data` begins with; None where more bytes are needed.

    `data` begins with SIGNATURE. Raises ProxyProtocolError.
    """
    if len(data) < _FIXED:
        _check_start(data)
        return None
    kind, length = _fixed_part(data, 12)
    end = _FIXED + length
    common = _COMMON.get(kind)
    if common is None:
        return _decode_uncommon(data, kind, end)
    family, transport, block = common
    if length < block:
        what = f"length {length} is less than the {block} bytes of two {family} addresses"
        raise ProxyProtocolError(_RULE, 14, what)
    if len(data) < end:
        return None
    source, destination = _addresses(data, block)
    if length == block:
        return ProxyHeader(2, "PROXY", family, transport, source, destination, (), end)
    header = data if type(data) is bytes else bytes(data[:end])
    area = read_tlvs(header, _FIXED + block, end)
    if area.checksums:
        area = _checked(header[:end], area)
    warnings = _warnings(area) if area.broken else area.warnings
    return ProxyHeader(2, "PROXY", family, transport, source, destination, area.tlvs, end, warnings)


def _decode_uncommon(data: bytes | bytearray | memoryview, kind: int, end: int) -> ProxyHeader | None:
    _check_start(data)
    if len(data) < end:
        return None
    if kind >> 8 & 15 == _LOCAL:
        return _read_local(bytes(data[:end]), kind & 0xFF)
    return _read_unspecified(bytes(data[:end]), kind & 0xFF)


def _check_start(data: bytes | bytearray | memoryview) -> None:
    """Refuse a version, command, family or transport that is not defined, as far as `data` goes."""
    if len(data) < 13:
        return
    version, command = data[12] >> 4, data[12] & 15
    if version != 2:
        raise ProxyProtocolError(_RULE, 12, f"the version must be 2, found {version}")
    if command > 1:
        raise ProxyProtocolError(_RULE, 12, f"the command must be LOCAL (0) or PROXY (1), found {command}")
    if len(data) < 14 or command == _LOCAL:
        return
    family, transport = data[13] >> 4, data[13] & 15
    if family >= len(_FAMILIES):
        raise ProxyProtocolError(_RULE, 13, f"address family {family} is undefined and must be rejected")
    if transport >= len(_TRANSPORTS):
        what = f"transport protocol {transport} is undefined and must be rejected"
        raise ProxyProtocolError(_RULE, 13, what)


def _addresses(header: bytes | bytearray | memoryview, block: int) -> tuple[str | None, str | None]:
    if block == 12:
        a, b, c, d, e, f, g, h, sport, dport = _inet(header, _FIXED)
        dot = _DOTTED
        return f"{dot[a]}{dot[b]}{dot[c]}{d}:{sport}", f"{dot[e]}{dot[f]}{dot[g]}{h}:{dport}"
    if block == 36:
        source, destination, sport, dport = _inet6(header, _FIXED)
        return f"[{ipv6_text(source)}]:{sport}", f"[{ipv6_text(destination)}]:{dport}"
    source, destination = _unix(header, _FIXED)
    return _socket_path(source), _socket_path(destination)


def _socket_path(address: bytes) -> str | None:
    r"""The path of an AF_UNIX socket; "@name" for an abstract one (unix(7)), None for an unnamed one.

    Bytes other than printable ASCII are written \xNN.
    """
    path, _, _ = address.partition(b"\0")
    if not path:
        name = address.rstrip(b"\0")
        if not name:
            return None
        path = b"@" + name[1:]
    if path.isascii() and (text := path.decode("ascii")).isprintable():
        return text
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in path)


def _read_local(header: bytes, family_transport: int) -> ProxyHeader:
    warnings: list[str] = []
    family, transport = family_transport >> 4, family_transport & 15
    if family >= len(_FAMILIES) or transport >= len(_TRANSPORTS):
        warnings.append(
            f"section 2.2 has receivers ignore the family under LOCAL, and reject undefined ones: "
            f"0x{family_transport:02x} is taken by some receivers and refused by others"
        )
    area = _checked(header, _local_tlvs(header, _BLOCKS[family] if family < len(_BLOCKS) else 0))
    warnings += area.warnings
    return ProxyHeader(2, "LOCAL", "unspec", "unspec", None, None, area.tlvs, len(header), tuple(warnings))


def _local_tlvs(header: bytes, block: int) -> TlvArea:
    """The TLVs of a LOCAL header, which may or may not have an address block before them.

    AWS network load balancers say 0x11 in their health checks and send no addresses: the TLVs begin at byte
    16. So that reading is taken where its checksum verifies, or where it is the only one that divides into
    TLVs. Where neither does, the block is discarded unread, which is what the specification asks for.
    """
    without_block = _whole_tlvs(header, _FIXED)
    with_block = _whole_tlvs(header, _FIXED + block) if block else without_block
    if with_block is None:
        return without_block or EMPTY
    if without_block is None or with_block is without_block:
        return with_block
    return without_block if _verifies(header, without_block) else with_block


def _verifies(header: bytes, area: TlvArea) -> bool:
    try:
        return bool(_checked(header, area).checksums)
    except ProxyProtocolError:
        return False


def _whole_tlvs(header: bytes, start: int) -> TlvArea | None:
    """The TLVs from `start` on, if there is room for that reading and it takes every byte."""
    if start > len(header):
        return None
    try:
        area = read_tlvs(header, start, len(header))
    except ProxyProtocolError:
        return None
    return None if area.broken else area


def _read_unspecified(header: bytes, family_transport: int) -> ProxyHeader:
    """PROXY with an UNSPEC family or transport: addresses, if any, are to be ignored."""
    family, transport = _FAMILIES[family_transport >> 4], _TRANSPORTS[family_transport & 15]
    block = _BLOCKS[family_transport >> 4]
    free = f"section 2.2 leaves receivers free to accept or refuse PROXY with {family}/{transport}"
    if not block:
        area = _whole_tlvs(header, _FIXED)
        skipped = "" if area else f"; {len(header) - _FIXED} byte(s) that are no TLVs were skipped"
    elif len(header) < _FIXED + block:
        area = None
        skipped = f"; {len(header) - _FIXED} byte(s) are too few for {family} addresses and were skipped"
    else:
        area = read_tlvs(header, _FIXED + block, len(header))
        source, destination = _addresses(header, block)
        skipped = f"; its addresses {source} and {destination} are to be ignored"
    area = _checked(header, area or EMPTY)
    warnings = (free + skipped, *_warnings(area))
    return ProxyHeader(2, "PROXY", family, transport, None, None, area.tlvs, len(header), warnings)


def _warnings(area: TlvArea) -> tuple[str, ...]:
    if not area.broken:
        return area.warnings
    return (*area.warnings, f"section {_RULE}, bytes after the addresses: {area.broken}")


def _checked(header: bytes, area: TlvArea) -> TlvArea:
    """`area` again where its CRC-32C verifies over the header with the value zeroed (section 2.2.3).

    Raises ProxyProtocolError where it does not. HAProxy and AWS write the most significant byte first, as the
    specification writes every number; the reverse order, in which SCTP sends it (RFC 4960 appendix B), does not verify.
    """
    if not area.checksums:
        return area
    computed = _checksum(header, area.checksums)
    for at in area.checksums:
        (found,) = _u32(header, at)
        if found != computed:
            what = f"the CRC32C is 0x{found:08x}, over this header it is 0x{computed:08x}"
            reverse = found == int.from_bytes(computed.to_bytes(4, "little"), "big")
            raise ProxyProtocolError(
                "2.2.3", at, what + (": its bytes are in reverse order" if reverse else "")
            )
    if len(area.checksums) == 1:
        return area
    warnings = (*area.warnings, "section 2.2.3: the CRC32C is repeated")
    return msgspec.structs.replace(area, warnings=warnings)


def _checksum(header: bytes, places: tuple[int, ...]) -> int:
    if len(places) == 1:
        (at,) = places
        return crc32c(header[len(SIGNATURE) : at] + b"\0\0\0\0" + header[at + 4 :], _SIGNATURE_CHECKSUM)
    zeroed = bytearray(header)
    for at in places:
        zeroed[at : at + 4] = bytes(4)
    return crc32c(bytes(zeroed))
