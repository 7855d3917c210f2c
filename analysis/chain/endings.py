"""Whether a server asked another one behind it, or is known to be the end of the way.

A server that takes a PROXY header need not believe it: whom it takes for its client it shows to the next server. So a
header proves something of the end of the way only where there is no next server; and that nobody was asked is known
only at a place that shows what the endpoint asks, and that missed nothing of the connection in question.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.chain.trips import Trip
from analysis.hops.addresses import PROTOCOLS, AddressBook, every_interface
from analysis.judging.knowledge import POD_SIDE
from daemonset.observation import Tap, TapKind


class Endings:
    """Knows the endpoints that ask nobody.

    `askers`: every address that may have opened a connection; None where connections were left out on purpose.
    """

    def __init__(self, askers: frozenset[int] | None, taps: Sequence[Tap], book: AddressBook) -> None:
        self._askers = askers
        self._taps = taps
        self._book = book

    def ends_at(self, trip: Trip) -> bool:
        """Whether the endpoint of `trip` is known to have asked nobody for it.

        One tap at the endpoint has to show the whole of `trip`: the handshake, the first bytes, and what came back.
        """
        reached, stream = trip.reached, trip.leg.stream
        if self._askers is None or reached is None or reached.addresses.dst in self._askers:
            return False
        spoken = (*stream.requests[:1], *stream.answers[:1])
        datagrams = trip.leg.protocol == PROTOCOLS["udp"]
        if not datagrams and (len(spoken) < 2 or any(said.offset for said in spoken)):
            return False
        return any(
            sighting.first is not None
            and sighting.replied
            and sighting.addresses.dst == reached.addresses.dst
            and self._shows(self._taps[sighting.tap], reached.addresses.dst)
            and all(said.at(frozenset({sighting.tap})) is not None for said in spoken)
            for sighting in trip.leg.sightings
        )

    def _shows(self, tap: Tap, endpoint: int) -> bool:
        """Whether a tap shows what the endpoint asks: it is within the pod, or at its side of the node."""
        owner = self._book.owner(endpoint)
        if tap.kind is TapKind.POD:
            return True
        return owner.node == tap.node and (tap.kind in POD_SIDE or every_interface(tap.interface))
