"""Readers of what nodes send and what sessions hold: streams, their messages and rows, the index, words on channels."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import cast

import msgspec

from analysis.recording import RecordingBuilder
from analysis.rules.counted_rules import CountedRules, FirstPacket, UnclearError, translation
from daemonset import wire
from daemonset.keeping import FORMAT
from daemonset.node.health_port import Answered, understood
from daemonset.observation import NAT, PACKET, CountedChain, CountedRule, RuleCounts, Tap, TapKind, Taps
from probe.anonymous.anonymizer import Anonymizer
from probe.cluster import channels
from probe.cluster.timing import Clock
from probe.errors import UsageError
from probe.health.answers import MOST_LINE, Answers, Lines, answer_of, words_of
from probe.health.rounds import read_answer
from probe.objects import facts_from_objects
from probe.sending.echo import understand
from probe.sending.exchange import ANSWER_LIMIT, Answer, read_response
from probe.sessions.folder import Meta, parse_meta
from probe.sessions.session import Pouring
from tests.cluster_facts.test_odd_objects import SHOP
from tests.fuzz.odd import MOST_ORDERS, Base
from tests.fuzz.reader import Reader, one_line, pieces

# A frame of 200 bytes may unpack to FRAME_LIMIT; here that would only make the search slow.
wire.FRAME_LIMIT = 1 << 20

_ACTIONS = ("", "accept", "jump", "mark", "dnat", "return", "goto", "log", "else")
_INDEX = Base(
    msgspec.to_builtins(
        Meta(
            places=("n",),
            facts=facts_from_objects(SHOP, []),
            clocks={"n": Clock(1, 2)},
            lacks={"n": "cut off"},
            title="a session",
            clients=("192.0.2.0/24",),
        )
    )
)
_MASK = Anonymizer(bytes(range(32)))


def frames(data: bytes, size: int) -> None:
    """A stream whole and in pieces."""
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


def _beginning() -> bytes:
    """A stream that has announced taps, and to which any frame may be added."""
    written: list[bytes] = []
    writer = wire.Writer(written.append)
    writer.message(Taps((Tap("n", TapKind.NIC, "eth0"), Tap("n", TapKind.NIC, "eth1"))))
    return b"".join(written)


_BEGINNING = _beginning()
_KINDS = (wire.MESSAGE, wire.PACKETS, wire.NATS, wire.PACKETS | wire.PACKED, wire.NATS | wire.PACKED)
_CLOCKS = (None, Clock(1 << 40, 1 << 40), Clock(-(1 << 62), -(1 << 62)))


def recordings(data: bytes, size: int) -> None:
    """A frame with any payload: read, put into a recording, and made anonymous and written again."""
    if size & 7 in {1, 2}:  # whole rows: all that matters of them is what they hold
        width = (PACKET if size & 7 == 1 else NAT).size
        data = data.ljust(width, b"\0")[: max(len(data) // width, 1) * width]
    frame = wire.HEADER.pack(len(data), _KINDS[(size & 7) % len(_KINDS)]) + data
    found, ended = read(iter([_BEGINNING + frame]))
    one_line(ValueError(ended))
    builder = RecordingBuilder()
    pouring = Pouring.into(builder, "n", _CLOCKS[(size >> 3) % len(_CLOCKS)])
    written: list[bytes] = []
    writer, poured = wire.Writer(written.append), 0
    for each in found:
        try:
            pouring.pour(each)
        except wire.WireError as error:
            one_line(error)
            continue
        poured += 1
        masked = _MASK.frame(each)
        match masked:
            case wire.PacketRows(rows, heads):
                writer.packets(rows, heads)
            case wire.NatRows(rows):
                writer.nat(rows)
            case _:
                writer.message(masked)
    recording = builder.build(expected_nodes=("n",))
    assert len(recording.packets) <= wire.FRAME_LIMIT // PACKET.size
    again, ended = read(iter(written))
    assert not ended, ended
    assert len(again) == poured


def session_indices(data: bytes, size: int) -> None:
    """`session.json` of a folder that somebody sends, and what is made of it for strangers."""
    try:
        meta = parse_meta(data, Path("folder/session.json"))
    except UsageError as error:
        one_line(error)
        return
    assert msgspec.json.encode(meta)
    assert msgspec.json.encode(_MASK.meta(meta))
    assert size < 256


def odd_sessions(data: bytes, size: int) -> None:
    """One in which something odd stands in the place of a value."""
    session_indices(msgspec.json.encode(_INDEX.changed(data)), size)


def rule_ways(data: bytes, size: int) -> None:
    """Rules of iptables that a node tells, each line one: the ways of a packet are found, or it is unclear."""
    lines = data.decode("latin-1").split("\n")[:64]
    rules = tuple(
        CountedRule(at, 1, tuple(line.split(";")), line, _ACTIONS[(size + len(line)) % len(_ACTIONS)], "in")
        for at, line in enumerate(lines)
    )
    chains = (
        CountedChain("ip", "nat", "PREROUTING", "prerouting", rules=rules),
        CountedChain("ip", "nat", "in", rules=rules[::2]),
    )
    walked = CountedRules(RuleCounts(chains=chains), frozenset({"192.0.2.1"}))
    try:
        ways = walked.ways("nat", "prerouting", FirstPacket("tcp", "192.0.2.1", 5000, "10.96.0.1", 80))
    except UnclearError:
        return
    for way in ways:
        assert len(way.passed) <= 64 * 64
        told = translation(way)
        assert told is None or told in data.decode("latin-1")


def health_answers(data: bytes, size: int) -> None:
    """What answers at a health check port, as the node reads it and as the operator hears of it."""
    said = understood(Answered(size, 0, "closed"), data)
    heard = read_answer(msgspec.json.encode(said))
    assert heard == said
    assert len(words_of(answer_of(said), said.said)) < 200
    read_answer(data)


def health_lines(data: bytes, size: int) -> None:
    """Lines of an asking process at any chunking, its answers among them."""
    lines, whole = Lines(), Lines()
    cut = [line for piece in pieces(data, size) for line in lines.feed(piece)]
    assert len(data) > MOST_LINE or cut == whole.feed(data)
    heard = Answers()
    for line in cut:
        answered = read_answer(line)
        if answered is not None:
            heard.take("n", 1, answered)
    own = heard.so_far({"n": Clock(1 << 40, 1 << 40)})
    index = msgspec.json.encode({"format": FORMAT, "version": 1, "own": own})
    assert parse_meta(index, Path("s")).own == own, "what is kept is read back"


class _Connection:
    """A socket that has received these bytes, in pieces."""

    def __init__(self, data: bytes, size: int) -> None:
        self._pieces = pieces(data, size)

    def settimeout(self, seconds: float) -> None:
        """Nothing takes time here."""

    def recv_into(self, view: memoryview) -> int:
        """The next piece, nothing at the end."""
        piece = next(self._pieces, b"")[: len(view)]
        view[: len(piece)] = piece
        return len(piece)


def http_answers(data: bytes, size: int) -> None:
    """What a server answers to a request of ours."""
    answer = Answer()
    with suppress(TimeoutError, OSError):
        read_response(cast("socket.socket", _Connection(data, size)), inf, answer)
    assert len(answer.body) <= ANSWER_LIMIT
    assert answer.detail.isprintable()
    assert len(answer.detail) < 400
    assert answer.status is None or isinstance(answer.status, int)


def channel_messages(data: bytes, size: int) -> None:
    """What comes on a channel of `pods/exec`, and how it says that the command ended."""
    channel, content = channels.unpack(data)
    assert (channel == -1) == (not data)
    assert channel == -1 or channels.pack(channel, content) == data
    told = channels.ended(data)
    assert told.code is None or 0 <= told.code < 100_000
    assert len(told.message) <= 400
    assert size < 256


def echoes(data: bytes, size: int) -> None:
    """What an application answers to the question whom it saw."""
    told = understand(data, ("X-Real-IP",) if size & 1 else ())
    assert told.detail.isprintable()
    assert len(told.detail) < 1000


READERS = (
    Reader(frames, 60),
    Reader(recordings, 80),
    Reader(session_indices, 40),
    Reader(odd_sessions, 20, longest=MOST_ORDERS),
    Reader(rule_ways, 60, longest=512),
    Reader(health_answers, 150, longest=1024),
    Reader(health_lines, 60, longest=1024),
    Reader(channel_messages, 120, longest=1024),
    Reader(echoes, 100, longest=1024),
    Reader(http_answers, 50, longest=1024),
)
