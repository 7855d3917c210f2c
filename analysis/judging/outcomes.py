"""Connections → outcomes: verdict, blame and finding codes, worked out once for each shape of path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from analysis.chain.claims import address_in
from analysis.chain.trips import PROXY_PAYLOADS, Connection, Trip
from analysis.facts import Facts, Policy
from analysis.hops import hops
from analysis.hops.addresses import AddressBook, OwnerKind, TargetKind, text
from analysis.hops.steps import Change
from analysis.ingress import IngressFacts
from analysis.judging.blame import CODES, Blame, Mechanism, blame
from analysis.judging.corroboration import Corroboration, Support
from analysis.judging.difference import differences
from analysis.judging.disbelief import client_claims, disbelief
from analysis.judging.expectation import EXTERNAL_WAYS, Expected
from analysis.judging.knowledge import Coverage, entry_step, expectation, forged, learn
from analysis.judging.mismatch import Habits, mismatches
from analysis.judging.verdict import Carried, Header, Judgement, Known, Named, Silence, judge
from analysis.recording import Recording
from analysis.report import Resolved, Verdict
from analysis.rules.blame import by_rule, dropped_code, ends_at, outdated
from analysis.rules.hits import RuleBook

#: Why a connection got no further than a node, as far as facts and packets tell.
_NO_FURTHER = frozenset({"SIP201", "SIP202", "SIP203", "SIP205", "SIP206"})


@dataclass(frozen=True, slots=True)
class Context:
    """What every step of the judgement looks things up in."""

    recording: Recording
    facts: Facts
    book: AddressBook
    coverage: Coverage
    habits: Habits = field(default_factory=lambda: Habits(()))
    corroboration: Corroboration = field(default_factory=lambda: Corroboration(IngressFacts()))
    rules: RuleBook = field(default_factory=RuleBook)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One journey as judged."""

    connection: Connection
    known: Known
    judgement: Judgement
    blames: tuple[Blame, ...]
    codes: tuple[str, ...]
    support: tuple[Support, ...] = ()
    resolved: tuple[Resolved, ...] = ()


class Judge:
    """Judges connections; those of one shape share what was worked out for the first of them."""

    def __init__(self, context: Context, shapes: dict[int, int]) -> None:
        self._context = context
        self._shapes = shapes  # number of a leg → key of its shape
        self._judged: dict[object, Outcome] = {}
        self._named: dict[
            object, tuple[Mechanism, ...]
        ] = {}  # mechanisms by the rules that a leg of a shape met

    def listen(self, connections: Sequence[Connection]) -> None:
        """Judge those first of which rules are known: what rules did to them, they did to others of their shape."""
        for connection in connections:
            if self._context.rules and self._context.rules.met(connection.trip.leg):
                blames = self.outcome(connection).blames
                if blames and all(entry.rule for entry in blames):
                    self._named.setdefault(
                        self._alike(connection), tuple(entry.mechanism for entry in blames)
                    )

    def outcome(self, connection: Connection) -> Outcome:
        """The outcome of one connection."""
        key = self._key(connection)
        known = self._judged.get(key)
        if known is None:
            named = self._named.get(self._alike(connection)) if self._named else None
            known = self._judged[key] = _judge(connection, self._context, named)
            return known
        if known.connection is connection:
            return known
        changes = changes_of(connection)
        blames = tuple(
            replace(entry, change=change) for change, entry in zip(changes, known.blames, strict=True)
        )
        return Outcome(connection, known.known, known.judgement, blames, known.codes)

    def particular(self, connection: Connection) -> bool:
        """Whether a judgement looks at what this connection alone carries: names in headers, requests, words."""
        trip = connection.trip
        first = trip.leg.first_bytes
        named = first is not None and first.payload in PROXY_PAYLOADS
        ranged = trip.target is not None and bool(trip.target.service.source_ranges)
        heard = connection.last_word is not None or bool(connection.claims) or trip.unreadable is not None
        told = bool(self._context.corroboration)
        return named or ranged or heard or told or trip.mixed or bool(connection.chain)

    def _key(self, connection: Connection) -> object:
        """Everything that a judgement may look at, but for names and numbers that change nothing."""
        trip = connection.trip
        return (
            self._shapes.get(trip.leg.number),
            trip.part,
            (trip.leg.number, connection.part) if self.particular(connection) else None,
            trip.leg.stream.closed_unanswered,
            self._signature(trip),
            trip.leg.number
            if any(self._context.rules.met(each.leg) for each in _trips(connection))
            else None,
        )

    def _alike(self, connection: Connection) -> object:
        """What connections share to which the same rules apply."""
        trip = connection.trip
        return (self._shapes.get(trip.leg.number), trip.part, len(connection.chain), self._signature(trip))

    def _signature(self, trip: Trip) -> object:
        """The way of a leg in owners and places."""
        book = self._context.book
        sources: dict[int, int] = {}
        return tuple(
            (
                step.place,
                step.kind,
                step.tunnel,
                step.asked,
                step.frontend,
                step.at_endpoint,
                book.owner(step.addresses.src),
                book.owner(step.addresses.dst),
                sources.setdefault(step.addresses.src, len(sources)),
            )
            for step in trip.steps
        )


def changes_of(connection: Connection) -> tuple[Change, ...]:
    """Every change of the source address, on the client's own leg first."""
    return tuple(change for trip in _trips(connection) for change in trip.changes)


def _trips(connection: Connection) -> tuple[Trip, ...]:
    return (*(link.trip for link in connection.chain), connection.trip)


def _judge(connection: Connection, context: Context, named: Sequence[Mechanism] | None = None) -> Outcome:
    known = learn(connection, context.coverage, context.book, context.facts)
    blames = _blames(connection, context)
    if named is not None and len(named) == len(blames):
        blames = tuple(
            entry if entry.rule else replace(entry, mechanism=mechanism)
            for entry, mechanism in zip(blames, named, strict=True)
        )
    resolved = context.corroboration.resolved(connection)
    if context.corroboration.disbelieves(connection, resolved):
        known = replace(known, doubted=True)
    if known.header is Header.TAKEN and context.habits.disbelieves(connection):
        known = replace(known, header=Header.UNBELIEVED)
    if connection.last_word is None and not connection.last and not _believed(connection, resolved):
        known = replace(known, unheard=True)
    judgement = judge(known)
    codes = _codes(connection, known, judgement, blames, context)
    refined, support = context.corroboration.refined(connection, codes)
    if any(entry.agrees is False for entry in resolved):
        refined.append("SIP507")
    further, sides = differences(connection, known, blames, refined, context.facts)
    codes = (*refined, *further)
    return Outcome(connection, known, judgement, blames, codes, (*support, *sides), resolved)


def _believed(connection: Connection, resolved: Sequence[Resolved]) -> bool:
    """Whether a server takes for its client whom the header names, by its configuration."""
    named = connection.trip.named
    return any(entry.client is not None and address_in(entry.client) == named for entry in resolved)


def _blames(connection: Connection, context: Context) -> tuple[Blame, ...]:
    """Who replaced the source, by facts and addresses, or by the rule where the kernel named it."""
    return tuple(
        by_rule(blame(change, trip.steps, context.book, context.facts), trip, context.rules)
        for trip in _trips(connection)
        for change in trip.changes
    )


def _codes(
    connection: Connection, known: Known, judgement: Judgement, blames: Sequence[Blame], context: Context
) -> tuple[str, ...]:
    """The findings of one journey, the cause of the verdict first."""
    trip = connection.trip
    codes = _cause_codes(connection, known, judgement, blames)
    codes += _header_codes(connection, known)
    # What somebody wrote on his own account is no disagreement of balancer and server.
    own = forged(connection) or connection.passed_on
    codes += [] if own else mismatches(connection, context.habits)
    codes += _reach_codes(connection, known, context.facts)
    for attempt in connection.attempts:
        alone = Connection(attempt, (), connection.owner)
        codes += _reach_codes(
            alone, learn(alone, context.coverage, context.book, context.facts), context.facts
        )
    codes = _named_codes(trip, codes, blames, context.rules)
    codes += _way_codes(trip, known, judgement, context)
    codes += _reading_codes(connection, known, judgement)
    if trip.disputed:
        codes.append("SIP904")
    if known.mixed:
        codes.append("SIP905")
    return tuple(dict.fromkeys(codes))


def _cause_codes(
    connection: Connection, known: Known, judgement: Judgement, blames: Sequence[Blame]
) -> list[str]:
    """What became of the address, and through whom; the cause of the verdict first."""
    replaced = [CODES[entry.mechanism] for entry in blames]
    if known.named in {Named.OTHER, Named.AMONG}:
        by_packets = [*([_balancer_code(connection)] if known.proxied else []), *replaced]
        why = disbelief(connection, known)
        if known.named is Named.AMONG or known.header is Header.TAKEN:
            return why  # the address is not lost for the packets' sake
        return why or by_packets
    if known.header is Header.CUT and known.named is Named.CLIENT and known.carried is Carried.NO:
        return ["SIP301"]
    if known.header is Header.TAKEN and not known.replaced_before:
        # Below a header that carries the client, a replaced packet source does no harm.
        return ["SIP301", "SIP315"] if known.replaced else ["SIP301"]
    if judgement.verdict is Verdict.PRESERVED and (known.proxied or known.replaced or known.replaced_before):
        return ["SIP505"]
    if judgement.verdict is Verdict.LOST and known.proxied:
        return [_balancer_code(connection), *replaced]
    if known.proxied and known.carried is not Carried.NO:
        return []  # what was replaced is the balancer's own address, and the client may be in a field
    return replaced


def _balancer_code(connection: Connection) -> str:
    """In-cluster balancer pods masquerade packets; a balancer outside makes connections or translates."""
    if connection.owner.node is not None:
        return "SIP105"
    return "SIP104"


def _header_codes(connection: Connection, known: Known) -> list[str]:
    if known.header is not Header.FORGEABLE or (forged(connection) and known.named is Named.CLIENT):
        return []
    return ["SIP305" if forged(connection) else "SIP304"]


def _reading_codes(connection: Connection, known: Known, judgement: Judgement) -> list[str]:
    """What the requests showed besides, or did not show."""
    codes = []
    # That a forged header is refused is as it should be.
    vain = known.named is Named.CLIENT or (forged(connection) and known.header is Header.REFUSED)
    if vain and (client_claims(connection) or forged(connection)):
        codes.append("SIP506")
    hidden = connection.trip.unreadable
    decisive = known.carried is Carried.HIDDEN and known.header is Header.ABSENT
    decisive = decisive and judgement.verdict is Verdict.INCONCLUSIVE
    if hidden == "HTTP/2" or (hidden is not None and decisive):
        codes.append("SIP508")
    return codes


def _reach_codes(connection: Connection, known: Known, facts: Facts) -> list[str]:
    """Connections that reached nobody."""
    trip = connection.trip
    entry = entry_step(trip.steps)
    expected = expectation(connection, entry, facts) if entry is not None else Expected.FORWARD
    if known.silence is Silence.EXPECTED:
        return ["SIP205" if expected is Expected.DROP_SOURCE_RANGE else "SIP201"]
    if known.silence is Silence.UNEXPLAINED:
        return ["SIP203"]
    if known.rejected and known.forwarded:
        return ["SIP204"]
    if known.rejected:
        return ["SIP202" if expected is Expected.REJECT_NO_ENDPOINT else "SIP206"]
    return []


def _named_codes(trip: Trip, codes: list[str], blames: Sequence[Blame], rules: RuleBook) -> list[str]:
    """The codes with what the kernel says of its own rules: a rule that dropped the packet is the cause."""
    if (end := ends_at(trip, rules)) is not None:
        code = dropped_code(end)
        guessed = [index for index, each in enumerate(codes) if each in _NO_FURTHER]
        at = guessed[0] if guessed else len(codes)
        codes = [each for each in codes if each not in _NO_FURTHER]
        codes.insert(at, code)
    return codes + (["SIP424"] if outdated(blames, trip) else [])


def _way_codes(trip: Trip, known: Known, judgement: Judgement, context: Context) -> list[str]:
    codes = []
    target = trip.target
    topologies = context.recording.topologies
    if hops.crossing(trip, context.recording.taps, topologies, context.book):
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
