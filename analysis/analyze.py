"""A recording and facts → the report. The one entrance to the analysis; the way of the data reads top to bottom.

Legs are joined as columns and grouped by shape. Up to `limit` journeys are made into objects and told in full;
beyond that each shape is told by some of its legs and counted for the rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import duckdb
import msgspec

from analysis.asked import Asked
from analysis.chain.clients import EVERYBODY, Clients
from analysis.chain.journeys import (
    Given,
    Selection,
    health_ports,
    learn_balancers,
    select,
    suspect_all_who_name_others,
)
from analysis.chain.strangers import Strangers
from analysis.engine.joining import IsServer
from analysis.engine.legs import LegStore, Room, fits_in_memory
from analysis.engine.likeness import Heads, Likeness
from analysis.engine.shapes import Classify, Shape
from analysis.facts import Facts, Service
from analysis.health.asking import with_asked
from analysis.health.changes import EndpointChange
from analysis.health.judge import codes_of
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.health.watching import watched_of
from analysis.hops.addresses import AddressBook
from analysis.ingress import IngressFacts, IngressRecord
from analysis.judging.corroboration import Corroboration
from analysis.judging.forgery import forgeries_of
from analysis.judging.knowledge import Coverage
from analysis.judging.mismatch import Habits
from analysis.judging.outcomes import Context, Judge
from analysis.recording import Recording
from analysis.report import Capture, Journey, Path, Report, Summary, Verdict
from analysis.rules.hits import RuleBook, counted_rules
from analysis.telling import findings_of, journey_of, stranded

JOURNEYS_TOLD = 5_000

#: Connections that are looked at one by one for what they say of health checks, the earliest ones.
HEALTH_LEGS = 20_000


_INTERRUPTED = "Query interrupted"


class UnknownServiceError(ValueError):
    """The Service that was asked for is not among the facts."""


def analyze(
    recording: Recording,
    facts: Facts,
    *,
    service: str | None = None,
    title: str | None = None,
    asked: Sequence[Asked] = (),
    ingress: IngressRecord = IngressRecord(),  # noqa: B008 - a frozen value
    clients: Clients = EVERYBODY,
    limit: int = JOURNEYS_TOLD,
    changes: Sequence[EndpointChange] = (),
    own: OwnChecks = NONE_OWN,
    room: Room = Room(),  # noqa: B008 - a frozen value
) -> Report:
    """Judge every connection of a recording to `service` (`namespace/name`), or to all that are external.

    `asked`: requests of our own with what was answered; `ingress`: what configurations and logs say. `clients`: only
    journeys of these are told and counted. `changes`, `own`: what a watch of endpoints and health checks of ours told
    meanwhile. `room`: what joins may take of the machine.
    Raises UnknownServiceError; MemoryError where neither memory nor disk suffices for the joins.
    """
    given = Given(asked, IngressFacts(ingress), changes=changes, own=own, clients=clients)
    try:
        report = _with_room(
            recording,
            room,
            lambda storing: _analyzed(recording, facts, service, given, limit, storing=storing),
        )
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise MemoryError(str(error).partition("\n")[0]) from error
    except RuntimeError as error:
        if str(error) != _INTERRUPTED:
            raise
        raise KeyboardInterrupt from error  # DuckDB's name for it
    return msgspec.structs.replace(report, title=title)


#: Makes the store of legs, of a recording and of what tells servers from clients.
_Storing = Callable[[Recording, IsServer], LegStore]


def _with_room(recording: Recording, room: Room, judge: Callable[[_Storing], Report]) -> Report:
    """Judge in memory, where that will do; with a folder, where there is much to judge or memory did not do."""
    if room.spill is None or fits_in_memory(recording):
        try:
            return judge(partial(LegStore, most=room.memory))
        except duckdb.OutOfMemoryException:
            if room.spill is None:
                raise
    with room.spill() as folder:
        return judge(partial(LegStore, spill=folder, most=room.memory))


def _analyzed(
    recording: Recording, facts: Facts, service: str | None, given: Given, limit: int, *, storing: _Storing
) -> Report:
    clients = given.clients
    services = wanted_services(facts, service)
    book = AddressBook(facts, recording.topologies, services)
    rules = RuleBook(recording.rule_hits, recording.rules, counted_rules(recording), recording.taps)
    context = Context(recording, facts, book, Coverage.of(recording, facts), rules=rules)
    heads = Heads(book)
    store = storing(recording, lambda *where: _is_server(context, *where))
    try:
        learn_balancers(store, recording.taps, book, facts, given.own)
        count = len(store)
        whole = count <= limit
        if not whole:
            suspect_all_who_name_others(store, recording.heads, recording.taps, book)
        if clients and not whole:
            shapes = _chosen(store, recording, clients, limit)
        else:
            shapes = _shapes(store, book, heads, limit, whole=whole)
        legs = store.collect([number for shape in shapes for number in shape.sample])
        checked = not whole and bool(store.askers_of(health_ports(facts)))
        more = store.collect(store.earliest(HEALTH_LEGS)) if checked else []
        strangers = store.strangers() if whole else Strangers(whole=False)
        given = replace(given, askers=store.askers() if recording.sample == 1 else None)
    finally:
        store.close()
    # Where only some legs are looked at, none of them is known to be the only one that fits.
    partial = recording.sample > 1 or (bool(clients) and not whole)
    given = replace(given, sampled=partial)
    judged = replace(given, sampled=partial or not whole)
    selection = select(legs, recording.taps, book, facts, judged, strangers=strangers)
    context = replace(
        context,
        habits=Habits(selection.trips, selection.connections),
        corroboration=Corroboration(given.ingress),
    )
    single = partial or bool(given.asked) or bool(clients) or selection.passed_balancers
    likeness = Likeness(context, heads, known=not single)
    everything = (
        selection if not checked else select(more, recording.taps, book, facts, given, strangers=Strangers())
    )
    watched = watched_of(
        everything,
        recording,
        book,
        facts,
        changes=given.changes,
        own=given.own,
        reasons=_not_all(count, recording.sample),
    )
    journeys, weights, skipped = _judged(
        selection, shapes, likeness, clients, stranded_too=whole and not partial
    )
    capture = _capture(recording, facts, selection, clients, skipped)
    if clients and not whole and len(shapes) == limit:
        reason = f"as many as {limit:,} connections touch these clients; later ones are not looked at"
        capture = msgspec.structs.replace(capture, complete=False, reasons=(*capture.reasons, reason))
    health = with_asked(codes_of(watched) if watched else {}, given.own, service)
    counts: Counter[str] = Counter()
    for journey in journeys:
        for code in journey.findings:
            omitted = weights.get(journey.id, _NONE_OMITTED)
            counts[code] += 1 + (omitted.count if omitted.alike else 0)
    return Report(
        capture=capture,
        summary=_summary(journeys, weights),
        journeys=tuple(journeys),
        findings=findings_of(journeys, counts, context, capture, health),
        paths=_paths(journeys, weights),
        service=service,
        journeys_omitted=sum(omitted.count for omitted in weights.values()),
        forgeries=forgeries_of(given.asked),
        health=watched.health if watched else None,
    )


def _shapes(store: LegStore, book: AddressBook, heads: Heads, limit: int, *, whole: bool) -> list[Shape]:
    """All shapes; up to `limit` legs of them to be told one by one."""
    classify = Classify(book.owner_codes, book.target_code, heads.code)
    count = store.shape(classify)
    return store.shapes(limit if whole else max(1, limit // count))


def _chosen(store: LegStore, recording: Recording, clients: Clients, limit: int) -> list[Shape]:
    """The legs of a large recording on which the wanted clients stand, each for itself, up to `limit`."""
    numbers = store.touching(clients, recording.heads)[:limit]
    return [Shape(number, 1, (number,)) for number in numbers]


def wanted_services(facts: Facts, service: str | None) -> tuple[Service, ...]:
    """The Services whose connections are journeys: the one named, else those that outsiders can reach."""
    if service is not None:
        chosen = tuple(entry for entry in facts.services if service in {entry.key, entry.name})
        if not chosen:
            raise UnknownServiceError(service)
        return chosen
    return tuple(entry for entry in facts.services if entry.external) or facts.services


def _not_all(count: int, sample: int) -> tuple[str, ...]:
    reasons = []
    if count > HEALTH_LEGS:
        reasons.append(
            f"only the first {HEALTH_LEGS:,} of {count:,} connections were held against health checks"
        )
    if sample > 1:
        reasons.append(f"only 1 of {sample:,} health checks and connections was watched")
    return tuple(reasons)


def _is_server(context: Context, protocol: int, address: int, port: int) -> bool:
    """Where UDP servers are; without facts, the well-known ports."""
    if not context.facts.known:
        return port < 1024
    return context.book.target(protocol, address, port) is not None


@dataclass(frozen=True, slots=True)
class _Omitted:
    """How many more like a journey were not told one by one, and whether they have its verdict for certain."""

    count: int
    alike: bool


_NONE_OMITTED = _Omitted(0, True)


def _decided_by_shape(
    selection: Selection, shape_of: dict[int, Shape], judge: Judge, likeness: Likeness
) -> dict[int, bool]:
    """For each shape whether its legs' verdicts follow from it, and not from what their requests and headers say."""
    decided: dict[int, bool] = defaultdict(lambda: True)
    for connection in selection.connections:
        key = shape_of[connection.trip.leg.number].key
        alike = not judge.particular(connection) or likeness.header_is_as_others(connection)
        decided[key] = decided[key] and alike
    return decided


def _judged(
    selection: Selection, shapes: Sequence[Shape], likeness: Likeness, clients: Clients, *, stranded_too: bool
) -> tuple[list[Journey], dict[str, _Omitted], Counter[bool | None]]:
    """Journeys in order of time, how many more like it some of them stand for, and how many were left out.

    Left out are those of clients that are not wanted (False), and of nobody knows whom (None).
    """
    shape_of = {number: shape for shape in shapes for number in shape.sample}
    context = likeness.context
    judge = Judge(context, {number: shape.key for number, shape in shape_of.items()})
    judge.listen(selection.connections)
    told: list[tuple[Journey, _Omitted]] = []
    for_certain = _decided_by_shape(selection, shape_of, judge, likeness)
    for connection in selection.connections:
        shape = shape_of[connection.trip.leg.number]
        first = connection.trip.leg.number == shape.sample[0] and connection.part == 0
        # Legs of one shape are journeys all or none, so the first of them stands for those left out.
        more = shape.count - len(shape.sample) if first else 0
        omitted = _Omitted(more, for_certain[shape.key])
        told.append((journey_of(judge.outcome(connection), context), omitted))
    if stranded_too:
        told += [
            (stranded(trip, context), _NONE_OMITTED)
            for trip in selection.ended_at_balancer
            if trip.leg.first_bytes is not None
        ]
    wanted = [clients.wants(journey) for journey, _ in told]
    skipped: Counter[bool | None] = Counter(each for each in wanted if not each)
    kept = [entry for entry, each in zip(told, wanted, strict=True) if each]
    return *_numbered(kept), skipped


def _numbered(told: list[tuple[Journey, _Omitted]]) -> tuple[list[Journey], dict[str, _Omitted]]:
    """Journeys in order of time with ids, and shapes shortened to numbers."""
    told.sort(key=lambda entry: (entry[0].hops[0].time, entry[0].hops[0].source))
    shapes: dict[str, str] = {}
    weights: dict[str, _Omitted] = {}
    journeys = []
    for number, (journey, more) in enumerate(told, start=1):
        shape = shapes.setdefault(journey.shape, f"path{len(shapes) + 1}")
        journeys.append(msgspec.structs.replace(journey, id=f"j{number}", shape=shape))
        if more.count:
            weights[f"j{number}"] = more
    return journeys, weights


def _summary(journeys: Sequence[Journey], weights: dict[str, _Omitted]) -> Summary:
    counts: Counter[Verdict] = Counter()
    crossed = 0
    for journey in journeys:
        omitted = weights.get(journey.id, _NONE_OMITTED)
        counts[journey.verdict] += 1
        counts[journey.verdict if omitted.alike else Verdict.INCONCLUSIVE] += omitted.count
        crossed += 1 + omitted.count if journey.cross_node is not None else 0
    return Summary(
        journeys=counts.total(),
        preserved=counts[Verdict.PRESERVED],
        lost=counts[Verdict.LOST],
        blackholed=counts[Verdict.BLACKHOLED],
        inconclusive=counts[Verdict.INCONCLUSIVE],
        cross_node=crossed,
    )


def _paths(journeys: Sequence[Journey], weights: dict[str, _Omitted]) -> tuple[Path, ...]:
    found: dict[str, list[Journey]] = {}
    counts: Counter[str] = Counter()
    for journey in journeys:
        found.setdefault(journey.shape, []).append(journey)
        counts[journey.shape] += 1 + weights.get(journey.id, _NONE_OMITTED).count
    return tuple(
        Path(shape=shape, count=counts[shape], verdict=group[0].verdict, example=group[0].id)
        for shape, group in found.items()
    )


def _capture(
    recording: Recording,
    facts: Facts,
    selection: Selection,
    clients: Clients,
    skipped: Counter[bool | None],
) -> Capture:
    return Capture(
        complete=not _reasons(recording, facts),
        nodes=tuple(sorted({tap.node for tap in recording.taps} | set(recording.nodes))),
        observations=len(recording.packets) + len(recording.nat),
        kernel_drops=recording.dropped,
        reasons=_reasons(recording, facts),
        health_checks=selection.probes,
        sample=recording.sample,
        clients=clients.texts,
        other_clients=skipped[False],
        unknown_clients=skipped[None],
    )


def _reasons(recording: Recording, facts: Facts) -> tuple[str, ...]:
    """Why something may have happened that the capture did not see."""
    tapped = {tap.node for tap in recording.taps}
    wanted = dict.fromkeys([*recording.expected_nodes, *(node.name for node in facts.nodes)])
    reasons = [f"{node} has no tap" for node in wanted if node not in tapped]
    lost: dict[str, int] = {}
    for tap, _, dropped in recording.losses:
        where = f"{tap.node}/{tap.interface}"
        lost[where] = lost.get(where, 0) + dropped
    reasons += [f"the kernel dropped {count} packets at {where}" for where, count in lost.items() if count]
    reasons += [
        f"{node}: {gap.what}: {gap.detail}" if node else f"{gap.what}: {gap.detail}"
        for node, gap in recording.gaps
    ]
    for stream in recording.streams:
        if stream.truncated:
            reasons.append(f"{stream.node}: {stream.truncated}")
        elif stream.hello is not None and stream.bye is None:
            reasons.append(f"{stream.node}: its agent stopped without an end mark")
    return tuple(reasons)
