"""The type-length-values of a PROXY v2 header (proxy-protocol.txt sections 2.2 and 2.2.1 to 2.2.8).

What a broken TLV means is settled here:

1. A value that the specification bounds and that is out of bounds (CRC32C not 4 bytes, UNIQUE_ID over 128) is
   an error of the header.
2. An area that does not divide into TLVs is not: "a receiver may choose to skip over and ignore those bytes".
   What was read before the break is kept, and the break is told.
3. A value of a known type that does not look as expected is kept as bytes, `decoded` None, with a warning
   where the specification defines the type.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

import msgspec

from daemonset.decode.errors import ProxyProtocolError
from daemonset.observation import Tlv

ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30

#: Longest unique id, in bytes (section 2.2.5).
UNIQUE_ID_LIMIT = 128

_WARNINGS_LIMIT = 16

_CLIENT_SSL, _CLIENT_CERT_CONN, _CLIENT_CERT_SESS = 1, 2, 4

_head = Struct("!BH").unpack_from
_ssl_head = Struct("!BI").unpack_from

_Decode = Callable[[bytes, int, list[str]], Any]


class TlvArea(msgspec.Struct, frozen=True):
    """TLVs as read, where CRC-32C values stand in the header, and why the reading stopped early, if so."""

    tlvs: tuple[Tlv, ...]
    checksums: tuple[int, ...] = ()
    broken: str | None = None
    warnings: tuple[str, ...] = ()


EMPTY = TlvArea(())


def read_tlvs(header: bytes, start: int, stop: int) -> TlvArea:
    """The TLVs between two offsets of a header. Raises ProxyProtocolError for rule 1 of this file."""
    if start == stop:
        return EMPTY
    tlvs: list[Tlv] = []
    checksums: list[int] = []
    warnings: list[str] = []
    at, broken = start, None
    while at + 3 <= stop:
        kind, size = _head(header, at)
        body = at + 3
        end = body + size
        if end > stop:
            broken = f"the TLV of type 0x{kind:02x} at byte {at} claims {size} bytes, {stop - body} are left"
            break
        value = header[body:end]
        name, decode = _TYPES[kind]
        if kind == CRC32C:
            if size != 4:
                raise ProxyProtocolError("2.2.3", at + 1, f"a CRC32C value has 4 bytes, this one {size}")
            checksums.append(body)
        elif kind == UNIQUE_ID and size > UNIQUE_ID_LIMIT:
            what = f"a unique id has up to {UNIQUE_ID_LIMIT} bytes, this one {size}"
            raise ProxyProtocolError("2.2.5", at + 1, what)
        decoded = decode(value, body, warnings) if decode else None
        if decoded is None and kind in _GENERIC:
            name = _GENERIC[kind]
        tlvs.append(Tlv(kind, name, value, decoded))
        at = end
    else:
        if at < stop:
            broken = f"{stop - at} byte(s) at byte {at} are too few for a TLV"
    if len(warnings) > _WARNINGS_LIMIT:
        warnings[_WARNINGS_LIMIT:] = [f"{len(warnings) - _WARNINGS_LIMIT} more warnings of this kind"]
    return TlvArea(tuple(tlvs), tuple(checksums), broken, tuple(warnings))


def _text(value: bytes, at: int, warnings: list[str]) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        warnings.append(f"the text at byte {at} is not UTF-8")
        return value.decode("utf-8", "backslashreplace")


def _alpn(value: bytes, at: int, warnings: list[str]) -> str | list[str]:
    """The protocol, as senders write it ("h2"); a list where it is RFC 7301's list of prefixed names."""
    if value[:1] < b"\x20":
        names = _protocol_names(value) or _protocol_names(value[2:])
        if names:
            return names
    return _text(value, at, warnings)


def _protocol_names(value: bytes) -> list[str]:
    names = []
    at = 0
    while at < len(value):
        name = value[at + 1 : at + 1 + value[at]]
        if not name or len(name) != value[at]:
            return []
        names.append(name.decode("utf-8", "backslashreplace"))
        at += 1 + len(name)
    return names


def _number(value: bytes, at: int, warnings: list[str]) -> int:  # noqa: ARG001 - one signature for all
    return int.from_bytes(value, "big")


def _opaque(value: bytes, at: int, warnings: list[str]) -> str | None:  # noqa: ARG001 - one signature for all
    """Opaque bytes, as text where they are printable ASCII: most senders make them so."""
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _ssl(value: bytes, at: int, warnings: list[str]) -> dict[str, Any] | None:
    """struct pp2_tlv_ssl (section 2.2.6) with its sub-TLVs, by name and one by one."""
    if len(value) < 5:
        warnings.append(f"the SSL TLV at byte {at} has {len(value)} bytes, its fixed part needs 5")
        return None
    client, verify = _ssl_head(value)
    parts: list[dict[str, Any]] = []
    seen: dict[str, Any] = {
        "client": client,
        "ssl": client & _CLIENT_SSL != 0,
        "cert_conn": client & _CLIENT_CERT_CONN != 0,
        "cert_sess": client & _CLIENT_CERT_SESS != 0,
        "verify": verify,
        "tlvs": parts,
    }
    start = 5
    while start + 3 <= len(value):
        kind, size = _head(value, start)
        part = value[start + 3 : start + 3 + size]
        if len(part) < size:
            break
        decoded = None
        if kind in _SSL_TEXTS:
            decoded = _text(part, at + start + 3, warnings)
            seen.setdefault(_SSL_TEXTS[kind], decoded)
        name = _SSL_NAMES.get(kind) or f"UNASSIGNED_{kind:02X}"
        parts.append({"type": kind, "name": name, "value": part.hex(), "decoded": decoded})
        start += 3 + size
    if start < len(value):
        warnings.append(f"{len(value) - start} byte(s) at byte {at + start} are no TLV within the SSL TLV")
    return seen


def _aws(value: bytes, at: int, warnings: list[str]) -> str | None:
    """AWS: 01 and the VPC endpoint's id."""
    return _opaque(value[1:], at, warnings) if value[:1] == b"\x01" and len(value) > 1 else None


def _azure(value: bytes, at: int, warnings: list[str]) -> int | None:  # noqa: ARG001 - one signature for all
    """Azure: 01 and the private endpoint's link id, little-endian."""
    return int.from_bytes(value[1:], "little") if value[:1] == b"\x01" and len(value) == 5 else None


def _gcp(value: bytes, at: int, warnings: list[str]) -> int | None:  # noqa: ARG001 - one signature for all
    """Google Cloud: the Private Service Connect connection's id, big-endian."""
    return int.from_bytes(value, "big") if len(value) == 8 else None


# Sub-TLVs of SSL that are text, with the key that they get; the client's certificate (DER) stays bytes.
_SSL_TEXTS = {
    0x21: "version",
    0x22: "cn",
    0x23: "cipher",
    0x24: "sig_alg",
    0x25: "key_alg",
    0x26: "group",
    0x27: "sig_scheme",
}
_SSL_NAMES = {kind: f"SSL_{key.upper()}" for kind, key in _SSL_TEXTS.items()} | {0x28: "SSL_CLIENT_CERT"}

# Anyone may use the custom range (2.2.8): a vendor's name is given only to what has that vendor's shape.
_VENDORS: dict[int, tuple[str, _Decode | None]] = {
    0xE0: ("GCP", _gcp),
    0xEA: ("AWS", _aws),
    0xEE: ("AZURE", _azure),
}
_GENERIC = {kind: f"CUSTOM_{kind:02X}" for kind in _VENDORS}


def _known_types() -> tuple[tuple[str, _Decode | None], ...]:
    types: list[tuple[str, _Decode | None]] = [(f"UNASSIGNED_{kind:02X}", None) for kind in range(256)]
    for first, last, name in ((0xE0, 0xEF, "CUSTOM"), (0xF0, 0xF7, "EXPERIMENT"), (0xF8, 0xFF, "FUTURE")):
        for kind in range(first, last + 1):
            types[kind] = (f"{name}_{kind:02X}", None)
    types[ALPN] = ("ALPN", _alpn)
    types[AUTHORITY] = ("AUTHORITY", _text)
    types[CRC32C] = ("CRC32C", _number)
    types[NOOP] = ("NOOP", None)
    types[UNIQUE_ID] = ("UNIQUE_ID", _opaque)
    types[SSL] = ("SSL", _ssl)
    types[NETNS] = ("NETNS", _text)
    for kind, name in _SSL_NAMES.items():
        types[kind] = (name, _text if kind in _SSL_TEXTS else None)
    for kind, known in _VENDORS.items():
        types[kind] = known
    return tuple(types)


_TYPES = _known_types()

#: The name of each type that the specification gives one.
TYPE_NAMES = {
    kind: name
    for kind, (name, _) in enumerate(_TYPES)
    if not name.startswith("UNASSIGNED") and kind not in _SSL_NAMES and kind not in _VENDORS
}
