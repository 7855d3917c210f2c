"""Observations as a byte stream: what the agent writes to stdout and what a recorded session holds.

A stream is an 8-byte preamble (`MAGIC`, then the schema version as u16), followed by frames:

    length u32 | type u8 | payload of `length` bytes                       (all integers little-endian)

| type | payload |
|---|---|
| 1 message | msgpack of one `observation.Message`, tagged by its `type` field |
| 2 packets | rows of `observation.PACKET` |
| 3 nat | rows of `observation.NAT` |

Rules:

1. Bit 7 of the type (`PACKED`) says that only those byte columns of the rows are there that vary:

       count u32 | a bit for each column, set where it varies | the first row | the varying columns, row by row

   Neighbouring rows share most of their bytes, so this is a fifth of the rows' size. It takes 0.07 µs a row;
   deflating makes it smaller by another sixth and takes seven times as long, which is time that the kernel's
   ring fills up in.
2. Heads that rows refer to stand in a `Heads` message directly before their packets frame.
3. A row never names a tap that no earlier `Taps` message announced, nor a head that does not exist, nor a kind of
   direction, tunnel or payload that the schema does not have.
4. A frame is at most `FRAME_LIMIT` bytes long, also after unpacking: a reader's memory is bounded whatever
   arrives.
5. This file knows nothing of files' whereabouts, of pipes, clocks or sessions. `Reader` takes bytes at any
   chunking and answers with frames or `WireError`, nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemonset.observation import (
    NAT,
    PACKET,
    SCHEMA_VERSION,
    Bye,
    ConntrackCounts,
    Direction,
    Gap,
    Head,
    Heads,
    Hello,
    Layout,
    Loss,
    Message,
    Payload,
    Ready,
    RowBytes,
    RuleCounts,
    RuleHits,
    Ruleset,
    Taps,
    Topology,
    TracedRules,
    Tracing,
    Tunnel,
)

MAGIC = b"SIPOBS"
PREAMBLE = struct.Struct("<6sH")
HEADER = struct.Struct("<IB")
_COUNT = struct.Struct("<I")

MESSAGE, PACKETS, NATS = 1, 2, 3
PACKED = 0x80

#: Longest payload of a frame, as sent and as unpacked, in bytes.
FRAME_LIMIT = 64 << 20

#: Fewer rows than this are sent as they are.
PACK_FROM = 4

_TOGETHER = 32  # rows; so many are whole words, whatever a row's size

#: Columns that hold a kind, and how many kinds there are: they count from 0.
_KINDS = {"direction": len(Direction), "tunnel": len(Tunnel), "payload": len(Payload)}

_CHUNK = 1 << 18
_WORTH_A_COPY = 1 << 16


class WireError(ValueError):
    """A stream that cannot be read (further). The text is one line and says what was wrong."""


class TruncatedError(WireError):
    """The stream ends inside a frame or before its preamble; everything before that point was whole."""


class PacketRows(NamedTuple):
    """Rows of `observation.PACKET`, and the heads that they index from 1."""

    rows: RowBytes
    heads: tuple[Head, ...] = ()


class NatRows(NamedTuple):
    """Rows of `observation.NAT`."""

    rows: RowBytes


#: What a reader answers with. `Heads` messages arrive inside the `PacketRows` that they belong to.
Frame = (
    Hello
    | Taps
    | Topology
    | Ready
    | Loss
    | Gap
    | Bye
    | Tracing
    | TracedRules
    | RuleHits
    | Ruleset
    | RuleCounts
    | ConntrackCounts
    | PacketRows
    | NatRows
)


class Writer:
    """Frames observations and hands the bytes to `write`, which must take all of them.

    The preamble goes out at once. `write` may raise what it likes (BrokenPipeError); it passes through.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._encoder = msgspec.msgpack.Encoder()
        write(PREAMBLE.pack(MAGIC, SCHEMA_VERSION))

    def message(self, message: Message) -> None:
        """Send one message. Raises ValueError where it is longer than a frame may be."""
        self._frame(MESSAGE, self._encoder.encode(message))

    def packets(self, rows: RowBytes | memoryview, heads: tuple[Head, ...] = ()) -> None:
        """Send rows of `PACKET` together with the heads that they refer to. No rows, no frame."""
        for part in _parts(rows, PACKET):
            if heads:
                self.message(Heads(heads))
            self._rows(PACKETS, part, PACKET)

    def nat(self, rows: RowBytes) -> None:
        """Send rows of `NAT`. No rows, no frame."""
        for part in _parts(rows, NAT):
            self._rows(NATS, part, NAT)

    def _rows(self, kind: int, rows: RowBytes | memoryview, layout: Layout) -> None:
        if len(rows) >= PACK_FROM * layout.size:
            self._frame(kind | PACKED, _pack(rows, layout.size))
        else:
            self._frame(kind, bytes(rows))

    def _frame(self, kind: int, payload: bytes) -> None:
        if len(payload) > FRAME_LIMIT:
            raise ValueError(f"a frame of {len(payload)} bytes is longer than {FRAME_LIMIT}")
        header = HEADER.pack(len(payload), kind)
        if len(payload) > _WORTH_A_COPY:
            self._write(header)
            self._write(payload)
        else:
            self._write(header + payload)


class Reader:
    """Turns a stream back into frames, at any chunking.

    An error never takes away frames that stood before it: `feed` first answers with those, and raises at the
    next call of `feed` or `finish`. A reader that has raised stays in error.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._offset = 0  # of the buffer's first byte in the stream
        self._version: int | None = None
        self._taps = 0
        self._heads: tuple[Head, ...] | None = None
        self._error: WireError | None = None
        self._decoder = msgspec.msgpack.Decoder(Message)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream, answer with the frames that they complete."""
        if self._error is not None:
            raise self._error
        self._buffer += data
        frames: list[Frame] = []
        try:
            self._drain(frames)
        except WireError as error:
            self._error = error
            self._buffer.clear()
            if not frames:
                raise
        return frames

    def finish(self) -> None:
        """Say that no more bytes will come; raises `TruncatedError` where some were still expected."""
        if self._error is not None:
            raise self._error
        if self._version is None:
            raise TruncatedError("the stream ends before its preamble: nothing was recorded")
        if self._buffer:
            raise TruncatedError(
                f"the stream ends inside a frame, at byte {self._offset + len(self._buffer)}: "
                "its writer was cut off"
            )
        if self._heads is not None:
            raise TruncatedError(
                f"the stream ends after the heads of a batch, at byte {self._offset}: its writer was cut off"
            )

    def _drain(self, frames: list[Frame]) -> None:
        position = 0
        try:
            if self._version is None:
                self._version = _preamble(self._buffer)
                if self._version is None:
                    return
                position = PREAMBLE.size
            while (end := self._end_of_frame(position)) is not None:
                kind = self._buffer[position + 4]
                payload = bytes(memoryview(self._buffer)[position + HEADER.size : end])
                frame = self._frame(kind, payload, self._offset + position)
                position = end
                if frame is not None:
                    frames.append(frame)
        finally:
            del self._buffer[:position]
            self._offset += position

    def _end_of_frame(self, position: int) -> int | None:
        if len(self._buffer) - position < HEADER.size:
            return None
        length, _ = HEADER.unpack_from(self._buffer, position)
        if length > FRAME_LIMIT:
            raise WireError(
                f"corrupt frame at byte {self._offset + position}: "
                f"{length} bytes exceed the limit of {FRAME_LIMIT}"
            )
        end = position + HEADER.size + int(length)
        return end if end <= len(self._buffer) else None

    def _frame(self, kind: int, payload: bytes, offset: int) -> Frame | None:
        where = f"corrupt frame at byte {offset}"
        if kind == MESSAGE:
            return self._message(payload, where)
        if kind & ~PACKED not in (PACKETS, NATS):
            raise WireError(f"{where}: unknown type {kind}")
        layout = PACKET if kind & ~PACKED == PACKETS else NAT
        rows = _unpack(payload, layout.size, where) if kind & PACKED else payload
        if not rows or len(rows) % layout.size:
            raise WireError(f"{where}: {len(rows)} bytes are not whole rows of {layout.size}")
        heads, self._heads = self._heads, None
        if layout is NAT:
            if heads is not None:
                raise WireError(f"{where}: heads without the packets that they belong to")
            return NatRows(rows)
        _check_indices(rows, self._taps, len(heads or ()), where)
        return PacketRows(rows, heads or ())

    def _message(self, payload: bytes, where: str) -> Frame | None:
        if self._heads is not None:
            raise WireError(f"{where}: heads without the packets that they belong to")
        try:
            message: Message = self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            raise WireError(f"{where}: {_one_line(error)}") from error
        if isinstance(message, Heads):
            self._heads = message.heads
            return None
        if isinstance(message, Taps):
            self._taps += len(message.taps)
        elif isinstance(message, Hello) and message.schema > SCHEMA_VERSION:
            raise _too_new(message.schema)
        elif isinstance(message, Loss) and not 0 <= message.tap < self._taps:
            raise WireError(f"{where}: a loss counter of tap {message.tap}, which was never announced")
        return message


def read_stream(path: Path) -> Iterator[Frame]:
    """The frames of a recorded stream, one at a time.

    Raises `WireError` after the last whole frame where the rest is damaged, `TruncatedError` where it was cut
    off, and OSError where the file cannot be read.
    """
    reader = Reader()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield from reader.feed(chunk)
    reader.finish()


def _preamble(buffer: bytearray) -> int | None:
    """The schema version, or None while too few bytes are there; bytes that cannot become one are refused."""
    if not MAGIC.startswith(bytes(buffer[: len(MAGIC)])):
        raise WireError("not a stream of observations: it does not begin with " + MAGIC.decode())
    if len(buffer) < PREAMBLE.size:
        return None
    _, version = PREAMBLE.unpack_from(buffer)
    if version > SCHEMA_VERSION:
        raise _too_new(version)
    if version == 0:
        raise WireError("not a stream of observations: schema version 0 never existed")
    return int(version)


def _too_new(version: int) -> WireError:
    return WireError(
        f"written with schema version {version}, this program reads up to {SCHEMA_VERSION}: use a newer one"
    )


def _parts(rows: RowBytes | memoryview, layout: Layout) -> Iterator[RowBytes | memoryview]:
    """Rows in pieces that fit a frame; ValueError where they are not whole rows."""
    if len(rows) % layout.size:
        raise ValueError(f"{len(rows)} bytes are not whole rows of {layout.size}")
    step = FRAME_LIMIT // layout.size * layout.size
    for start in range(0, len(rows), step):
        yield rows if len(rows) <= step else rows[start : start + step]


def _pack(rows: RowBytes | memoryview, width: int) -> bytes:
    table = np.frombuffer(rows, np.uint8).reshape(-1, width)
    varies = _varies(table)
    values = np.take(table, np.flatnonzero(varies), axis=1)
    return b"".join((_COUNT.pack(len(table)), np.packbits(varies).tobytes(), rows[:width], values.tobytes()))


def _varies(table: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which byte columns differ anywhere: those where a bit is set in one row and not in another.

    Several rows taken together are whole words, and a word costs as much as a byte: four times faster.
    """
    count, width = table.shape
    ones = zeros = table
    if (together := count // _TOGETHER) > 1:
        words = table[: together * _TOGETHER].reshape(together, -1).view(np.uint64)
        rest = table[together * _TOGETHER :]
        ones, zeros = (
            np.concatenate((reduce(words).view(np.uint8).reshape(-1, width), rest))
            for reduce in (np.bitwise_or.reduce, np.bitwise_and.reduce)
        )
    varies: NDArray[np.bool_] = np.bitwise_or.reduce(ones) != np.bitwise_and.reduce(zeros)
    return varies


def _unpack(payload: bytes, width: int, where: str) -> bytearray:
    start = _COUNT.size + (width + 7) // 8
    if len(payload) < start + width:
        raise WireError(f"{where}: packed rows are cut off")
    (count,) = _COUNT.unpack_from(payload)
    varies = np.unpackbits(np.frombuffer(payload[_COUNT.size : start], np.uint8), count=width).astype(bool)
    values = payload[start + width :]
    if count * width > FRAME_LIMIT:
        raise WireError(f"{where}: {count} packed rows are longer than {FRAME_LIMIT} bytes")
    if len(values) != count * int(varies.sum()):
        raise WireError(f"{where}: {len(values)} bytes are not the varying columns of {count} rows")
    rows = bytearray(count * width)
    table = np.frombuffer(rows, np.uint8).reshape(count, width)
    table[:] = np.frombuffer(payload[start : start + width], np.uint8)
    if values:
        varying = np.frombuffer(values, np.uint8).reshape(count, -1)
        at = 0
        for first, last in _runs(varies):
            table[:, first:last] = varying[:, at : at + last - first]
            at += last - first
    return rows


def _runs(varies: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where neighbouring columns vary: whole runs are copied three times as fast as single columns."""
    edges = np.flatnonzero(np.diff(varies, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _check_indices(rows: RowBytes, taps: int, heads: int, where: str) -> None:
    columns = np.frombuffer(rows, PACKET.dtype())
    if (tap := int(columns["tap"].max())) >= taps:
        raise WireError(f"{where}: a packet of tap {tap}, which was never announced")
    if (head := int(columns["head"].max())) > heads:
        raise WireError(f"{where}: a packet refers to head {head} of {heads}")
    for name, kinds in _KINDS.items():
        if (kind := int(columns[name].max())) >= kinds:
            raise WireError(f"{where}: a packet of {name} {kind}, which this schema does not know")


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())[:200]  # it may quote the stream
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in said)
