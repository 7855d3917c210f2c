"""Legs → journeys: which legs are connections of the Service, and which leg before them they continue.

A balancer that makes connections of its own ends a leg. The next leg is tied to it by the strongest evidence
there is: the PROXY header (it names the 4-tuple of the leg before), else the same first bytes in between two
moments of the balancer's own clock. Where more than one leg could be the one before, none is taken.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.addresses import AddressBook, Owner, OwnerKind, Target, endpoint
from analysis.facts import Facts
from analysis.hops import Change, Step, disputed, source_changes, walk
from analysis.legs import Leg, LegStore
from analysis.separate import separate
from daemonset.observation import Payload, ProxyHeader, Tap, TapKind

PROXY_PAYLOADS = frozenset({Payload.PROXY_V1, Payload.PROXY_V2})
KUBE_PROXY_HEALTHZ = 10256  # kube-proxy --healthz-bind-address
RELAY_WINDOW = 5_000_000_000  # ns within which a balancer is taken to pass on a client's first bytes


@dataclass(frozen=True, slots=True)
class Trip:
    """One leg with its path, and what is known of it as a connection to a Service."""

    leg: Leg
    steps: tuple[Step, ...]
    changes: tuple[Change, ...]
    mixed: bool
    target: Target | None  # the way into the Service that the client asked for; None without facts
    disputed: bool = False  # the kernel's NAT record says otherwise than the packets
    part: int = 0  # which of the connections that share the leg's number

    @property
    def source(self) -> int:
        """The source address where the leg was first seen."""
        return self.steps[0].addresses.src

    @property
    def header(self) -> ProxyHeader | None:
        """The first PROXY header in front of the data."""
        first = self.leg.first_bytes
        return first.head.proxy[0] if first and first.head and first.head.proxy else None

    @property
    def from_client_tap(self) -> bool:
        """Whether the client itself was watched opening it."""
        return self.steps[0].kind is TapKind.CLIENT


@dataclass(frozen=True, slots=True)
class Link:
    """The leg before, and by what it was tied to this one."""

    trip: Trip
    by: str


@dataclass(frozen=True, slots=True)
class Connection:
    """One journey: a leg into the Service, with the leg before it where a balancer made a new one."""

    trip: Trip
    before: Link | None
    owner: Owner  # of the source where the leg began
    told: str | None = None  # whom the server named to the application behind it


@dataclass(frozen=True, slots=True)
class Selection:
    """The journeys of a recording, and what was left out on purpose."""

    connections: tuple[Connection, ...]
    ended_at_balancer: tuple[Trip, ...]  # clients that reached a balancer, with nothing tied to it after that
    probes: int  # health checks
    trips: tuple[Trip, ...] = ()  # every leg with its path, journeys or not


def select(legs: Iterable[Leg], taps: Sequence[Tap], book: AddressBook, facts: Facts) -> Selection:
    """Choose the legs that are connections to the Service and tie them to the legs before."""
    trips = [trip for leg in legs for trip in _trips(leg, taps, book)]
    chosen: list[Trip] = []
    probes = 0
    for trip in trips:
        if not _is_journey(trip, book, facts):
            continue
        if _is_probe(trip, book):
            probes += 1
        else:
            chosen.append(trip)
    selected = {id(trip) for trip in chosen}
    fronts = [trip for trip in trips if id(trip) not in selected and _ends_at_balancer(trip, book)]
    links = _tie(chosen, fronts, book, taps)
    connections = tuple(Connection(trip, links.get(id(trip)), book.owner(trip.source)) for trip in chosen)
    return Selection(connections, _ended(fronts, connections), probes, tuple(trips))


def _ended(fronts: list[Trip], connections: Sequence[Connection]) -> tuple[Trip, ...]:
    """Legs into a balancer that nothing carries on.

    Where it is only unknown which leg carries on which, those that were carried on are not told a second time.
    """
    used = {id(each.before.trip) for each in connections if each.before is not None}
    untied = Counter(
        each.trip.leg.first_bytes.digest
        for each in connections
        if each.before is None
        and each.owner.kind is OwnerKind.BALANCER
        and each.trip.leg.first_bytes is not None
    )
    ended: list[Trip] = []
    for front in fronts:
        digest = front.leg.first_bytes.digest if front.leg.first_bytes is not None else 0
        if id(front) in used:
            continue
        if untied[digest] > 0:
            untied[digest] -= 1
        else:
            ended.append(front)
    return tuple(ended)


def _trips(leg: Leg, taps: Sequence[Tap], book: AddressBook) -> Iterable[Trip]:
    for number, part in enumerate(separate(leg, taps)):
        steps = walk(part.leg, taps, book)
        if steps:
            target = next((step.target for step in steps if step.frontend), None)
            target = target or next((step.target for step in steps if step.target), None)
            dispute = bool(disputed(part.leg, taps, book))
            yield Trip(part.leg, steps, source_changes(steps), part.mixed, target, dispute, number)


def learn_balancers(store: LegStore, taps: Sequence[Tap], book: AddressBook, facts: Facts) -> None:
    """Claim the addresses that show themselves to be a balancer's.

    One that is asked and asks at the same balancer's tap makes connections of its own. One that asks a node's
    health-check port may be a balancer, or a person with curl.
    """
    at_balancers = [number for number, tap in enumerate(taps) if tap.kind is TapKind.LB]
    asked: dict[str, set[int]] = defaultdict(set)
    asking: dict[str, set[int]] = defaultdict(set)
    for tap, source, destination in store.pairs_at(at_balancers):
        asked[taps[tap].node].add(destination)
        asking[taps[tap].node].add(source)
    for place, addresses in asked.items():
        for address in addresses & asking[place]:
            book.claim_balancer(address, place)
    ports = {service.health_check_node_port for service in facts.services} - {0}
    for source, destination in store.askers_of([*ports, KUBE_PROXY_HEALTHZ]):
        if book.owner(destination).kind is OwnerKind.NODE:
            book.suspect_balancer(source)
    for number in at_balancers:
        for written in taps[number].addresses:
            book.claim_balancer_text(written, taps[number].node)


def _is_journey(trip: Trip, book: AddressBook, facts: Facts) -> bool:
    if not facts.known:
        return _is_journey_without_facts(trip)
    if trip.target is None or trip.target.service.key not in book.wanted:
        return False
    if trip.target.frontend:
        return True
    # First seen on its way to an endpoint. From the endpoint's own node or from a pod it is what kubelets and
    # pods do all day; from elsewhere it is a connection whose entry was not seen, or one without DNAT.
    source, destination = book.owner(trip.source), book.owner(trip.steps[0].addresses.dst)
    if source.kind in {OwnerKind.POD, OwnerKind.LOOPBACK}:
        return False
    return source.kind is OwnerKind.EXTERNAL or source.node is None or source.node != destination.node


def _is_journey_without_facts(trip: Trip) -> bool:
    """Without facts any connection that a client or balancer was seen to make, or that was translated."""
    watched = any(step.kind in {TapKind.CLIENT, TapKind.LB} for step in trip.steps)
    return watched or len({step.addresses for step in trip.steps}) > 1


def _is_probe(trip: Trip, book: AddressBook) -> bool:
    """A balancer's check: a bare connection, or a header that says LOCAL."""
    if book.owner(trip.source).kind is not OwnerKind.BALANCER:
        return False
    if trip.header is not None:
        return trip.header.command == "LOCAL"
    return trip.leg.protocol == 6 and trip.leg.answered and trip.leg.first_bytes is None


def _ends_at_balancer(trip: Trip, book: AddressBook) -> bool:
    """Whether the leg is one into a balancer, from outside or out of the cluster."""
    last = trip.steps[-1]
    return trip.target is None and book.owner(last.addresses.dst).kind is OwnerKind.BALANCER


def _tie(chosen: list[Trip], fronts: list[Trip], book: AddressBook, taps: Sequence[Tap]) -> dict[int, Link]:
    """The leg before each leg that a balancer opened, by id of the later one."""
    # The header names the client as the balancer saw it, after whatever was done to it before.
    by_client = {
        endpoint(trip.steps[-1].addresses.src, trip.steps[-1].addresses.sport): trip for trip in fronts
    }
    links: dict[int, Link] = {}
    bare: list[Trip] = []
    for trip in chosen:
        if book.owner(trip.source).kind is not OwnerKind.BALANCER:
            continue
        if trip.header is None:
            bare.append(trip)
        elif front := by_client.get(trip.header.source or ""):
            links[id(trip)] = Link(front, "PROXY header")
    return links | _tie_by_order(fronts, bare, taps)


@dataclass(frozen=True, slots=True)
class _Event:
    """A leg met the balancer: a client's came in, or one of its own went out."""

    time: int  # ns by the balancer's clock
    incoming: bool
    trip: Trip


def _tie_by_order(fronts: list[Trip], backs: list[Trip], taps: Sequence[Tap]) -> dict[int, Link]:
    """Ties between legs with the same first bytes, where the order of events at the balancer alone decides."""
    groups: dict[int, list[_Event]] = defaultdict(list)
    for incoming, trips in ((True, fronts), (False, backs)):
        for trip in trips:
            times = [s.seen for s in trip.leg.sightings if taps[s.tap].kind is TapKind.LB]
            if trip.leg.first_bytes is not None and times:
                groups[trip.leg.first_bytes.digest].append(_Event(min(times), incoming, trip))
    links: dict[int, Link] = {}
    for events in groups.values():
        links |= _certain_ties(sorted(events, key=lambda event: (event.time, not event.incoming)))
    return links


def _certain_ties(events: list[_Event]) -> dict[int, Link]:
    """A leg that goes out carries on the one that waits, if exactly one waits.

    While several wait nobody knows which of them a leg carries on, nor which are left; that lasts until none is.
    """
    links: dict[int, Link] = {}
    waiting: list[_Event] = []
    certain = True
    for event in events:
        waiting = [other for other in waiting if event.time - other.time <= RELAY_WINDOW]
        certain = certain or not waiting
        if event.incoming:
            waiting.append(event)
            continue
        certain = certain and len(waiting) <= 1
        if waiting:
            front = waiting.pop(0)
            if certain:
                links[id(event.trip)] = Link(
                    front.trip, "same first bytes, the only one in time at the balancer"
                )
        certain = certain or not waiting
    return links
