"""What configurations and logs add to what was seen: support for findings, words of servers, expected clients.

A log line is a server's own word and may stand in for a packet that nobody could read. A configuration says what
should be; where the same server was heard to say otherwise, that difference is a finding of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.chain.claims import address_in
from analysis.chain.trips import PROXY_PAYLOADS, Connection, Trip, Word
from analysis.hops.addresses import endpoint, text
from analysis.ingress import IngressFacts, Kind, Listener, LogEntry, Problem
from analysis.judging.mismatch import Reaction, reaction
from analysis.report import Resolved
from analysis.trust.evaluate import differs, resolve
from analysis.trust.model import Arrival, Fields, Settings, TrustError
from analysis.trust.overtrust import overtrust

#: The finding that each complaint of a server speaks for.
_SPEAKS_FOR = {
    Problem.HEADER_MISSING: ("SIP307",),
    Problem.HEADER_LATE: ("SIP307",),
    Problem.HEADER_UNEXPECTED: ("SIP302", "SIP308"),
    Problem.REQUEST_INVALID: ("SIP302", "SIP311"),
    Problem.PLAIN_ON_TLS: ("SIP308",),
    Problem.TLS_FAILED: ("SIP308",),
    Problem.HEADER_MALFORMED: ("SIP303", "SIP310"),
    Problem.HEADER_REFUSED: ("SIP303", "SIP309", "SIP310", "SIP312"),
    Problem.HEADER_VERSION: ("SIP309",),
    Problem.HEADER_FAMILY: ("SIP312",),
}

#: Complaints that name a cause which the packets leave open.
_CAUSES = {
    Problem.HEADER_VERSION: "SIP309",
    Problem.HEADER_FAMILY: "SIP312",
    Problem.HEADER_MALFORMED: "SIP303",
}
_OPEN = {"SIP302", "SIP308", "SIP309", "SIP312"}

#: What the server behind the ingress is called among the resolved.
APPLICATION = "application"

#: Servers that are applications, not proxies in front of them.
_APPLICATIONS = frozenset({Kind.UVICORN})


@dataclass(frozen=True, slots=True)
class Support:
    """One statement of a configuration or log that speaks for a finding."""

    code: str
    text: str


def lines_about(trip: Trip, facts: IngressFacts) -> tuple[LogEntry, ...]:
    """What the logs say of a connection as its endpoint saw it."""
    if not facts:
        return ()
    last = (trip.reached or trip.steps[-1]).addresses
    return facts.entries_about(endpoint(last.src, last.sport), *_span(trip), last.dport)


def logged_word(trip: Trip, facts: IngressFacts) -> Word | None:
    """Whom the endpoint took for the client by its own log; None where it does not say, or says several things."""
    lines = [
        entry for entry in lines_about(trip, facts) if entry.client is not None and entry.problem is None
    ]
    clients = {str(entry.client) for entry in lines}
    if len(clients) != 1:
        return None
    return _word(lines[0], trip)


def application_word(word: Word | None, facts: IngressFacts) -> Word | None:
    """Whom the server behind the endpoint took for the client by its own log.

    The log of an application tells only whom it took for the client. Where that is the very socket of the server in
    front of it, the line is about that connection.
    """
    if word is None or word.onward is None or not facts:
        return None
    last = (word.onward.reached or word.onward.steps[-1]).addresses
    source, begun, ended = endpoint(last.src, last.sport), *_span(word.onward)
    lines = [
        entry
        for entry in (
            *facts.entries_about(source, begun, ended, last.dport),
            *facts.entries_of_client(source, begun, ended),
        )
        if entry.kind in _APPLICATIONS and entry.client is not None and entry.problem is None
    ]
    return _word(lines[0], word.onward) if len({entry.client for entry in lines}) == 1 else None


def _span(trip: Trip) -> tuple[float, float]:
    """When a connection began and ended, in seconds."""
    return trip.leg.start / 1e9, max((end.time for end in trip.leg.stream.ends), default=trip.leg.start) / 1e9


def _word(entry: LogEntry, trip: Trip) -> Word:
    reached = trip.reached
    place = entry.server or (reached.place if reached is not None else None)
    time = int(entry.time * 1e9) if entry.time is not None and entry.zoned else trip.leg.start
    return Word((str(entry.client),), "log", f"the log of {entry.kind} ({_where(entry)})", place, time)


def _where(entry: LogEntry) -> str:
    return f"{entry.file.rpartition('/')[2]}:{entry.line}"


class Corroboration:
    """Holds what was seen of journeys against what was given of ingresses."""

    def __init__(self, facts: IngressFacts) -> None:
        self._facts = facts

    def __bool__(self) -> bool:
        return bool(self._facts)

    def refined(self, connection: Connection, codes: Sequence[str]) -> tuple[list[str], tuple[Support, ...]]:
        """The codes with causes that only the server or its configuration knows, and what speaks for them."""
        if not self._facts:
            return list(codes), ()
        lines = lines_about(connection.trip, self._facts)
        listener = self._listener(connection.trip)
        refined = _by_configuration(connection.trip, _by_log(connection.trip, list(codes), lines), listener)
        support = {
            (code, entry.kind, entry.problem): Support(
                code, f"the log of {entry.kind} says {entry.problem} ({_where(entry)})"
            )
            for entry in reversed(lines)
            if entry.problem is not None
            for code in _SPEAKS_FOR.get(entry.problem, ())
            if code in refined
        }
        configured = _configured(listener, refined) if listener is not None else []
        return refined, (*support.values(), *configured)

    def resolved(self, connection: Connection) -> tuple[Resolved, ...]:
        """Whom the servers would take for the client by their configuration, held against what they said."""
        trip, word = connection.trip, connection.word
        found: list[Resolved] = []
        listener = self._listener(trip)
        if listener is not None and listener.trust is not None and trip.reached is not None:
            fields = connection.requests[0].head.fields if connection.requests else ()
            name = listener.name or f"port {listener.port}"
            found += _resolved(name, listener.trust, _arrival(trip, fields), word)
        application = self._facts.record.application
        made = word.request if word is not None else None
        onward = word.onward if word is not None else None
        if (
            application is not None
            and application.trust is not None
            and made is not None
            and onward is not None
        ):
            peer = text(onward.steps[-1].addresses.src)
            arrival = Arrival(peer, None, made.head.fields)
            found += _resolved(APPLICATION, application.trust, arrival, connection.told)
        return tuple(found)

    def disbelieves(self, connection: Connection, resolved: Sequence[Resolved]) -> bool:
        """Whether the application's server would not take for the client whom the server in front of it named."""
        expected = next((entry.client for entry in resolved if entry.server == APPLICATION), None)
        if expected is None or connection.word is None or connection.told is not None:
            return False
        return address_in(expected) not in {address_in(named) for named in connection.word.addresses}

    def open_lists(self) -> list[str]:
        """Every way in which a listener of the configurations lets anybody decide the client's address."""
        found: list[str] = []
        for ingress in self._facts.record.ingresses:
            for listener in ingress.listeners:
                if listener.trust is None:
                    continue
                try:
                    openings = overtrust(listener.trust)
                except TrustError:
                    continue
                where = f"{ingress.file.rpartition('/')[2]}:{listener.line}, port {listener.port}"
                found += [f"{where}: {opening.reason}" for opening in openings]
        application = self._facts.record.application
        if application is not None and application.trust is not None:
            found += [f"{APPLICATION}: {opening.reason}" for opening in overtrust(application.trust)]
        return list(dict.fromkeys(found))

    def _listener(self, trip: Trip) -> Listener | None:
        reached = trip.reached
        if reached is None or not self._facts:
            return None
        return self._facts.listener_at(text(reached.addresses.dst), reached.addresses.dport)


def _resolved(server: str, settings: Settings, arrival: Arrival, word: Word | None) -> list[Resolved]:
    try:
        found = resolve(settings, arrival)
    except TrustError:
        return []  # settings that the server would not start with: the reader of the file said so
    heard = [address for address in word.addresses if address_in(address) is not None] if word else []
    agrees = None
    if heard and found.client is not None:
        agrees = not all(differs(found, address) for address in heard)
    return [Resolved(server, found.client, found.rule, found.source, found.forgeable, agrees)]


def _arrival(trip: Trip, fields: Fields) -> Arrival:
    reached = trip.reached
    assert reached is not None
    header = trip.header
    source: str | None = None
    if header is not None:
        named = address_in(header.source) if header.source is not None else None
        source = text(named) if named is not None else ""
    return Arrival(text(reached.addresses.src), source, fields)


def _by_log(trip: Trip, codes: list[str], lines: Iterable[LogEntry]) -> list[str]:
    first = trip.leg.first_bytes
    header = first is not None and first.payload in PROXY_PAYLOADS
    for entry in lines:
        if (
            entry.problem in {Problem.HEADER_MISSING, Problem.HEADER_LATE}
            and not header
            and first is not None
        ):
            codes = [*codes, *(["SIP307"] if "SIP307" not in codes else [])]
        cause = _CAUSES.get(entry.problem) if entry.problem is not None else None
        if cause is not None and header:
            codes = [cause if code in _OPEN else code for code in codes]
    return list(dict.fromkeys(codes))


def _by_configuration(trip: Trip, codes: list[str], listener: Listener | None) -> list[str]:
    """A listener that waits for no header misses none; one that takes one version refuses the other."""
    if listener is None:
        return codes
    if listener.proxy_protocol is False:
        codes = [code for code in codes if code != "SIP307"]
    header = trip.header
    wrong = header is not None and listener.versions is not None and header.version not in listener.versions
    if wrong and reaction(trip) not in {Reaction.TAKEN, Reaction.UNSEEN}:
        codes = ["SIP309" if code in _OPEN else code for code in codes]
    return list(dict.fromkeys(codes))


def _configured(listener: Listener, codes: Sequence[str]) -> list[Support]:
    expects = {True: "expects a PROXY header", False: "expects no PROXY header"}
    if listener.proxy_protocol is None:
        return []
    said = (
        f"the configuration of port {listener.port} (line {listener.line}) {expects[listener.proxy_protocol]}"
    )
    speaks_for = {"SIP307"} if listener.proxy_protocol else {"SIP302", "SIP308"}
    found = [Support(code, said) for code in codes if code in speaks_for]
    if listener.versions is not None and "SIP309" in codes:
        taken = " and ".join(str(version) for version in listener.versions)
        found.append(Support("SIP309", f"port {listener.port} takes version {taken} of the PROXY protocol"))
    return found
