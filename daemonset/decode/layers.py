"""The PROXY protocol as scapy layers, over the pure decoder.

    TCP(...) / ProxyV1(protocol="TCP4", source="192.0.2.1", ...) / Raw(b"GET / HTTP/1.1...")
    TCP(...) / ProxyV2(family="inet", source="192.0.2.1", ..., tlvs=[ProxyTlv(type="CRC32C")])
    ProxyProtocol(payload)        the layer of the right version, or Raw where it is no valid header

Lengths and checksums that are left out are filled in; whatever is set explicitly is sent as it is, so that broken
headers can be built. Dissecting asks the decoder first and refuses what the decoder refuses. Importing this file
binds nothing: `bind` ties the layers to a TCP port for those who want that.
"""

from __future__ import annotations

from typing import Any

from scapy.fields import (
    BitEnumField,
    BitField,
    ByteEnumField,
    ConditionalField,
    FieldLenField,
    IntField,
    IP6Field,
    IPField,
    MultipleTypeField,
    PacketListField,
    ShortField,
    StrField,
    StrFixedLenField,
    StrLenField,
)
from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw, bind_layers, split_layers

from daemonset.decode.crc32c import crc32c
from daemonset.decode.errors import ProxyProtocolError
from daemonset.decode.proxy_protocol import begins_header, decode
from daemonset.decode.proxy_tlv import CRC32C, TYPE_NAMES
from daemonset.decode.proxy_v1 import PREFIX
from daemonset.decode.proxy_v2 import SIGNATURE
from daemonset.observation import ProxyHeader

_INET6, _UNIX = 2, 3
_BLOCKS = {1: 12, _INET6: 36, _UNIX: 216}
_CHECKSUM_PLACE = b"\x03\x00\x04\x00\x00\x00\x00"


class ProxyTlv(Packet):  # type: ignore[misc]  # scapy is not typed
    """One TLV of a v2 header. A CRC32C without a value is computed when the header is built."""

    name = "PROXY TLV"
    fields_desc = (
        ByteEnumField("type", 4, TYPE_NAMES),
        FieldLenField("length", None, length_of="value", fmt="!H"),
        StrLenField("value", b"", length_from=lambda tlv: tlv.length),
    )

    def post_build(self, packet: bytes, payload: bytes) -> bytes:
        """Make room for a checksum."""
        return (_CHECKSUM_PLACE if self.wants_checksum() else packet) + payload

    def wants_checksum(self) -> bool:
        """Whether this is a CRC32C that is to be computed."""
        return bool(self.type == CRC32C and not self.value and self.length is None)

    def extract_padding(self, data: bytes) -> tuple[bytes, bytes]:
        """A TLV has no payload: what follows is its neighbour's."""
        return b"", data


class ProxyProtocol(Packet):  # type: ignore[misc]  # scapy is not typed
    """Either version; called with bytes it becomes the layer of the version that they are."""

    name = "PROXY protocol"

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *_args: Any, **_fields: Any) -> type[Packet]:
        """The class for these bytes, by the decoder's word (scapy calls this with the name `_pkt`)."""
        if not _pkt:
            return cls
        try:
            header = decode(_pkt)
        except ProxyProtocolError:
            header = None
        layer: type[Packet] = Raw
        if header:
            layer = ProxyV1 if header.version == 1 else ProxyV2
        return layer

    def header(self) -> ProxyHeader | None:
        """What the decoder says about this layer as it would be sent. Raises ProxyProtocolError."""
        return decode(bytes(self))

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """Two balancers in a row send two headers."""
        return ProxyProtocol if begins_header(payload) else Raw


class ProxyV1(ProxyProtocol):
    """Version 1, the text line. For UNKNOWN, `ignored` is sent after the protocol, with its own space."""

    name = "PROXY v1"
    fields_desc = (
        StrField("protocol", b"TCP4"),
        StrField("source", b"127.0.0.1"),
        StrField("destination", b"127.0.0.1"),
        IntField("sport", 0),
        IntField("dport", 0),
        StrField("ignored", b""),
    )

    def self_build(self) -> bytes:
        """The line with its CRLF."""
        if self.protocol == b"UNKNOWN":
            return b"PROXY UNKNOWN" + bytes(self.ignored) + b"\r\n"
        return b"%b %b %b %b %d %d\r\n" % (
            PREFIX, self.protocol, self.source, self.destination, self.sport, self.dport,
        )  # fmt: skip

    def do_dissect(self, data: bytes) -> bytes:
        """Take the line off `data`. Raises ProxyProtocolError where there is none."""
        header = _whole(data)
        line = data[: header.length - 2]
        self.protocol = line.split(b" ")[1]
        if self.protocol == b"UNKNOWN":
            self.ignored = line[len(b"PROXY UNKNOWN") :]
        else:
            _, _, self.source, self.destination, sport, dport = line.split(b" ")
            self.sport, self.dport = int(sport), int(dport)
        self.raw_packet_cache = None
        return data[header.length :]


def _address(name: str) -> ConditionalField:
    """An address of the header's family, if the header's length has room for a block."""
    by_family = MultipleTypeField(
        [
            (IP6Field(name, "::"), lambda header: header.family == _INET6),
            (StrFixedLenField(name, b"", 108), lambda header: header.family == _UNIX),
        ],
        IPField(name, "127.0.0.1"),
    )
    return ConditionalField(by_family, _has_block)


def _has_block(header: Packet) -> bool:
    block = _BLOCKS.get(header.family)
    return block is not None and (header.len is None or header.len >= block)


def _has_ports(header: Packet) -> bool:
    return bool(_has_block(header) and header.family != _UNIX)


class ProxyV2(ProxyProtocol):
    """Version 2, the binary header. `len` is computed when it is left out."""

    name = "PROXY v2"
    fields_desc = (
        StrFixedLenField("signature", SIGNATURE, 12),
        BitField("version", 2, 4),
        BitEnumField("cmd", 1, 4, {0: "LOCAL", 1: "PROXY"}),
        BitEnumField("family", 1, 4, {0: "unspec", 1: "inet", 2: "inet6", 3: "unix"}),
        BitEnumField("transport", 1, 4, {0: "unspec", 1: "stream", 2: "dgram"}),
        ShortField("len", None),
        _address("source"),
        _address("destination"),
        ConditionalField(ShortField("sport", 0), _has_ports),
        ConditionalField(ShortField("dport", 0), _has_ports),
        PacketListField("tlvs", [], ProxyTlv, length_from=lambda header: header.tlv_bytes()),
    )

    def tlv_bytes(self) -> int:
        """How many bytes of the header are TLVs, by its length."""
        return int(self.len or 0) - (_BLOCKS[self.family] if _has_block(self) else 0)

    def post_build(self, packet: bytes, payload: bytes) -> bytes:
        """Fill in the length, then the checksums, which cover it."""
        if self.len is None:
            packet = packet[:14] + (len(packet) - 16).to_bytes(2, "big") + packet[16:]
        at = len(packet) - sum(len(tlv) for tlv in self.tlvs)
        places = []
        for tlv in self.tlvs:
            if isinstance(tlv, ProxyTlv) and tlv.wants_checksum():
                places.append(at + 3)
            at += len(tlv)
        checksum = crc32c(packet).to_bytes(4, "big")
        for place in places:
            packet = packet[:place] + checksum + packet[place + 4 :]
        return packet + payload

    def do_dissect(self, data: bytes) -> bytes:
        """Take the header off `data`. Raises ProxyProtocolError where there is none."""
        end = _whole(data).length
        rest: bytes = super().do_dissect(data[:end])
        return rest + data[end:]


def _whole(data: bytes) -> ProxyHeader:
    header = decode(data)
    if header is None:
        raise ProxyProtocolError("2", len(data), "the header is cut")
    return header


def bind(port: int) -> None:
    """Dissect what is sent to a TCP port as a PROXY header, in the whole process, until `unbind`."""
    bind_layers(TCP, ProxyProtocol, dport=port)


def unbind(port: int) -> None:
    """Undo `bind`."""
    split_layers(TCP, ProxyProtocol, dport=port)
