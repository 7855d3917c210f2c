"""Verdicts while a capture goes on: what would be said of the connections so far.

It is the report's own judgement of what has arrived, made again every few seconds, and never of connections that are
still young: their packets may be on their way from other nodes. Its cost is bounded: it waits ten times as long as the
last judgement took, and gives up where more has arrived than can be judged in about a second.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from queue import Queue

from analysis.analyze import analyze
from analysis.chain.clients import Clients
from analysis.facts import Facts
from analysis.health.changes import EndpointChange
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.ingress import IngressRecord
from analysis.recording import RecordingBuilder
from analysis.report import Journey, Report, Verdict
from daemonset.observation import PACKET
from daemonset.wire import Frame, PacketRows
from probe.cluster.timing import Clock
from probe.render.escape import escape
from probe.sessions.session import Pouring

#: Packets beyond which there are no more verdicts before the end.
MOST = 30_000

#: Seconds from one judgement to the next at least, and how much longer than one took.
EVERY = 4.0
FACTOR = 10

#: Seconds after which nothing of a connection's beginning is on its way any more.
YOUNG = 2.0

_BLAMED = 2  # places named in one line

Clocks = Callable[[], Mapping[str, Clock]]

#: What else is known by now: changes of endpoints, and health checks of ours.
More = Callable[[], tuple[tuple[EndpointChange, ...], OwnChecks]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is judged, as the report will be."""

    facts: Facts
    service: str | None
    ingress: IngressRecord
    clients: Clients


class SoFar:
    """Gathers frames of all streams, and says what is known of them: verdicts, or what `words` makes of the report."""

    def __init__(
        self,
        subject: Subject,
        clocks: Clocks,
        more: More = lambda: ((), NONE_OWN),
        words: Callable[[Report], str] | None = None,
    ) -> None:
        self._subject = subject
        self._clocks = clocks
        self._more = more
        self._words = words or (lambda report: summary(report, time.time() - YOUNG))
        self._lock = threading.Lock()
        self._frames: dict[str, list[Frame]] = defaultdict(list)
        self._packets = 0
        self._judged = 0  # packets that were there the last time
        self._next = 0.0
        self._told = ""

    def take(self, place: str, frame: Frame) -> None:
        """One more frame of a stream, from the thread that reads it."""
        with self._lock:
            if self._packets > MOST:
                return
            self._frames[place].append(frame)
            if isinstance(frame, PacketRows):
                self._packets += len(frame.rows) // PACKET.size
                if self._packets > MOST:
                    self._frames.clear()

    def word(self) -> str | None:
        """One line, where there is something new to say; it may take as long as a judgement takes."""
        now = time.monotonic()
        if now < self._next:
            return None
        with self._lock:
            packets, frames = self._packets, {place: tuple(kept) for place, kept in self._frames.items()}
        if packets > MOST:
            self._next = float("inf")
            return f"more than {MOST:,} packets: verdicts come with the report"
        self._next = now + EVERY
        if not packets:
            return None
        try:
            report = _aside(lambda: self._judge(frames))
        except MemoryError:  # the capture goes on
            self._next = float("inf")
            return "there is no memory for verdicts so far: they come with the report"
        self._next = time.monotonic() + max(EVERY, FACTOR * (time.monotonic() - now))
        text = self._words(report)
        if text == self._told or not text:
            return None
        self._told = text
        return text

    def _judge(self, frames: Mapping[str, Iterable[Frame]]) -> Report:
        clocks, builder = self._clocks(), RecordingBuilder()
        for place, kept in frames.items():
            pouring = Pouring.into(builder, place, clocks.get(place))
            for frame in kept:
                pouring.pour(frame)
        subject, (changes, own) = self._subject, self._more()
        return analyze(
            builder.build(expected_nodes=tuple(frames)),
            subject.facts,
            service=subject.service,
            ingress=subject.ingress,
            clients=subject.clients,
            changes=changes,
            own=own,
        )


def _aside(judge: Callable[[], Report]) -> Report:
    """Judge on another thread, so that a signal ends the waiting at once: DuckDB has its own mind about signals."""
    done: Queue[Report | Exception] = Queue()

    def work() -> None:
        try:
            done.put(judge())
        except Exception as error:  # whatever it is, it is raised where it is waited for
            done.put(error)

    threading.Thread(target=work, name="verdicts so far", daemon=True).start()
    result = done.get()
    if isinstance(result, Exception):
        raise result
    return result


def summary(report: Report, before: float) -> str:
    """The verdicts of the journeys that began before a time, in seconds since the epoch; "" where there are none."""
    told = grown(report, before)
    counts = Counter(journey.verdict for journey in told)
    parts = [f"{counts[verdict]:,} {verdict}" for verdict in (Verdict.PRESERVED,) if counts[verdict]]
    if counts[Verdict.LOST]:
        blame = blamed(told)
        parts.append(f"{counts[Verdict.LOST]:,} lost{f' ({blame})' if blame else ''}")
    if counts[Verdict.BLACKHOLED]:
        parts.append(f"{counts[Verdict.BLACKHOLED]:,} blackholed")
    if counts[Verdict.INCONCLUSIVE]:
        parts.append(f"{counts[Verdict.INCONCLUSIVE]:,} not certain yet")
    return f"so far: {', '.join(parts)}" if parts else ""


def grown(report: Report, before: float) -> list[Journey]:
    """The journeys of which nothing was seen after a time, in seconds since the epoch: nothing more is on its way."""
    return [
        journey for journey in report.journeys if max((hop.time for hop in journey.hops), default=0) <= before
    ]


def blamed(journeys: Iterable[Journey]) -> str:
    """Where and by what addresses were lost, the commonest first: "node2, kube-proxy masquerade"; "" where none was."""
    places = Counter(
        ", ".join(escape(text) for text in (snat.node, snat.mechanism.partition(" (")[0]) if text)
        for journey in journeys
        if journey.verdict is Verdict.LOST
        for snat in journey.snat[:1]
    )
    named = [text for text, _ in places.most_common(_BLAMED)]
    more = "; …" if len(places) > _BLAMED else ""
    return f"{'; '.join(named)}{more}" if named else ""
