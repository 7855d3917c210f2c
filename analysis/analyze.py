"""A recording and facts → the report. The one entrance to the analysis; the way of the data reads top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from analysis import paths
from analysis.addresses import PROTOCOL_NAMES, PROTOCOLS, AddressBook, OwnerKind, TargetKind, text
from analysis.blame import CODES, Blame, Mechanism, blame
from analysis.expectation import EXTERNAL_WAYS, Expected
from analysis.facts import Facts, Policy, Service
from analysis.findings import CATALOGUE
from analysis.journeys import Connection, Selection, Trip, select
from analysis.knowledge import Coverage, delivered, entry_step, expectation, forged, learn
from analysis.legs import find_legs
from analysis.recording import Recording
from analysis.report import Capture, Client, Finding, Journey, Path, Report, Severity, Snat, Summary, Verdict
from analysis.verdict import Header, Judgement, Known, Silence, judge

EVIDENCE_SHOWN = 5  # examples under one finding; the journeys themselves hold the rest


class UnknownServiceError(ValueError):
    """The Service that was asked for is not among the facts."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every step of the judgement looks things up in."""

    recording: Recording
    facts: Facts
    book: AddressBook
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Outcome:
    """One journey as judged."""

    connection: Connection
    known: Known
    judgement: Judgement
    blames: tuple[Blame, ...]
    codes: tuple[str, ...]


def analyze(
    recording: Recording, facts: Facts, *, service: str | None = None, title: str | None = None
) -> Report:
    """Judge every connection of a recording to `service` (`namespace/name`), or to all that are external.

    Raises UnknownServiceError.
    """
    services = wanted_services(facts, service)
    book = AddressBook(facts, recording.topologies, services)
    context = Context(recording, facts, book, Coverage.of(recording))
    legs = find_legs(recording, lambda protocol, address, port: _is_server(context, protocol, address, port))
    selection = select(legs, recording.taps, book, facts)
    outcomes = [_judge(connection, context) for connection in selection.connections]
    journeys = [_journey(outcome, context) for outcome in outcomes]
    journeys += [_stranded(trip, context) for trip in selection.ended_at_balancer if _wanted(trip, facts)]
    journeys = _numbered(journeys)
    capture = _capture(recording, facts, selection)
    return Report(
        capture=capture,
        summary=_summary(journeys),
        journeys=tuple(journeys),
        findings=_findings(journeys, recording, capture),
        paths=_paths(journeys),
        service=service,
        title=title,
    )


def wanted_services(facts: Facts, service: str | None) -> tuple[Service, ...]:
    """The Services whose connections are journeys: the one named, else those that outsiders can reach."""
    if service is not None:
        chosen = tuple(entry for entry in facts.services if service in {entry.key, entry.name})
        if not chosen:
            raise UnknownServiceError(service)
        return chosen
    return tuple(entry for entry in facts.services if entry.external) or facts.services


def _is_server(context: Context, protocol: int, address: int, port: int) -> bool:
    """Where UDP servers are; without facts, the well-known ports."""
    if not context.facts.known:
        return port < 1024
    return context.book.target(protocol, address, port) is not None


def _wanted(trip: Trip, facts: Facts) -> bool:
    """Whether a connection that ended at a balancer is worth a word: it carried data."""
    return facts.known and trip.leg.first_bytes is not None


def _judge(connection: Connection, context: Context) -> Outcome:
    known = learn(connection, context.coverage, context.book, context.facts)
    steps = connection.trip.steps
    blames = tuple(blame(change, steps, context.book, context.facts) for change in connection.trip.changes)
    judgement = judge(known)
    return Outcome(
        connection, known, judgement, blames, _codes(connection, known, judgement, blames, context)
    )


def _codes(
    connection: Connection, known: Known, judgement: Judgement, blames: Sequence[Blame], context: Context
) -> tuple[str, ...]:
    """The findings of one journey, the cause of the verdict first."""
    trip = connection.trip
    codes = [CODES[entry.mechanism] for entry in blames]
    if known.header is Header.TAKEN:
        codes = ["SIP301", *(_softened(code) for code in codes)]
    elif judgement.verdict is Verdict.LOST and known.proxied:
        codes.insert(0, _balancer_code(connection))
    codes += _header_codes(connection, known)
    codes += _reach_codes(connection, known)
    codes += _way_codes(trip, known, judgement, context)
    if known.mixed:
        codes.append("SIP905")
    return tuple(dict.fromkeys(code for code in codes if code))


def _softened(_code: str) -> str:
    """Below a PROXY header that carries the client, a replaced packet source does no harm."""
    return ""


def _balancer_code(connection: Connection) -> str:
    """In-cluster balancer pods masquerade packets; a balancer outside makes connections or translates."""
    if connection.owner.node is not None:
        return "SIP105"
    return "SIP104"


def _header_codes(connection: Connection, known: Known) -> list[str]:
    match known.header:
        case Header.REFUSED:
            return ["SIP302"]
        case Header.BROKEN:
            return ["SIP303"]
        case Header.FORGEABLE:
            return ["SIP305" if forged(connection) else "SIP304"]
        case _:
            return []


def _reach_codes(connection: Connection, known: Known) -> list[str]:
    """Connections that reached nobody."""
    trip = connection.trip
    entry = entry_step(trip.steps)
    expected = expectation(connection, entry) if entry is not None else Expected.FORWARD
    if known.silence is Silence.EXPECTED:
        return ["SIP205" if expected is Expected.DROP_SOURCE_RANGE else "SIP201"]
    if known.silence is Silence.UNEXPLAINED:
        return ["SIP203"]
    if known.rejected and known.forwarded:
        return ["SIP204"]
    if known.rejected:
        return ["SIP202" if expected is Expected.REJECT_NO_ENDPOINT else "SIP206"]
    return []


def _way_codes(trip: Trip, known: Known, judgement: Judgement, context: Context) -> list[str]:
    codes = []
    target = trip.target
    topologies = context.recording.topologies
    if paths.crossing(trip, context.recording.taps, topologies, context.book):
        codes.append("SIP401")
    if target is None or not target.frontend:
        return codes
    source = context.book.owner(trip.source)
    if target.kind is TargetKind.LOAD_BALANCER and source.kind in {OwnerKind.POD, OwnerKind.NODE}:
        codes.append("SIP402")
    cluster = target.service.external_policy is Policy.CLUSTER and target.kind in EXTERNAL_WAYS
    if cluster and judgement.verdict is Verdict.PRESERVED and not known.replaced and trip.header is None:
        codes.append("SIP403")
    if _served_while_terminating(trip):
        codes.append("SIP404")
    return codes


def _served_while_terminating(trip: Trip) -> bool:
    target = trip.target
    if target is None or not trip.leg.answered:
        return False
    reached = {(text(step.addresses.dst), step.addresses.dport) for step in trip.steps if step.at_endpoint}
    return any(
        (entry.address, entry.port) in reached and entry.terminating and not entry.ready
        for entry in target.service.endpoints
    )


def _journey(outcome: Outcome, context: Context) -> Journey:
    connection, trip = outcome.connection, outcome.connection.trip
    taps = context.recording.taps
    kept = trip.target.service.key if trip.target else None
    return Journey(
        id="",
        protocol=PROTOCOL_NAMES.get(trip.leg.protocol, str(trip.leg.protocol)),
        client=_client(outcome),
        verdict=outcome.judgement.verdict,
        confidence=_confidence(outcome),
        seen_by_app=_seen_by_app(outcome, context),
        hops=paths.hops(connection, taps, context.book),
        snat=paths.replacements(outcome.blames) + _hidden_snat(outcome),
        cross_node=paths.crossing(trip, taps, context.recording.topologies, context.book),
        proxy_protocol=paths.proxy_protocol(trip),
        findings=outcome.codes,
        service=kept,
        reason=outcome.judgement.reason,
        endpoint=_endpoint(trip, context),
        answered=trip.leg.answered,
        shape=_shape(outcome, context),
    )


def _confidence(outcome: Outcome) -> str:
    """Datagrams are followed by their payload, which two clients can share; handshakes by their numbers."""
    sure = outcome.judgement.confidence
    return "medium" if sure == "high" and outcome.connection.trip.leg.protocol != PROTOCOLS["tcp"] else sure


def _client(outcome: Outcome) -> Client | None:
    """The client as far back as evidence goes; nobody where only a balancer's own address is known."""
    connection = outcome.connection
    if connection.before is not None:
        first = connection.before.trip.steps[0].addresses
        return Client(text(first.src), first.sport)
    header = connection.trip.header
    if header is not None and header.source and outcome.known.header is not Header.FORGEABLE:
        address, _, port = header.source.rpartition(":")
        return Client(address.strip("[]"), int(port)) if port.isdigit() else None
    if outcome.known.proxied or not outcome.known.origin_certain:
        return None
    first = connection.trip.steps[0].addresses
    return Client(text(first.src), first.sport)


def _seen_by_app(outcome: Outcome, context: Context) -> str | None:
    """The address that the endpoint took for its client's, where it accepted the connection."""
    trip = outcome.connection.trip
    if outcome.known.header is Header.TAKEN and trip.header is not None and trip.header.source:
        return trip.header.source.rpartition(":")[0].strip("[]")
    answered = trip.leg.answered or trip.leg.response is not None
    if not answered or not delivered(trip, context.book, context.facts):
        return None
    return text(trip.steps[-1].addresses.src)


def _hidden_snat(outcome: Outcome) -> tuple[Snat, ...]:
    """The replacement that a balancer's own connection amounts to."""
    connection = outcome.connection
    if not outcome.known.proxied:
        return ()
    before = connection.before.trip.steps[0] if connection.before else None
    first = connection.trip.steps[0]
    mechanism = (
        str(Mechanism.SERVICE_LB) if connection.owner.node else "load balancer opened a connection of its own"
    )
    return (
        Snat(
            node=connection.owner.node or (first.place if first.kind and first.kind.value == "lb" else None),
            from_=paths.source_text(before) if before else "",
            to=paths.source_text(first),
            mechanism=mechanism,
        ),
    )


def _endpoint(trip: Trip, context: Context) -> str | None:
    reached = [step for step in trip.steps if step.at_endpoint]
    if not reached:
        return None
    owner = context.book.owner(reached[-1].addresses.dst)
    return owner.name or text(reached[-1].addresses.dst)


def _stranded(trip: Trip, context: Context) -> Journey:
    """A client's connection to a balancer to which nothing behind it could be tied."""
    first = trip.steps[0].addresses
    connection = Connection(trip, None, context.book.owner(trip.source))
    return Journey(
        id="",
        protocol=PROTOCOL_NAMES.get(trip.leg.protocol, str(trip.leg.protocol)),
        client=Client(text(first.src), first.sport),
        verdict=Verdict.INCONCLUSIVE,
        confidence="none",
        seen_by_app=None,
        hops=paths.hops(connection, context.recording.taps, context.book),
        snat=(),
        cross_node=None,
        proxy_protocol=None,
        findings=(),
        reason="the client reached the load balancer, and no connection of the balancer could be tied to it",
        answered=trip.leg.answered,
        shape="ends at the load balancer",
    )


def _shape(outcome: Outcome, context: Context) -> str:
    """What two journeys share when they took the same path: places, points, owners and changes."""
    hops = paths.hops(outcome.connection, context.recording.taps, context.book)
    walked = " ".join(
        f"{hop.node}/{hop.interface}/{hop.point}/{''.join(c[0] for c in hop.changed)}" for hop in hops
    )
    blamed = ",".join(str(entry.mechanism) for entry in outcome.blames)
    return f"{outcome.judgement.verdict} {outcome.judgement.reason} | {walked} | {blamed} | {outcome.codes}"


def _numbered(journeys: list[Journey]) -> list[Journey]:
    """Journeys in order of time with ids, and shapes shortened to numbers."""
    ordered = sorted(journeys, key=lambda journey: (journey.hops[0].time, journey.hops[0].source))
    shapes: dict[str, str] = {}
    return [
        msgspec.structs.replace(
            journey, id=f"j{number}", shape=shapes.setdefault(journey.shape, f"path{len(shapes) + 1}")
        )
        for number, journey in enumerate(ordered, start=1)
    ]


def _summary(journeys: Sequence[Journey]) -> Summary:
    counts = {verdict: sum(journey.verdict is verdict for journey in journeys) for verdict in Verdict}
    return Summary(
        journeys=len(journeys),
        preserved=counts[Verdict.PRESERVED],
        lost=counts[Verdict.LOST],
        blackholed=counts[Verdict.BLACKHOLED],
        inconclusive=counts[Verdict.INCONCLUSIVE],
        cross_node=sum(journey.cross_node is not None for journey in journeys),
    )


def _paths(journeys: Sequence[Journey]) -> tuple[Path, ...]:
    found: dict[str, list[Journey]] = {}
    for journey in journeys:
        found.setdefault(journey.shape, []).append(journey)
    return tuple(
        Path(shape=shape, count=len(group), verdict=group[0].verdict, example=group[0].id)
        for shape, group in found.items()
    )


def _capture(recording: Recording, facts: Facts, selection: Selection) -> Capture:
    return Capture(
        complete=not _reasons(recording, facts),
        nodes=tuple(sorted({tap.node for tap in recording.taps} | set(recording.nodes))),
        observations=len(recording.packets) + len(recording.nat),
        kernel_drops=recording.dropped,
        reasons=_reasons(recording, facts),
        health_checks=selection.probes,
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
    reasons += [f"{node}: {gap.what}: {gap.detail}" for node, gap in recording.gaps]
    for stream in recording.streams:
        if stream.truncated:
            reasons.append(f"{stream.node}: {stream.truncated}")
        elif stream.hello is not None and stream.bye is None:
            reasons.append(f"{stream.node}: its agent stopped without an end mark")
    return tuple(reasons)


def _findings(journeys: Sequence[Journey], recording: Recording, capture: Capture) -> tuple[Finding, ...]:
    concerned: dict[str, list[Journey]] = {}
    for journey in journeys:
        for code in journey.findings:
            concerned.setdefault(code, []).append(journey)
    found = [_finding(code, group) for code, group in concerned.items()]
    found += _capture_findings(recording, capture)
    order = list(Severity)
    return tuple(sorted(found, key=lambda finding: (order.index(finding.severity), finding.code)))


def _finding(code: str, journeys: Sequence[Journey]) -> Finding:
    definition = CATALOGUE[code]
    return Finding(
        code=code,
        severity=definition.severity,
        title=definition.title,
        detail=definition.explanation,
        fix=definition.fix,
        docs=definition.docs,
        evidence=tuple(_evidence(journey) for journey in journeys[:EVIDENCE_SHOWN]),
        journeys=len(journeys),
    )


def _evidence(journey: Journey) -> str:
    """One line that points at the place in one journey."""
    for snat in journey.snat:
        place = f" at {snat.node}" if snat.node else ""
        came = f"{snat.from_} became {snat.to}" if snat.from_ else f"the source is {snat.to}"
        return f"{journey.id}: {came}{place}"
    last = journey.hops[-1]
    return f"{journey.id}: {last.source} to {last.destination}, last seen at {last.node} ({last.point})"


def _capture_findings(recording: Recording, capture: Capture) -> list[Finding]:
    codes = []
    if recording.dropped:
        codes.append(("SIP901", [reason for reason in capture.reasons if "dropped" in reason]))
    untapped = [reason for reason in capture.reasons if reason.endswith("has no tap")]
    if untapped:
        codes.append(("SIP902", untapped))
    cut = [
        f"{stream.node}: {stream.truncated or 'no end mark'}"
        for stream in recording.streams
        if stream.truncated or (stream.hello is not None and stream.bye is None)
    ]
    if cut:
        codes.append(("SIP903", cut))
    return [
        Finding(
            code=code,
            severity=CATALOGUE[code].severity,
            title=CATALOGUE[code].title,
            detail=CATALOGUE[code].explanation,
            fix=CATALOGUE[code].fix,
            docs=CATALOGUE[code].docs,
            evidence=tuple(lines[:EVIDENCE_SHOWN]),
        )
        for code, lines in codes
    ]
