"""HTTP/1 message heads (RFC 9112): the start line, and the fields that say who the client is.

Only fields of an allow list are kept: what identifies a client, a request or a proxy on the way; other fields of the
X-Forwarded family only where they hold addresses, for some of them hold tokens and names of people. Of a request's
target the path is kept (`request_line`). Cookies and credentials are not looked at; bodies are passed over, to the
requests behind them. A field whose line is cut is dropped, because half an address reads like another address.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from daemonset.decode.http_body import message_end
from daemonset.decode.request_line import discreet
from daemonset.observation import VALUE_LIMIT, HttpHead, Payload

PREFACE = b"PRI * HTTP/2.0\r\n"  # RFC 9113 section 3.4, its first line

_KEPT = frozenset(
    {
        "cf-connecting-ip",
        "fastly-client-ip",
        "forwarded",
        "host",
        "traceparent",
        "true-client-ip",
        "user-agent",
        "via",
        "x-amzn-trace-id",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-correlation-id",
        "x-envoy-external-address",
        "x-forwarded-by",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-forwarded-protocol",
        "x-forwarded-scheme",
        "x-forwarded-server",
        "x-forwarded-ssl",
        "x-original-forwarded-for",
        "x-probe-token",
        "x-real-ip",
        "x-request-id",
    }
)
_FAMILY = "x-forwarded-"

#: How many requests behind the first are read of one segment.
REQUEST_MAX = 64

_HEAD_LIMIT = 16384  # bytes
_FIELD_LIMIT = 128  # lines

# Methods of RFC 9110, RFC 5789 and of WebDAV as far as they are met: a request line that is cut must have one.
_METHODS = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK "
    b"REPORT SEARCH PURGE".split()
)
_request_line = re.compile(rb"[A-Z]{3,20} [\x21-\xff]+ HTTP/1\.[0-9]\r?\n").match
_begun_request = re.compile(
    rb"([A-Z]{3,20}) [\x21-\xff]+(?: (?:H(?:T(?:T(?:P(?:/[\x21-\x7e]*\r?)?)?)?)?)?)?"
).fullmatch
_status_line = re.compile(rb"HTTP/1\.[0-9] [1-5][0-9]{2}[ \r\n]").match


def classify(payload: bytes) -> Payload | None:
    """HTTP_REQUEST, HTTP_RESPONSE or H2_PREFACE; None where `payload` begins with none of them."""
    if _status_line(payload):
        return Payload.HTTP_RESPONSE
    if payload.startswith(PREFACE):
        return Payload.H2_PREFACE
    if _request_line(payload):
        return Payload.HTTP_REQUEST
    begun = _begun_request(payload)
    return Payload.HTTP_REQUEST if begun and begun[1] in _METHODS else None


def read_head(payload: bytes) -> HttpHead | None:
    """The head that `payload` begins with, as far as it is there; None where it is no HTTP/1 message."""
    if classify(payload) not in {Payload.HTTP_REQUEST, Payload.HTTP_RESPONSE}:
        return None
    return _head(payload)


def read_requests(payload: bytes) -> tuple[HttpHead, ...]:
    """The heads of the requests behind the one that `payload` begins with, up to REQUEST_MAX.

    None behind a response, nor where it is not certain where a body ends.
    """
    heads: list[HttpHead] = []
    at = None if payload.startswith(b"HTTP/") else message_end(payload, 0)
    while at is not None and at < len(payload) and len(heads) < REQUEST_MAX:
        if payload.startswith(b"\r\n", at):
            at += 2  # servers pass over an empty line before a request line (RFC 9112 2.2)
        rest = payload[at : at + _HEAD_LIMIT]
        if classify(rest) is not Payload.HTTP_REQUEST:
            break
        heads.append(_head(rest))
        at = message_end(payload, at)
    return tuple(heads)


def _head(payload: bytes) -> HttpHead:
    lines = payload[:_HEAD_LIMIT].decode("latin-1").split("\n", _FIELD_LIMIT + 1)
    start = lines[0].rstrip("\r")[:VALUE_LIMIT]
    start = start if start.startswith("HTTP/") else discreet(start)[:VALUE_LIMIT]
    return HttpHead(start, _fields(lines[1:-1]))


def _fields(lines: list[str]) -> tuple[tuple[str, str], ...]:
    """The kept ones of whole field lines, up to the empty line; folded lines (RFC 9112 5.2) are joined."""
    fields: list[tuple[str, str]] = []
    keeping = False
    for line in lines:
        text = line.rstrip("\r")
        if not text:
            break
        if text[0] in " \t":
            if keeping:
                name, value = fields[-1]
                fields[-1] = (name, f"{value} {text.strip()}"[:VALUE_LIMIT])
            continue
        name, _, value = text.partition(":")
        name = name.lower()
        keeping = name in _KEPT or name.startswith(_FAMILY)
        if keeping:
            fields.append((name[:VALUE_LIMIT], value.strip(" \t")[:VALUE_LIMIT]))
    return tuple((name, value) for name, value in fields if name in _KEPT or _are_addresses(value))


def _are_addresses(value: str) -> bool:
    """Whether a value is a list of addresses, each with or without a port."""
    return all(_is_address(each.strip()) for each in value.split(","))


def _is_address(text: str) -> bool:
    bare = text[1:].partition("]")[0] if text.startswith("[") else text
    try:
        ip_address(bare.partition(":")[0] if bare.count(":") == 1 else bare)
    except ValueError:
        return False
    return True
