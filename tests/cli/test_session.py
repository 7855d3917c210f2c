"""A session with agents made by hand: whatever one of them does, the recording says what it lacks."""

from __future__ import annotations

import errno
import os
import queue
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from analysis.asked import Asked
from analysis.facts import Facts, Node
from daemonset.keeping import INDEX, file_name
from daemonset.observation import PACKET, Bye, Gap, Hello, Message, Ready, Tap, TapKind, Taps
from daemonset.wire import Writer
from probe.agents.source import Agent
from probe.errors import UnavailableError
from probe.sessions import session
from probe.sessions.folder import Meta, read_meta
from probe.sessions.session import Session, Words, capture, load

OURS = Asked("192.0.2.10:40112", "172.30.0.11:30080", 1.0, 2.0, "answered", saw="192.0.2.10")
NOTHING = struct.Struct(f"<{PACKET.size}s").pack(b"")  # a row of zeros: a packet at the first tap


class ScriptedAgent:
    """An agent that says what a test lets it say."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.complaint: str | None = None
        self.stopped = False
        self._said: queue.Queue[bytes] = queue.Queue()
        self._writer = Writer(self._said.put)

    def says(self, *messages: Message) -> ScriptedAgent:
        for message in messages:
            self._writer.message(message)
        return self

    def sends(self, data: bytes) -> ScriptedAgent:
        self._said.put(data)
        return self

    def sees(self, packets: int) -> ScriptedAgent:
        self._writer.packets(NOTHING * packets)
        return self

    def ends(self, complaint: str | None = None) -> ScriptedAgent:
        self.complaint = complaint
        self._said.put(b"")
        return self

    # ── the protocol ──

    def read(self) -> bytes:
        return self._said.get()

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.says(Bye("asked to stop"))
            self.ends(self.complaint)

    def close(self) -> str | None:
        self._said.put(b"")
        return self.complaint


class Source:
    """The agents of a test."""

    def __init__(self, *agents: ScriptedAgent) -> None:
        self.agents = agents

    def start(self) -> Sequence[Agent]:
        return self.agents


def agent(place: str) -> ScriptedAgent:
    """One that has opened its tap and is about to be ready."""
    return ScriptedAgent(place).says(Hello(place), Taps((Tap(place, TapKind.NIC, "eth0"),)))


def run(
    *agents: ScriptedAgent, action: Callable[[], object] = lambda: None, record: Path | None = None
) -> Session:
    def answers() -> Words:
        action()
        return Words(({"seen": "192.0.2.10"},), (OURS,))

    facts = Facts(nodes=(Node("node1", ("172.30.0.11",)),))
    meta = Meta(title="a test", facts=facts)
    return capture(Source(*agents), answers, facts=facts, meta=meta, record=record)


def test_what_agents_see_while_the_action_runs_is_recorded() -> None:
    first, second = agent("node1").says(Ready()), agent("node2").says(Ready())
    over = run(first, second, action=lambda: (first.sees(3), second.sees(4)))
    assert len(over.recording.packets) == 7
    assert over.recording.expected_nodes == ("node1", "node2")
    assert all(stream.bye and not stream.truncated for stream in over.recording.streams)


def test_the_action_begins_when_every_agent_is_ready() -> None:
    first, second = agent("node1").says(Ready()), agent("node2").says(Ready())
    ready: list[bool] = []
    run(first, second, action=lambda: ready.append(first.stopped or second.stopped))
    assert ready == [False], "the agents were stopped before the action"


def test_an_agent_that_cannot_start_makes_the_capture_incomplete() -> None:
    good, bad = agent("node1").says(Ready()), ScriptedAgent("node2").ends("packet sockets need NET_RAW")
    over = run(good, bad)
    truncated = {stream.node: stream.truncated for stream in over.recording.streams}
    assert truncated["node1"] is None
    assert "not ready" in (truncated["node2"] or "")


def test_no_agent_at_all_is_an_error_with_their_own_words() -> None:
    with pytest.raises(UnavailableError, match="node1: packet sockets need NET_RAW"):
        run(ScriptedAgent("node1").ends("packet sockets need NET_RAW"))


def test_agents_that_are_never_ready_are_not_said_to_have_ended_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = agent("node1")
    slow.complaint = "ended with code -9"  # because we ended it
    monkeypatch.setattr(session, "READY_WITHIN", 0.05)
    with pytest.raises(UnavailableError, match="no agent was ready within") as told:
        run(slow)
    assert "-9" not in str(told.value)


def test_an_agent_that_dies_on_the_way_is_told() -> None:
    dying = agent("node1").says(Ready())
    over = run(dying, agent("node2").says(Ready()), action=lambda: dying.sees(1).ends("killed"))
    stream = next(stream for stream in over.recording.streams if stream.node == "node1")
    assert stream.bye is None
    assert stream.truncated == "killed"
    assert len(over.recording.packets) == 1, "what it had sent is kept"


def test_a_corrupt_stream_is_told_and_what_stood_before_is_kept() -> None:
    corrupt = agent("node1").says(Ready())
    over = run(corrupt, action=lambda: corrupt.sees(2).sends(b"\xff" * 100))
    (stream,) = over.recording.streams
    assert "corrupt frame" in (stream.truncated or "")
    assert len(over.recording.packets) == 2


def test_gaps_of_agents_are_kept() -> None:
    holey = agent("node1").says(Ready(), Gap("conntrack", "the kernel dropped events"))
    assert [(node, gap.what) for node, gap in run(holey).recording.gaps] == [("node1", "conntrack")]


def test_an_agent_that_does_not_stop_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(ScriptedAgent):
        def stop(self) -> None:
            """Hears nothing."""

    deaf = Deaf("node1").says(Hello("node1"), Ready())
    monkeypatch.setattr(session, "STOP_WITHIN", 0.05)
    (stream,) = run(deaf).recording.streams
    assert "did not end in time" in (stream.truncated or "")


def test_a_recorded_session_is_read_back_the_same(tmp_path: Path) -> None:
    first = agent("node1").says(Ready())
    second = agent("node/../2").says(Ready())  # a name that would lead out of the folder
    live = run(first, second, action=lambda: (first.sees(3), second.sees(4)), record=tmp_path / "s")
    read = load(tmp_path / "s")
    assert read.recording.packets.tobytes() == live.recording.packets.tobytes()
    assert read.recording.taps == live.recording.taps
    assert read.recording.streams == live.recording.streams
    assert read.recording.expected_nodes == live.recording.expected_nodes
    assert (read.facts, read.meta) == (live.facts, live.meta)
    assert read.meta.complete
    assert read.meta.answers == ({"seen": "192.0.2.10"},)
    assert read.meta.asked == (OURS,)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == sorted(
        [INDEX, file_name("node1"), file_name("node/../2")]
    )


def test_a_session_that_is_interrupted_stays_marked_as_cut_off(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(agent("node1").says(Ready()), action=interrupted, record=tmp_path / "s")
    assert not read_meta(tmp_path / "s").complete
    assert any("cut off" in gap.detail for _, gap in load(tmp_path / "s").recording.gaps)


FULL_DISK = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from probe.errors import ProbeError
from probe.sessions.folder import read_meta
from tests.cli.test_session import Ready, agent, run
greedy = agent("node1").says(Ready())
try:
    run(greedy, action=lambda: greedy.sends(os.urandom(1 << 20)), record=Path({folder!r}) / "s")
except ProbeError as error:
    print(int(error.exit_code), read_meta(Path({folder!r}) / "s").complete, error)
"""


def test_a_full_disk_ends_the_session_and_never_leaves_one_that_looks_whole(tmp_path: Path) -> None:
    repository = str(Path(__file__).resolve().parents[2])
    script = FULL_DISK.format(tests=repository, folder=str(tmp_path / "disk"))
    (tmp_path / "disk").mkdir()
    namespace = (
        ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    )
    shell = f'mount -t tmpfs -o size=256k none {tmp_path / "disk"} && exec {sys.executable} -c "$SCRIPT"'
    result = subprocess.run(
        [*namespace, "sh", "-c", shell],
        env={**os.environ, "SCRIPT": script},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"needs a mount namespace of its own: {result.stderr.strip()}")
    assert result.stdout.startswith("5 False cannot write"), result.stderr
    assert os.strerror(errno.ENOSPC) in result.stdout
    assert "free some space" in result.stdout


def test_a_stream_whose_files_name_is_no_text_is_of_a_place_that_can_be_kept(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    run(agent("node1").says(Ready()), record=folder)
    (folder / INDEX).write_text('{"format": "client-ip-probe session", "version": 1}')
    (folder / file_name("node1")).rename(folder / "n\udcff.probe")
    places = load(folder).recording.expected_nodes
    assert "\\xff" in "".join(places), places
