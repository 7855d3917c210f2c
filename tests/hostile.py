"""What an attacker would write into a header, and what no output may hold. For the tests of every output format.

VALUES            hostile values by what they try, as bytes
headers(value)    PROXY headers that carry a value, by the field that carries it
requests(value)   HTTP requests that carry it
safe_text(text)   fails where a terminal or a log would obey the text
safe_data(text)   fails where JSON or YAML holds more than ASCII
"""

from __future__ import annotations

import unicodedata

from tests.decode.encode import SIGNATURE, inet, tcp4, tlv, v2

#: Hostile values by what they try. None holds CR LF together, so that each fits into a header field.
VALUES: dict[str, bytes] = {
    "clear the screen": b"\x1b[2J\x1b[H",
    "set the title": b"\x1b]0;owned\x07",
    "a link": b"\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "an eight-bit control sequence": b"\x9b31mred",
    "the same in UTF-8": "\x9b31mred".encode(),
    "go back over what stands there": b"verdict: lost\b\b\b\bkept",
    "a line of its own": b"a\nprobe: everything is well",
    "a return": b"lost\rkept",
    "a vertical tab and a form feed": b"a\x0bb\x0cc",
    "lines of Unicode": "a\u2028b\u2029c\x85d".encode(),
    "the end of a string": b"a\0b",
    "right to left": "\u202e3.2.1\u202c".encode(),
    "isolates": "\u2066a\u2069\u061c".encode(),
    "nothing that is seen": "\u200b\u200d\ufeff\U000e0041".encode(),
    "a pile of marks": ("a" + "\u0300\u0489" * 200).encode(),
    "no UTF-8": b"\xff\xfe\xc0\x80\xed\xa0\x80",
    "private characters": "\ue000\U0010ffff".encode(),
    "a script": b"<script>alert(1)</script>",
    "an attribute": b"\"' onmouseover=alert(1) x=\"",
    "an entity": b"&#60;b&#62;&amp;",
    "the end of a comment": b"--><img src=x onerror=alert(1)>]]>",
    "a value of JSON": b'"],"ok":true,"x":["',
    "a backslash": b"\\u001b[2J \\x1b \\",
    "a document of YAML": b"- !!python/object/apply:os.system [id]: &a *a",
    "markup": b"[bold red]x[/] :skull: {{7*7}} ${7*7} %s%n",
    "a table of Markdown": b"|a|b| `x` [y](javascript:alert(1))",
    "a formula": b"=HYPERLINK(\"http://evil.example\")",
    "an option": b"--help; rm -rf /",
    "very long": b"A" * 65_000,
    "very long and wild": b"\x1b[2J\xff" * 13_000,
}  # fmt: skip

#: Longest part of a value that fits into a field of HTTP here.
FIELD_LIMIT = 60_000

_ADDRESSES = inet("192.0.2.1", "198.51.100.2", 56324, 443)
_SHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def headers(value: bytes) -> dict[str, bytes]:
    """PROXY headers, by the field that carries the value."""
    value = value[: 0xFFFF - 64]
    ssl = b"\x07" + bytes(4)
    found = {
        f"type {kind:#04x}": tcp4(tlv(kind, value))
        for kind in (0x01, 0x02, 0x04, 0x30, 0x22, 0x7F, 0xE0, 0xEE, 0xF0, 0xFF)
    }
    found["a unique id"] = tcp4(tlv(5, value[:128]))
    found["a VPC endpoint"] = tcp4(tlv(0xEA, b"\x01" + value))
    found["a checksum"] = tcp4(tlv(3, value[:4]))
    for kind in range(0x21, 0x2A):
        found[f"a detail of TLS {kind:#04x}"] = tcp4(tlv(0x20, ssl + tlv(kind, value)))
    path = value[:108].replace(b"\0", b"\1").ljust(108, b"\0")
    found["a socket"] = v2(0x31, path + b"\0" + value[:100].ljust(107, b"\0"))
    found["a health check"] = v2(0x00, tlv(2, value), command=0)
    found["no TLVs"] = v2(0x11, _ADDRESSES + b"\xff\xff\xff" + value)
    found["UNKNOWN"] = b"PROXY UNKNOWN " + value[:85] + b"\r\n"
    found["a source"] = b"PROXY TCP4 " + value[:90] + b" 1.2.3.4 1 2\r\n"
    found["a port"] = b"PROXY TCP4 1.2.3.4 1.2.3.4 1 " + value[:70] + b"\r\n"
    found["a protocol"] = b"PROXY " + value[:90] + b"\r\n"
    found["behind the signature"] = SIGNATURE + value
    found["all of it"] = value
    return found


#: Fields that proxies and clients fill, as a request names them.
FIELDS = (
    "X-Forwarded-For", "Forwarded", "X-Real-IP", "True-Client-IP", "X-Request-ID", "Traceparent", "User-Agent",
    "Host", "Via", "X-Forwarded-Host", "X-Forwarded-<b>", "X-Probe-Token",
)  # fmt: skip


def requests(value: bytes) -> dict[str, bytes]:
    """HTTP/1 requests, by the place that carries the value."""
    value = value[:FIELD_LIMIT]
    line = value.replace(b"\n", b"").replace(b"\r", b"").replace(b" ", b"")
    found = {
        field: b"GET / HTTP/1.1\r\nHost: app\r\n%b: %b\r\n\r\n" % (field.encode(), value) for field in FIELDS
    }
    found["behind an address"] = b"GET / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.9, %b\r\n\r\n" % value
    found["the target"] = b"GET /%b HTTP/1.1\r\nHost: app\r\n\r\n" % line
    return found


def safe_text(text: str) -> None:
    """Fail where a terminal or the reader of a log would be told something by the text."""
    for at, character in enumerate(text):
        bad = character != "\n" and unicodedata.category(character) in _SHOWN | {"Mn", "Me"}
        assert not bad, f"{character!r} at {at}: {text[max(at - 40, 0) : at + 20]!r}"


def safe_data(text: str) -> None:
    """Fail where a document for programs holds anything but lines of printable ASCII."""
    assert text.isascii()
    assert text.replace("\n", "").isprintable(), repr(text[:200])
