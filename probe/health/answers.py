"""What nodes answer their own agents again and again, as runs of equal answers: asked often, it changes seldom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from analysis.health.own import OwnAnswer, OwnChecks
from daemonset.node.health_port import Answered
from daemonset.observation import HealthAnswer
from probe.cluster.timing import Clock

#: Runs that are kept of all nodes together, and of one port.
MOST_RUNS, MOST_OF_ONE = 50_000, 2_000

#: Seconds until each port should have answered once.
FIRST_WITHIN = 10.0

#: Bytes that one line of an asking process may have.
MOST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class _Run:
    time: int
    until: int
    times: int
    answer: str
    said: HealthAnswer | None


class Answers:
    """Gathers the answers of all nodes; `tell` hears of each change, on the thread that brings it."""

    def __init__(self, tell: Callable[[str, str], None] = lambda _node, _words: None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._runs: dict[tuple[str, int], list[_Run]] = {}
        self._count = 0
        self._over: set[str] = set()
        self._reasons: list[str] = []
        self._heard = threading.Condition(self._lock)

    def take(self, node: str, port: int, answered: Answered) -> None:
        """One more answer of a port."""
        answer, said = answer_of(answered), answered.said
        with self._heard:
            self._heard.notify_all()
            runs = self._runs.setdefault((node, port), [])
            if runs and (runs[-1].answer, runs[-1].said) == (answer, said):
                last = runs[-1]
                runs[-1] = replace(last, until=max(answered.time, last.until), times=last.times + 1)
                return
            if self._count >= MOST_RUNS or len(runs) >= MOST_OF_ONE:
                self._over.add(node)
                return
            runs.append(_Run(answered.time, answered.time, 1, answer, said))
            self._count += 1
        self._tell(node, words_of(answer, said))

    def lack(self, node: str, reason: str) -> None:
        """A node's port is not asked any more."""
        with self._heard:
            self._heard.notify_all()
            self._reasons.append(f"{node}: its health port was not asked to the end, because {reason}")
        self._tell(node, f"its health port is not asked any more: {reason}")

    def await_first(self, ports: int, within: float) -> None:
        """Wait until so many ports have answered once, or it has been said that they will not."""
        with self._heard:
            self._heard.wait_for(lambda: len(self._runs) + len(self._reasons) >= ports, within)

    def so_far(
        self, clocks: Mapping[str, Clock] | None = None, sources: frozenset[tuple[str, int]] = frozenset()
    ) -> OwnChecks:
        """All of it by our clock."""
        found = []
        with self._lock:
            for (node, port), runs in self._runs.items():
                clock = (clocks or {}).get(node)
                ahead = clock.ahead if clock is not None else 0
                for run in runs:
                    time, until = max(run.time - ahead, 0), max(run.until - ahead, 0)
                    found.append(OwnAnswer(time, until, run.times, node, port, run.answer, run.said))
            reasons = list(self._reasons)
            cut = f"what it answered after {MOST_OF_ONE:,} changes is not kept"
            reasons += [f"{node}: {cut}" for node in sorted(self._over)]
        return OwnChecks(tuple(found), tuple(sorted(sources)), tuple(reasons))


def answer_of(answered: Answered) -> str:
    """As checks that packets show are told: "200", "refused", …"""
    if answered.outcome == "answered":
        return str(answered.status)
    return "no answer" if answered.outcome == "unreachable" else answered.outcome


def words_of(answer: str, said: HealthAnswer | None) -> str:
    """One answer for people."""
    count = said.local_endpoints if said is not None and said.local_endpoints is not None else None
    if count is None:
        return f"health check: {answer}"
    return f"health check: {answer}, {count} local endpoint{'' if count == 1 else 's'}"


class Lines:
    """Lines of a stream at any chunking; one that is too long is let go."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._skipping and lines:
            lines, self._skipping = lines[1:], False
        if len(self._rest) > MOST_LINE:
            self._rest, self._skipping = b"", True
        return lines
