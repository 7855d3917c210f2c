"""From settings and what arrives to a resolution; and hop by hop through a whole chain.

Start here: `resolve` answers for one server, `chain` for all that a request passes, `differs` compares with what was
seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from analysis.trust.model import Arrival, Relay, Resolution, Settings
from analysis.trust.overtrust import overtrust
from analysis.trust.products import resolved
from analysis.trust.ranges import same


@dataclass(frozen=True, slots=True)
class Hop:
    """One server of a chain. `address` is the source of the connections that it makes to the next one."""

    name: str
    address: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Step:
    """What arrived at a hop and what it made of it."""

    hop: Hop
    arrival: Arrival
    resolution: Resolution


def resolve(settings: Settings, arrival: Arrival) -> Resolution:
    """Whom a server with these settings takes for the client, and what it sends on.

    Raises TrustError for settings that the product would not start with; for no bytes that arrive.
    """
    found = resolved(settings, arrival)
    key = (found.by, found.field.lower())
    open_claims = {(opening.claim, opening.field.lower()) for opening in overtrust(settings)}
    return replace(found, forgeable=key in open_claims)


def chain(hops: Iterable[Hop], first: Arrival) -> tuple[Step, ...]:
    """The steps of a request through the hops, from the client's side to the application.

    `first` is what the first hop gets. Ends early where a hop refuses, or sends on what its settings do not say.
    """
    steps: list[Step] = []
    arrival = first
    for hop in hops:
        found = resolve(hop.settings, arrival)
        steps.append(Step(hop, arrival, found))
        if found.refused or found.onward is None:
            break
        transparent = isinstance(hop.settings, Relay) and hop.settings.transparent
        peer = arrival.peer if transparent else hop.address
        arrival = Arrival(peer, found.onward_proxy, found.onward)
    return tuple(steps)


def differs(expected: Resolution, seen: str | None) -> bool:
    """Whether a server said another client than its settings make it say.

    Addresses are compared as such, whatever their spelling and port. Nothing expected or nothing seen differs from
    nothing.
    """
    if expected.client is None or seen is None:
        return False
    return not same(expected.client, seen)
