"""Why a server took another address for its client's than the client's: which claim decided, and who wrote it."""

from __future__ import annotations

from analysis.claims import Claims, address_in
from analysis.knowledge import forged
from analysis.trips import Connection, Word
from analysis.verdict import Header, Known


def client_claims(connection: Connection) -> tuple[Claims, ...]:
    """What the client itself claimed about itself in its requests."""
    if not connection.chain:
        return connection.claims if connection.trip.from_client_tap or connection.asked else ()
    first = connection.chain[0]
    lines = {request.line for request in connection.requests}
    return tuple(
        request.claims
        for request in first.trip.requests
        if request.claims and (not lines or request.line in lines)
    )


def disbelief(connection: Connection, known: Known) -> list[str]:
    """The codes of why the last word is not the client; empty where the packets alone explain it."""
    word = connection.last_word
    if word is None:
        return []
    named = {address_in(address) for address in word.addresses} - {None}
    if known.client in named:
        return []
    header = connection.trip.header
    claimed = address_in(header.source) if header is not None and header.source is not None else None
    if forged(connection) and claimed in named:
        return []  # SIP305 says it
    reached = connection.trip.reached
    own_peer = {reached.addresses.src} if reached is not None else set()
    # A server that takes its peer believed no field, whatever the field says.
    if any((named - own_peer) & claims.addresses for claims in client_claims(connection)):
        return ["SIP504"]
    if connection.told is not None and _names_the_server(connection.told, connection):
        return ["SIP501"]
    if known.header is Header.TAKEN:
        return [] if claimed in named else ["SIP306"]  # a header that is used and wrong is SIP313
    return _ignored_field(connection, known.client)


def _names_the_server(told: Word, connection: Connection) -> bool:
    """Whether the application took the server in front of it for the client."""
    reached = connection.trip.reached
    return reached is not None and any(
        address_in(address) == reached.addresses.dst for address in told.addresses
    )


def _ignored_field(connection: Connection, client: int | None) -> list[str]:
    """A field that named the client reached the server, and the server named its peer."""
    if not any(client in claims.addresses for claims in connection.claims):
        return []
    if any(client in claims.addresses for claims in client_claims(connection)):
        return []  # the client wrote the field, not a proxy
    made = connection.word.request if connection.word is not None else None
    return ["SIP502" if made is not None and client in made.claims.addresses else "SIP503"]
