"""The framing of observations: what a writer sends, a reader reads, and nothing hostile gets past it."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemonset import wire
from daemonset.observation import (
    NAT,
    PACKET,
    SCHEMA_VERSION,
    Bye,
    Head,
    Heads,
    Hello,
    HttpHead,
    Loss,
    ProxyHeader,
    Ready,
    Tap,
    TapKind,
    Taps,
    Tlv,
    Tunnel,
)
from daemonset.wire import Frame, NatRows, PacketRows, Reader, TruncatedError, WireError, Writer, read_stream

TAP = Tap(node="n1", kind=TapKind.NIC, interface="eth0")
TLVS = (Tlv(5, "UNIQUE_ID", b"x"),)
HEADS = (
    Head(
        proxy=(
            ProxyHeader(
                2, "PROXY", "ipv4", "stream", "1.2.3.4:5", "6.7.8.9:10", (Tlv(5, "UNIQUE_ID", b"x"),), 28
            ),
        )
    ),
    Head(http=HttpHead("GET / HTTP/1.1", (("x-forwarded-for", "1.2.3.4"),))),
)


def packet(**fields: int) -> bytes:
    return PACKET.struct.pack(*(fields.get(column.name, 0) for column in PACKET.columns))


def stream(*frames: object) -> bytes:
    parts: list[bytes] = []
    writer = Writer(parts.append)
    for frame in frames:
        match frame:
            case PacketRows(rows, heads):
                writer.packets(rows, heads)
            case NatRows(rows):
                writer.nat(rows)
            case message:
                writer.message(message)  # type: ignore[arg-type]
    return b"".join(parts)


def read(data: bytes) -> list[Frame]:
    reader = Reader()
    frames = reader.feed(data)
    reader.finish()
    return frames


def reads_or_says_why(data: bytes) -> None:
    try:
        read(data)
    except WireError as error:
        why = str(error)
    else:
        why = "none"
    assert why
    assert "\n" not in why


def raw_frame(kind: int, payload: bytes) -> bytes:
    return wire.HEADER.pack(len(payload), kind) + payload


def packed(width: int, count: int) -> bytes:
    """Rows of zeros."""
    return count.to_bytes(4, "little") + bytes((width + 7) // 8) + bytes(width)


PREAMBLE = stream()
STORY = (
    Hello(node="n1", features={"ring": "v3"}),
    Taps((TAP,)),
    Ready(time=1),
    PacketRows(packet(time=7, seq=0xDEADBEEF, head=2) * 40, HEADS),
    PacketRows(packet(time=8)),
    NatRows(bytes(NAT.size) * 100),
    Loss(tap=0, received=41, dropped=0),
    Bye("duration over"),
)


def test_what_is_written_is_read() -> None:
    reader = Reader()
    assert tuple(reader.feed(stream(*STORY))) == STORY
    reader.finish()


@given(st.integers(1, 300))
@settings(max_examples=30)
def test_chunking_makes_no_difference(step: int) -> None:
    data, reader, frames = stream(*STORY), Reader(), []
    for start in range(0, len(data), step):
        frames += reader.feed(data[start : start + step])
    reader.finish()
    assert tuple(frames) == STORY


def test_a_stream_at_rest(tmp_path: Path) -> None:
    path = tmp_path / "agent.obs"
    path.write_bytes(stream(*STORY))
    assert tuple(read_stream(path)) == STORY


@given(st.data())
@settings(max_examples=60)
def test_a_stream_cut_anywhere_keeps_what_was_whole(data: st.DataObject) -> None:
    whole = stream(*STORY)
    cut = data.draw(st.integers(0, len(whole) - 1))
    reader = Reader()
    frames = reader.feed(whole[:cut])
    assert tuple(frames) == STORY[: len(frames)]
    borders = {len(stream(*STORY[:count])) for count in range(len(STORY) + 1)}
    if cut in borders:
        reader.finish()
    else:
        with pytest.raises(TruncatedError, match="stream ends"):
            reader.finish()


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=300)
def test_any_bytes_are_frames_or_a_wire_error(data: bytes, with_preamble: bool) -> None:
    reads_or_says_why((PREAMBLE if with_preamble else b"") + data)


@given(st.sampled_from([1, 2, 3, 0x82, 0x83, 0x81, 0]), st.binary(max_size=300), st.booleans())
@settings(max_examples=300)
def test_any_payload_is_a_frame_or_a_wire_error(kind: int, payload: bytes, packs: bool) -> None:
    reads_or_says_why(PREAMBLE + raw_frame(kind, packed(NAT.size, 2) + payload if packs else payload))


@given(st.data())
@settings(max_examples=200)
def test_any_flipped_byte_is_a_frame_or_a_wire_error(data: st.DataObject) -> None:
    damaged = bytearray(stream(*STORY))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    reads_or_says_why(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00", "not a stream of observations"),
        (b"G", "not a stream of observations"),
        (wire.PREAMBLE.pack(wire.MAGIC, 0), "version 0"),
        (wire.PREAMBLE.pack(wire.MAGIC, SCHEMA_VERSION + 1), f"schema version {SCHEMA_VERSION + 1}"),
        (stream(Hello(node="n", schema=SCHEMA_VERSION + 8)), f"schema version {SCHEMA_VERSION + 8}"),
        (PREAMBLE + struct.pack("<IB", wire.FRAME_LIMIT + 1, 1), "exceed the limit"),
        (PREAMBLE + raw_frame(9, b""), "unknown type 9"),
        (PREAMBLE + raw_frame(2, b""), "not whole rows"),
        (PREAMBLE + raw_frame(3, b"x"), "not whole rows"),
        (PREAMBLE + raw_frame(0x83, b"x"), "cut off"),
        (PREAMBLE + raw_frame(0x83, packed(NAT.size, 1) + b"x"), "not the varying columns"),
        (PREAMBLE + raw_frame(0x83, packed(NAT.size, 0)), "not whole rows"),
        (PREAMBLE + raw_frame(1, msgspec.msgpack.encode({"type": "tapz"})), "corrupt frame"),
        (stream(PacketRows(packet())), "never announced"),
        (stream(Loss(tap=0, received=1, dropped=0)), "never announced"),
        (
            stream(Taps((TAP,)), PacketRows(packet(tunnel=len(Tunnel)))),
            "tunnel 5, which this schema does not know",
        ),
        (
            stream(Taps((TAP,)), PacketRows(packet(payload=255))),
            "payload 255, which this schema does not know",
        ),
        (stream(Taps((TAP,)), PacketRows(packet(head=1))), "head 1 of 0"),
        (stream(Heads(HEADS), NatRows(bytes(NAT.size))), "heads without"),
        (stream(Heads(HEADS), Ready()), "heads without"),
    ],
)
def test_errors_name_what_is_wrong(data: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        read(data)


def test_frames_before_the_damage_are_kept() -> None:
    reader = Reader()
    assert reader.feed(stream(STORY[0]) + raw_frame(9, b"")) == [STORY[0]]
    for _ in range(2):
        with pytest.raises(WireError, match="unknown type"):
            reader.feed(b"")
    with pytest.raises(WireError, match="unknown type"):
        reader.finish()


def test_few_bytes_do_not_become_many() -> None:
    bomb = packed(NAT.size, wire.FRAME_LIMIT // NAT.size + 1)
    with pytest.raises(WireError, match="longer than"):
        Reader().feed(PREAMBLE + raw_frame(0x83, bomb))


@given(st.lists(st.binary(min_size=NAT.size, max_size=NAT.size), min_size=1, max_size=40), st.integers(1, 50))
@settings(max_examples=60)
def test_any_rows_survive_packing(rows: list[bytes], repeats: int) -> None:
    data = b"".join(rows) * repeats
    assert read(stream(NatRows(data))) == [NatRows(data)]


def test_rows_that_are_alike_take_little_room() -> None:
    rows = b"".join(
        packet(time=number, seq=number * 7919, src_lo=5, dst_lo=6, window=9) for number in range(1000)
    )
    assert len(stream(Taps((TAP,)), PacketRows(rows))) < len(rows) / 10


def test_rows_beyond_one_frame_travel_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FRAME_LIMIT", 1000)
    rows = b"".join(packet(seq=number, head=1) for number in range(20))
    frames = Reader().feed(stream(Taps((TAP,)), PacketRows(rows, HEADS)))[1:]
    assert len(frames) == 3
    assert all(isinstance(frame, PacketRows) and frame.heads == HEADS for frame in frames)
    assert b"".join(frame.rows for frame in frames if isinstance(frame, PacketRows)) == rows


def test_writer_refuses_what_is_no_row() -> None:
    with pytest.raises(ValueError, match="not whole rows"):
        Writer(lambda _: None).packets(b"xyz")


def test_a_recording_of_the_first_version_is_still_read() -> None:
    recorded = Path(__file__).with_name("recorded_v1.probe")
    hello, *rest = read_stream(recorded)
    assert hello == msgspec.structs.replace(STORY[0], schema=1)
    assert tuple(rest) == STORY[1:]
