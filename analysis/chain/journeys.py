"""Legs → journeys: which legs are connections of the Service, which legs before them they continue, whose they are.

A balancer or proxy that makes connections of its own ends a leg (`relay` ties the two sides). Requests of different
clients can share a connection of a proxy: then each client's are a journey of their own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from analysis.asked import Asked
from analysis.chain.claims import Claims, address_in
from analysis.chain.clients import EVERYBODY, Clients
from analysis.chain.endings import Endings
from analysis.chain.onward import AskedBook, Onward, echoed, told_by
from analysis.chain.relay import BY_CONNECTION, Relay, Tie, chain_of
from analysis.chain.repeated import repeated_requests
from analysis.chain.strangers import Strangers
from analysis.chain.trips import Connection, Link, Request, Trip, Word
from analysis.engine.legs import Leg, LegStore
from analysis.engine.separate import separate
from analysis.facts import Facts
from analysis.health.changes import EndpointChange
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.hops.addresses import AddressBook, OwnerKind, endpoint
from analysis.hops.steps import disputed, source_changes, walk
from analysis.ingress import IngressFacts
from analysis.judging.corroboration import application_word, logged_word
from daemonset.observation import Head, Tap, TapKind

KUBE_PROXY_HEALTHZ = 10256  # kube-proxy --healthz-bind-address

#: How the User-Agent of health checks of load balancers begins (AWS, Google Cloud, Azure, Envoy).
CHECKERS = ("ELB-HealthChecker/", "GoogleHC/", "Load Balancer Agent", "Envoy/HC")


@dataclass(frozen=True, slots=True)
class Selection:
    """The journeys of a recording, and what was left out on purpose."""

    connections: tuple[Connection, ...]
    ended_at_balancer: tuple[Trip, ...]  # clients that reached a balancer, with nothing tied to it after that
    probes: int  # health checks
    trips: tuple[Trip, ...] = ()  # every leg with its path, journeys or not
    checks: tuple[Trip, ...] = ()  # health checks at the Service's own port
    passed_balancers: bool = False  # connections into a balancer were seen, which others may carry on


@dataclass(frozen=True, slots=True)
class Given:
    """What was given besides the recording and the cluster's objects: words of clients and servers.

    `changes` is what a watch of the Service's endpoints told meanwhile, `own` what nodes answered to health checks of
    ours.
    """

    asked: Sequence[Asked] = ()
    ingress: IngressFacts = field(default_factory=IngressFacts)
    changes: Sequence[EndpointChange] = ()
    own: OwnChecks = NONE_OWN
    clients: Clients = EVERYBODY  # whose journeys are wanted
    sampled: bool = False  # not all connections of the capture are there
    askers: frozenset[int] | None = None  # every address that may have opened a connection; None: not known


def select(
    legs: Iterable[Leg],
    taps: Sequence[Tap],
    book: AddressBook,
    facts: Facts,
    given: Given,
    *,
    strangers: Strangers,
) -> Selection:
    """Choose the legs that are connections to the Service, tie them to the legs before, ask what was said after."""
    trips = [trip for leg in legs for trip in _trips(leg, taps, book)]
    candidates = [trip for trip in trips if _is_journey(trip, book, facts)]
    selected = {id(trip) for trip in candidates}
    fronts = [trip for trip in trips if id(trip) not in selected and _ends_at_balancer(trip, book)]
    backs = [trip for trip in [*candidates, *fronts] if _by_balancer(trip, book)]
    relay = Relay(fronts, backs, taps, book, strangers, sampled=given.sampled)
    loose = [trip for trip in candidates if not relay.ties(trip)]
    probing = {id(trip) for trip in loose if _is_probe(trip, book)}
    if not given.sampled:  # whose client's connection was left out is no request of the balancer's own
        probing |= repeated_requests(loose, fronts, book)
    chosen = [trip for trip in candidates if id(trip) not in probing]
    checks = tuple(trip for trip in candidates if id(trip) in probing)
    onward = Onward(trips, taps, strangers, sampled=given.sampled)
    endings = Endings(given.askers, taps, book)
    gather = _Gather(relay, onward, endings, AskedBook(given.asked), given.ingress, book)
    connections = _tried_again([connection for trip in chosen for connection in gather.connections(trip)])
    ended = _ended(fronts, connections, book)
    _suspect_who_names_others(connections, trips, book)
    return Selection(connections, ended, len(checks), tuple(trips), checks, bool(fronts))


def _suspect_who_names_others(
    connections: Iterable[Connection], trips: Iterable[Trip], book: AddressBook
) -> None:
    """Doubt all connections of an outsider that names others in one: not all that a proxy passes on names somebody.

    Not of one that was watched where it begins, nor of ourselves: a client that lies is a client.
    """
    watched = {trip.source for trip in trips if trip.from_client_tap}
    watched |= {each.chain[0].trip.source for each in connections if each.chain and each.asked is not None}
    for source in {found for each in connections if (found := _names_others(each, book))} - watched:
        book.suspect_balancer(source)


def _names_others(connection: Connection, book: AddressBook) -> int | None:
    """Who is taken for the client and names others in fields of a request, as a proxy does that nobody told us of."""
    header = connection.trip.header
    who: int | None
    if connection.chain:
        who, claims = (
            connection.chain[0].trip.source,
            [each.claims for each in connection.chain[0].trip.requests],
        )
    elif connection.owner.kind is OwnerKind.BALANCER and header is not None and header.source is not None:
        who, claims = address_in(header.source), list(connection.claims)
    else:
        return connection.trip.source if connection.names_others else None
    if who is None or connection.asked is not None or book.owner(who).kind is not OwnerKind.EXTERNAL:
        return None
    return who if any(each.addresses - {who} for each in claims) else None


def suspect_all_who_name_others(
    store: LegStore, heads: Sequence[Head], taps: Sequence[Tap], book: AddressBook
) -> None:
    """The same where not all connections are looked at: by what was said on any, whether or not it is a journey."""
    claims: dict[int, list[Claims]] = {}
    for number, head in enumerate(heads, start=1):
        found = [Claims.of(each) for each in (head.http, *head.more) if each is not None]
        if any(found):
            claims[number] = found
    if not claims:
        return
    at_clients = [number for number, tap in enumerate(taps) if tap.kind is TapKind.CLIENT]
    watched = {source for _, source, _ in store.pairs_at(at_clients)}
    for source, first, number in store.saying(list(claims)):
        headers = [*(heads[first - 1].proxy if first else ()), *heads[number - 1].proxy]
        texts = [header.source for header in headers if header.source is not None]
        told = {named for text in texts if (named := address_in(text)) is not None}
        others = frozenset().union(*(each.addresses for each in claims[number]))
        for who in {source, *(each for each in told if others - {each})} - watched:
            if book.owner(who).kind is OwnerKind.EXTERNAL:
                book.suspect_balancer(who)


#: Which tie of their leg requests came by (-1: not known), and the addresses that the endpoint then named.
_Group = tuple[int, tuple[str, ...]]


def _tried_again(connections: Sequence[Connection]) -> tuple[Connection, ...]:
    """One journey of a client for which its balancer tried several times: attempts in vain belong to the outcome."""
    vain: dict[int, list[Connection]] = defaultdict(list)
    for each in connections:
        if each.chain and each.chain[-1].by == BY_CONNECTION and not each.trip.leg.answered:
            vain[id(each.chain[-1].trip)].append(each)
    kept: dict[int, Connection] = {}
    dropped: set[int] = set()
    for front, attempts in vain.items():
        others = [each for each in connections if each.chain and id(each.chain[-1].trip) == front]
        outcome = next((each for each in others if each not in attempts), attempts[0])
        rest = [each for each in attempts if each is not outcome]
        kept[id(outcome)] = replace(outcome, attempts=tuple(each.trip for each in rest))
        dropped |= {id(each) for each in rest}
    return tuple(kept.get(id(each), each) for each in connections if id(each) not in dropped)


@dataclass(frozen=True, slots=True)
class _Gather:
    """Puts together what belongs to the journeys of one leg."""

    relay: Relay
    onward: Onward
    endings: Endings
    asked: AskedBook
    ingress: IngressFacts
    book: AddressBook

    def connections(self, trip: Trip) -> list[Connection]:
        """The journeys of one leg: one for each client whose requests it carries, and each way they were taken."""
        ties = self.relay.ties(trip)
        groups: dict[_Group, list[Request]] = defaultdict(list)
        spoken: dict[_Group, Word] = {}
        for request in trip.requests:
            word = self.onward.word(trip, request)
            group = (_way(ties, request), word.addresses if word is not None else ())
            groups[group].append(request)
            if word is not None:
                spoken.setdefault(group, word)
        if not trip.requests:
            tie = ties[0] if len(ties) == 1 else None
            word = self.onward.word(trip, None)
            return [self._connection(trip, tie, (), word, 0)]
        return [
            self._connection(
                trip, ties[group[0]] if group[0] >= 0 else None, tuple(requests), spoken.get(group), part
            )
            for part, (group, requests) in enumerate(_merged(groups).items())
        ]

    def _connection(
        self, trip: Trip, tie: Tie | None, requests: tuple[Request, ...], word: Word | None, part: int
    ) -> Connection:
        chain: tuple[Link, ...] = chain_of(tie, self.book) if tie is not None else ()
        owner = self.book.owner(trip.source)
        header = trip.header if owner.kind is OwnerKind.BALANCER and not self.relay.passed_on(trip) else None
        asked = self.asked.of(chain[0].trip if chain else trip, requests, header)
        told = told_by(asked) or _one(echoed(trip, request) for request in requests)
        told = told or application_word(word, self.ingress)
        word = word or logged_word(trip, self.ingress)
        return Connection(
            trip, chain, owner, requests, word, asked, told, part,
            passed_on=self.relay.passed_on(trip), last=self.endings.ends_at(trip),
        )  # fmt: skip


def _way(ties: Sequence[Tie], request: Request) -> int:
    """Which of the ties is the request's; -1 where that is not known."""
    ways = [
        number for number, tie in enumerate(ties) if tie.requests is None or request.index in tie.requests
    ]
    return ways[0] if len(ways) == 1 else -1


def _one(words: Iterable[Word | None]) -> Word | None:
    """The first word, if all that were heard name the same."""
    heard = [word for word in words if word is not None]
    return heard[0] if len({word.addresses for word in heard}) == 1 else None


def _merged(groups: dict[_Group, list[Request]]) -> dict[_Group, list[Request]]:
    """Requests of which nothing was seen further on join those of the same client, if there is one kind of these."""
    merged = {group: requests for group, requests in groups.items() if group[1]}
    for (front, words), requests in groups.items():
        if not words:
            others = [group for group in merged if group[0] == front and group[1]]
            group = others[0] if len(others) == 1 else (front, ())
            merged[group] = sorted([*merged.get(group, []), *requests], key=lambda request: request.index)
    return merged


def _by_balancer(trip: Trip, book: AddressBook) -> bool:
    return book.owner(trip.source).kind is OwnerKind.BALANCER


def _ended(fronts: list[Trip], connections: Sequence[Connection], book: AddressBook) -> tuple[Trip, ...]:
    """Legs of clients into a balancer that nothing carries on.

    Where it is only unknown which leg carries on which, those that were carried on are not told a second time.
    """
    used = {id(link.trip) for each in connections for link in each.chain}
    untied: Counter[object] = Counter()
    for each in connections:
        if not each.chain and each.owner.kind is OwnerKind.BALANCER:
            untied.update(_marks(each.trip)[:1])
    ended: list[Trip] = []
    for front in fronts:
        if id(front) in used or _by_balancer(front, book):
            continue
        mark = next((mark for mark in _marks(front) if untied[mark] > 0), None)
        if mark is not None:
            untied[mark] -= 1
        else:
            ended.append(front)
    return tuple(ended)


def _marks(trip: Trip) -> list[object]:
    """By what a leg is known on both sides of a balancer."""
    lines: list[object] = [request.line for request in trip.requests[:1]]
    digests: list[object] = [trip.leg.first_bytes.digest] if trip.leg.first_bytes is not None else []
    return lines or digests


def _trips(leg: Leg, taps: Sequence[Tap], book: AddressBook) -> Iterable[Trip]:
    for number, part in enumerate(separate(leg, taps)):
        steps = walk(part.leg, taps, book)
        if steps:
            target = next((step.target for step in steps if step.frontend), None)
            target = target or next((step.target for step in steps if step.target), None)
            dispute = bool(disputed(part.leg, taps, book))
            yield Trip(part.leg, steps, source_changes(steps), part.mixed, target, dispute, number)


def learn_balancers(
    store: LegStore, taps: Sequence[Tap], book: AddressBook, facts: Facts, own: OwnChecks = NONE_OWN
) -> None:
    """Claim the addresses that show themselves to be a balancer's.

    One that is asked and asks at the same balancer's tap makes connections of its own. One that asks a node's
    health-check port may be a balancer, or a person with curl; `own` is what we asked.
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
    # What clients ask and what asks in its turn may be a proxy without a tap; or a client that serves others besides.
    at_clients = [number for number, tap in enumerate(taps) if tap.kind is TapKind.CLIENT]
    asked_by_clients = {destination for _, _, destination in store.pairs_at(at_clients)}
    for source in store.sources() & asked_by_clients:
        book.suspect_balancer(source)
    for source, destination in store.askers_of(health_ports(facts), own.sources):
        if book.owner(destination).kind is OwnerKind.NODE:
            book.suspect_balancer(source)
    for number in at_balancers:
        for written in taps[number].addresses:
            book.claim_balancer_text(written, taps[number].node)


def health_ports(facts: Facts) -> list[int]:
    """Where nodes answer health checks: of each Service that has a port for it, and of kube-proxy itself."""
    ports = {service.health_check_node_port for service in facts.services} - {0}
    return [*sorted(ports), KUBE_PROXY_HEALTHZ]


def _is_journey(trip: Trip, book: AddressBook, facts: Facts) -> bool:
    if not facts.known:
        return _is_journey_without_facts(trip) and not _ends_at_balancer(trip, book)
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
    """Whether a connection that carries on no client's is a balancer's health check.

    Balancers check by a bare connection, by a header that names nobody (LOCAL, UNKNOWN) or themselves (HAProxy's v1
    checks), or by a request in their own name.
    """
    if not _by_balancer(trip, book):
        return False
    if trip.header is not None:
        first = trip.steps[0].addresses
        return trip.header.source in {None, endpoint(first.src, first.sport)}
    if trip.requests:
        agents = dict(trip.requests[0].head.fields).get("user-agent", "")
        return agents.startswith(CHECKERS)
    return trip.leg.protocol == 6 and trip.leg.answered and trip.leg.first_bytes is None


def _ends_at_balancer(trip: Trip, book: AddressBook) -> bool:
    """Whether the leg is one into a balancer, from outside or out of the cluster."""
    last = trip.steps[-1]
    return trip.target is None and book.owner(last.addresses.dst).kind is OwnerKind.BALANCER
