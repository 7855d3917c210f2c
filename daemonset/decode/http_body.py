"""Where an HTTP/1 request ends, so that the one behind it can be read (RFC 9112 sections 6 and 7.1).

Whoever takes a byte of a body for a request believes an address that somebody wrote into the body. So an end is
given only where every server must see the same one:

1. Head and body are whole.
2. The length is told in one way: by Content-Length, by chunked as the only transfer coding, or by neither. Both
   together, different lengths, other codings, and lines or names that servers read differently give no end.
3. Behind a request that turns its connection into something else (CONNECT, Upgrade) there is no request.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HEAD_LIMIT = 16384  # bytes
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"upgrade"})

_length = re.compile(rb"[0-9]{1,10}").fullmatch
_chunk_line = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,1024})?\r\n").match
_trailer_line = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}:[^\r\n]{0,4096}\r\n").match


class _Framing(NamedTuple):
    """The values of the fields that say how long a message is."""

    lengths: tuple[bytes, ...]
    codings: tuple[bytes, ...]


def message_end(data: bytes, start: int) -> int | None:
    """The offset behind the request that begins at `start`; None where it is cut or its end is not certain.

    Where `data` ends with the head, that is its end too: nothing is behind it, whatever its body will be.
    """
    at = data.find(b"\r\n\r\n", start, start + _HEAD_LIMIT)
    if at < 0:
        return None
    body = at + 4
    if body == len(data):
        return body
    framing = _framing(data[start : at + 2])
    if framing is None:
        return None
    if framing.codings:
        certain = framing.codings == (b"chunked",) and not framing.lengths
        return _chunked_end(data, body) if certain else None
    if not framing.lengths:
        return body
    length = framing.lengths[0]
    if set(framing.lengths) != {length} or not _length(length):
        return None
    end = body + int(length)
    return end if end <= len(data) else None


def _framing(head: bytes) -> _Framing | None:
    """What a head, with the CRLF of its last line, says about its body; None where servers may differ."""
    if not head.count(b"\r") == head.count(b"\n") == head.count(b"\r\n") or b"\0" in head:
        return None
    start, *lines = head.split(b"\r\n")
    found: dict[bytes, list[bytes]] = {name: [] for name in _FRAMING}
    folds = False
    for line in lines:
        if line[:1] in {b" ", b"\t"}:
            if folds:
                return None
            continue
        raw, _, value = line.partition(b":")
        name = raw.strip().lower()
        folds = name in _FRAMING
        if folds:
            if raw != raw.strip():
                return None
            found[name].append(value.strip(b" \t").lower())
    if (
        found[b"upgrade"]
        or start.startswith(b"CONNECT ")
        or (found[b"transfer-encoding"] and start[-1:] == b"0")
    ):
        return None
    return _Framing(tuple(found[b"content-length"]), tuple(found[b"transfer-encoding"]))


def _chunked_end(data: bytes, at: int) -> int | None:
    """Behind the last chunk and its trailer section."""
    while found := _chunk_line(data, at):
        size = int(found[1], 16)
        at = found.end()
        if not size:
            while trailer := _trailer_line(data, at):
                at = trailer.end()
            return at + 2 if data.startswith(b"\r\n", at) else None
        if not data.startswith(b"\r\n", at + size):
            return None
        at += size + 2
    return None
