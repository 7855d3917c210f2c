"""Rows of observation.PACKET and observation.NAT as values that tests can compare and print."""

from __future__ import annotations

from typing import NamedTuple

from daemonset.decode.packet import Batch
from daemonset.observation import NAT, PACKET, Head, endpoint_text

_PACKET_NAMES = [column.name for column in PACKET.columns]
_NAT_NAMES = [column.name for column in NAT.columns]


class Row(NamedTuple):
    """A packet row: its addresses as text, everything else by its column's name in `fields`."""

    source: str
    destination: str
    outer_source: str
    outer_destination: str
    fields: dict[str, int]

    def __getattr__(self, name: str) -> int:
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None


def packets(rows: bytes) -> list[Row]:
    found = []
    for values in PACKET.struct.iter_unpack(rows):
        f = dict(zip(_PACKET_NAMES, values, strict=True))
        found.append(
            Row(
                endpoint_text(f["src_hi"], f["src_lo"], f["sport"]),
                endpoint_text(f["dst_hi"], f["dst_lo"], f["dport"]),
                endpoint_text(f["outer_src_hi"], f["outer_src_lo"], 0).rpartition(":")[0],
                endpoint_text(f["outer_dst_hi"], f["outer_dst_lo"], 0).rpartition(":")[0],
                f,
            )
        )
    return found


def decode(frame: bytes, link: int = 1, **known: int) -> Row | None:
    """The one row of a frame, or None."""
    batch = Batch()
    kept = batch.add(frame, link=link, **{"time": 7, "tap": 3, **known})
    found = packets(batch.take()[0])
    assert len(found) == kept
    return found[0] if found else None


def heads_of(frame: bytes, link: int = 1) -> tuple[Row, tuple[Head, ...]]:
    batch = Batch()
    assert batch.add(frame, link=link, time=7, tap=3)
    rows, heads = batch.take()
    return packets(rows)[0], heads


class Nat(NamedTuple):
    """A NAT row: both tuples as text, and what remains by name."""

    original: str
    reply: str
    fields: dict[str, int]

    def __getattr__(self, name: str) -> int:
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None


def nats(rows: bytes) -> list[Nat]:
    found = []
    for values in NAT.struct.iter_unpack(rows):
        f = dict(zip(_NAT_NAMES, values, strict=True))
        original, reply = (
            endpoint_text(f[f"{way}_src_hi"], f[f"{way}_src_lo"], f[f"{way}_sport"])
            + " > "
            + endpoint_text(f[f"{way}_dst_hi"], f[f"{way}_dst_lo"], f[f"{way}_dport"])
            for way in ("orig", "reply")
        )
        found.append(Nat(original, reply, f))
    return found
