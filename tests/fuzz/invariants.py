"""What holds for any bytes. Each function takes some and raises what must not be raised.

1. A decoder answers, says that it needs more, or raises its own documented error.
2. Fed whole or in pieces, what it says is the same.
3. What it gives fits into the schema, and its size is bounded by its input's and by fixed limits.
4. None takes longer than a moment (`target.py` watches the time).

The first byte of a fuzz input chooses the function, the second says how the rest is cut into pieces.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from analysis.facts import Facts
from analysis.receivers import RECEIVERS, receptions
from daemonset import wire
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
from daemonset.keeping import INDEX
from daemonset.node.conntrack import parse_text
from daemonset.node.ctnetlink import parse_message
from daemonset.node.legacy_table import INFO_SIZE, LegacyTableError, parse_size, parse_table
from daemonset.node.nfnetlink import messages
from daemonset.node.nft_rules import parse_rule, sets_trace
from daemonset.node.nft_trace import parse_trace
from daemonset.observation import NAT, PACKET, VALUE_LIMIT, Head, HttpHead, Payload, ProxyHeader
from daemonset.taps.pcap import CaptureFileError, read_tap
from probe.decoding.answer import Answer, decode_bytes
from probe.decoding.stream import Stream
from probe.errors import UsageError
from probe.objects import ObjectsError, facts_from_objects
from probe.render.machines import machine
from probe.sessions.folder import read_meta

# A frame of 200 bytes may unpack to FRAME_LIMIT; here that would only make the search slow.
wire.FRAME_LIMIT = 1 << 20

#: Where files are put that a check reads; it goes away with the process.
_FOLDER = tempfile.TemporaryDirectory(prefix="probe-fuzz-")
SCRATCH = Path(_FOLDER.name) / "file"

#: Link types of captures and of the ring: Ethernet, raw IP, Linux cooked, null, PPP, 802.11 and an unknown one.
LINKS = (1, 101, 113, 276, 0, 228, 229, 12, 105, 9999)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes; as a whole for 0."""
    step = size or len(data) or 1
    for at in range(0, len(data), step):
        yield data[at : at + step]


def proxy_headers(data: bytes, size: int) -> None:
    decoded = decode_all(data)
    assert len(decoded.headers) <= HEADER_MAX
    assert decoded.rest == sum(header.length for header in decoded.headers) <= len(data)
    if decoded.error:
        assert 0 <= decoded.error.offset < len(data) - decoded.rest
        assert str(decoded.error).isprintable()
    for part in {size, 1}:
        headers, error, payload, complete = fed(pieces(data, part))
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


def frames(data: bytes, size: int) -> None:
    whole, ended = read(iter([data]))
    assert read(pieces(data, size)) == (whole, ended)


def read(chunks: Iterator[bytes]) -> tuple[list[wire.Frame], str]:
    """The frames of a stream, and the error that it ended with."""
    reader, found, ended = wire.Reader(), [], ""
    try:
        for chunk in chunks:
            found += reader.feed(chunk)
        reader.finish()
    except wire.WireError as error:
        ended = str(error)
    assert "\n" not in ended
    return found, ended


def answers(data: bytes, size: int) -> None:
    told = decode_bytes(data, final=not size)
    assert 1 <= len(told) <= HEADER_MAX + 1
    for answer in told:
        for text in (machine.to_line(answer), machine.to_yaml(answer)):
            assert text.isascii()
            assert text.replace("\n", "").isprintable()
        assert msgspec.json.decode(machine.to_line(answer), type=Answer).ok == answer.ok


def receivers(data: bytes, size: int) -> None:
    told = receptions(data, first=data[:size] or None, cuts=(size,))
    assert len(told) == len(RECEIVERS)
    assert all(one.detail.isprintable() for one in told if one.verdict != "accepted")


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


def one_line(error: Exception) -> None:
    """What is said of it can be shown as it is, and has an end."""
    assert str(error).isprintable()
    assert len(str(error)) < 4096


def conntrack(data: bytes, size: int) -> None:
    """Messages of the kernel's connection tracking, and its tables as people save them."""
    row = parse_message(data, time=size, dumped=bool(size & 1))
    assert row is None or len(row) == NAT.size
    rows, skipped = parse_text(data.decode("latin-1"), time=size)
    assert len(rows) % NAT.size == 0
    assert all(line.isprintable() for line in skipped)


def netfilter(data: bytes, size: int) -> None:
    """Messages of nftables: rules, and what packets met."""
    for message in messages(data):
        rule, event = parse_rule(message, str(size)), parse_trace(message)
        assert rule is None or len(msgspec.msgpack.encode(rule)) <= 64 * len(data) + 4096
        assert (
            event is None or len(event.chain) <= 1024
        )  # names are the kernel's own, and escaped where they are shown
        assert sets_trace(message) in {True, False}


def legacy_tables(data: bytes, size: int) -> None:
    """A table of iptables-legacy, as getsockopt(2) gives it."""
    try:
        parse_size(data[:INFO_SIZE])
        chains = list(parse_table("ip6" if size & 1 else "ip", data[:INFO_SIZE], data[INFO_SIZE:]))
    except LegacyTableError as error:
        one_line(error)
        return
    assert sum(len(chain.rules) for chain in chains) <= len(data)


def capture_files(data: bytes, size: int) -> None:
    """pcap and pcapng files."""
    with SCRATCH.open("wb") as file:
        file.write(data)
    batch = Batch()
    try:
        read_tap(SCRATCH, 0, batch)
    except CaptureFileError as error:
        one_line(error)
    rows, _ = batch.take()
    assert len(rows) <= (len(data) + size) * PACKET.size


def objects(data: bytes, size: int) -> None:
    """What Kubernetes says, or a file that is called so."""
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    problems: list[str] | None = [] if size & 1 else None
    try:
        facts = facts_from_objects(document, problems)
    except ObjectsError as error:
        one_line(error)
        return
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts
    assert all(each.isprintable() for each in problems or ())


def session_indices(data: bytes, size: int) -> None:
    """`session.json` of a folder that somebody sends."""
    folder = SCRATCH.parent
    (folder / INDEX).write_bytes(data)
    try:
        meta = read_meta(folder)
    except UsageError as error:
        one_line(error)
        return
    assert msgspec.json.encode(meta)
    assert size < 256


CHECKS: tuple[Callable[[bytes, int], None], ...] = (
    proxy_headers,
    payloads,
    requests,
    hellos,
    packets,
    frames,
    answers,
    receivers,
    streams,
    conntrack,
    netfilter,
    legacy_tables,
    capture_files,
    objects,
    session_indices,
)


def check(data: bytes) -> None:
    """One fuzz input."""
    if len(data) >= 2:
        CHECKS[data[0] % len(CHECKS)](data[2:], data[1])
