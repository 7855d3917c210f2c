"""One connection of N: all of what is chosen, nothing of what is not, and a port that is used again."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest

from daemonset.observation import NAT, PACKET, Head, TcpFlag, address_words
from daemonset.taps.sampling import LINGER, Sampler, chosen

SYN, ACK, FIN, RST = TcpFlag.SYN, TcpFlag.ACK, TcpFlag.FIN, TcpFlag.RST
SECOND = 1_000_000_000


class Ends(NamedTuple):
    """Who speaks with whom."""

    source: str
    sport: int
    destination: str
    dport: int

    @property
    def back(self) -> Ends:
        return Ends(self.destination, self.dport, self.source, self.sport)


DIRECT = Ends("203.0.113.9", 40000, "172.30.0.11", 30080)
BEHIND = Ends("172.30.0.11", 50000, "10.244.2.5", 8080)


def packet(ends: Ends, flags: int, *, seq: int = 0, ack: int = 0, time: int = 0, tap: int = 0, head: int = 0,
           protocol: int = 6, icmp: int = 0) -> bytes:  # fmt: skip
    """One row."""
    values = dict.fromkeys((column.name for column in PACKET.columns), 0)
    for side, text in (("src", ends.source), ("dst", ends.destination)):
        values[f"{side}_hi"], values[f"{side}_lo"] = address_words(text)
    values |= {"sport": ends.sport, "dport": ends.dport, "flags": flags, "seq": seq, "ack": ack, "time": time}
    values |= {"tap": tap, "head": head, "protocol": protocol, "icmp": icmp}
    return PACKET.struct.pack(*(values[column.name] for column in PACKET.columns))


def conversation(ends: Ends, isn: int, *, time: int = 0, tap: int = 0) -> list[bytes]:
    """A connection from its SYN to its ends."""
    there, back = ends, ends.back
    return [
        packet(there, SYN, seq=isn, time=time, tap=tap),
        packet(back, SYN | ACK, seq=9, ack=isn + 1, time=time + 1, tap=tap),
        packet(there, ACK, seq=isn + 1, ack=10, time=time + 2, tap=tap, head=1),
        packet(back, ACK, seq=10, ack=isn + 50, time=time + 3, tap=tap, head=2),
        packet(there, FIN | ACK, seq=isn + 50, time=time + 4, tap=tap),
        packet(back, FIN | ACK, seq=60, time=time + 5, tap=tap),
    ]


def an_isn(wanted: bool, sample: int, start: int = 1) -> int:
    return next(isn for isn in range(start, start + 100_000) if chosen(isn, sample) is wanted)


def test_connections_are_kept_whole_or_not_at_all_at_every_tap() -> None:
    dice = random.Random(1)
    for sample in (2, 16):
        sampler = Sampler(sample)
        wanted: list[bytes] = []
        told: list[bytes] = []
        for number in range(400):
            isn = dice.getrandbits(32)
            rows: list[bytes] = []
            for tap, ends in enumerate((DIRECT, BEHIND)):  # on both sides of NAT, the number is the same
                rows += conversation(ends._replace(sport=1000 + number), isn, time=number * 100, tap=tap)
            told += rows
            wanted += rows if chosen(isn, sample) else []
        kept: list[bytes] = []
        while told:
            some, told = told[: (size := dice.randrange(1, 400))], told[size:]
            rows_kept, _ = sampler.packets(b"".join(some), (Head(raw=b"a"), Head(raw=b"b")))
            kept += [rows_kept[at : at + PACKET.size] for at in range(0, len(rows_kept), PACKET.size)]
        assert without_heads(kept) == without_heads(wanted)


def without_heads(rows: list[bytes]) -> list[bytes]:
    table = np.frombuffer(b"".join(rows), PACKET.dtype()).copy()
    table["head"] = 0
    return [row.tobytes() for row in table]


def test_heads_of_others_go_with_their_packets() -> None:
    sampler, sample = Sampler(8), 8
    mine, other = an_isn(True, sample), an_isn(False, sample)
    rows = [
        packet(DIRECT, SYN, seq=mine),
        packet(DIRECT._replace(sport=1), SYN, seq=other),
        packet(DIRECT._replace(sport=1), ACK, seq=other + 1, head=1),
        packet(DIRECT, ACK, seq=mine + 1, head=2),
        packet(DIRECT, ACK, seq=mine + 9, head=3),
    ]
    kept, heads = sampler.packets(b"".join(rows), (Head(raw=b"1"), Head(raw=b"2"), Head(raw=b"3")))
    assert [head.raw for head in heads] == [b"2", b"3"]
    assert np.frombuffer(kept, PACKET.dtype())["head"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("last", [FIN | ACK, RST])
def test_a_port_that_is_used_again_by_another_connection_is_let_go(last: TcpFlag) -> None:
    sampler, sample = Sampler(4), 4
    mine, other, third = an_isn(True, sample), an_isn(False, sample), an_isn(True, sample, 70_000)
    sampler.packets(packet(DIRECT, SYN, seq=mine, time=SECOND), ())
    answer = packet(DIRECT.back, ACK, seq=5, time=SECOND + 30)
    kept, _ = sampler.packets(packet(DIRECT, last, seq=mine + 9, time=SECOND + 20) + answer, ())
    assert len(kept) == 2 * PACKET.size, "what is still on its way belongs to it"
    later = 2 * SECOND + LINGER
    again = conversation(DIRECT, other, time=later)
    assert sampler.packets(b"".join(again), ())[0] == b""
    again = conversation(DIRECT, third, time=later + SECOND)
    kept, _ = sampler.packets(b"".join(again), (Head(), Head()))
    assert len(kept) == len(again) * PACKET.size, "and a chosen one may have it again"


def test_ends_that_arrive_late_do_not_end_what_came_after_them() -> None:
    sampler, sample = Sampler(4), 4
    old, new = an_isn(True, sample), an_isn(True, sample, 70_000)
    sampler.packets(packet(DIRECT, SYN, seq=old, time=SECOND), ())
    late = packet(DIRECT, SYN, seq=new, time=3 * SECOND) + packet(DIRECT, FIN, seq=old, time=2 * SECOND)
    sampler.packets(late, ())
    assert sampler.packets(packet(DIRECT, ACK, seq=new + 1, time=20 * SECOND), ())[0]


def test_what_has_no_such_number_is_kept() -> None:
    sampler = Sampler(1 << 16)
    for row in (packet(DIRECT, 0, protocol=17), packet(DIRECT, 0, seq=5, icmp=3 << 8 | 3)):
        assert sampler.packets(row, ())[0] == row


def test_of_nat_records_those_stay_of_which_a_tuple_was_seen() -> None:
    sampler, sample = Sampler(4), 4
    sampler.packets(packet(DIRECT, SYN, seq=an_isn(True, sample), tap=3), ())

    def record(original: Ends, reply: Ends, protocol: int = 6) -> bytes:
        values = dict.fromkeys((column.name for column in NAT.columns), 0)
        for way, ends in (("orig", original), ("reply", reply)):
            for side, text in (("src", ends.source), ("dst", ends.destination)):
                values[f"{way}_{side}_hi"], values[f"{way}_{side}_lo"] = address_words(text)
            values[f"{way}_sport"], values[f"{way}_dport"] = ends.sport, ends.dport
        values["protocol"] = protocol
        return NAT.struct.pack(*(values[column.name] for column in NAT.columns))

    mine, onward = record(DIRECT, BEHIND.back), record(BEHIND, DIRECT.back)
    other = DIRECT._replace(sport=1)
    foreign, datagram = record(other, BEHIND._replace(sport=1).back), record(other, other.back, 17)
    assert sampler.nat(mine + foreign + onward + datagram) == mine + onward + datagram
    assert sampler.nat(b"") == b""
