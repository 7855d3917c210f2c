"""What a capture holds is bounded: streams wait on disk, and are cut off at a limit, which the report says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from analysis.facts import Facts
from daemonset.observation import PACKET, Bye, Head, Hello, HttpHead, Message, Ready, Tap, TapKind, Taps
from daemonset.wire import Frame, PacketRows, Writer
from probe.agents.source import Receiver
from probe.cluster.timing import Clock
from probe.sessions.folder import Meta
from probe.sessions.session import Words, capture, load
from probe.sessions.spool import PIECE, Spool

BATCH = 500


class Flood:
    """An agent that sends batch after batch for as long as it is let."""

    clock: Clock | None = None

    def __init__(self, place: str, batches: int) -> None:
        self.place = place
        self.sent = 0
        self._batches = batches
        self._stopped = threading.Event()

    def follow(self, receiver: Receiver) -> None:
        threading.Thread(target=self._send, args=(receiver,), daemon=True).start()

    def _send(self, receiver: Receiver) -> None:
        writer = Writer(receiver.take)
        writer.message(Hello(self.place))
        writer.message(Taps((Tap(self.place, TapKind.NIC, "eth0"),)))
        writer.message(Ready())
        for number in range(self._batches):
            rows = np.zeros(BATCH, PACKET.dtype())
            rows["seq"] = np.arange(number * BATCH, (number + 1) * BATCH)
            rows["head"][0] = 1
            writer.packets(rows.tobytes(), (Head(http=HttpHead(f"GET /{number} HTTP/1.1")),))
            self.sent += BATCH
        self._stopped.wait()
        writer.message(Bye("asked to"))
        receiver.over(None)

    def heard(self, message: Message) -> None: ...

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> str | None:
        return None


class Source:
    def __init__(self, *agents: Flood) -> None:
        self.agents = agents

    def start(self) -> list[Flood]:
        return list(self.agents)


def all_sent(agents: tuple[Flood, ...], batches: int) -> Words:
    while any(agent.sent < batches * BATCH for agent in agents):
        threading.Event().wait(0.01)
    return Words()


def test_streams_come_back_from_disk_as_they_came() -> None:
    agents = (Flood("node1", 40), Flood("node2", 40))
    session = capture(Source(*agents), lambda: all_sent(agents, 40), facts=Facts(known=False), meta=Meta())
    recording = session.recording
    assert [stream.truncated for stream in recording.streams] == [None, None]
    for number in range(2):
        mine = recording.packets[recording.packets["tap"] == number]
        assert mine["seq"].tolist() == list(range(40 * BATCH))
    heads = [recording.heads[number - 1].http for number in recording.packets["head"] if number]
    assert [head.start for head in heads if head] == [f"GET /{number} HTTP/1.1" for number in range(40)] * 2


def test_at_the_limit_streams_are_cut_and_nothing_more_is_kept(tmp_path: Path) -> None:
    agents = (Flood("node1", 100), Flood("node2", 100))
    packets = [0]

    def count(_place: str, frame: Frame) -> None:
        if isinstance(frame, PacketRows):
            packets[0] += len(frame.rows) // PACKET.size

    session = capture(
        Source(*agents),
        lambda: all_sent(agents, 100),
        facts=Facts(known=False),
        meta=Meta(),
        record=tmp_path / "session",
        witness=count,
        limit=lambda: "cut off at 10,000 packets" if packets[0] >= 10_000 else None,
    )
    recording = session.recording
    assert 10_000 <= len(recording.packets) <= 10_000 + 2 * BATCH
    assert {stream.truncated for stream in recording.streams} == {"cut off at 10,000 packets"}
    later = load(tmp_path / "session").recording
    assert later.packets.tobytes() == recording.packets.tobytes()
    assert [stream.truncated for stream in later.streams] == [each.truncated for each in recording.streams]


def test_pieces_of_many_streams_keep_apart() -> None:
    with Spool() as spool:
        streams = [spool.stream() for _ in range(3)]
        said = [b"", b"", b""]
        for number, data in pieces():
            streams[number].write(data)
            said[number] += data
        assert [b"".join(stream) for stream in streams] == said


def pieces() -> Iterator[tuple[int, bytes]]:
    for number in range(60):
        yield number % 3, bytes([number]) * (PIECE // 7 * (number % 5))
