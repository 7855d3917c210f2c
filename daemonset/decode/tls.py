"""What the first record of a TLS connection says about who speaks: the ClientHello (RFC 8446 section 4.1.2).

An L4 proxy passes it on untouched, so its random names one connection on both sides of the proxy.

    record  16 03 0x length(2) │ handshake  01 length(3) │ version(2) random(32) session ciphers compression
                                                          extensions: type(2) length(2) body …

Everything may be cut: a hello with a post-quantum key share is longer than a segment. What is not there is not
guessed at, and no length is believed beyond the bytes at hand.
"""

from __future__ import annotations

from daemonset.observation import VALUE_LIMIT, Payload, TlsHello

_HANDSHAKE = 0x16
_CLIENT_HELLO = 0x01
_SERVER_NAME = 0
_HOST_NAME = 0

_RECORD_HEAD = 5
_RECORD_LIMIT = 2**14 + 2048  # RFC 5246 section 6.2.3; TLS 1.3 allows 256 only
_RANDOM_AT = 6  # behind the handshake's head and the version
_RANDOM_END = _RANDOM_AT + 32

#: Handshake bytes that are looked at; real hellos have up to about 2,000.
_LIMIT = 16384


def classify(payload: bytes) -> Payload | None:
    """TLS_CLIENT_HELLO, TLS_OTHER, or None where `payload` does not begin with a TLS record."""
    if len(payload) < _RECORD_HEAD or not 0x14 <= payload[0] <= 0x17 or payload[1] != 3 or payload[2] > 4:
        return None
    if not 0 < (payload[3] << 8 | payload[4]) <= _RECORD_LIMIT:
        return None
    if payload[0] == _HANDSHAKE and payload[_RECORD_HEAD : _RECORD_HEAD + 1] == bytes((_CLIENT_HELLO,)):
        return Payload.TLS_CLIENT_HELLO
    return Payload.TLS_OTHER


def read_client_hello(payload: bytes) -> TlsHello | None:
    """The hello that `payload` begins with; None where it is none or is cut before its random ends."""
    if classify(payload) is not Payload.TLS_CLIENT_HELLO:
        return None
    hello = _handshake_bytes(payload)
    if len(hello) < _RANDOM_END:
        return None
    return TlsHello(hello[_RANDOM_AT:_RANDOM_END], _server_name(hello))


def _handshake_bytes(payload: bytes) -> bytes:
    """The handshake message, put together from the records that carry it, as far as they are there."""
    parts = []
    at = taken = 0
    while (
        taken < _LIMIT and payload[at : at + 1] == bytes((_HANDSHAKE,)) and at + _RECORD_HEAD <= len(payload)
    ):
        size = payload[at + 3] << 8 | payload[at + 4]
        part = payload[at + _RECORD_HEAD : at + _RECORD_HEAD + size]
        parts.append(part)
        taken += len(part)
        at += _RECORD_HEAD + size
        if not part:
            break
    message = b"".join(parts)
    return message[: 4 + int.from_bytes(message[1:4], "big")]


def _server_name(hello: bytes) -> str | None:
    """The host_name of the server_name extension (RFC 6066 section 3)."""
    at = _RANDOM_END
    at = _skip(hello, at, 1)  # session id
    at = _skip(hello, at, 2)  # cipher suites
    at = _skip(hello, at, 1)  # compression methods
    at += 2  # length of the extensions
    while at + 4 <= len(hello):
        kind, size = int.from_bytes(hello[at : at + 2], "big"), int.from_bytes(hello[at + 2 : at + 4], "big")
        if kind == _SERVER_NAME:
            return _host_name(hello[at + 4 : at + 4 + size])
        at += 4 + size
    return None


def _host_name(names: bytes) -> str | None:
    at = 2  # length of the list
    while at + 3 <= len(names):
        size = int.from_bytes(names[at + 1 : at + 3], "big")
        name = names[at + 3 : at + 3 + size]
        if names[at] == _HOST_NAME:
            whole = len(name) == size and size > 0
            return name[:VALUE_LIMIT].decode("ascii", "backslashreplace") if whole else None
        at += 3 + size
    return None


def _skip(data: bytes, at: int, width: int) -> int:
    """Behind a vector whose length takes `width` bytes; where that is cut, behind the end."""
    return at + width + int.from_bytes(data[at : at + width], "big")
