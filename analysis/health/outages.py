"""What a node was sent in the time in which it said that it must not be sent to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from analysis.health.arrivals import SECOND, Arrivals, Outcome
from analysis.health.checks import Check
from analysis.health.result import Outage
from analysis.hops.addresses import text

#: Clients of other nodes after the last one here, from which on the balancer counts as having stopped.
ELSEWHERE = 5

#: Senders that are named.
SENDERS = 10


@dataclass(frozen=True, slots=True)
class Bounds:
    """The time of an outage, ns: the last healthy answer before, the first refusal, the next healthy answer."""

    before: int | None
    first: int
    until: int | None
    answers: int

    def holds(self, time: int) -> bool:
        """Whether a time is inside."""
        return time >= self.first and self.before_end(time)

    def before_end(self, time: int) -> bool:
        """Whether the node had not become healthy again."""
        return self.until is None or time < self.until


def bounds_of(checks: Sequence[Check]) -> list[Bounds]:
    """The outages of one node, from its answers in order of time."""
    runs = [(healthy, list(group)) for healthy, group in groupby(checks, key=lambda check: check.healthy)]
    found = []
    for number, (healthy, group) in enumerate(runs):
        if not healthy:
            before = runs[number - 1][1][-1].time if number else None
            until = runs[number + 1][1][0].time if number + 1 < len(runs) else None
            # Refusals that we alone were given are none that a balancer should have listened to.
            answers = sum(check.times for check in group if not check.ours)
            found.append(Bounds(before, group[0].time, until, answers))
    return found


@dataclass(frozen=True, slots=True)
class Node:
    """What is known of one node: its answers in order of time, what it was sent, and who else was healthy when."""

    name: str
    checks: Sequence[Check]
    arrivals: Arrivals
    healthy: Sequence[Check]  # of all nodes

    @property
    def connections(self) -> list[tuple[int, Outcome]]:
        """When connections arrived here, and with what outcome, those that the balancer tried again among them."""
        here = [each for each in self.arrivals.at_nodes if each.node == self.name]
        return [(each.time, each.outcome) for each in here if each.outcome is not Outcome.BARE]

    @property
    def sent(self) -> list[tuple[int, Outcome]]:
        """When clients were sent here, and with what outcome; where clients are unknown, connections."""
        if not self.arrivals.clients:
            return self.connections
        return [(each.start, each.outcome) for each in self.arrivals.clients if each.node == self.name]


def outages_of(node: Node) -> list[Outage]:
    """The outages of one node."""
    found: list[Outage] = []
    begin = 0
    for bounds in bounds_of(node.checks):
        found.append(_outage(node, bounds, begin))
        begin = bounds.until or begin
    return found


def _outage(node: Node, bounds: Bounds, begin: int) -> Outage:
    """`begin` is when the outage before this one was over."""
    sent = [(time, outcome) for time, outcome in node.sent if time >= begin and bounds.before_end(time)]
    failing = _failing_since(sent)
    inside = [(time, outcome) for time, outcome in sent if bounds.holds(time)]
    since = min(bounds.first, failing) if failing is not None else bounds.first
    concerned = [(time, outcome) for time, outcome in sent if time >= since]
    last = max((time for time, _ in concerned), default=None)
    over = bounds.until
    resumed = min((time for time, _ in node.connections if over is not None and time >= over), default=None)
    return Outage(
        node=node.name,
        answers=bounds.answers,
        first=bounds.first / SECOND,
        until=_seconds(over),
        healthy_before=_seconds(bounds.before),
        failing_since=_seconds(failing),
        last_connection=_seconds(last),
        connections=len(inside),
        served=sum(outcome is Outcome.SERVED for _, outcome in inside),
        lost=sum(outcome.failed for _, outcome in concerned),
        attempts=sum(bounds.holds(time) for time, _ in node.connections),
        health_lag=_span(failing, bounds.first) if failing is not None and failing <= bounds.first else None,
        balancer_lag=max(_span(bounds.first, last), 0.0) if last is not None else 0.0,
        total_lag=_span(failing, last) if failing is not None and last is not None else None,
        stopped=_stopped(node, last if inside else None, bounds),
        resumed=_seconds(resumed),
        senders=_senders(node, bounds),
        everywhere=not any(bounds.holds(check.time) for check in node.healthy if check.node != node.name),
    )


def _senders(node: Node, bounds: Bounds) -> tuple[str, ...]:
    """The addresses from which connections arrived, the busiest ones."""
    counts = Counter(
        each.trip.source
        for each in node.arrivals.at_nodes
        if each.node == node.name and each.outcome is not Outcome.BARE and bounds.holds(each.time)
    )
    return tuple(text(source) for source, _ in counts.most_common(SENDERS))


def _failing_since(sent: Sequence[tuple[int, Outcome]]) -> int | None:
    """The first that failed after the last that was served, ns."""
    served = max((time for time, outcome in sent if outcome is Outcome.SERVED), default=0)
    return min((time for time, outcome in sent if outcome.failed and time > served), default=None)


def _stopped(node: Node, last: int | None, bounds: Bounds) -> bool | None:
    """Whether enough connections went to other nodes after the last client that was sent here."""
    after = last if last is not None else bounds.first
    later = [each for each in node.arrivals.at_nodes if each.node != node.name and each.time > after]
    if sum(bounds.before_end(each.time) for each in later) >= ELSEWHERE:
        return True
    return False if last is not None else None


def _seconds(time: int | None) -> float | None:
    return None if time is None else time / SECOND


def _span(first: int, last: int) -> float:
    """Seconds from one time to another, to the millisecond."""
    return round((last - first) / SECOND, 3)
