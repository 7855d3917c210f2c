"""Why a server took another address for its client's than the client's: which claim decided, and who wrote it."""

from __future__ import annotations

from analysis.chain.claims import Claims, address_in, own_words
from analysis.chain.trips import Connection, Word
from analysis.judging.knowledge import forged
from analysis.judging.verdict import Header, Known


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
    claimed = connection.trip.named
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
        # A header that is used and wrong is SIP313.
        return _proxy_in_between(connection, known.client, claimed) if claimed in named else ["SIP306"]
    return _ignored_field(connection, known.client)


def _proxy_in_between(connection: Connection, client: int | None, claimed: int | None) -> list[str]:
    """A header that names, rightly, who asked the balancer: a proxy before it, which knew the client."""
    if len(connection.chain) < 2 or connection.chain[-1].trip.source != claimed:
        return []
    return ["SIP316"] if _named_by_a_proxy(connection, client) else ["SIP104"]


def _names_the_server(told: Word, connection: Connection) -> bool:
    """Whether the application took the server in front of it for the client."""
    reached = connection.trip.reached
    return reached is not None and any(
        address_in(address) == reached.addresses.dst for address in told.addresses
    )


def _ignored_field(connection: Connection, client: int | None) -> list[str]:
    """A field that named the client reached the server, and the server named its peer."""
    if not _named_by_a_proxy(connection, client):
        return []
    word = connection.word
    passed_on = (
        word.request.claims.addresses if word is not None and word.request is not None else frozenset()
    )
    if client in passed_on:
        return ["SIP502"]
    own = {address_in(address) for address in word.addresses} if word is not None else set()
    return ["SIP503"] if passed_on <= own else []  # what names others may be another client's request


def _named_by_a_proxy(connection: Connection, client: int | None) -> bool:
    """Whether a proxy wrote the client's address into a field of a request, and not the client itself."""
    written = client_claims(connection)
    for claims in connection.claims:
        if client in claims.addresses and not any(client in own.addresses for own in written):
            return True
        added = [word for own in written for word in (*own_words(claims, own), *_appended(claims, own))]
        if any(address_in(word) == client for word in added):
            return True
    return False


def _appended(claims: Claims, own: Claims) -> tuple[str, ...]:
    """What proxies have added to the client's own X-Forwarded-For."""
    whole = claims.chain[: len(own.chain)] == own.chain
    return claims.chain[len(own.chain) :] if whole else ()
