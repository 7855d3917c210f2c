"""What the first bytes of a payload are, and what they say.

    read_payload ─ first byte ─▶ proxy_protocol ─▶ http, tls   (PROXY headers and what follows them)
                              ├▶ http, tls
                              └▶ data

This runs for every packet with a payload, and nearly all of them are data in the middle of a stream: the first
byte alone turns most of these away.
"""

from __future__ import annotations

from collections.abc import Callable

from daemonset.decode import http, tls
from daemonset.decode.echo import read_echo
from daemonset.decode.health import read_health
from daemonset.decode.proxy_protocol import NotProxyProtocolError, begins_header, decode_all
from daemonset.observation import Head, Payload

#: How much of PROXY headers is kept as seen: the smallest segment that every host takes, and a fixed part.
RAW_LIMIT = 536 + 16

_BEGUN_V1 = b"PROX"

#: Bytes of a header of version 1 at most, and of the fixed part of version 2, which ends with the length of the rest.
_MOST_V1, _FIXED_V2 = 107, 16

_Read = tuple[Payload, Head | None]
_DATA: _Read = (Payload.DATA, None)
_NONE: _Read = (Payload.NONE, None)


def read_payload(payload: bytes | memoryview) -> _Read:
    """The kind of the payload's first bytes, and what they say, if anything. Never raises.

    A payload that ends inside a PROXY header is told as such from its fifth byte on, and where it is "PROX", with
    which nothing else begins. Fewer are not: empty lines begin bodies and keep connections alive (RFC 5626 3.5.1),
    and requests begin with PR.
    """
    if not payload:
        return _NONE
    read = _READERS[payload[0]]
    return read(payload if type(payload) is bytes else bytes(payload)) if read else _DATA


def _read_proxy(payload: bytes) -> _Read:
    decoded = decode_all(payload)
    if isinstance(decoded.error, NotProxyProtocolError):
        return _DATA
    kind = Payload.PROXY_V1 if payload[:1] == b"P" else Payload.PROXY_V2
    if decoded.error or not decoded.complete:
        # A broken header has no known end; one that is cut has none here.
        error = str(decoded.error) if decoded.error else None
        end = _end_of_broken(payload, decoded.rest) if error is not None else len(payload)
        return kind, Head(decoded.headers, error, decoded.complete, raw=payload[: min(end, RAW_LIMIT)])
    raw = payload[: min(decoded.rest, RAW_LIMIT)]
    behind = payload[decoded.rest :]
    if behind[:1] == b"\x16":
        return kind, Head(decoded.headers, tls=tls.read_client_hello(behind), raw=raw)
    request = http.read_head(behind)
    return kind, Head(
        decoded.headers,
        http=request,
        raw=raw,
        more=http.read_requests(behind) if request else (),
        h2=behind.startswith(http.PREFACE),
    )


def _end_of_broken(payload: bytes, start: int) -> int:
    """Where a header that is in error may end at most: a request behind it is none of the header's."""
    if payload[start : start + 1] != b"P":
        return start + _FIXED_V2 + int.from_bytes(payload[start + 14 : start + _FIXED_V2], "big")
    line_end = payload.find(b"\n", start, start + _MOST_V1)
    return line_end + 1 if line_end >= 0 else start + _MOST_V1


def _read_letter(payload: bytes) -> _Read:
    if begins_header(payload) or payload == _BEGUN_V1:
        return _read_proxy(payload)
    kind = http.classify(payload)
    if kind is None:
        return _DATA
    head = http.read_head(payload)
    if head is None:
        return kind, None
    if kind is Payload.HTTP_RESPONSE:
        return kind, Head(http=head, echo=read_echo(payload), health=read_health(payload))
    return kind, Head(http=head, more=http.read_requests(payload))


def _read_line_end(payload: bytes) -> _Read:
    return _read_proxy(payload) if begins_header(payload) else _DATA


def _read_tls(payload: bytes) -> _Read:
    kind = tls.classify(payload)
    if kind is Payload.TLS_CLIENT_HELLO:
        hello = tls.read_client_hello(payload)
        return kind, Head(tls=hello) if hello else None
    return (kind, None) if kind else _DATA


def _readers() -> tuple[Callable[[bytes], _Read] | None, ...]:
    readers: list[Callable[[bytes], _Read] | None] = [None] * 256
    for letter in range(ord("A"), ord("Z") + 1):
        readers[letter] = _read_letter
    readers[0x0D] = _read_line_end
    for content_type in range(0x14, 0x18):
        readers[content_type] = _read_tls
    return tuple(readers)


_READERS = _readers()
