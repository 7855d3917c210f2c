"""Many frames of a ring at once: the plain handshake packets, decoded as columns.

`decode.packet.Batch` reads one packet in about three microseconds, and knows everything. Most of what the
kernel filter passes under load is of one sort, though: TCP over IPv4 or IPv6, plain, without payload. For these
the fields stand at fixed offsets, and numpy moves a field of all frames in one step (about 0.15 µs a packet).

Rules of this file:

1. What it decodes, it decodes exactly as `Batch` does; a test compares them on every kind of packet.
2. What it is not sure of is left to `Batch`: tunnels, payloads, extension headers, anything cut or odd.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from daemonset.observation import PACKET, Direction
from daemonset.taps.ring import COPY, FRAME_HEADER, VLAN_PRESENT, VLAN_VALID

_OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h
_TCP = 6
_MAPPED = np.uint64(0xFFFF_0000_0000)
_SECOND = np.uint64(1_000_000_000)
_MOST_LAYOUTS = 8  # different option layouts in one block; more of them are left to `Batch`
_WORDS = 5  # of eight bytes: the most that TCP options can be
_FULL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

_PART = 192  # bytes of a frame that matter here: its own header, IPv6, TCP with all options; a multiple of 8


class _Family(NamedTuple):
    """An IP version: its ethertype, the length of its header, where TCP options begin, and all fields."""

    ethertype: int
    header: int
    options: int
    dtype: np.dtype[Any]


def _family(ethertype: int, header: int, **fields: tuple[str, int]) -> _Family:
    tcp = FRAME_HEADER + header
    places = {name: (code, FRAME_HEADER + at) for name, (code, at) in fields.items()}
    places |= {
        "status": ("<u4", 0), "kept": ("<u4", 8), "network": ("<u2", 14), "seconds": ("<u4", 16),
        "nanoseconds": ("<u4", 20), "tci": ("<u2", 24), "ethertype": (">u2", 34), "ifindex": ("<u4", 36),
        "kind": ("u1", 42),
        "ports": ("2>u2", tcp), "numbers": ("2>u4", tcp + 4), "size": ("u1", tcp + 12),
        "flags": ("u1", tcp + 13), "window": (">u2", tcp + 14), "options": (f"{_WORDS}<u8", tcp + 20),
    }  # fmt: skip
    dtype = np.dtype(
        {
            "names": list(places),
            "formats": [code for code, _ in places.values()],
            "offsets": [at for _, at in places.values()],
            "itemsize": _PART,
        }
    )
    return _Family(ethertype, header, tcp + 20, dtype)


_IPV4 = _family(
    0x0800, 20, version=("u1", 0), total=(">u2", 2), ipid=(">u2", 4), fragment=(">u2", 6), ttl=("u1", 8),
    protocol=("u1", 9), src=(">u4", 12), dst=(">u4", 16),
)  # fmt: skip
_IPV6 = _family(
    0x86DD, 40, version=("u1", 0), total=(">u2", 4), protocol=("u1", 6), ttl=("u1", 7), addresses=("4>u8", 8)
)


def _row() -> np.dtype[Any]:
    """`PACKET` with neighbouring columns taken together, where a header has them together, too."""
    plain = PACKET.dtype()
    assert plain.fields is not None
    joined = {
        "addresses": ("4<u8", "src_hi"),
        "numbers": ("2<u4", "seq"),
        "ports": ("2<u2", "sport"),
        "stamps": ("2<u4", "tsval"),
    }
    names = [*plain.fields, *joined]
    offsets = {name: field[1] for name, field in plain.fields.items()}
    return np.dtype(
        {
            "names": names,
            "formats": [plain[name] for name in plain.fields] + [code for code, _ in joined.values()],
            "offsets": [offsets[name] for name in plain.fields]
            + [offsets[first] for _, first in joined.values()],
            "itemsize": PACKET.size,
        }
    )


_ROW = _row()

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Index = NDArray[np.intp]


class Decoded(NamedTuple):
    """Bytes of rows of `PACKET`, and which frames of the block they do not cover."""

    rows: list[Bytes]
    others: Index


def interfaces(block: Bytes) -> NDArray[np.uint32]:
    """The interface index of each frame; `block` is frames as rows of bytes."""
    return block[:, 36:40].view(np.uint32)[:, 0]


def decode(block: Bytes, taps: NDArray[np.int64]) -> Decoded:
    """Decode what is plain in a block of frames. `taps` are their taps, negative where they are not wanted."""
    parts = np.ascontiguousarray(block[:, :_PART])
    rows: list[Bytes] = []
    wanted = taps >= 0
    for family in (_IPV4, _IPV6):
        frames = parts.view(family.dtype)[:, 0]
        chosen = np.flatnonzero(_is_plain(frames, family) & wanted)
        if len(chosen) == len(parts):
            made, left = _rows(frames, taps, family)
        elif len(chosen):
            made, left = _rows(parts[chosen].view(family.dtype)[:, 0], taps[chosen], family)
        else:
            continue
        rows.append(made)
        wanted[chosen] = False
        wanted[chosen[left]] = True
        if not wanted.any():
            break
    return Decoded(rows, np.flatnonzero(wanted))


def _is_plain(frames: NDArray[Any], family: _Family) -> Flags:
    """Whole TCP without payload, directly in IP, and nothing else about it."""
    header = family.header
    plain: Flags = (frames["ethertype"] == family.ethertype) & (frames["protocol"] == _TCP)
    if not plain.any():
        return plain
    body = header + (frames["size"] >> 4).astype(np.uint32) * 4
    if family is _IPV4:
        plain &= (frames["version"] == 0x45) & (frames["fragment"] & 0x1FFF == 0) & (frames["total"] == body)
    else:
        plain &= (frames["version"] >> 4 == 6) & (frames["total"] == body - header)
    plain &= (body >= header + 20) & (frames["kept"] >= body)
    plain &= (frames["network"] == FRAME_HEADER) & (frames["status"] & COPY == 0)
    return plain


def _rows(frames: NDArray[Any], taps: NDArray[np.int64], family: _Family) -> tuple[Bytes, Index]:
    """Rows of plain frames; and which of the frames, by position, were left out for their options."""
    rows = np.zeros(len(frames), _ROW)
    rows["time"] = frames["seconds"] * _SECOND + frames["nanoseconds"]
    if family is _IPV4:
        rows["src_lo"] = frames["src"] | _MAPPED
        rows["dst_lo"] = frames["dst"] | _MAPPED
        rows["ipid"] = frames["ipid"]
    else:
        rows["addresses"] = frames["addresses"]
    for name in ("numbers", "ports", "window", "flags", "ttl"):
        rows[name] = frames[name]
    rows["tap"] = taps
    rows["protocol"] = _TCP
    rows["direction"] = _DIRECTION[frames["kind"]]
    tagged = frames["status"] & VLAN_VALID
    if tagged.any():
        rows["vlan"] = np.where(tagged, (frames["tci"] & 0xEFFF) | VLAN_PRESENT, 0)
    left = _read_options(frames, rows, family)
    return (np.delete(rows, left) if len(left) else rows).view(np.uint8), left


_DIRECTION = np.full(256, Direction.IN, np.uint8)
_DIRECTION[_OUTGOING] = Direction.OUT


def _read_options(frames: NDArray[Any], rows: NDArray[Any], family: _Family) -> Index:
    """Fill in timestamps and fingerprints, one layout of options after the other; answers with what is left.

    Two packets whose options agree in every byte but the timestamps have these at the same place.
    """
    sizes = frames["size"] >> 4
    left = np.flatnonzero(sizes > 5)
    for _ in range(_MOST_LAYOUTS):
        if not len(left):
            break
        which = slice(None) if len(left) == len(frames) else left
        options, size = frames["options"][which], int(sizes[left[0]])
        first = options[0].tobytes()[: size * 4 - 20]
        stamps = _stamps(first)
        masked = first if stamps is None else first[:stamps] + bytes(8) + first[stamps + 8 :]
        others = _differ(options, _mask(len(first), stamps), masked) | (sizes[which] != size)
        if others.any():
            same_left, left = left[~others], left[others]
        else:
            same_left, left = which, left[:0]
        rows["options"][same_left] = crc32(masked) or 1
        if stamps is not None:
            places = _with_stamps(family.options + stamps)
            rows["stamps"][same_left] = frames.view(places)["stamps"][same_left]
    return left


@lru_cache
def _with_stamps(offset: int) -> np.dtype[Any]:
    """Frames of which only the two timestamps matter."""
    return np.dtype({"names": ["stamps"], "formats": ["2>u4"], "offsets": [offset], "itemsize": _PART})


def _differ(options: NDArray[np.uint64], mask: bytes, masked: bytes) -> Flags:
    """Which options are not `masked` where `mask` has bits."""
    differs = np.zeros(len(options), bool)
    masks, values = np.frombuffer(mask, "<u8"), np.frombuffer(masked.ljust(len(mask), b"\0"), "<u8")
    for word in np.flatnonzero(masks):
        column = options[:, word]
        differs |= (column if masks[word] == _FULL else column & masks[word]) != values[word]
    return differs


def _mask(size: int, stamps: int | None) -> bytes:
    """Ones over `size` bytes, but zeros over the eight of the timestamps; as long as options can be."""
    mask = b"\xff" * size if stamps is None else b"\xff" * stamps + bytes(8) + b"\xff" * (size - stamps - 8)
    return mask.ljust(_WORDS * 8, b"\0")


def _stamps(options: bytes) -> int | None:
    """Where the values of the timestamps option (RFC 7323 §3.2) begin; None: there is none."""
    at, end = 0, len(options)
    while at < end and options[at]:
        if options[at] == 1:
            at += 1
            continue
        size = options[at + 1] if at + 1 < end else 0
        if size < 2 or at + size > end:
            return None
        if options[at] == 8 and size == 10:
            return at + 2
        at += size
    return None
