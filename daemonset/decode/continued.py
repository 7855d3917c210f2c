"""PROXY headers that come in several segments, put together again: what the later one says is read behind the first.

Only from captures that hold every packet, and where the kernel filter remembers connections: a classic one lets the
later segments of a header not through, because nothing about them is special.
"""

from __future__ import annotations

from daemonset.decode.head import read_payload
from daemonset.observation import Head, Payload

#: Headers that are waited for at once; the oldest is given up.
_WAITING = 4096

#: Bytes of a header that is put together; the largest that receivers take is far below.
_LIMIT = 16384

_PROXY = frozenset({Payload.PROXY_V1, Payload.PROXY_V2})
_SEQUENCE = 0xFFFF_FFFF

#: Where a segment was seen, and between which sockets.
Key = tuple[int, ...]


class Continued:
    """The headers of which the end has not come yet, by connection and tap."""

    def __init__(self) -> None:
        self._begun: dict[Key, tuple[int, bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self._begun)

    def begin(self, key: Key, seq: int, payload: bytes, head: Head) -> None:
        """A segment that begins with a header and ends inside it; `seq` is its sequence number."""
        if head.proxy_complete or head.proxy_error is not None:
            return
        self._begun.pop(key, None)
        self._begun[key] = ((seq + len(payload)) & _SEQUENCE, payload)
        if len(self._begun) > _WAITING:
            del self._begun[next(iter(self._begun))]

    def read(self, key: Key, seq: int, payload: bytes) -> tuple[Payload, Head] | None:
        """What a segment says that goes on with such a header, once that is whole; else None."""
        expected, before = self._begun.get(key, (-1, b""))
        if seq != expected:
            return None
        del self._begun[key]
        joined = before + payload
        kind, head = read_payload(joined) if len(joined) <= _LIMIT else (Payload.DATA, None)
        if head is None or kind not in _PROXY:
            return None
        if not head.proxy_complete and head.proxy_error is None:
            self._begun[key] = ((seq + len(payload)) & _SEQUENCE, joined)
            return None
        return kind, head
