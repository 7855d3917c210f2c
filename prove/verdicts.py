"""Whether the verdicts of a part are those of the whole: the same, or inconclusive with a reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from analysis.report import Journey, Report, Verdict

#: A client by address and port.
Name = tuple[str, int]

NO_TRUTH: Mapping[Name, Verdict] = MappingProxyType({})


def another(
    full: Report,
    partial: Report,
    unless: frozenset[str] = frozenset(),
    truth: Mapping[Name, Verdict] = NO_TRUTH,
    left_open: frozenset[Verdict] = frozenset(),
) -> Iterator[Journey]:
    """The journeys of `partial` whose verdict is none of the same client's in `full`, or inconclusive without a reason.

    `truth` is what is known of clients by how things were built, where `full` may leave it open. Journeys of clients
    that have one of the codes `unless` in `full` may be any. `left_open`: what besides may come of
    journeys that `full` leaves open.
    """
    known: dict[Name, set[Verdict]] = defaultdict(set, {name: {verdict} for name, verdict in truth.items()})
    free = set()
    for journey in full.journeys:
        if journey.client:
            name = (journey.client.address, journey.client.port)
            known[name] |= {journey.verdict} | (
                left_open if journey.verdict is Verdict.INCONCLUSIVE else set()
            )
            if unless & set(journey.findings):
                free.add(name)
    verdicts = {journey.verdict for journey in full.journeys}
    for journey in partial.journeys:
        if journey.verdict is Verdict.INCONCLUSIVE:
            if journey.reason in {None, ""}:
                yield journey
            continue
        who = (journey.client.address, journey.client.port) if journey.client else None
        allowed = verdicts | left_open if who is None else known[who]
        if who not in free and journey.verdict not in allowed:
            yield journey


def settled(report: Report) -> int:
    """How many journeys have a verdict that is not inconclusive."""
    return sum(journey.verdict is not Verdict.INCONCLUSIVE for journey in report.journeys)
