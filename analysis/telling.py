"""Outcomes → the report's journeys and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.catalogue.findings import CATALOGUE
from analysis.chain.claims import address_in
from analysis.chain.trips import Connection, Trip, Word
from analysis.hops import hops
from analysis.hops.addresses import PROTOCOL_NAMES, PROTOCOLS, AddressBook, text
from analysis.hops.display_filter import display_filter
from analysis.judging.blame import CODES, Mechanism
from analysis.judging.full_table import codes_of
from analysis.judging.knowledge import delivered, speaks_for_others
from analysis.judging.mismatch import Reaction, reaction
from analysis.judging.outcomes import Context, Outcome
from analysis.judging.verdict import Carried, Header, Named
from analysis.ports import is_port
from analysis.recording import Recording
from analysis.report import Capture, Client, Finding, Hop, Journey, Severity, Snat, Verdict
from analysis.rules.blame import ends_at, told

#: Findings that other faults would look like as well, as long as no configuration or log speaks for them.
AMBIGUOUS = frozenset({"SIP302", "SIP307", "SIP308", "SIP309", "SIP310", "SIP312"})

#: Findings about what a rule did: the rule stands beside their evidence, where the kernel named it.
_BY_RULES = frozenset(CODES.values()) | {"SIP422", "SIP424"}

EVIDENCE_SHOWN = 5  # examples under one finding; the journeys themselves hold the rest


def journey_of(outcome: Outcome, context: Context) -> Journey:
    """The journey as it is told; its id is given later, in order of time."""
    connection, trip = outcome.connection, outcome.connection.trip
    taps = context.recording.taps
    kept = trip.target.service.key if trip.target else None
    walked = hops.hops(connection, taps, context.book)
    protocol = PROTOCOL_NAMES.get(trip.leg.protocol, str(trip.leg.protocol))
    if (end := ends_at(trip, context.rules)) is not None:
        walked += (hops.ended(walked[-1], end),)
    return Journey(
        id="",
        protocol=protocol,
        client=_client(outcome, context.book),
        verdict=outcome.judgement.verdict,
        confidence=_confidence(outcome),
        seen_by_app=_seen_by_app(outcome, context),
        hops=walked,
        snat=hops.replacements(outcome.blames) + _hidden_snat(outcome),
        cross_node=hops.crossing(trip, taps, context.recording.topologies, context.book),
        proxy_protocol=hops.proxy_protocol(trip),
        findings=outcome.codes,
        service=kept,
        reason=outcome.judgement.reason,
        endpoint=_endpoint(trip, context),
        answered=trip.leg.answered,
        shape=_shape(outcome, walked),
        requests=len(connection.requests),
        attempts=len(connection.attempts),
        support=tuple(f"{entry.code}: {entry.text}" for entry in outcome.support),
        resolved=outcome.resolved,
        display_filter=display_filter(protocol, walked),
        rules=told(connection, context.rules) if context.rules else (),
    )


def _confidence(outcome: Outcome) -> str:
    """Datagrams are followed by their payload, which two clients can share; handshakes by their numbers."""
    sure = outcome.judgement.confidence
    return "medium" if sure == "high" and outcome.connection.trip.leg.protocol != PROTOCOLS["tcp"] else sure


def _client(outcome: Outcome, book: AddressBook) -> Client | None:
    """The client as far back as evidence goes; nobody where only a balancer's own address is known."""
    connection, known = outcome.connection, outcome.known
    if connection.chain:
        first = connection.chain[0].trip.steps[0].addresses
        return None if speaks_for_others(first.src, book) else Client(text(first.src), first.sport)
    first = connection.trip.steps[0].addresses
    if known.client == first.src:
        return Client(text(first.src), first.sport)
    named = [header.source for header in connection.trip.headers if header.source]
    if named and not connection.passed_on and known.header not in {Header.FORGEABLE, Header.TRANSLATED}:
        address, _, port = named[-1].rpartition(":")
        return Client(address.strip("[]"), int(port)) if is_port(port) else None
    if known.proxied or not known.origin_certain:
        return None
    return Client(text(first.src), first.sport)


def _seen_by_app(outcome: Outcome, context: Context) -> str | None:
    """The address that the last server that is known of took for its client's."""
    connection, known = outcome.connection, outcome.known
    trip, word = connection.trip, connection.last_word
    if word is not None and word.point != "http-header":
        return _named(word, connection)
    if word is not None:
        # What the application makes of what it was told is not known; that it was not told is.
        return _named(word, connection) if known.named is Named.OTHER else None
    if known.header is Header.REFUSED or reaction(trip) is Reaction.CLOSED:
        return None
    open_end = known.replaced or not known.delivered or known.unheard
    if known.contested or (known.header is Header.TAKEN and open_end):
        return None
    if known.header is Header.TAKEN and trip.header is not None and trip.header.source:
        return trip.header.source.rpartition(":")[0].strip("[]")
    answered = trip.leg.answered or trip.leg.response is not None
    if known.carried is not Carried.NO or not answered or not delivered(trip, context.book, context.facts):
        return None
    return text(trip.steps[-1].addresses.src)


def _named(word: Word, connection: Connection) -> str:
    """One of the addresses of the word: the client's where it is among them."""
    client = connection.chain[0].trip.source if connection.chain else connection.trip.source
    addresses = [found for named in word.addresses if (found := address_in(named)) is not None]
    if client in addresses:
        return text(client)
    return text(addresses[0]) if addresses else word.addresses[0]


def _hidden_snat(outcome: Outcome) -> tuple[Snat, ...]:
    """The replacement that a balancer's own connection amounts to."""
    connection = outcome.connection
    spared = outcome.judgement.verdict is not Verdict.LOST or outcome.known.header is Header.TAKEN
    if not outcome.known.proxied or spared or outcome.known.carried is Carried.CLIENT:
        return ()  # the balancer passed the client's address on in its own way
    before = connection.chain[0].trip.steps[0] if connection.chain else None
    first = connection.trip.steps[0]
    mechanism = "load balancer (a connection of its own, or SNAT)"
    if connection.owner.node:
        mechanism = str(Mechanism.SERVICE_LB)
    elif connection.chain:
        mechanism = "load balancer opened a connection of its own"
    return (
        Snat(
            node=connection.owner.node or (first.place if first.kind and first.kind.value == "lb" else None),
            from_=hops.source_text(before) if before else "",
            to=hops.source_text(first),
            mechanism=mechanism,
        ),
    )


def _endpoint(trip: Trip, context: Context) -> str | None:
    reached = [step for step in trip.steps if step.at_endpoint]
    if not reached:
        return None
    owner = context.book.owner(reached[-1].addresses.dst)
    return owner.name or text(reached[-1].addresses.dst)


def stranded(trip: Trip, context: Context) -> Journey:
    """A client's connection to a balancer to which nothing behind it could be tied."""
    first = trip.steps[0].addresses
    connection = Connection(trip, (), context.book.owner(trip.source))
    protocol = PROTOCOL_NAMES.get(trip.leg.protocol, str(trip.leg.protocol))
    walked = hops.hops(connection, context.recording.taps, context.book)
    return Journey(
        id="",
        protocol=protocol,
        client=Client(text(first.src), first.sport),
        verdict=Verdict.INCONCLUSIVE,
        confidence="none",
        seen_by_app=None,
        hops=walked,
        snat=(),
        cross_node=None,
        proxy_protocol=None,
        findings=(),
        reason="the client reached the load balancer, and no connection of the balancer could be tied to it",
        answered=trip.leg.answered,
        shape="ends at the load balancer",
        display_filter=display_filter(protocol, walked),
    )


def _shape(outcome: Outcome, hops: Sequence[Hop]) -> str:
    """What two journeys share when they took the same path: places, points, changes and blame."""
    walked = " ".join(
        f"{hop.node}/{hop.interface}/{hop.point}/{''.join(word[0] for word in hop.changed)}"
        for hop in hops
        if hop.evidence != "rule"
    )
    blamed = ",".join(entry.mechanism for entry in outcome.blames)
    return f"{outcome.judgement.verdict} {outcome.judgement.reason} | {walked} | {blamed} | {outcome.codes}"


def findings_of(
    journeys: Sequence[Journey],
    counts: dict[str, int],
    context: Context,
    capture: Capture,
    others: Mapping[str, Sequence[str]],
) -> tuple[Finding, ...]:
    """The session's findings, gravest first; `counts` says how many journeys each code is about.

    `others` are codes that are not about journeys, with their evidence.
    """
    concerned: dict[str, list[Journey]] = {}
    for journey in journeys:
        for code in journey.findings:
            concerned.setdefault(code, []).append(journey)
    found = [_finding(code, group, counts[code]) for code, group in concerned.items()]
    if openings := context.corroboration.open_lists():
        found.append(told_finding("SIP509", openings))
    found += [told_finding(code, lines) for code, lines in others.items()]
    unnamed = {snat.node for journey in journeys for snat in journey.snat if snat.rule is None and snat.node}
    found += _capture_findings(context.recording, capture, frozenset(unnamed))
    found += [told_finding(code, lines) for code, lines in codes_of(context.coverage.full).items()]
    order = list(Severity)
    return tuple(sorted(found, key=lambda finding: (order.index(finding.severity), finding.code)))


def _finding(code: str, journeys: Sequence[Journey], count: int) -> Finding:
    definition = CATALOGUE[code]
    supported = [
        f"{journey.id}: {line.removeprefix(f'{code}: ')}"
        for journey in journeys
        for line in journey.support
        if line.startswith(f"{code}: ")
    ]
    shown = [_evidence(journey, code) for journey in journeys[: EVIDENCE_SHOWN - bool(supported)]] + supported
    return Finding(
        code=code,
        severity=definition.severity,
        title=definition.title,
        detail=definition.explanation,
        fix=definition.fix,
        docs=definition.docs,
        evidence=tuple(shown[:EVIDENCE_SHOWN]),
        journeys=count,
        confidence="medium" if code in AMBIGUOUS and not supported else "high",
    )


def _evidence(journey: Journey, code: str) -> str:
    """One line that points at the place in one journey."""
    for snat in journey.snat:
        place = f" at {snat.node}" if snat.node else ""
        came = f"{snat.from_} became {snat.to}" if snat.from_ else f"the source is {snat.to}"
        return f"{journey.id}: {came}{place}" + (
            f" by {snat.rule}" if snat.rule and code in _BY_RULES else ""
        )
    if journey.hops[-1].evidence == "rule":
        end = journey.hops[-1]
        return f"{journey.id}: {end.source} to {end.destination} at {end.node}: {end.note}"
    last = next(
        (hop for hop in reversed(journey.hops) if hop.evidence in {"packet", "conntrack"}), journey.hops[-1]
    )
    return f"{journey.id}: {last.source} to {last.destination}, last seen at {last.node} ({last.point})"


def _capture_findings(recording: Recording, capture: Capture, unnamed: frozenset[str]) -> list[Finding]:
    """Findings about the capture itself; `unnamed` are nodes where a source was replaced by no rule that was named."""
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
    if untraced := [*_untraced(recording), *_uncounted(recording, unnamed)]:
        codes.append(("SIP423", untraced))
    if mixed := _mixed(recording):
        codes.append(("SIP425", mixed))
    return [told_finding(code, lines) for code, lines in codes]


def _untraced(recording: Recording) -> list[str]:
    """Where rules were to be traced and were not, or not for all packets."""
    last = {(node, state.namespace): state for node, state in recording.tracings}
    counted = {(node, counts.namespace) for node, counts in recording.rule_counts if not counts.refused}
    lines = []
    for (node, namespace), state in last.items():
        where = f"{node}, pod namespace {namespace}" if namespace else node
        if state.refused:
            lines.append(f"{where}: {state.refused}")
        elif state.overrun:
            lines.append(f"{where}: the kernel told of more than could be read")
        elif state.unheard and (node, namespace) not in counted:
            tables = ", ".join(state.unheard[:8])
            lines.append(f"{where}: rules of iptables-legacy are not told (tables {tables})")
        elif state.full:
            lines.append(
                f"{where}: only the first {state.limit} packets were traced; --trace-limit allows more"
            )
    return lines


def _uncounted(recording: Recording, unnamed: frozenset[str]) -> list[str]:
    """Nodes where a source was replaced by no rule that was named, and rules of iptables-legacy may have done it."""
    lines = []
    for node, counts in recording.rule_counts:
        if counts.namespace or node not in unnamed:
            continue
        if counts.refused:
            lines.append(f"{node}: rules of iptables-legacy are not told: {counts.refused}")
        elif counts.tables:
            lines.append(f"{node}: the counters of iptables-legacy do not tell which of its rules it was")
    return lines


def _mixed(recording: Recording) -> list[str]:
    """Nodes that have rules of both kinds."""
    return [
        f"{node}: iptables-legacy has rules in {', '.join(counts.tables[:8])}; "
        f"nftables in {', '.join(counts.rivals[:8])}"
        for node, counts in recording.rule_counts
        if counts.tables and counts.rivals and not counts.namespace
    ]


def told_finding(code: str, lines: Sequence[str]) -> Finding:
    """A finding that is about the session or what was given with it, not about journeys."""
    return Finding(
        code=code,
        severity=CATALOGUE[code].severity,
        title=CATALOGUE[code].title,
        detail=CATALOGUE[code].explanation,
        fix=CATALOGUE[code].fix,
        docs=CATALOGUE[code].docs,
        evidence=tuple(lines[:EVIDENCE_SHOWN]),
    )
