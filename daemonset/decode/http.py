"""HTTP/1 message heads (RFC 9112): the start line, and the fields that say who the client is.

Only fields of an allow list are kept: what identifies a client, a request or a proxy on the way. Cookies and
credentials are not looked at; bodies are passed over, to the requests behind them. A field whose line is cut is
dropped, because half an address reads like another address.
"""

from __future__ import annotations

import re

from daemonset.decode.http_body import message_end
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
        "x-original-forwarded-for",
        "x-probe-token",
        "x-real-ip",
        "x-request-id",
    }
)
_KEPT_PREFIX = "x-forwarded-"

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
    return HttpHead(lines[0].rstrip("\r")[:VALUE_LIMIT], _fields(lines[1:-1]))


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
        keeping = name in _KEPT or name.startswith(_KEPT_PREFIX)
        if keeping:
            fields.append((name[:VALUE_LIMIT], value.strip(" \t")[:VALUE_LIMIT]))
    return tuple(fields)
