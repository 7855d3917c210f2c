"""The kind of a version 1 header (proxy-protocol.txt section 2.1): words of a line, each ordinary or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from analysis.receivers.kinds import Kind

UNKNOWN, UNKNOWN_TEXT = "version 1 UNKNOWN", "version 1 UNKNOWN with text"

LINE_LIMIT = 107  # bytes of a line by the specification
_LINE_MAX = 4096  # no receiver that was measured reads further for the end of the line

_NAMES = ("source address", "destination address", "source port", "destination port")

#: Protocols that were measured, as the word behind PROXY.
_PROTOCOLS = frozenset({"TCP4", "TCP6", "tcp4", "UDP4"})

_octets = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}").fullmatch
_three_octets = re.compile(rb"[1-9][0-9]{0,2}(?:\.(?:0|[1-9][0-9]{0,2})){2}").fullmatch
_hex_octets = re.compile(rb"0x[0-9A-Fa-f]{2}(?:\.[0-9]{1,3}){3}").fullmatch
_name = re.compile(rb"[A-Za-z][A-Za-z-]*").fullmatch
_digits = re.compile(rb"[0-9]{1,5}").fullmatch
_begun = re.compile(rb"[0-9A-Fa-f:.]*").fullmatch
_readable = re.compile(rb"[\x20-\x7e]*").fullmatch


def classify(data: bytes, instead: str = "") -> Kind:
    """The kind of a line that begins with PROXY, in whatever case. `instead` names the form where that decides."""
    line, ending, end = _line(data)
    features = set()
    if ending == b"\n":
        features.add("LF alone at the end")
    elif ending == b"\r":
        features.add("CR alone at the end")
    words = line.split(b" ")
    if words[0].upper() != b"PROXY":
        return _glued(data, line, ending, end)
    if line[6:13] == b"UNKNOWN":
        return _unknown(line, ending, end, features)
    if len(words) < 3 and not ending:
        return Kind("version 1, cut within its first words", frozenset(), 0, end)
    form = (instead or "version 1 ") + _protocol(words) + ("" if ending else ", cut short")
    features.update(_line_features(words, whole=bool(ending)))
    if not ending and (len(words) > 6 or len(line) > LINE_LIMIT or not _begun(words[-1])):
        features.add("what no line goes on with")
    return Kind(form, frozenset(features), 0, end)


def _protocol(words: list[bytes]) -> str:
    """The protocol that a line names, where it was measured. Two spaces before it are told as such elsewhere."""
    word = next((word for word in words[1:] if word), b"").decode("latin-1")
    return word if word in _PROTOCOLS else "with another protocol"


def _line(data: bytes) -> tuple[bytes, bytes, int]:
    """The line without its end, its end (CRLF, CR, LF, or nothing where it is cut), and the offset behind it."""
    for at, byte in enumerate(data[:_LINE_MAX]):
        if byte == 0x0A:
            return data[:at], b"\n", at + 1
        if byte == 0x0D:
            ending = b"\r\n" if data[at + 1 : at + 2] == b"\n" else b"\r"
            return data[:at], ending, at + len(ending)
    return data, b"", len(data)


def _glued(data: bytes, line: bytes, ending: bytes, end: int) -> Kind:
    """PROXY with something else than a space behind it; `PROXYTCP4 …` was measured."""
    known = (
        ending == b"\r\n"
        and line[5:10] == b"TCP4 "
        and not set(_line_features((b"PROXY " + line[5:]).split(b" "), whole=True))
    )
    form = (
        "version 1, no space behind PROXY" if known else "version 1, something else than a space behind PROXY"
    )
    return Kind(form, frozenset(), 0, end if data else 0)


def _unknown(line: bytes, ending: bytes, end: int, features: set[str]) -> Kind:
    """UNKNOWN, where everything up to CRLF is to be ignored."""
    text = line[13:]
    if not ending:
        return Kind(f"{UNKNOWN}, cut short", frozenset(features), 0, end)
    if not text:
        return Kind(UNKNOWN, frozenset(features), 0, end)
    if text[:1] != b" ":
        features.add("text glued to UNKNOWN")
    elif not text.strip(b" "):
        features.add("nothing but spaces as text")
    if not _readable(text):
        features.add("text that is not printable ASCII")
    return Kind(UNKNOWN_TEXT, frozenset(features), end if end > LINE_LIMIT else 0, end)


def _line_features(words: list[bytes], *, whole: bool) -> Iterator[str]:
    """Of a line split at its spaces. The last word of a line that is cut is not judged."""
    words = list(words)
    if len(words) == 3 and words[2].count(b"\t") == 3 and b"\t\t" not in words[2] and words[2][:1] != b"\t":
        yield "tabs between the fields"
        words[2:] = words[2].split(b"\t")
    if not whole:
        words = words[:-1]
    elif len(words) == 7:
        yield from _seventh_word(words)
    protocol, fields = (words[1] if len(words) > 1 else b""), words[2:]
    if whole and len(fields) == 3:
        yield "no destination port"
    elif whole and len(fields) != 4:
        yield f"{len(fields)} words behind the protocol"
        return
    read_address = _ipv6 if protocol == b"TCP6" else _ipv4
    for name, word in zip(_NAMES, fields, strict=False):
        yield from (_port if name.endswith("port") else read_address)(name, word)


def _seventh_word(words: list[bytes]) -> Iterator[str]:
    """One word too many, which may be empty (two spaces): takes it out of `words` and says what it is."""
    if b"" not in words:
        yield "another word behind the ports"
        del words[6]
        return
    at = words.index(b"")
    del words[at]
    places = {1: "two spaces behind PROXY", 3: "two spaces between the addresses", 6: "a space before CRLF"}
    yield places.get(at, "two spaces between other fields")


def _ipv4(name: str, word: bytes) -> Iterator[str]:
    if _octets(word):
        numbers = word.split(b".")
        if any(number[:1] == b"0" and len(number) > 1 for number in numbers):
            yield f"leading zeros in the {name}"
        if any(int(number) > 255 for number in numbers):
            yield f"a number over 255 in the {name}"
            return
        yield from address_features(name, IPv4Address(bytes(map(int, numbers))))
    elif _is_ipv6(word):
        yield f"an IPv6 {name} under TCP4"
    elif _three_octets(word):
        yield f"three numbers as {name}"
    elif _hex_octets(word):
        yield f"hexadecimal in the {name}"
    elif word.endswith(b"\0") and _octets(word[:-1]):
        yield f"a NUL behind the {name}"
    elif _name(word):
        yield f"a name as {name}"
    else:
        yield f"a {name} that is none"


def _ipv6(name: str, word: bytes) -> Iterator[str]:
    if _is_ipv6(word) and b"%" not in word:
        if b"." in word:
            yield f"a dotted tail in the {name}"
        yield from address_features(name, IPv6Address(word.decode()))
    elif b"%" in word and _is_ipv6(word.partition(b"%")[0]):
        yield f"a zone in the {name}"
    elif word[:1] == b"[" and word[-1:] == b"]" and _is_ipv6(word[1:-1]):
        yield f"brackets around the {name}"
    elif word.count(b"::") == 2 and _is_ipv6(word.replace(b"::", b":", 1)):
        yield f"two :: in the {name}"
    elif _octets(word) and all(int(number) < 256 for number in word.split(b".")):
        yield f"an IPv4 {name} under TCP6"
    else:
        yield f"a {name} that is none"


def address_features(name: str, address: IPv4Address | IPv6Address) -> Iterator[str]:
    """What is special about an address to receivers that look at it: some take unicast addresses only."""
    if address.is_unspecified:
        yield f"{address} as {name}"
    elif address.is_multicast:
        yield f"an IPv{address.version} multicast {name}"
    elif isinstance(address, IPv4Address) and (address.packed[0] == 0 or address.packed[0] >= 240):
        yield f"a reserved {name}"


def _port(name: str, word: bytes) -> Iterator[str]:
    if _digits(word):
        if int(word) > 65535:
            yield f"a {name} over 65535"
        elif word == b"0":
            yield f"{name} 0"
        elif word[:1] == b"0":
            yield f"leading zeros in the {name}"
    elif not word:
        yield f"no {name} between its spaces"
    elif word[:1] == b"-" and _digits(word[1:]):
        yield f"a negative {name}"
    elif word[:1] == b"+" and _digits(word[1:]):
        yield f"a plus sign before the {name}"
    elif b"_" in word and _digits(word.replace(b"_", b"")):
        yield f"an underscore in the {name}"
    else:
        yield f"a {name} that is none"


def _is_ipv6(word: bytes) -> bool:
    try:
        IPv6Address(word.decode("ascii"))
    except ValueError:
        return False
    return True
