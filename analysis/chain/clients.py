"""Only some clients: those whose connections are asked for, by address or prefix.

This is decided here, of whole journeys, and nowhere earlier. After SNAT no packet shows the client's address any more,
and behind a load balancer it may stand in a header alone; whatever looked at packets one by one would lose the rest of
the connection exactly where it becomes interesting. So everything is watched and joined, and a journey counts if its
client is one of those. Where the client could not be found out, it counts if anything on its way names one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network

import numpy as np
from numpy.typing import NDArray

from analysis.chain.claims import Claims, address_in
from analysis.engine.interning import Interned
from analysis.report import Journey
from daemonset.observation import Head

_MAPPED = 0xFFFF_0000_0000

_Range = tuple[int, int]  # first and last address, as 128-bit integers


@dataclass(frozen=True, slots=True)
class Clients:
    """Ranges of addresses; without any, every client is wanted."""

    texts: tuple[str, ...] = ()
    ranges: tuple[_Range, ...] = ()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Clients:
        """From "ADDRESS" and "ADDRESS/LENGTH". Raises ValueError where one of them is neither."""
        networks = [ip_network(text, strict=False) for text in texts]
        return cls(
            tuple(
                str(each.network_address) if each.prefixlen == each.max_prefixlen else str(each)
                for each in networks
            ),
            tuple(
                (base + int(each.network_address), base + int(each.broadcast_address))
                for each in networks
                for base in (_MAPPED if isinstance(each, IPv4Network) else 0,)
            ),
        )

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __contains__(self, address: int | None) -> bool:
        return address is not None and any(first <= address <= last for first, last in self.ranges)

    def wants(self, journey: Journey) -> bool | None:
        """Whether a journey is of one of them; None where nothing says whose it is."""
        if not self.ranges:
            return True
        if journey.client is not None:
            return address_in(journey.client.address) in self
        said = [hop.source for hop in journey.hops]
        said += [journey.seen_by_app] if journey.seen_by_app is not None else []
        if journey.proxy_protocol is not None and journey.proxy_protocol.source is not None:
            said.append(journey.proxy_protocol.source)
        return True if any(address_in(text) in self for text in said) else None

    def named_in(self, head: Head) -> bool:
        """Whether a PROXY header or a request's fields name one of them."""
        if any(header.source is not None and address_in(header.source) in self for header in head.proxy):
            return True
        heads = [each for each in (head.http, *head.more) if each is not None]
        return any(address in self for each in heads for address in Claims.of(each).addresses)

    def among(self, addresses: Interned) -> NDArray[np.bool_]:
        """For each number of an address, whether it is one of them."""
        found = np.zeros(len(addresses), dtype=np.bool_)
        for first, last in self.ranges:
            found |= addresses.between(first, last)
        return found


EVERYBODY = Clients()
