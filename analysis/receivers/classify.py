"""From bytes to the kind of header that they begin with, or of what they are instead."""

from __future__ import annotations

import re
from ipaddress import ip_address

from analysis.receivers import kinds_v1, kinds_v2
from analysis.receivers.kinds import Kind

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
KEYWORD = b"PROXY"

HTTP, TLS = "no header but an HTTP request", "no header but a TLS record"

_request = re.compile(rb"[A-Z]{3,20} [\x21-\x7e]+ HTTP/1\.[01]\r\n").match
_record = re.compile(rb"\x16\x03[\x00-\x04]").match


def classify(data: bytes) -> Kind:
    """The kind of the header, or of whatever else, that `data` begins with. Any bytes have one."""
    if data[:12] == SIGNATURE:
        return kinds_v2.classify(data)
    if data[:11] == SIGNATURE[:11] and len(data) >= 12:
        return kinds_v2.classify(data, "version 2, last byte of the signature wrong")
    if data[:5] == KEYWORD:
        return kinds_v1.classify(data)
    if data[:6] == b"proxy ":
        return kinds_v1.classify(data, "version 1, keyword in lower case, ")
    if _request(data):
        return Kind(HTTP, frozenset(), 0, 0)
    if _record(data):
        return Kind(TLS, frozenset(), 0, 0)
    if data and SIGNATURE.startswith(data):
        return Kind("version 2, cut within its signature", frozenset(), 0, len(data))
    if data and KEYWORD.startswith(data):
        return Kind("version 1, cut within its first words", frozenset(), 0, len(data))
    return Kind("no header", frozenset(), 0, 0)


def source(data: bytes, kind: Kind) -> tuple[str, str] | None:
    """Address and port of the source as the header that `data` begins with spells them, where it does."""
    if kind.form.startswith("version 1"):
        words = [word for word in re.split(rb"[ \r\n\t\0]+", data[: kind.end]) if word]
        if len(words) < 5 or words[1] == b"UNKNOWN":
            return None
        return words[2].decode("latin-1"), words[4].decode("latin-1")
    size = {1: 4, 2: 16}.get(data[13] >> 4) if kind.form.startswith(kinds_v2.PROXY) else None
    if size is None or kind.end < 16 + 2 * size + 4:
        return None
    port = int.from_bytes(data[16 + 2 * size : 18 + 2 * size], "big")
    return str(ip_address(data[16 : 16 + size])), str(port)


def cut_features(kind: Kind, cuts: tuple[int, ...]) -> frozenset[str]:
    """What it adds to a header that its bytes came apart at these offsets."""
    inside = [at for at in cuts if 0 < at < kind.end]
    if not inside:
        return frozenset()
    features = set()
    if len(inside) > 1:
        features.add("more than two segments")
    if kind.form.startswith("version 1"):
        # The measured cut is in the first address; a receiver may decide on the first words alone.
        features.add("a cut behind the protocol's name" if min(inside) > 11 else "a cut in the first words")
    else:
        features.add(
            "a cut within the first 16 bytes" if min(inside) < 16 else "a cut behind the first 16 bytes"
        )
    return frozenset(features)
