"""Where sender and receiver disagree about the PROXY protocol, told from what the receiver did.

A receiver that refuses says little: an HTTP 400, a TLS alert, or the end of the connection without a byte. What it
refused, and what the same listener took from others in the same recording, narrow the cause down; where other faults
look the same the findings say "consistent with".
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from analysis.chain.claims import address_in
from analysis.chain.relay import BY_HELLO, BY_REQUEST_ID, BY_TOKEN
from analysis.chain.trips import PROXY_PAYLOADS, Connection, Trip
from analysis.hops.addresses import PROTOCOLS, endpoint
from daemonset.observation import Payload, ProxyHeader

_ALERT_LENGTH = 7  # a TLS alert in the clear: record head and two bytes (RFC 8446 §5.1, §6)
_WENT_ON = 64  # bytes behind a ClientHello that are more than an alert: the handshake went on
_EXPECTED = {Payload.HTTP_REQUEST, Payload.TLS_CLIENT_HELLO, Payload.H2_PREFACE}


class Reaction(enum.Enum):
    """What the server did with the first bytes."""

    UNSEEN = "it was not seen"
    TAKEN = "it went on"
    BAD_REQUEST = "HTTP 400"
    ALERT = "a TLS alert"
    CLOSED = "it closed the connection without a byte"

    @property
    def refused(self) -> bool:
        """Whether it refused them."""
        return self in {Reaction.BAD_REQUEST, Reaction.ALERT, Reaction.CLOSED}


def reaction(trip: Trip) -> Reaction:
    """What the server of a leg did."""
    stream, response = trip.leg.stream, trip.leg.response
    if trip.leg.protocol != PROTOCOLS["tcp"]:
        return Reaction.TAKEN if trip.leg.answered else Reaction.UNSEEN
    if response is None:
        if stream.closed_unanswered:
            return Reaction.CLOSED
        return Reaction.TAKEN if _handshake_went_on(trip) else Reaction.UNSEEN
    if response.payload is Payload.HTTP_RESPONSE:
        start = response.head.http.start if response.head and response.head.http else ""
        return Reaction.BAD_REQUEST if " 400" in start[:13] else Reaction.TAKEN
    if response.payload is Payload.TLS_OTHER:
        short = any(said.offset == 0 and said.length == _ALERT_LENGTH for said in stream.answers)
        return Reaction.ALERT if short else Reaction.TAKEN
    return Reaction.TAKEN if _handshake_went_on(trip) else Reaction.UNSEEN


def _handshake_went_on(trip: Trip) -> bool:
    """Whether both sides of a TLS connection are known to have sent more than a hello and an alert."""
    hellos = [
        said for said in trip.leg.stream.requests if said.head is not None and said.head.tls is not None
    ]
    if not hellos:
        return False
    behind = hellos[0].offset + hellos[0].length + _WENT_ON
    sent = {end.client: end.offset for end in trip.leg.stream.ends}
    return sent.get(True, 0) >= behind and sent.get(False, 0) > _WENT_ON


@dataclass(slots=True)
class Habit:
    """What one listener was seen to take: versions of the header, or data without one."""

    versions: set[int] = field(default_factory=set)
    plain: bool = False


class Habits:
    """The habits of all listeners, by address and port."""

    def __init__(self, trips: Iterable[Trip], connections: Iterable[Connection] = ()) -> None:
        self._habits: dict[object, Habit] = defaultdict(Habit)
        self._disbelieved = {_peering(each) for each in connections if _unused(each)}
        for trip in trips:
            listener = _listener(trip)
            if listener is None or trip.leg.first_bytes is None or reaction(trip) is not Reaction.TAKEN:
                continue
            habit = self._habits[listener]
            if trip.header is not None:
                habit.versions.add(trip.header.version)
            elif trip.leg.first_bytes.payload not in PROXY_PAYLOADS:
                habit.plain = True

    def of(self, trip: Trip) -> Habit:
        """What the listener of this leg takes otherwise."""
        listener = _listener(trip)
        return self._habits[listener] if listener is not None else Habit()

    def disbelieves(self, connection: Connection) -> bool:
        """Whether another than the header's client was named behind this listener, for this peer."""
        return connection.last_word is None and _peering(connection) in self._disbelieved


def _listener(trip: Trip) -> object:
    """Who took the connection: an endpoint; where the objects do not know it, as a pod that came later, any of these.

    Those of another port of the Service are others.
    """
    if trip.reached is not None:
        return trip.reached.addresses.dst, trip.reached.addresses.dport
    return (trip.target.service.key, trip.target.port) if trip.target is not None else None


def _peering(connection: Connection) -> tuple[int, int, int] | None:
    """Listener and the address that asks it."""
    reached = connection.trip.reached
    return (reached.addresses.dst, reached.addresses.dport, reached.addresses.src) if reached else None


def _unused(connection: Connection) -> bool:
    """Whether a header named somebody, and the server, or the application behind it, then named others."""
    header, word = connection.trip.header, connection.last_word
    if header is None or header.source is None or word is None:
        return False
    return address_in(header.source) not in {address_in(named) for named in word.addresses}


def mismatches(connection: Connection, habits: Habits) -> list[str]:
    """The codes of what sender and receiver disagree about."""
    trip = connection.trip
    first = trip.leg.first_bytes
    if first is None:
        return []
    did, habit = reaction(trip), habits.of(trip)
    if first.payload not in PROXY_PAYLOADS:
        missing = did is Reaction.CLOSED and first.payload in _EXPECTED and not habit.plain
        return ["SIP307"] if missing and trip.reached is not None else []
    if first.head is not None and not first.head.proxy_complete:
        return ["SIP310"]
    if first.head is None or first.head.proxy_error is not None:
        return ["SIP303"]
    headers = trip.headers
    if not headers:
        return []
    if len(headers) > 1:
        return ["SIP311"]
    codes = ["SIP313"] if _contradicted(connection, headers[0]) else []
    if did.refused:
        # Who takes such headers from others has another reason: it ends, or the request itself was bad.
        return (
            codes
            if headers[0].version in habit.versions
            else [*codes, _refusal(connection, headers[0], habit, did)]
        )
    if headers[0].source is None and trip.requests:
        codes.append("SIP314")
    return codes


def _refusal(connection: Connection, header: ProxyHeader, habit: Habit, did: Reaction) -> str:
    """Why a whole and valid header can have been refused; the cause with the most evidence."""
    odd = header.transport != "stream" or header.family not in {"inet", "inet6"}
    if did is Reaction.CLOSED and header.command == "PROXY" and odd:
        return "SIP312"
    if habit.versions and header.version not in habit.versions:
        return "SIP309"
    # A server may hang up before the client's own bytes come, which follow in a segment of their own.
    if any(trip.hello is not None for trip in (connection.trip, *(link.trip for link in connection.chain))):
        return "SIP308"
    return "SIP302"


def _contradicted(connection: Connection, header: ProxyHeader) -> bool:
    """Whether the header names another source than the connection that it is known to carry on."""
    if not connection.chain or header.source is None:
        return False
    link = connection.chain[-1]
    last = link.trip.steps[-1].addresses
    exact = link.by in {BY_HELLO, BY_TOKEN, BY_REQUEST_ID}
    return exact and header.source != endpoint(last.src, last.sport)
