"""What a capture has brought so far, gathered for a view of it: counts as they come, verdicts as they are judged.

A finding is told only of connections whose packets have all come (`probe.cluster.so_far`): what is still on its way may
turn a verdict.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from analysis.catalogue.findings import CATALOGUE
from analysis.report import Report, Severity
from daemonset.observation import PACKET, Bye, Loss, RowBytes, Taps, TcpFlag
from daemonset.wire import Frame, PacketRows
from probe.cluster.so_far import YOUNG, blamed, grown, summary
from probe.render.live import Found, Seen, State

_HANDSHAKE = TcpFlag.SYN | TcpFlag.ACK | TcpFlag.RST

#: Connections that are told apart, in all and at one place; beyond, counting stands still.
_MOST_FLOWS = 200_000


@dataclass(slots=True)
class _Place:
    taps: int = 0
    packets: int = 0
    dropped: int = 0
    trouble: str = ""
    flows: set[int] = field(default_factory=set)


class Board:
    """Takes what comes, from any thread; `state` is what is known at the moment, `tell` hears it at each judgement.

    `words`: what a name or a text that came is called where it is shown.
    """

    def __init__(
        self,
        title: str,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[State], None] = lambda _: None,
        *,
        shown: bool = True,
        words: Callable[[str], str] = str,
    ) -> None:
        self.ending = threading.Event()  # set by who looks on and has seen enough
        self._lock = threading.Lock()
        self._clock = clock
        self._tell = tell
        self._shown = shown
        self._words = words
        self._began = clock()
        self._title = title
        self._doing = ""
        self._over = False
        self._places: dict[str, _Place] = {}
        self._flows: set[int] = set()
        self._judged_at: float | None = None
        self._judged = State(title)
        self._order: list[str] = []  # codes as they were first found

    def doing(self, text: str) -> None:
        """What is going on."""
        with self._lock:
            self._doing = text

    def over(self) -> None:
        """The watching is over: agents that end now do as they should."""
        with self._lock:
            self._over = True

    def missing(self, place: str, why: str) -> None:
        """A place that is not watched."""
        with self._lock:
            self._at(place).trouble = why

    def take(self, place: str, frame: Frame) -> None:
        """One more frame of a place's stream."""
        with self._lock:
            at = self._at(place)
            match frame:
                case PacketRows(rows, _):
                    self._packets(at, rows)
                case Taps(taps):
                    at.taps += len(taps)
                case Loss(_, _, dropped):
                    at.dropped += dropped
                case Bye() if not self._over:
                    at.trouble = "its agent has ended"
                case _:
                    pass

    def judged(self, report: Report) -> str:
        """The verdicts of what has come; answers with what is left to be said in a line, "" where a view shows it."""
        before = time.time() - YOUNG
        journeys = grown(report, before)
        found = Counter(code for journey in journeys for code in journey.findings)
        with self._lock:
            # The last of the list is told first: of those found at once, the gravest.
            self._order += sorted(
                (code for code in found if code not in self._order), key=_gravity, reverse=True
            )
            told = tuple(
                Found(code, CATALOGUE[code].severity, CATALOGUE[code].title, found[code])
                for code in reversed(self._order)
                if code in found and code in CATALOGUE
            )
            verdicts = Counter(journey.verdict for journey in journeys)
            self._judged = replace(
                self._judged,
                verdicts=tuple(verdicts.items()),
                blame=self._words(blamed(journeys)),
                findings=told,
            )
            self._judged_at = self._clock()
        self._tell(self.state())
        return "" if self._shown else summary(report, before)

    def state(self) -> State:
        """All of it, at this moment."""
        with self._lock:
            now = self._clock()
            places = tuple(
                Seen(
                    self._words(name),
                    at.taps,
                    at.packets,
                    len(at.flows),
                    at.dropped,
                    self._words(at.trouble),
                )
                for name, at in self._places.items()
            )
            return replace(
                self._judged,
                doing=self._doing,
                elapsed=now - self._began,
                places=places,
                connections=len(self._flows),
                judged=None if self._judged_at is None else now - self._judged_at,
            )

    def _at(self, place: str) -> _Place:
        return self._places.setdefault(place, _Place())

    def _packets(self, at: _Place, rows: RowBytes) -> None:
        table = np.frombuffer(rows, dtype=PACKET.dtype())
        at.packets += len(table)
        opening = (table["flags"] & _HANDSHAKE == TcpFlag.SYN) & (table["protocol"] == 6)
        numbers = table["seq"][opening].tolist()
        for flows in (at.flows, self._flows):
            if len(flows) < _MOST_FLOWS:
                flows.update(numbers)


def _gravity(code: str) -> int:
    """0 for errors; unknown codes come last."""
    return list(Severity).index(CATALOGUE[code].severity) if code in CATALOGUE else len(Severity)
