r"""PROXY protocol version 1: one line of US-ASCII (proxy-protocol.txt section 2.1).

    PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n

Two readers of one grammar:

* the **fast** one is a regular expression a family; it takes whole, valid lines and knows nothing else;
* the **slow** one goes byte by byte and runs only when the fast one failed. It stops at the first byte that
  no valid line could have at that place, so a broken line is refused as early as the sender can be told, and
  with the same error however the bytes were cut into chunks. Where every byte fits, more are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv6Address
from socket import AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

from daemonset.decode.errors import ProxyProtocolError
from daemonset.observation import ProxyHeader

PREFIX = b"PROXY"

#: Longest line with its CRLF, by protocol ("The maximum line lengths the receiver must support").
LINE_LIMITS = {b"TCP4": 56, b"TCP6": 104, b"UNKNOWN": 107}
LINE_LIMIT = 107

_RULE = "2.1"
_CR, _LF, _SPACE = 0x0D, 0x0A, 0x20

_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rb"%b(?:\.%b){3}" % (_OCTET, _OCTET)
_PORT = rb"(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}|0)"

# The fast reader works on text, so that its groups are the addresses and ports as they will be shown.
_tcp4 = re.compile((rb"PROXY TCP4 (%b) (%b) (%b) (%b)\r\n" % (_IPV4, _IPV4, _PORT, _PORT)).decode()).match
_tcp6 = re.compile((rb"PROXY TCP6 ([^ ]+) ([^ ]+) (%b) (%b)\r\n" % (_PORT, _PORT)).decode()).match
_unknown = re.compile(r"PROXY UNKNOWN(?: [^\r\n]*)?\r\n").match

_ipv4_start = re.compile(rb"(?:%b\.){0,3}%b?" % (_OCTET, _OCTET)).fullmatch
_ipv4 = re.compile(_IPV4).fullmatch
_port = re.compile(_PORT).fullmatch

# One of these makes a whole address of everything that begins one: a digit, a colon, the missing octets.
_IPV6_ENDINGS = tuple(b"|0|:|::|:0|0.0.0|0.0|.0.0.0|.0.0|.0".split(b"|"))

_MIXED_FORM = (
    "section 2.1 describes IPv6 addresses as hexadecimal groups only; "
    "the form with a dotted tail (RFC 4291 2.2) is taken by most receivers"
)


class _Field(NamedTuple):
    """A field of the line: what it is called, how it may begin and when it is whole, and what ends it."""

    name: str
    form: str
    begins: Callable[[bytes], object]
    whole: Callable[[bytes], object]
    terminator: int


def decode_v1(line: bytes) -> ProxyHeader | None:
    """The header that `line` begins with; None where more bytes are needed.

    `line` begins with PREFIX and is cut at LINE_LIMIT. Raises ProxyProtocolError.
    """
    text = line.decode("latin-1")
    protocol = text[6:10]
    header = None
    if protocol == "TCP4":
        if found := _tcp4(text):
            source, destination, sport, dport = found.groups()
            return ProxyHeader(
                1, "PROXY", "inet", "stream", f"{source}:{sport}", f"{destination}:{dport}", (), found.end()
            )
    elif protocol == "TCP6":
        header = _read_tcp6(text)
    elif found := _unknown(text):
        return ProxyHeader(1, "PROXY", "unspec", "unspec", None, None, (), found.end())
    if header is None:
        _refuse(line)
    return header


def _read_tcp6(text: str) -> ProxyHeader | None:
    found = _tcp6(text)
    if found is None or found.end() > LINE_LIMITS[b"TCP6"]:
        return None
    source, destination, sport, dport = found.groups()
    try:
        source_text = ipv6_text(inet_pton(AF_INET6, source))
        destination_text = ipv6_text(inet_pton(AF_INET6, destination))
    except (OSError, ValueError):  # no address; a NUL in it
        return None
    warnings = (_MIXED_FORM,) if "." in source or "." in destination else ()
    return ProxyHeader(
        1,
        "PROXY",
        "inet6",
        "stream",
        f"[{source_text}]:{sport}",
        f"[{destination_text}]:{dport}",
        (),
        found.end(),
        warnings,
    )


def ipv6_text(packed: bytes) -> str:
    """The text of an IPv6 address by RFC 5952, with a dotted tail for mapped addresses only."""
    text = inet_ntop(AF_INET6, packed)
    if "." in text and not text.startswith("::ffff:"):
        return IPv6Address(packed).compressed  # libraries differ on ::a.b.c.d
    return text


def _pack_ipv6(text: bytes) -> bytes | None:
    try:
        return inet_pton(AF_INET6, text.decode("ascii"))
    except (OSError, ValueError):  # no address; a NUL in it, or no ASCII
        return None


def _ipv6_start(text: bytes) -> bool:
    return any(_pack_ipv6(text + ending) for ending in _IPV6_ENDINGS)


def _is_ipv6(text: bytes) -> bool:
    return _pack_ipv6(text) is not None


def _fields(
    form: str, begins: Callable[[bytes], object], whole: Callable[[bytes], object]
) -> tuple[_Field, ...]:
    port = "a decimal number 0-65535 without leading zeros"
    return (
        _Field("source address", form, begins, whole, _SPACE),
        _Field("destination address", form, begins, whole, _SPACE),
        _Field("source port", port, _port, _port, _SPACE),
        _Field("destination port", port, _port, _port, _CR),
    )


_TCP_FIELDS = {
    b"TCP4": _fields("an IPv4 address of four numbers 0-255 without leading zeros", _ipv4_start, _ipv4),
    b"TCP6": _fields("an IPv6 address of hexadecimal groups", _ipv6_start, _is_ipv6),
}


def _refuse(line: bytes) -> None:
    """Raise at the first byte that no valid line can have; return where every byte fits."""
    protocol = _check_protocol(line)
    if protocol is None:
        return
    at = len(PREFIX) + 1 + len(protocol)
    if protocol == b"UNKNOWN":
        _check_ignored(line, at)
        return
    for field in _TCP_FIELDS[protocol]:
        at = _check_field(line, at + 1, field, LINE_LIMITS[protocol])
        if at >= len(line):
            return
    _expect_lf(line, at + 1)


def _check_protocol(line: bytes) -> bytes | None:
    """The protocol that the line names; None where the line ends before it is clear."""
    at = len(PREFIX)
    if line[at : at + 1] not in {b"", b" "}:
        raise ProxyProtocolError(_RULE, at, f"one space must follow PROXY, found {_shown(line[at])}")
    for end in range(at + 2, len(line) + 1):
        word = line[at + 1 : end]
        if not any(known.startswith(word) for known in (b"TCP4 ", b"TCP6 ", b"UNKNOWN ", b"UNKNOWN\r")):
            raise ProxyProtocolError(
                _RULE, end - 1, f"the protocol must be TCP4, TCP6 or UNKNOWN, found {_quoted(word)}"
            )
        if word in {b"TCP4 ", b"TCP6 ", b"UNKNOWN ", b"UNKNOWN\r"}:
            return word[:-1]
    return None


def _check_field(line: bytes, start: int, field: _Field, limit: int) -> int:
    """The offset of the field's terminator, or the line's length where the field does not end in it."""
    for at in range(start, len(line)):
        byte = line[at]
        if byte != _CR and at >= limit - 2:
            raise _too_long(at, limit)
        if byte == field.terminator:
            if not field.whole(line[start:at]):
                what = f"the {field.name} {_quoted(line[start:at])} is not {field.form}"
                raise ProxyProtocolError(_RULE, at, what)
            return at
        if not field.begins(line[start : at + 1]):
            raise _misfit(line, start, at, field)
    return len(line)


def _misfit(line: bytes, start: int, at: int, field: _Field) -> ProxyProtocolError:
    if line[at] <= _SPACE and field.whole(line[start:at]):
        expected = "CRLF" if field.terminator == _CR else "exactly one space"
        what = f"{expected} must end the {field.name}, found {_shown(line[at])}"
    else:
        what = f"the {field.name} is not {field.form}: {_quoted(line[start : at + 1])}"
    return ProxyProtocolError(_RULE, at, what)


def _check_ignored(line: bytes, start: int) -> None:
    """After UNKNOWN anything may stand before the CRLF, but neither of its bytes alone."""
    for at in range(start, len(line)):
        if line[at] == _CR:
            _expect_lf(line, at + 1)
            return
        if line[at] == _LF:
            raise ProxyProtocolError(_RULE, at, "a single LF must not be tolerated where CRLF ends the line")
        if at >= LINE_LIMIT - 2:
            raise _too_long(at, LINE_LIMIT)


def _expect_lf(line: bytes, at: int) -> None:
    if at < len(line) and line[at] != _LF:
        what = (
            f"a single CR must not be tolerated where CRLF ends the line, found {_shown(line[at])} after it"
        )
        raise ProxyProtocolError(_RULE, at, what)


def _too_long(at: int, limit: int) -> ProxyProtocolError:
    return ProxyProtocolError(_RULE, at, f"no CRLF within the {limit} bytes that such a line may have")


def _shown(byte: int) -> str:
    return f"{chr(byte)!r}" if 0x20 < byte < 0x7F else f"0x{byte:02x}"


def _quoted(text: bytes) -> str:
    return repr(text)[1:]
