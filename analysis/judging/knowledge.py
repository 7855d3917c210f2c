"""From a connection to what is known of it: the inputs of `verdict.judge`, each with its positive evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from analysis.chain.claims import address_in
from analysis.chain.relay import BY_HEADER, BY_HELLO, BY_ORDER
from analysis.chain.trips import PROXY_PAYLOADS, Connection, Trip, Word
from analysis.facts import Facts
from analysis.hops.addresses import AddressBook, OwnerKind, endpoint, every_interface
from analysis.hops.origin import Caller
from analysis.hops.steps import Step
from analysis.judging.expectation import Expected, expected_at
from analysis.judging.forgery import PROXY_CLAIMS
from analysis.judging.full_table import FullTable, full_tables
from analysis.judging.mismatch import Reaction, reaction
from analysis.judging.verdict import Carried, Header, Known, Named, Silence, Speaker
from analysis.recording import Recording
from daemonset.observation import ProxyHeader, TapKind

REPEATED = 500_000_000  # ns between first and last attempt; the first SYN timeout is 1 s (RFC 6298 §2.1)
#: Silences of which a node without room for another connection may be the cause.
_UNEXPLAINED = frozenset({Silence.UNEXPLAINED, Silence.TOO_SHORT})
POD_SIDE = frozenset({TapKind.BRIDGE, TapKind.VETH, TapKind.POD})


_SPEAKERS = {"http-header": Speaker.SERVER, "app": Speaker.APPLICATION, "log": Speaker.LOG}


@dataclass(frozen=True, slots=True)
class Coverage:
    """Where the capture could see: kinds of taps by place, and places whose kernel dropped packets."""

    kinds: dict[str, frozenset[TapKind]]
    lossy: frozenset[str]
    whole: frozenset[str]  # places where one tap shows every interface
    nat: frozenset[str]  # places whose kernel's NAT records are at hand
    first_bytes: bool  # whether first bytes other than signatures were to be captured
    every_node: bool  # whether no node can have passed anything on unseen: all are listed, and all watched
    full: Mapping[str, FullTable] = field(default_factory=dict)  # places that had no room for connections

    @classmethod
    def of(cls, recording: Recording, facts: Facts) -> Coverage:
        """The coverage of a recording of the cluster that the facts tell of."""
        kinds: dict[str, set[TapKind]] = {}
        for tap in recording.taps:
            kinds.setdefault(tap.node, set()).add(tap.kind)
        lossy = {tap.node for tap, _, dropped in recording.losses if dropped}
        heads = [stream.hello.features.get("heads", "on") for stream in recording.streams if stream.hello]
        return cls(
            kinds={place: frozenset(found) for place, found in kinds.items()},
            lossy=frozenset(lossy),
            whole=frozenset(tap.node for tap in recording.taps if every_interface(tap.interface)),
            nat=frozenset(recording.nodes[number] for number in set(recording.nat["node"].tolist())),
            first_bytes="off" not in heads,
            every_node=_watches_every_node(kinds, lossy, recording, facts),
            full=full_tables(recording),
        )

    def watches_node(self, place: str) -> bool:
        """Whether a packet that enters this node and goes on could not have been missed."""
        kinds = self.kinds.get(place, frozenset())
        return (
            TapKind.NIC in kinds
            and (bool(kinds & POD_SIDE) or place in self.whole)
            and place not in self.lossy
        )


def _watches_every_node(
    kinds: Mapping[str, Collection[TapKind]], lossy: Collection[str], recording: Recording, facts: Facts
) -> bool:
    """Whether every node that anything names is listed, and every one that is listed was watched without loss."""
    listed = {node.name for node in facts.nodes}
    outside = {place for place, found in kinds.items() if TapKind.CLIENT in found or TapKind.LB in found}
    named = {*recording.expected_nodes, *kinds} - outside | {pod.node for pod in facts.pods if pod.node}
    watched = {place for place, found in kinds.items() if TapKind.NIC in found} - set(lossy)
    return bool(listed) and named <= listed <= watched


def entry_step(steps: Sequence[Step]) -> Step | None:
    """The last step at which an endpoint had still to be chosen."""
    return next((step for step in reversed(steps) if step.frontend), None)


def learn(connection: Connection, coverage: Coverage, book: AddressBook, facts: Facts) -> Known:
    """All that the verdict asks for."""
    trip = connection.trip
    forwarded = _forwarded(trip, facts)
    proxied = connection.owner.kind is OwnerKind.BALANCER and not trip.from_client_tap
    header = header_of(connection, coverage, book)
    certain = _origin_certain(connection, coverage, facts)
    client = true_client(connection, header, certain, book)
    replaced_before = any(link.trip.changes for link in connection.chain)
    altered = proxied or bool(trip.changes) or replaced_before
    silence = Silence.NONE if forwarded else _silence(connection, coverage, facts)
    return Known(
        mixed=trip.mixed,
        circular=trip.circular,
        header=header,
        forwarded=forwarded,
        rejected=bool(trip.leg.refusals) and not trip.leg.answered,
        silence=silence,
        no_room=_no_room(trip, coverage, facts) if silence in _UNEXPLAINED else "",
        replaced=bool(trip.changes),
        proxied=proxied,
        client=client,
        named=_named(connection, client, book),
        speaker=_SPEAKERS[connection.last_word.point if connection.last_word else "http-header"],
        carried=_carried(connection, client) if altered else Carried.NO,
        contested=any(claims.addresses - {client} for claims in connection.claims),
        suspected=_suspected(connection, book),
        replaced_before=replaced_before,
        origin_certain=certain,
        delivered=delivered(trip, book, facts),
        unlisted=trip.steps[-1].kind is TapKind.POD and not trip.steps[-1].at_endpoint,
    )


def true_client(
    connection: Connection, header: Header, origin_certain: bool, book: AddressBook
) -> int | None:
    """The address of the client itself, where there is proof of it; None where there is none."""
    trip = connection.trip
    if connection.chain:
        first = connection.chain[0].trip
        if connection.passed_on and not first.from_client_tap:
            return None  # who wrote the header may be a balancer that nobody told us of
        return first.source if not speaks_for_others(first.source, book) else None
    if connection.owner.kind is OwnerKind.BALANCER and not trip.from_client_tap:
        if header is Header.TAKEN:
            return client_named(trip, book)
        return _own_address(connection)
    if trip.header is not None and not trip.from_client_tap:
        return None  # its sender may be a balancer that nobody told us of
    if _suspected(connection, book):
        return None
    return trip.source if origin_certain else None


def speaks_for_others(address: int, book: AddressBook) -> bool:
    """Whether an address is a proxy's, or may be: it is asked by clients, and asks in its turn."""
    return book.owner(address).kind is OwnerKind.BALANCER or book.suspected(address)


def client_named(trip: Trip, book: AddressBook) -> int | None:
    """The client that the PROXY headers name: of several, the first that is not a balancer in between."""
    for header in trip.headers:
        named = address_in(header.source) if header.source is not None else None
        if named is None or book.owner(named).kind is not OwnerKind.BALANCER:
            return named
    return None


def _own_address(connection: Connection) -> int | None:
    """The address of the client's own socket, as it told us itself."""
    return address_in(connection.asked.source) if connection.asked is not None else None


def _suspected(connection: Connection, book: AddressBook) -> bool:
    """Whether the source may be a proxy that nobody told us of, by what it asks or by what it says."""
    trip = connection.trip
    return (not trip.from_client_tap and book.suspected(trip.source)) or connection.names_others


def _named(connection: Connection, client: int | None, book: AddressBook) -> Named:
    """The last server's word about the client, held against the client."""
    word = connection.last_word
    found = {address_in(named) for named in word.addresses} if word is not None else set()
    named = {address for address in found if address is not None}
    if not named:
        # What is no address is not the client's, whoever that is.
        return Named.OTHER if word is not None and word.point == "app" else Named.NOBODY
    if word is not None and client is not None and _among_others(word, client, named, book):
        return Named.AMONG
    if client is not None and client in named:
        return Named.CLIENT
    kinds = {book.owner(address).kind for address in named}
    if kinds <= {OwnerKind.BALANCER} and connection.owner.kind is OwnerKind.BALANCER:
        return Named.OTHER
    if client is None:
        return Named.UNSURE
    # What the client calls its own address may have been translated before anybody watched.
    self_told = not connection.chain and connection.owner.kind is OwnerKind.BALANCER
    if self_told and client == _own_address(connection) and OwnerKind.EXTERNAL in kinds:
        return Named.UNSURE
    return Named.OTHER


def _among_others(word: Word, client: int, named: set[int], book: AddressBook) -> bool:
    """Whether the application was told several addresses, so that its own trust decides which of them it takes.

    Addresses of proxies beside the client's are what a list of forwarded addresses is made of.
    """
    if word.request is None:
        return False
    told = word.request.claims.addresses
    if client not in named:
        return client in told
    return any(address != client and book.owner(address).kind is OwnerKind.EXTERNAL for address in told)


def _carried(connection: Connection, client: int | None) -> Carried:
    """Whether the requests themselves can carry the client's address although the packets do not."""
    trip = connection.trip
    balancer = connection.owner.kind is OwnerKind.BALANCER
    if not connection.requests and trip.unreadable is not None:
        untouched = any(link.by in {BY_HELLO, BY_ORDER, BY_HEADER} for link in connection.chain[-1:])
        return Carried.HIDDEN if balancer and not untouched else Carried.NO
    claimed = frozenset(address for claims in connection.claims for address in claims.addresses)
    if client is not None:
        return Carried.CLIENT if client in claimed else Carried.NO
    return Carried.SOMEBODY if claimed and (balancer or connection.names_others) else Carried.NO


def header_of(connection: Connection, coverage: Coverage, book: AddressBook) -> Header:
    """What is known of a PROXY header on the leg."""
    trip = connection.trip
    first = trip.leg.first_bytes
    if trip.leg.protocol != 6 and first is None:
        return Header.ABSENT
    if first is None:
        # A header would have passed the kernel filter; other data was not asked for.
        return Header.UNKNOWN if coverage.first_bytes else Header.ABSENT
    if first.payload not in PROXY_PAYLOADS:
        return Header.ABSENT
    if trip.header is None:
        broken = first.head is not None and first.head.proxy_error is not None
        return Header.BROKEN if broken else Header.CUT
    if trip.header.source is None or trip.header.command != "PROXY":
        return Header.NO_CLIENT
    return _taken(connection, trip, book)


def _taken(connection: Connection, trip: Trip, book: AddressBook) -> Header:
    did = reaction(trip)
    if did.refused:
        return Header.REFUSED
    if did is Reaction.UNSEEN:
        return Header.UNANSWERED
    if not sender_trusted(connection):
        return Header.FORGEABLE
    carried_on = connection.chain[0].trip.source if connection.chain else None
    named = not speaks_for_others(carried_on, book) if carried_on is not None else _can_be_client(trip, book)
    return Header.TAKEN if named else Header.TRANSLATED


def _can_be_client(trip: Trip, book: AddressBook) -> bool:
    """Whether the named address is one that no NAT of the cluster gives out."""
    named = client_named(trip, book)
    if named is None:  # a socket path, or proxies only
        return not any(header.source and address_in(header.source) for header in trip.headers)
    return book.owner(named).kind in {OwnerKind.EXTERNAL, OwnerKind.POD} and not book.suspected(named)


def sender_trusted(connection: Connection) -> bool:
    """Whether the header's sender is shown to be a balancer, or to carry on a connection that was seen."""
    if connection.passed_on:
        return False
    return bool(connection.chain) or connection.owner.kind is OwnerKind.BALANCER


def forged(connection: Connection) -> bool:
    """Whether a client that was itself watched, or that is our own, names another address in a header of its own."""
    trip = connection.trip
    if trip.header is None or trip.header.source is None:
        return False
    if connection.chain:
        first = connection.chain[0].trip
        return connection.passed_on and first.from_client_tap and not _is_own_claim(trip.header, first)
    own = connection.asked is not None and any(name in PROXY_CLAIMS for name, _ in connection.asked.forged)
    if not (own or trip.from_client_tap):
        return False
    return not _is_own_claim(trip.header, trip)


def _is_own_claim(header: ProxyHeader, client: Trip) -> bool:
    """Whether a client names its own socket."""
    return header.source == endpoint(client.source, client.steps[0].addresses.sport)


def _forwarded(trip: Trip, facts: Facts) -> bool:
    if facts.known:
        return any(step.at_endpoint or step.kind is None for step in trip.steps)
    return len({step.addresses for step in trip.steps}) > 1 or trip.steps[-1].kind is TapKind.POD


def delivered(trip: Trip, book: AddressBook, facts: Facts) -> bool:
    """Whether the leg was seen where nothing but its endpoint can follow."""
    if not facts.known:
        return trip.steps[-1].kind is TapKind.POD
    for step in trip.steps:
        if not step.at_endpoint:
            continue
        owner = book.owner(step.addresses.dst)
        if step.kind is TapKind.POD:
            return True
        if step.kind in POD_SIDE and owner.node in {step.place, None}:
            return True
        here = owner.node == step.place
        if step.kind is TapKind.NIC and here and (owner.kind is OwnerKind.NODE or step.everywhere):
            return True
        # Translated to an address of the node itself, and answered: no tap can show more.
        if step.kind is None and here and owner.kind is OwnerKind.NODE and trip.leg.answered:
            return True
    return False


def _origin_certain(connection: Connection, coverage: Coverage, facts: Facts) -> bool:
    """Whether nothing before the first sighting can have been the real source."""
    first = connection.trip.steps[0]
    if first.kind is TapKind.CLIENT:
        return True
    if not facts.known:
        return False
    kind = connection.owner.kind
    if kind is OwnerKind.EXTERNAL:
        return _outsider_certain(connection.trip, coverage)
    if not first.frontend:
        return False  # translated already, and the address is one that a translation can produce
    if kind is OwnerKind.POD:
        return first.place == connection.owner.node
    if kind is OwnerKind.LOOPBACK:
        return True
    # A node's own address, before DNAT, on that very node: a process of the node asked. At the NIC alone, on the way
    # out, it can as well be what the CNI put in a pod's place.
    if kind is not OwnerKind.NODE or first.place != connection.owner.node:
        return False
    inside = bool(coverage.kinds.get(first.place, frozenset()) & POD_SIDE) or first.place in coverage.whole
    return first.kind is not TapKind.NIC or inside or first.place in coverage.nat


def _outsider_certain(trip: Trip, coverage: Coverage) -> bool:
    """Whether an address from outside can be taken for a client's, and not for an unknown balancer's.

    Balancers give themselves away at the NIC, by what they ask the nodes' health-check ports; and where a balancer
    is watched, what it did not pass on did not come through it.
    What asks an endpoint already may have been translated by a node that nobody listed, whose address is then unknown.
    """
    if any(TapKind.LB in kinds for kinds in coverage.kinds.values()):
        return False
    first = trip.steps[0]
    return first.kind is TapKind.NIC and (first.frontend or coverage.every_node)


def _silence(connection: Connection, coverage: Coverage, facts: Facts) -> Silence:
    trip = connection.trip
    if trip.leg.answered or trip.leg.refusals:
        return Silence.NONE
    entry = _entry_on_node(trip.steps, facts)
    if entry is None or not coverage.watches_node(entry.place):
        return Silence.BLIND
    here = [step.sighting for step in trip.steps if step.place == entry.place and step.sighting]
    if not any(s.syns > 1 and s.last - (s.first or s.last) >= REPEATED for s in here):
        return Silence.TOO_SHORT
    if expectation(connection, entry, facts) in {Expected.DROP_NO_LOCAL_ENDPOINT, Expected.DROP_SOURCE_RANGE}:
        return Silence.EXPECTED
    return Silence.UNEXPLAINED


def _no_room(trip: Trip, coverage: Coverage, facts: Facts) -> str:
    """What the kernel of the node where the leg entered counted of packets for which it had no room."""
    entry = _entry_on_node(trip.steps, facts)
    table = coverage.full.get(entry.place) if entry is not None else None
    return table.reason if table is not None else ""


def _entry_on_node(steps: Sequence[Step], facts: Facts) -> Step | None:
    """Where the leg met the first node of the cluster."""
    outside = {TapKind.CLIENT, TapKind.LB}
    on_nodes = [step for step in steps if step.kind not in outside and (step.frontend or not facts.known)]
    return on_nodes[-1] if on_nodes else None


def expectation(connection: Connection, entry: Step, facts: Facts) -> Expected:
    """What the facts call for at the node where the leg entered."""
    if entry.target is None:
        return Expected.FORWARD
    source = entry.addresses.src
    # Of an address that has replaced the client's, the client's owner says nothing.
    owner = connection.owner if source == connection.trip.source else None
    known = entry.kind in {TapKind.NIC, TapKind.BRIDGE, TapKind.TUNNEL} and not entry.everywhere
    arrived = entry.interface if known and entry.asked else None
    return expected_at(entry.target, Caller(entry.place, source, owner, arrived), facts)
