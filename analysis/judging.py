"""Connections → outcomes: verdict, blame and finding codes, worked out once for each shape of path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis import paths
from analysis.addresses import AddressBook, OwnerKind, TargetKind, text
from analysis.blame import CODES, Blame, blame
from analysis.expectation import EXTERNAL_WAYS, Expected
from analysis.facts import Facts, Policy
from analysis.hops import Change
from analysis.journeys import PROXY_PAYLOADS, Connection, Trip
from analysis.knowledge import Coverage, entry_step, expectation, forged, learn
from analysis.recording import Recording
from analysis.report import Verdict
from analysis.verdict import Header, Judgement, Known, Silence, judge


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


class Judge:
    """Judges connections; those of one shape share what was worked out for the first of them."""

    def __init__(self, context: Context, shapes: dict[int, int]) -> None:
        self._context = context
        self._shapes = shapes  # number of a leg → key of its shape
        self._judged: dict[object, Outcome] = {}

    def outcome(self, connection: Connection) -> Outcome:
        """The outcome of one connection."""
        key = self._key(connection)
        known = self._judged.get(key)
        if known is None:
            known = self._judged[key] = _judge(connection, self._context)
            return known
        changes = changes_of(connection)
        blames = tuple(
            Blame(change, entry.node, entry.mechanism)
            for change, entry in zip(changes, known.blames, strict=True)
        )
        return Outcome(connection, known.known, known.judgement, blames, known.codes)

    def _key(self, connection: Connection) -> object:
        """Everything that a judgement may look at, but for names and numbers that change nothing.

        A header names somebody in particular, and source ranges admit somebody in particular.
        """
        trip = connection.trip
        first = trip.leg.first_bytes
        named = first is not None and first.payload in PROXY_PAYLOADS
        ranged = trip.target is not None and bool(trip.target.service.source_ranges)
        particular = trip.leg.number if named or ranged or trip.mixed else None
        before = connection.before.trip if connection.before else None
        return (
            self._shapes.get(trip.leg.number),
            trip.part,
            particular,
            self._signature(trip),
            self._signature(before) if before else None,
        )

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
    """Every change of the source address, of the leg before the balancer first."""
    before = connection.before.trip.changes if connection.before else ()
    return before + connection.trip.changes


def _judge(connection: Connection, context: Context) -> Outcome:
    known = learn(connection, context.coverage, context.book, context.facts)
    trips = [connection.before.trip] if connection.before else []
    blames = tuple(
        blame(change, trip.steps, context.book, context.facts)
        for trip in [*trips, connection.trip]
        for change in trip.changes
    )
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
    if known.header is Header.TAKEN and not known.replaced_before:
        # Below a header that carries the client, a replaced packet source does no harm.
        codes = ["SIP306"] if known.believed is False else ["SIP301"]
    elif judgement.verdict is Verdict.LOST and known.proxied:
        codes.insert(0, _balancer_code(connection))
    codes += _header_codes(connection, known)
    codes += _reach_codes(connection, known)
    codes += _way_codes(trip, known, judgement, context)
    if trip.disputed:
        codes.append("SIP904")
    if known.mixed:
        codes.append("SIP905")
    return tuple(dict.fromkeys(codes))


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
