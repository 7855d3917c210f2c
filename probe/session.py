"""A session: agents are started everywhere, something happens, and what they saw becomes one recording.

Where the agents run is none of its business (`probe.agents.source`). It waits until every agent says in its
stream that it is ready, lets the caller do what is to be watched, stops the agents and reads each stream to
its end. What a stream could not bring is stated in the recording: what missed something never looks whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from analysis.asked import Asked
from analysis.facts import Facts
from analysis.ingress import IngressRecord
from analysis.recording import Recording, RecordingBuilder
from daemonset.observation import Gap, Ready, Topology
from daemonset.wire import Frame, NatRows, PacketRows, Reader, WireError
from probe.agents.recorded import RecordedSource
from probe.agents.source import Agent, AgentSource
from probe.errors import ProbeError, UnavailableError
from probe.folder import Meta, SessionFolder, check_addresses, read_meta, stream_path, stream_problems

#: How long agents may take until they are ready, and until they have said goodbye, in seconds.
READY_WITHIN = 30.0
STOP_WITHIN = 15.0

Progress = Callable[[str], None]


class Words(NamedTuple):
    """What was said by those who asked and those who were asked, while it was watched."""

    answers: tuple[dict[str, Any], ...] = ()  # the lab's own account, kept as truth
    asked: tuple[Asked, ...] = ()  # requests of which both ends are known
    ingress: IngressRecord = IngressRecord()  # what configurations and logs say


@dataclass(frozen=True, slots=True)
class Session:
    """A session that is over: what was seen, what the cluster said of itself, what the servers answered."""

    recording: Recording
    facts: Facts
    meta: Meta


class _Follower:
    """Reads the stream of one agent on a thread of its own: its frames, and what the stream lacks.

    Frames are kept apart until all streams have ended, so that a recording does not depend on whose bytes
    came first, and is the same when it is read back.
    """

    def __init__(self, agent: Agent, folder: SessionFolder | None = None) -> None:
        self.agent = agent
        self.settled = threading.Event()  # ready, or over
        self.ready = False
        self.failure: ProbeError | None = None
        self.lack: str | None = None
        self._frames: list[Frame] = []
        self._folder = folder
        self._thread = threading.Thread(target=self.follow, name=f"stream of {agent.place}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the stream's end; False where it has not come."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def complain(self, what: str) -> None:
        """State that the stream lacks something; the first complaint is nearest to the cause."""
        self.lack = self.lack or what

    def follow(self) -> None:
        """Read the stream to its end, whatever that is."""
        try:
            self._read()
        except WireError as error:
            self.complain(str(error))
        except OSError as error:
            self.complain(f"the stream broke off: {error.strerror or error}")
        except ProbeError as error:  # the folder could not take it
            self.complain(str(error))
            self.failure = error
        finally:
            self.settled.set()

    def _read(self) -> None:
        reader = Reader()
        while data := self.agent.read():
            if self._folder is not None:
                self._folder.write(self.agent.place, data)
            for frame in reader.feed(data):
                if isinstance(frame, Topology):
                    _check_topology(frame)
                self._frames.append(frame)
                if isinstance(frame, Ready):
                    self.ready = True
                    self.settled.set()
        reader.finish()

    def pour(self, builder: RecordingBuilder) -> None:
        """Put the stream into a recording; what was kept of it is given up."""
        stream = builder.stream(self.agent.place)
        frames, self._frames = self._frames, []
        for frame in frames:
            match frame:
                case PacketRows(rows, heads):
                    stream.packets(rows, heads)
                case NatRows(rows):
                    stream.nat(rows)
                case _:
                    stream.message(frame)
        stream.truncated = self.lack


def capture(
    source: AgentSource,
    action: Callable[[], Words],
    *,
    facts: Facts,
    meta: Meta,
    record: Path | None = None,
    progress: Progress = lambda _: None,
) -> Session:
    """Watch everywhere while `action` runs; what it returns is kept in the session's `meta`.

    With `record`, the session is written to that folder too. Raises ProbeError where no agent could start or
    the folder could not be written; the folder then stays marked as cut off.
    """
    folder = SessionFolder(record, meta) if record is not None else None
    followers: list[_Follower] = []
    try:
        for agent in source.start():
            followers.append(_Follower(agent, folder))
            if folder is not None:
                folder.stream(agent.place)
        for follower in followers:
            follower.start()
        _await_ready(followers, progress)
        words = action()
        progress("collecting what the agents saw")
        _stop(followers)
    finally:
        _close(followers)
        if folder is not None:
            folder.close()
    for follower in followers:
        if follower.failure is not None:
            raise follower.failure
    if folder is not None:
        finished = folder.finish(words.answers, words.asked, words.ingress)
    else:
        finished = msgspec.structs.replace(
            meta, answers=words.answers, asked=words.asked, ingress=words.ingress
        )
    return Session(_recording(followers, [follower.agent.place for follower in followers]), facts, finished)


def load(path: Path) -> Session:
    """Read a recorded session back. Raises ProbeError where the folder is foreign or of a later version."""
    meta = read_meta(path)
    problems = stream_problems(path, meta)
    present = _streams(path, meta)
    builder = RecordingBuilder()
    for agent in RecordedSource(present).start():
        follower = _Follower(agent)
        try:
            follower.follow()
        finally:
            agent.close()
        if agent.place in problems:
            follower.complain(problems[agent.place])
        follower.pour(builder)
    if not meta.complete:
        builder.gaps.append(("", Gap("session", "the session was cut off while it was recorded")))
    for place in sorted(set(problems) - set(present)):
        builder.gaps.append((place, Gap("stream", problems[place])))
    places = meta.places or tuple(present)
    return Session(builder.build(expected_nodes=places), meta.facts, meta)


def _streams(path: Path, meta: Meta) -> dict[str, Path]:
    """The streams that are there; a session that was cut off names no places, so every stream counts."""
    if meta.places:
        return {place: file for place in meta.places if (file := stream_path(path, place)) is not None}
    return {unquote(file.stem): file for file in sorted(path.glob("*.probe"))}


def _check_topology(topology: Topology) -> None:
    """Addresses are read from these as facts; a stream that holds something else is a corrupt one."""
    try:
        for interface in topology.interfaces:
            check_addresses(interface.addresses)
        for pod in topology.pods:
            check_addresses(pod.addresses)
    except ValueError as error:
        raise WireError(f"corrupt topology: {error}") from error


def _await_ready(followers: Sequence[_Follower], progress: Progress) -> None:
    progress(f"starting agents on {len(followers)} places")
    for follower in followers:
        follower.settled.wait(READY_WITHIN)
    for follower in followers:
        if not follower.ready:
            follower.complain("the agent was not ready when the capture began")
    if followers and not any(follower.ready for follower in followers):
        first = followers[0].agent
        reason = first.close() or "it said nothing"
        raise UnavailableError(f"no agent could start; the one on {first.place}: {reason}")


def _stop(followers: Sequence[_Follower]) -> None:
    for follower in followers:
        follower.agent.stop()
    for follower in followers:
        if not follower.join(STOP_WITHIN):
            follower.complain("the agent did not end in time; what it still held is missing")


def _close(followers: Sequence[_Follower]) -> None:
    """End every agent, whatever it does, and read what is left of its stream."""
    for follower in followers:
        if complaint := follower.agent.close():
            follower.complain(complaint)
        follower.join(STOP_WITHIN)


def _recording(followers: Sequence[_Follower], places: Sequence[str]) -> Recording:
    builder = RecordingBuilder()
    for follower in followers:
        follower.pour(builder)
    return builder.build(expected_nodes=tuple(places))
