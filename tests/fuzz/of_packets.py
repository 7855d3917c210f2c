"""Readers of what anybody can send: packets, and what their payloads begin with."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from analysis.chain.claims import Claims
from analysis.chain.forwarded import naming
from analysis.health.arrivals import status_of
from daemonset.decode import http, tls
from daemonset.decode.head import RAW_LIMIT, read_payload
from daemonset.decode.http_body import message_end
from daemonset.decode.packet import Batch
from daemonset.decode.proxy_protocol import (
    HEADER_MAX,
    Decoder,
    ProxyProtocolError,
    begins_header,
    decode_all,
)
from daemonset.observation import PACKET, VALUE_LIMIT, Head, HttpHead, Payload, ProxyHeader
from daemonset.taps import columns
from daemonset.taps.ring import FRAME, FRAME_HEADER
from probe.decoding.stream import Stream
from tests.agent.test_columns import Framed
from tests.fuzz.reader import Reader, pieces

#: Link types of captures and of the ring: Ethernet, raw IP, Linux cooked, null, PPP, 802.11 and an unknown one.
LINKS = (1, 101, 113, 276, 0, 228, 229, 12, 105, 9999)


def proxy_headers(data: bytes, size: int) -> None:
    """Headers whole and in pieces."""
    decoded = decode_all(data)
    assert len(decoded.headers) <= HEADER_MAX
    assert decoded.rest == sum(header.length for header in decoded.headers) <= len(data)
    if decoded.error:
        assert 0 <= decoded.error.offset < len(data) - decoded.rest
        assert str(decoded.error).isprintable()
    headers, error, payload, complete = fed(pieces(data, size or 1))
    assert headers == list(decoded.headers)
    assert str(error) == str(decoded.error)
    assert complete == decoded.complete
    assert payload == (b"" if error or not complete else data[decoded.rest :])


def fed(chunks: Iterator[bytes]) -> tuple[list[ProxyHeader], ProxyProtocolError | None, bytes, bool]:
    decoder, headers, error, payload = Decoder(), [], None, b""
    for chunk in chunks:
        for event in decoder.feed(chunk):
            if isinstance(event, ProxyHeader):
                headers.append(event)
            elif isinstance(event, bytes):
                payload += event
            else:
                error = event
    complete = decoder.complete
    return headers, error, payload + decoder.close(), complete


def payloads(data: bytes, size: int) -> None:
    kind, head = read_payload(data)
    assert (kind is Payload.NONE) == (not data)
    assert read_payload(memoryview(data)) == (kind, head)
    if head is None:
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(head), type=Head) == head
    assert len(head.raw) <= RAW_LIMIT
    assert len(head.more) <= http.REQUEST_MAX
    for each in (head.http, *head.more):
        assert each is None or bounded(each)
    assert bool(head.proxy or head.proxy_error or not head.proxy_complete) == (
        kind in {Payload.PROXY_V1, Payload.PROXY_V2}
    )
    read_payload(data[:size])


def bounded(head: HttpHead) -> bool:
    texts = [head.start, *(text for field in head.fields for text in field)]
    return len(head.fields) <= 128 and all(len(text) <= VALUE_LIMIT for text in texts)


def requests(data: bytes, size: int) -> None:
    start = min(size, len(data))
    end = message_end(data, start)
    assert end is None or start < end <= len(data)
    first = http.read_head(data)
    for head in http.read_requests(data) if first else ():
        assert bounded(head)
        assert head.start.split(" ", 1)[0].isupper()
    status = status_of(first.start) if first else None
    assert status is None or 0 <= status < 1000


def hellos(data: bytes, size: int) -> None:
    hello = tls.read_client_hello(data)
    assert hello is None or len(hello.random) == 32
    assert hello is None or len(hello.server_name or "") <= 4 * VALUE_LIMIT
    part = tls.read_client_hello(data[:-size]) if size else None
    assert part is None or (hello is not None and part.random == hello.random)


def packets(data: bytes, size: int) -> None:
    batch = Batch()
    for link in LINKS:
        batch.add(data, link=link, time=1, tap=0, wire_length=len(data) + size)
    rows, heads = batch.take()
    assert len(rows) <= len(LINKS) * PACKET.size
    assert len(rows) % PACKET.size == 0
    for at in range(0, len(rows), PACKET.size):
        row = dict(
            zip((column.name for column in PACKET.columns), PACKET.struct.unpack_from(rows, at), strict=True)
        )
        assert row["head"] <= len(heads)
        assert row["payload"] in set(Payload)


def streams(data: bytes, size: int) -> None:
    """Segments in reverse, one of them twice, are the stream that they were cut from."""
    parts = [
        (at, data[at : at + max(size, 1)]) for at in range(0, min(len(data), 60 * max(size, 1)), max(size, 1))
    ]
    ordered, reversed_ = Stream(7), Stream(7)
    one = [found.event for at, part in parts for found in ordered.add(7 + at, part)]
    other = [found.event for at, part in [*parts[::-1], *parts[:1]] for found in reversed_.add(7 + at, part)]
    assert list(map(str, one)) == list(map(str, other))
    assert (ordered.unfinished() is None) == (reversed_.unfinished() is None)
    if begins_header(data) and ordered.unfinished() is None and not ordered.gave_up:
        assert one


def ring_frames(data: bytes, size: int) -> None:
    """What the kernel puts into a ring: read as columns it gives the row that is read packet by packet, or is left."""
    ethertype = (0x0800, 0x86DD, 0x8100, 0x0806)[size & 3]
    framed = Framed(
        (ethertype, data), kind=4 if size & 4 else 0, tci=(size & 0xF0) << 4 | 7 if size & 8 else None
    )
    block = np.frombuffer(framed.bytes(), np.uint8).reshape(-1, FRAME)
    decoded = columns.decode(block, np.array([3 if size & 0x10 else 0]))
    if len(decoded.others):
        assert not b"".join(decoded.rows)
        return
    batch = Batch()
    assert framed.add_to(batch, 3 if size & 0x10 else 0)
    expected, heads = batch.take()
    assert not heads
    assert b"".join(row.tobytes() for row in decoded.rows) == bytes(expected)


_FIELDS = ("x-forwarded-for", "forwarded", "x-real-ip", "true-client-ip", "x-request-id")


def claims(data: bytes, size: int) -> None:
    """What fields say of a client, as analysed: each line is a field's value."""
    values = data.decode("latin-1").split("\n")[:64]
    fields = tuple((_FIELDS[(size + at) % len(_FIELDS)], value) for at, value in enumerate(values))
    told = Claims.of(HttpHead("GET / HTTP/1.1", fields))
    assert all(0 <= each < 1 << 128 for each in told.addresses)
    word = naming(told)
    assert (word is None) == (not (told.chain or told.forwarded or told.singles))
    assert word is None or word.address is None or 0 <= word.address < 1 << 128
    assert word is None or word.port is None or word.port >= 0


READERS = (
    Reader(packets, 1500),
    Reader(proxy_headers, 600, longest=600),
    Reader(payloads, 1000),
    Reader(requests, 700),
    Reader(hellos, 500),
    Reader(streams, 120, longest=600),
    Reader(ring_frames, 250, longest=FRAME - FRAME_HEADER),
    Reader(claims, 250, longest=1024),
)
