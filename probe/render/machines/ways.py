"""The paths of a report as a graph for drawing tools: places, and what of each path goes from one to the next.

Only what packets showed is drawn, as on the map of the HTML report (`probe.render.html.page_map`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from analysis.report import Report, Verdict
from probe.render.html.page_map import Place, stops

#: Paths that are drawn; more would be no picture any longer.
DRAWN = 20

#: What the columns of places are called.
GROUPS = ("Clients", "Load balancers", "Nodes", "Pods")

_ORDER = (Verdict.LOST, Verdict.BLACKHOLED, Verdict.INCONCLUSIVE, Verdict.PRESERVED)


@dataclass(frozen=True, slots=True)
class Step:
    """One arrow: a path's packets on their way between two places. `was`: the source that was replaced there."""

    path: int  # number of the path, from 1
    begin: int  # indices into `Ways.places`
    end: int
    source: str
    was: str | None


@dataclass(frozen=True, slots=True)
class Way:
    """One path: how many connections took it, and what became of the client's address."""

    number: int
    count: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Ways:
    """The graph. `omitted`: paths that are not in it."""

    places: tuple[Place, ...]
    ways: tuple[Way, ...]
    steps: tuple[Step, ...]
    omitted: int

    def of_group(self, group: int) -> Iterator[tuple[int, Place]]:
        """The places of a group, with their indices."""
        return ((at, place) for at, place in enumerate(self.places) if place.column == group)


def ways_of(report: Report) -> Ways:
    """The graph of a report, the gravest paths first."""
    journeys = {journey.id: journey for journey in report.journeys}
    known = sorted(
        (path for path in report.paths if path.example in journeys),
        key=lambda path: (_ORDER.index(path.verdict), -path.count),
    )
    places: dict[Place, int] = {}
    ways: list[Way] = []
    steps: list[Step] = []
    for path in known:
        walked = stops(journeys[path.example])
        if len(walked) < 2 or len(ways) == DRAWN:
            continue
        ways.append(Way(len(ways) + 1, path.count, path.verdict))
        for before, after in pairwise(walked):
            begin, end = (places.setdefault(stop.place, len(places)) for stop in (before, after))
            was = before.source if before.source != after.source else None
            steps.append(Step(len(ways), begin, end, after.source, was))
    return Ways(tuple(places), tuple(ways), tuple(steps), len(known) - len(ways))
