"""Capture files as taps: pcap and pcapng, of anyone's making.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. The reader is our own, because `probe analyze`
must start without scapy, and because a file that somebody sends is hostile: every length is bounded before it
is used.

What is wrong with a file is told in two ways. A file that is no capture at all, or one whose packets nobody
could decode, raises `CaptureFileError`. A capture that ends in the middle, as they do when the capturing
process was killed or the disk was full, gives its packets up to the cut and then says so in
`Capture.truncated`: the judge has to know that something is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from daemonset.decode import link as link_layer
from daemonset.decode.packet import Batch
from daemonset.observation import Direction

#: Longest packet that libpcap writes (MAXIMUM_SNAPLEN); longer ones are damage.
MAX_PACKET = 262_144
#: Longest pcapng block that is read, as in Wireshark.
MAX_BLOCK = 16 * 1024 * 1024

_MAX_INTERFACES = 4096
_LAST_TIME = 2**63  # a row's time is 64 bits; this is the year 2262

# The magic number of pcap: byte order, and nanoseconds per unit of the fraction.
_PCAP_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_SECTION_MAGIC = b"\x0a\x0d\x0d\x0a"
_BYTE_ORDER = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_Unpack = Callable[[bytes], tuple[Any, ...]]
_SECOND = 1_000_000_000

# Types of pcapng blocks.
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _STATISTICS, _PACKET = 1, 2, 3, 5, 6

# Options of pcapng blocks.
_IF_NAME, _IF_TSRESOL, _IF_TSOFFSET = 2, 9, 14
_PACKET_FLAGS = 2  # epb_flags and pack_flags; its two low bits are the direction
_ISB_IFDROP = 5
_DIRECTIONS = (Direction.UNKNOWN, Direction.IN, Direction.OUT, Direction.UNKNOWN)
_NAME_LIMIT = 256

# What people hand over instead, by its first bytes.
_FOREIGN = {
    b"\x1f\x8b": "it is gzip-compressed: gunzip it first",
    b"\x28\xb5\x2f\xfd": "it is zstd-compressed: unzstd it first",
    b"\x04\x22\x4d\x18": "it is lz4-compressed: unlz4 it first",
    b"\xfd7zXZ": "it is xz-compressed: unxz it first",
    b"snoop": "it is a snoop capture: convert it with `editcap -F pcap`",
    b"\x34\xcd\xb2\xa1": "it is a modified pcap: convert it with `editcap -F pcap`",
}


class CaptureFileError(Exception):
    """A file that cannot be used as a capture. The message is one line and names the file and the remedy."""


class CapturedPacket(NamedTuple):
    """One packet of a file: ns since the epoch (0: not recorded), LINKTYPE_, bytes as captured."""

    time: int
    link: int
    data: bytes
    wire_length: int
    interface: str = ""
    direction: int = Direction.UNKNOWN


class TapFile(NamedTuple):
    """What reading a file into a batch came to."""

    packets: int  # read, of interest or not
    truncated: str | None = None  # why the file ends early
    dropped: int = 0  # what the capturing host said that it dropped (pcapng statistics)
    ignored: int = 0  # packets that are of no interest: ARP, other protocols, later fragments


class _Damaged(Exception):  # noqa: N818 - ends the reading, never leaves this file
    """The rest of the file cannot be read; the message says why."""


class _Interface(NamedTuple):
    link: int
    name: str
    unit: int  # ticks of its clock in one second
    offset: int  # seconds to add
    snaplen: int


class Capture(Iterator[CapturedPacket]):
    """Iterates over the packets of one capture file, which it closes at the end.

    `packets`, `truncated` (why the file ends early, or None) and `dropped` are final after the last packet.
    With `file`, which is open, `path` is only what errors call it.
    """

    def __init__(self, path: str | Path, file: IO[bytes] | None = None) -> None:
        self.path = Path(path)
        self.packets = 0
        self.truncated: str | None = None
        self.dropped = 0
        try:
            self._file: IO[bytes] = file or self.path.open("rb", buffering=1 << 20)
        except OSError as error:
            raise CaptureFileError(f"{self.path} cannot be read: {error.strerror}") from error
        try:
            self._records = self._open()
        except BaseException:
            self._file.close()
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> CapturedPacket:
        try:
            packet = next(self._records)
        except StopIteration:
            self._file.close()
            raise
        except _Damaged as damage:
            self._file.close()
            self.truncated = f"{damage} after {self.packets} packets"
            raise StopIteration from None
        except OSError as error:
            self._file.close()
            raise CaptureFileError(f"{self.path} cannot be read: {error.strerror}") from error
        except CaptureFileError:
            self._file.close()
            raise
        self.packets += 1
        return packet

    def close(self) -> None:
        """Close the file before its end; harmless when it is closed already."""
        self._file.close()

    def _open(self) -> Iterator[CapturedPacket]:
        try:
            magic = self._file.read(4)
        except OSError as error:
            raise self._refusal(f"cannot be read: {error.strerror}") from error
        if not magic:
            raise self._refusal("is empty: not even the header of a capture is there")
        if magic in _PCAP_MAGIC:
            return self._read_pcap(*_PCAP_MAGIC[magic])
        if magic == _SECTION_MAGIC:
            return self._read_pcapng()
        start = magic + self._file.read(4)
        for foreign, what in _FOREIGN.items():
            if start.startswith(foreign):
                raise self._refusal(f"is not a pcap or pcapng file: {what}")
        raise self._refusal(f"is not a pcap or pcapng file: it begins with {magic.hex(' ')}")

    def _refusal(self, what: str) -> CaptureFileError:
        return CaptureFileError(f"{self.path} {what}")

    def _check_link(self, link: int) -> None:
        if link not in link_layer.SUPPORTED:
            raise self._refusal(
                f"has link type {link}, which is not supported: "
                "capture Ethernet, Linux cooked or raw IP (tcpdump -y EN10MB, LINUX_SLL2, RAW)"
            )

    def _read(self, size: int, what: str) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise _Damaged(f"the file ends in the middle of {what}")
        return data

    def _read_pcap(self, order: str, unit: int) -> Iterator[CapturedPacket]:
        header = self._file.read(20)
        if len(header) < 20:
            raise self._refusal("is truncated: the file header is not whole")
        # Above the link type stand the length of a frame check sequence and reserved bits.
        link = struct.unpack(f"{order}16xI", header)[0] & 0xFFFF
        self._check_link(link)
        return self._pcap_records(struct.Struct(order + "IIII").unpack, unit, link)

    def _pcap_records(self, unpack: _Unpack, unit: int, link: int) -> Iterator[CapturedPacket]:
        read = self._file.read
        while header := read(16):
            if len(header) < 16:
                raise _Damaged("the file ends in the middle of a packet header")
            seconds, fraction, captured, length = unpack(header)
            if captured > MAX_PACKET:
                raise _Damaged(f"the file is damaged: a packet of {captured} bytes")
            data = read(captured)
            if len(data) < captured:
                raise _Damaged("the file ends in the middle of a packet")
            yield CapturedPacket(seconds * _SECOND + fraction * unit, link, data, max(length, captured))

    def _read_pcapng(self) -> Iterator[CapturedPacket]:
        try:
            section = _Section(self._section_body())
        except _Damaged as damage:
            raise self._refusal(f"is not a usable pcapng file: {damage}") from damage
        return self._pcapng_blocks(section)

    def _pcapng_blocks(self, section: _Section) -> Iterator[CapturedPacket]:
        while kind_bytes := self._file.read(4):
            if len(kind_bytes) < 4:
                raise _Damaged("the file ends in the middle of a block")
            if kind_bytes == _SECTION_MAGIC:
                self.dropped += section.dropped
                section = _Section(self._section_body())
                continue
            kind = section.u32(kind_bytes)[0]
            body = self._block_body(section.u32(self._read(4, "a block"))[0], 8, section.u32)
            if kind == _INTERFACE:
                section.add_interface(body)
            elif kind in {_PACKET, _OLD_PACKET, _SIMPLE_PACKET}:
                packet = section.packet(kind, body)
                self._check_link(packet.link)
                yield packet
            elif kind == _STATISTICS:
                section.add_statistics(body)
        self.dropped += section.dropped

    def _section_body(self) -> bytes:
        """A section header from its length on; its byte-order magic says how to read that length."""
        size, magic = self._read(4, "a section header"), self._read(4, "a section header")
        order = _BYTE_ORDER.get(magic)
        if order is None:
            raise _Damaged(f"a section header has the byte order {magic.hex(' ')}")
        u32 = struct.Struct(order + "I").unpack
        return magic + self._block_body(u32(size)[0], 12, u32)

    def _block_body(self, size: int, had: int, u32: _Unpack) -> bytes:
        """The rest of a block of which `had` bytes are read, without the length that repeats at its end."""
        if size % 4 or not had + 4 <= size <= MAX_BLOCK:
            raise _Damaged(f"the file is damaged: a block of {size} bytes")
        body = self._read(size - had, "a block")
        if u32(body[-4:])[0] != size:
            raise _Damaged("the file is damaged: a block whose two lengths differ")
        return body[:-4]


class _Section:
    """One section of a pcapng file: its byte order, its interfaces and what they dropped."""

    def __init__(self, header: bytes) -> None:
        self._order = _BYTE_ORDER[header[:4]]
        self._interfaces: list[_Interface] = []
        self._drops: dict[int, int] = {}
        self.u32: _Unpack = struct.Struct(self._order + "I").unpack

    @property
    def dropped(self) -> int:
        """Packets that the capturing host dropped, by the last statistics of each interface."""
        return sum(self._drops.values())

    def add_interface(self, body: bytes) -> None:
        if len(body) < 8:
            raise _Damaged("the file is damaged: an interface block is too short")
        if len(self._interfaces) >= _MAX_INTERFACES:
            raise _Damaged(f"the file is damaged: more than {_MAX_INTERFACES} interfaces")
        link, snaplen = struct.unpack_from(self._order + "HxxI", body)
        name, unit, offset = "", 1_000_000, 0
        for code, value in self._options(body, 8):
            if code == _IF_NAME:
                name = value.rstrip(b"\0").decode("utf-8", "replace")[:_NAME_LIMIT]
            elif code == _IF_TSRESOL and value:
                unit = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
            elif code == _IF_TSOFFSET and len(value) == 8:
                (offset,) = struct.unpack(self._order + "q", value)
        self._interfaces.append(_Interface(link, name, unit, offset, snaplen))

    def add_statistics(self, body: bytes) -> None:
        if len(body) < 12:
            raise _Damaged("the file is damaged: a statistics block is too short")
        interface = self.u32(body[:4])[0]
        for code, value in self._options(body, 12):
            if code == _ISB_IFDROP and len(value) == 8 and interface < len(self._interfaces):
                (self._drops[interface],) = struct.unpack(self._order + "Q", value)

    def packet(self, kind: int, body: bytes) -> CapturedPacket:
        if kind == _SIMPLE_PACKET:
            return self._simple_packet(body)
        if len(body) < 20:
            raise _Damaged("the file is damaged: a packet block is too short")
        layout = "IIIII" if kind == _PACKET else "HxxIIII"
        index, high, low, captured, length = struct.unpack_from(self._order + layout, body)
        interface = self._interface(index)
        if captured > MAX_PACKET or 20 + captured > len(body):
            raise _Damaged(f"the file is damaged: a packet of {captured} bytes")
        direction = Direction.UNKNOWN
        for code, value in self._options(body, 20 + captured + -captured % 4):
            if code == _PACKET_FLAGS and len(value) == 4:
                direction = _DIRECTIONS[self.u32(value)[0] & 3]
        time = interface.offset * _SECOND + (high << 32 | low) * _SECOND // interface.unit
        if not 0 <= time < _LAST_TIME:
            raise _Damaged("the file is damaged: a packet of an impossible time")
        data = body[20 : 20 + captured]
        return CapturedPacket(time, interface.link, data, max(length, captured), interface.name, direction)

    def _simple_packet(self, body: bytes) -> CapturedPacket:
        """A packet without time, of the first interface, cut at that interface's snapshot length."""
        if len(body) < 4:
            raise _Damaged("the file is damaged: a packet block is too short")
        interface = self._interface(0)
        length = self.u32(body[:4])[0]
        captured = min(length, interface.snaplen or length, len(body) - 4)
        return CapturedPacket(
            0, interface.link, body[4 : 4 + captured], max(length, captured), interface.name
        )

    def _interface(self, index: int) -> _Interface:
        if index >= len(self._interfaces):
            raise _Damaged(f"the file is damaged: a packet of the undescribed interface {index}")
        return self._interfaces[index]

    def _options(self, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
        """Options from `at` on; a list that runs over the block's end is cut there."""
        while at + 4 <= len(body):
            code, size = struct.unpack_from(self._order + "HH", body, at)
            if code == 0:
                return
            yield code, body[at + 4 : at + 4 + size]
            at += 4 + size + -size % 4


def read_packets(path: str | Path) -> Capture:
    """The packets of a pcap or pcapng file, in the file's order.

    Raises CaptureFileError, here or while iterating, where the file is no usable capture; see `Capture` for
    one that merely ends early.
    """
    return Capture(path)


def read_tap(path: str | Path, tap_index: int, batch: Batch) -> TapFile:
    """Add every packet of a file to `batch` as seen at one tap. Raises as `read_packets`."""
    capture = read_packets(path)
    ignored = 0
    add = batch.add
    for packet in capture:
        time, link, data, wire_length, _, direction = packet
        if not add(data, link=link, time=time, tap=tap_index, direction=direction, wire_length=wire_length):
            ignored += 1
    return TapFile(capture.packets, capture.truncated, capture.dropped, ignored)
