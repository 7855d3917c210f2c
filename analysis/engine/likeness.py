"""What the first bytes of two connections must share so that the verdict of one is the other's too.

A PROXY header names a client, and each connection's another. But a verdict asks only whose address that is, what form
the header has, what the server did, and whether it may have told somebody else. Where the shape of a leg says all of
that, and nothing in the recording speaks of single connections, the header does not have to be read for each.
"""

from __future__ import annotations

from analysis.chain.claims import Claims, address_in
from analysis.chain.trips import PROXY_PAYLOADS, Connection
from analysis.hops.addresses import AddressBook, OwnerKind
from analysis.judging.knowledge import client_named
from analysis.judging.outcomes import Context
from daemonset.observation import Head, Payload

#: Whose address a header may name so that it is a client's for certain.
_CLIENTS = frozenset({OwnerKind.EXTERNAL, OwnerKind.POD})


class Heads:
    """Codes of what decoded heads say; equal for two of which a judgement makes the same.

    `silent`: so far none named anybody but in a PROXY header, neither in a request nor in an answer.
    """

    def __init__(self, book: AddressBook) -> None:
        self._book = book
        self._codes: dict[object, int] = {}
        self.silent = True

    def code(self, head: Head) -> int:
        """The code of one head, from 1."""
        requests = [each for each in (head.http, *head.more) if each is not None]
        claims = any(bool(Claims.of(each)) for each in requests)
        self.silent = self.silent and not claims and head.echo is None
        return self._codes.setdefault(
            (
                claims,
                bool(head.proxy_error),
                head.proxy_complete,
                head.http is not None,
                head.http is not None and head.http.start.startswith("HTTP/"),
                head.http is not None and " 400" in head.http.start[:13],
                head.tls is not None,
                head.h2,
                head.echo is None,
                tuple(
                    (each.version, each.command, each.family, each.transport, self._named(each.source))
                    for each in head.proxy
                ),
            ),
            len(self._codes) + 1,
        )

    def _named(self, source: str | None) -> object:
        named = address_in(source) if source is not None else None
        if named is None:
            return source is None
        return self._book.owner(named), self._book.suspected(named)


class Likeness:
    """Knows connections whose PROXY header is like those of all others of their shape.

    `heads`: as all heads of the recording were put into codes. `known`: that nothing else was said of single
    connections, as by a client of ours, and that no connection into a balancer was seen which one may carry on.
    """

    def __init__(self, context: Context, heads: Heads, *, known: bool) -> None:
        self.context = context
        self._possible = known and heads.silent and not context.corroboration and not context.rules

    def header_is_as_others(self, connection: Connection) -> bool:
        """Whether every leg of this one's shape has the same verdict although headers name different clients."""
        trip, book = connection.trip, self.context.book
        first, response = trip.leg.first_bytes, trip.leg.response
        if not self._possible or first is None or first.payload not in PROXY_PAYLOADS or first.head is None:
            return False
        header = trip.header
        if (
            header is None
            or header.command != "PROXY"
            or len(trip.headers) != 1
            or not first.head.proxy_complete
        ):
            return False
        if response is None or response.payload is not Payload.HTTP_RESPONSE or trip.unreadable is not None:
            return False
        if trip.mixed or (trip.target is not None and trip.target.service.source_ranges):
            return False
        if connection.chain or connection.claims or connection.last_word is not None:
            return False
        # Whoever asks nobody was not heard to disbelieve it, and names no client to anybody.
        named = client_named(trip, book)
        client = named is not None and book.owner(named).kind in _CLIENTS and not book.suspected(named)
        return client and connection.last
