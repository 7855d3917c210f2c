"""A session: agents are started everywhere, something happens, and what they saw becomes one recording.

Where the agents run is none of its business (`probe.agents.source`). It waits until every agent says in its
stream that it is ready, lets the caller do what is to be watched, stops the agents and reads each stream to
its end. What a stream could not bring is stated in the recording: what missed something never looks whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote

import msgspec
import numpy as np

from analysis.asked import Asked
from analysis.facts import Facts
from analysis.health.changes import EndpointChange
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.ingress import IngressRecord
from analysis.recording import Recording, RecordingBuilder, StreamBuilder
from daemonset.lifeline import Pull
from daemonset.observation import NAT, PACKET, Bye, Gap, Hello, Layout, Ready, RowBytes, Topology
from daemonset.wire import Frame, NatRows, PacketRows, Reader, WireError
from probe.agents.recorded import RecordedSource
from probe.agents.source import Agent, AgentSource, PushedAgent
from probe.cluster.timing import Clock
from probe.errors import ProbeError, UnavailableError
from probe.render.escape import escape, file_text
from probe.sessions.folder import (
    OF_FOLDER,
    Meta,
    SessionFolder,
    check_addresses,
    read_meta,
    stream_path,
    stream_problems,
)
from probe.sessions.spool import Spool, Spooled

#: How long agents may take until one more is ready, and until they have said goodbye, in seconds.
READY_WITHIN = 30.0
STOP_WITHIN = 15.0

_LOOK_EVERY = 0.5  # seconds, at agents behind the first that is not ready

Progress = Callable[[str], None]
Witness = Callable[[str, Frame], None]

#: Why nothing more is to be kept, in words; None while there is room.
Limit = Callable[[], str | None]

T = TypeVar("T")


class Mask(Protocol):
    """Puts other people in the place of those that a session speaks of (`probe.anonymous`)."""

    def frame(self, frame: Frame) -> Frame:
        """A frame of a stream."""
        ...

    def meta(self, meta: Meta) -> dict[str, Any]:
        """The fields of a session's index."""
        ...

    def searched(self, value: T) -> T:
        """Names and texts."""
        ...


class Words(NamedTuple):
    """What was said by those who asked and those who were asked, while it was watched."""

    answers: tuple[dict[str, Any], ...] = ()  # the lab's own account, kept as truth
    asked: tuple[Asked, ...] = ()  # requests of which both ends are known
    ingress: IngressRecord = IngressRecord()  # what configurations and logs say
    changes: tuple[EndpointChange, ...] = ()  # what a watch of the Service's endpoints told
    own: OwnChecks = NONE_OWN  # health checks of ours


@dataclass(frozen=True, slots=True)
class Session:
    """A session that is over: what was seen, what the cluster said of itself, what the servers answered."""

    recording: Recording
    facts: Facts
    meta: Meta


class _Follower:
    """Reads the stream of one agent: its frames, and what the stream lacks.

    A stream that must be waited for is read on a thread of its own; one that comes by itself is taken as it comes.
    Streams are kept apart, on disk, until all have ended, so that a recording does not depend on whose bytes came
    first, and is the same when it is read back. Where `limit` says that there is no more room, the stream is cut off
    there, and what still comes is let go.
    """

    def __init__(
        self,
        agent: Agent | PushedAgent,
        kept: Spooled | Pouring,
        *,
        folder: SessionFolder | None = None,
        witness: Witness | None = None,
        limit: Limit | None = None,
    ) -> None:
        self.agent = agent
        self.settled = threading.Event()  # ready, or over
        self.ready = False
        self.stopping = False
        self.failure: ProbeError | MemoryError | None = None
        self.lack: str | None = None
        self._kept = kept
        self._limit = limit
        self._folder = folder
        self._witness = witness
        self.kernel = ""
        self._reader = Reader()
        self._started = False
        self._broken = False  # what comes now cannot be used
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to read."""
        self._started = True
        if isinstance(self.agent, PushedAgent):
            self.agent.follow(self)
            return
        name = f"stream of {self.agent.place}"
        threading.Thread(target=self.read, args=(self.agent,), name=name, daemon=True).start()

    def join(self, timeout: float) -> bool:
        """Wait for the stream's end; False where it has not come."""
        return not self._started or self._ended.wait(max(0.0, timeout))

    def complain(self, what: str) -> None:
        """State that the stream lacks something; the first complaint is nearest to the cause."""
        self.lack = self.lack or what

    def read(self, agent: Agent) -> None:
        """Read the stream of an agent to its end, whatever that is."""
        lack = None
        try:
            while not self._broken and (data := agent.read()):
                self.take(data)
        except OSError as error:
            lack = f"the stream broke off: {error.strerror or error}"
        finally:
            self.over(lack)

    def take(self, data: bytes) -> None:
        """The next bytes of the stream. What cannot be used is complained of, and nothing after it is taken."""
        if self._broken:
            return
        if self._limit is not None and (reason := self._limit()) is not None:
            self._broken = True
            self.complain(reason)
            self.settled.set()
            return
        try:
            if isinstance(self._kept, Spooled):
                self._kept.write(data)
            if self._folder is not None:
                self._folder.write(self.agent.place, data)
            for frame in self._reader.feed(data):
                self._look_at(frame)
        except WireError as error:
            self._broken = True
            self.complain(str(error))
        except ProbeError as error:  # there is no space for it
            self._broken = True
            self.complain(str(error))
            self.failure = error
        except MemoryError as error:
            self._broken = True
            self.complain("there was no memory for what it sent")
            self.failure = error

    def over(self, lack: str | None) -> None:
        """The stream has ended, with what it lacks as far as others know."""
        if lack is not None:
            self.complain(lack)
        try:
            self._reader.finish()
        except WireError as error:
            self.complain(str(error))
        self.settled.set()
        self._ended.set()

    def _look_at(self, frame: Frame) -> None:
        if isinstance(frame, Topology):
            _check_topology(frame)
        if isinstance(self._kept, Pouring):
            self._kept.pour(frame)
        if isinstance(frame, Hello):
            self.kernel = frame.features.get("kernel", "")
        elif isinstance(frame, Ready):
            self.ready = True
            self.settled.set()
        elif (
            isinstance(frame, Bye)
            and self._witness is not None
            and (
                not self.stopping or frame.reason == Pull.SILENT.value
            )  # that was before, unread while we slept
        ):
            self.complain(
                f"the agent ended before the capture did: {escape(frame.reason) or 'it does not say why'}"
            )
        if isinstance(self.agent, PushedAgent) and not isinstance(frame, PacketRows | NatRows):
            self.agent.heard(frame)
        if self._witness is not None:
            self._witness(self.agent.place, frame)

    def pour(self, builder: RecordingBuilder, clock: Clock | None = None) -> None:
        """Put the stream into a recording, its times as by our clock; what was kept of it is given up."""
        if isinstance(self._kept, Pouring):
            self._kept.stream.truncated = self.lack
            return
        pouring = Pouring.into(builder, self.agent.place, clock)
        with suppress(WireError):  # the same as when it came: it has been complained of
            for frame in self.frames():
                pouring.pour(frame)
        pouring.stream.truncated = self.lack

    def frames(self) -> Iterator[Frame]:
        """The frames that were kept, in order. Raises WireError where one of them cannot be read."""
        assert isinstance(self._kept, Spooled)
        reader = Reader()
        for data in self._kept:
            yield from reader.feed(data)


class Pouring(NamedTuple):
    """A stream on its way into a recording. `ahead`: how far its clock is before ours, in nanoseconds."""

    stream: StreamBuilder
    ahead: int

    @classmethod
    def into(cls, builder: RecordingBuilder, place: str, clock: Clock | None) -> Pouring:
        """A stream of this place."""
        return cls(builder.stream(place), clock.ahead if clock is not None else 0)

    def pour(self, frame: Frame) -> None:
        """The next frame, its times by our clock. Raises WireError where what it says is no topology."""
        match frame:
            case PacketRows(rows, heads):
                self.stream.packets(_by_our_clock(rows, PACKET, self.ahead), heads)
            case NatRows(rows):
                self.stream.nat(_by_our_clock(rows, NAT, self.ahead))
            case Topology():
                _check_topology(frame)
                self.stream.message(frame)
            case _:
                self.stream.message(frame)


def _by_our_clock(rows: RowBytes, layout: Layout, ahead: int) -> RowBytes:
    """Rows with their times corrected; `ahead`: how far the clock that they were made by is, in nanoseconds."""
    if not ahead:
        return rows
    table = np.frombuffer(rows, dtype=layout.dtype()).copy()
    table["time"] -= np.uint64(ahead) if ahead > 0 else np.uint64(0)
    table["time"] += np.uint64(-ahead) if ahead < 0 else np.uint64(0)
    return table.tobytes()


def capture(
    source: AgentSource,
    action: Callable[[], Words],
    *,
    facts: Facts,
    meta: Meta,
    record: Path | None = None,
    progress: Progress = lambda _: None,
    witness: Witness = lambda _place, _frame: None,
    limit: Limit | None = None,
    mask: Mask | None = None,
) -> Session:
    """Watch everywhere while `action` runs; what it returns is kept in the session's `meta`.

    `witness` is told of each frame as it arrives, on the thread that reads it. Once `limit` gives a reason, streams are
    cut off there, and the reason is said of each.

    With `record`, the session is written to that folder too. Raises ProbeError where no agent could start or
    the folder could not be written; the folder then stays marked as cut off.

    With `mask`, the session that is returned, and the folder, are those of others. Streams are written into the folder
    when all have ended: what is to be found for each new address must not hold up who sends them. `witness` is told
    what came.
    """
    with Spool() as spool:
        return _captured(source, action, facts, meta, _Keeping(spool, record, progress, witness, limit, mask))


class _Keeping(NamedTuple):
    """What becomes of the streams of a capture while they arrive."""

    spool: Spool
    record: Path | None
    progress: Progress
    witness: Witness
    limit: Limit | None
    mask: Mask | None


def _captured(
    source: AgentSource, action: Callable[[], Words], facts: Facts, meta: Meta, keeping: _Keeping
) -> Session:
    spool, record, progress, witness, limit, mask = keeping
    shown = meta if mask is None else Meta(**mask.meta(meta))
    folder = SessionFolder(record, shown) if record is not None else None
    raw = folder if mask is None else None  # what is written as it comes
    followers: list[_Follower] = []
    try:
        for agent in source.start():
            kept = spool.stream()
            followers.append(_Follower(agent, kept, folder=raw, witness=witness, limit=limit))
            if raw is not None:
                raw.stream(agent.place)
        for follower in followers:
            follower.start()
        _await_ready(followers, progress)
        words = action()
        progress("collecting what the agents saw")
        _stop(followers)
    finally:
        _close(followers)
        if raw is not None:
            raw.close()
    for follower in followers:
        if follower.failure is not None:
            raise follower.failure
    lacks = {follower.agent.place: follower.lack for follower in followers if follower.lack}
    clocks = _clocks(followers)
    kernels = {follower.agent.place: follower.kernel for follower in followers if follower.kernel}
    known: dict[str, Any] = {**words._asdict(), "lacks": lacks, "clocks": clocks, "kernels": kernels}
    if mask is not None:
        progress("putting others in the place of those that were seen")
        return _of_others(followers, msgspec.structs.replace(meta, **known), folder, mask)
    finished = folder.finish(**known) if folder is not None else msgspec.structs.replace(meta, **known)
    return Session(_recording(followers, clocks), facts, finished)


def _of_others(
    followers: Sequence[_Follower], meta: Meta, folder: SessionFolder | None, mask: Mask
) -> Session:
    """The session of other people, and the folder of it. Raises ProbeError where that cannot be written."""
    fields = mask.meta(meta)
    builder, places = RecordingBuilder(), []
    try:
        for follower in followers:
            place = mask.searched(follower.agent.place)  # nodes may be called by their address
            places.append(place)
            pouring = Pouring.into(builder, place, meta.clocks.get(follower.agent.place))
            write = folder.frames(place) if folder is not None else None
            with suppress(WireError):  # the same as when it came: it has been complained of
                for frame in follower.frames():
                    other = mask.frame(frame)
                    pouring.pour(other)
                    if write is not None:
                        write(other)
            pouring.stream.truncated = mask.searched(follower.lack)
    finally:
        if folder is not None:
            folder.close()
    if folder is not None:
        finished = folder.finish(**{name: fields[name] for name in fields.keys() - OF_FOLDER})
    else:
        finished = msgspec.structs.replace(meta, **fields)
    return Session(builder.build(expected_nodes=tuple(places)), finished.facts, finished)


def load(path: Path) -> Session:
    """Read a recorded session back. Raises ProbeError where the folder is foreign or of a later version."""
    builder = RecordingBuilder()
    meta, places = pour_folder(path, builder)
    return Session(builder.build(expected_nodes=places), meta.facts, meta)


def pour_folder(path: Path, builder: RecordingBuilder) -> tuple[Meta, tuple[str, ...]]:
    """Put all streams of a recorded session into a recording; answers with its `Meta` and places. Raises ProbeError."""
    meta = read_meta(path)
    problems = stream_problems(path, meta)
    present = _streams(path, meta)
    for agent in RecordedSource(present).start():
        clock = meta.clocks.get(agent.place)
        follower = _Follower(agent, Pouring.into(builder, agent.place, clock))
        try:
            follower.read(agent)
        finally:
            agent.close()
        if lack := meta.lacks.get(agent.place) or problems.get(agent.place):
            follower.lack = lack  # what was known then is nearer to the cause than what can be seen now
        follower.pour(builder, clock)
    if not meta.complete:
        builder.gaps.append(("", Gap("session", "the session was cut off while it was recorded")))
    for place in sorted(set(problems) - set(present)):
        builder.gaps.append((place, Gap("stream", problems[place])))
    return meta, meta.places or tuple(present)


def _streams(path: Path, meta: Meta) -> dict[str, Path]:
    """The streams that are there; a session that was cut off names no places, so every stream counts."""
    if meta.places:
        return {place: file for place in meta.places if (file := stream_path(path, place)) is not None}
    return {unquote(file_text(file.stem)): file for file in sorted(path.glob("*.probe"))}


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
    waiting = list(followers)
    until = time.monotonic() + READY_WITHIN
    while waiting and (left := until - time.monotonic()) > 0:
        waiting[0].settled.wait(min(left, _LOOK_EVERY))
        before, waiting = len(waiting), [each for each in waiting if not each.settled.is_set()]
        if len(waiting) < before:
            until = time.monotonic() + READY_WITHIN
    if followers and not any(follower.ready for follower in followers):
        ended = next((each for each in followers if each.settled.is_set()), None)
        if ended is None:  # what they end with after that is our doing
            raise UnavailableError(
                f"no agent was ready within {READY_WITHIN:.0f} s; `probe doctor` looks why; a busy machine "
                "may need another try"
            )
        reason = ended.agent.close() or ended.lack or "it said nothing"
        raise UnavailableError(
            f"no agent could start; on {ended.agent.place}: {reason}; `probe doctor` looks why"
        )
    for follower in followers:
        if not follower.ready:
            follower.complain("the agent was not ready when the capture began")


def _stop(followers: Sequence[_Follower]) -> None:
    for follower in followers:
        follower.stopping = True
        follower.agent.stop()
    until = time.monotonic() + STOP_WITHIN
    for follower in followers:
        if not follower.join(until - time.monotonic()):
            follower.complain("the agent did not end in time; what it still held is missing")


def _close(followers: Sequence[_Follower]) -> None:
    """End every agent, whatever it does, and read what is left of its stream."""
    until = time.monotonic() + STOP_WITHIN
    for follower in followers:
        if complaint := follower.agent.close():
            follower.complain(complaint)
        follower.join(until - time.monotonic())


def _clocks(followers: Sequence[_Follower]) -> dict[str, Clock]:
    """The clocks that are known, by place."""
    known = ((follower.agent.place, follower.agent) for follower in followers)
    return {
        place: clock
        for place, agent in known
        if isinstance(agent, PushedAgent) and (clock := agent.clock) is not None
    }


def _recording(followers: Sequence[_Follower], clocks: Mapping[str, Clock]) -> Recording:
    builder = RecordingBuilder()
    for follower in followers:
        follower.pour(builder, clocks.get(follower.agent.place))
    return builder.build(expected_nodes=tuple(follower.agent.place for follower in followers))
