"""What must be said of each request, and how a report differs from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from analysis.analyze import analyze
from analysis.facts import Facts
from analysis.report import Journey, Report
from probe.agents import captures as files
from probe.objects import facts_from_objects
from tests.field.asking import Told
from tests.field.watching import Captures


@dataclass(frozen=True)
class Snat:
    """One replacement of the source that must be told: where, into what ("": not known), by what, in part."""

    node: str | None
    to: str
    mechanism: str


@dataclass(frozen=True)
class Expected:
    """What must be told of one request. None: not asked for here, but for `seen`, where it means nobody."""

    told: Told
    verdict: str
    seen: str | None = None
    snat: tuple[Snat, ...] | None = None
    crossing: tuple[str, str, str] | bool | None = False  # False: not asked for here
    codes: tuple[str, ...] = ()
    anonymous: bool = False  # nothing that was captured names the client

    @property
    def client(self) -> tuple[str, int] | None:
        """Who the client must be said to be."""
        return None if self.anonymous else (self.told.client, self.told.port)


def judge(
    captures: Captures, objects: dict[str, object] | None, *, tables: bool = True, service: str | None = None
) -> Report:
    """What `probe analyze --tap …` makes of captures."""
    taps = [files.parse_tap(f"{tap.name}={captures.folder / tap.file}") for tap in captures.taps]
    nodes = captures.tables if tables else ()
    lists = [files.parse_table(f"{node}={captures.folder}/conntrack-{node}.txt") for node in nodes]
    facts = Facts(known=False) if objects is None else facts_from_objects(objects)
    return analyze(files.read_captures(taps, lists, lambda _: None), facts, service=service)


def differences(report: Report, expected: Iterable[Expected]) -> list[str]:
    """Every difference, in words; requests of one client port are taken in order of time."""
    wanted = sorted(expected, key=lambda entry: entry.told.started)
    found = _by_client(report)
    complaints = []
    if len(report.journeys) != len(wanted):
        complaints.append(f"{len(report.journeys)} journeys, {len(wanted)} requests")
    for entry in wanted:
        journeys = found.get(entry.client, [])
        if journeys:
            complaints += [f"{_name(entry)}: {word}" for word in _journey_differences(journeys.pop(0), entry)]
        else:
            complaints.append(f"{_name(entry)}: no journey; expected {entry.verdict}")
    extra = [journey for journeys in found.values() for journey in journeys]
    return complaints + [f"not asked for: {tell(journey)}" for journey in extra]


def contradictions(report: Report, expected: Iterable[Expected]) -> list[str]:
    """Claims of a report on a part of the captures that are not true; silence and `inconclusive` are fine."""
    truth: dict[tuple[str, int] | None, list[Expected]] = defaultdict(list)
    for entry in expected:
        truth[entry.told.client, entry.told.port].append(entry)
    everything = [entry for entries in truth.values() for entry in entries]
    complaints = []
    for client, journeys in _by_client(report).items():
        entries = truth.get(client, everything)
        for journey in journeys:
            allowed = {entry.verdict for entry in entries} | {"inconclusive"}
            if journey.verdict not in allowed:
                complaints.append(f"{tell(journey)}; allowed are {sorted(allowed)}")
            crossing = _crossing(journey)
            crossings = {_ends(entry.crossing) for entry in entries}
            if crossing is not None and False not in crossings and _ends(crossing) not in crossings:
                complaints.append(f"crossed {crossing}, and none did: {tell(journey)}")
    return complaints


def _ends(crossing: tuple[str, str, str] | bool | None) -> tuple[str, str] | bool | None:
    """From where to where: with taps missing, nobody may have seen the way in between."""
    return crossing[:2] if isinstance(crossing, tuple) else crossing


def _by_client(report: Report) -> dict[tuple[str, int] | None, list[Journey]]:
    found: dict[tuple[str, int] | None, list[Journey]] = defaultdict(list)
    for journey in report.journeys:
        found[(journey.client.address, journey.client.port) if journey.client else None].append(journey)
    return found


def _crossing(journey: Journey) -> tuple[str, str, str] | None:
    crossed = journey.cross_node
    return (crossed.from_, crossed.to, crossed.via) if crossed else None


def _journey_differences(journey: Journey, expected: Expected) -> list[str]:
    wrong = []
    if journey.verdict != expected.verdict:
        wrong.append(f"expected {expected.verdict}")
    if journey.seen_by_app != expected.seen:
        wrong.append(f"the server saw {expected.seen}")
    if expected.snat is not None and not _same_snat(journey, expected.snat):
        wrong.append(f"expected {expected.snat}")
    if expected.crossing is not False and _crossing(journey) != expected.crossing:
        wrong.append(f"expected crossing {expected.crossing}")
    wrong += [f"expected {code}" for code in expected.codes if code not in journey.findings]
    return [f"{', '.join(wrong)}; told {tell(journey)}"] if wrong else []


def _same_snat(journey: Journey, expected: tuple[Snat, ...]) -> bool:
    return len(journey.snat) == len(expected) and all(
        told.node == wanted.node and wanted.to in {"", told.to} and wanted.mechanism in told.mechanism
        for told, wanted in zip(journey.snat, expected, strict=True)
    )


def _name(entry: Expected) -> str:
    return f"{entry.told.client}:{entry.told.port}"


def tell(journey: Journey) -> str:
    """A journey in a few lines, for a failing test."""
    snat = [f"{entry.node}: {entry.from_} to {entry.to} by {entry.mechanism}" for entry in journey.snat]
    said = f"{journey.client} {journey.verdict} ({journey.reason}), seen {journey.seen_by_app}"
    lines = [f"{said}, {snat}, {_crossing(journey)}, {journey.findings}"]
    lines += [
        f"    {hop.node}/{hop.interface} {hop.point} {hop.source} > {hop.destination}" for hop in journey.hops
    ]
    return "\n".join(lines)


def tap_options(captures: Captures, objects: Path | None = None) -> list[str]:
    """The command line that judges these captures."""
    options = [f"--tap={tap.name}={captures.folder / tap.file}" for tap in captures.taps]
    options += [f"--conntrack={node}={captures.folder}/conntrack-{node}.txt" for node in captures.tables]
    return [*options, f"--objects={objects}"] if objects else options
