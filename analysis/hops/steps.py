"""A leg's sightings → its steps in the order in which the packet took them.

Clocks of different nodes may be seconds apart, so time orders steps only within one place. Places follow from
structure: where the client is, then balancers, then nodes that saw the address of a Service, then nodes that
saw only an endpoint's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from analysis.engine.legs import FourTuple, Leg, NatRecord, Sighting
from analysis.hops.addresses import EXACT_TAPS, AddressBook, OwnerKind, Target, every_interface
from daemonset.observation import Tap, TapKind, Tunnel

INWARD = (TapKind.NIC, TapKind.TUNNEL, TapKind.BRIDGE, TapKind.VETH, TapKind.POD)
OUTWARD = (TapKind.POD, TapKind.VETH, TapKind.BRIDGE, TapKind.TUNNEL, TapKind.NIC)


@dataclass(frozen=True, slots=True)
class Step:
    """One known state of the leg's addresses: at a tap, or between taps by a kernel's own record."""

    place: str  # node, client or balancer
    kind: TapKind | None  # None: a NAT record
    interface: str | None
    addresses: FourTuple
    target: Target | None  # what the destination stands for
    time: int  # ns by the place's clock
    tunnel: Tunnel
    sighting: Sighting | None

    @property
    def frontend(self) -> bool:
        """Whether an endpoint has still to be chosen."""
        return self.target is not None and self.target.frontend

    @property
    def everywhere(self) -> bool:
        """Whether the tap shows every interface of its node at once."""
        return every_interface(self.interface)

    @property
    def asked(self) -> bool:
        """Whether a handshake packet of the client itself was seen here, not only an answer to it."""
        return self.sighting is not None and self.sighting.first is not None

    @property
    def at_endpoint(self) -> bool:
        """Whether the destination is an endpoint of a Service."""
        return self.target is not None and not self.target.frontend


@dataclass(frozen=True, slots=True)
class Change:
    """Between two neighbouring steps the source address changed."""

    before: Step
    after: Step


def walk(leg: Leg, taps: Sequence[Tap], book: AddressBook) -> tuple[Step, ...]:
    """The steps of a leg, first to last."""
    sightings = _lasting(leg.sightings)
    steps = _outbound([_step(leg, sighting, taps[sighting.tap], book) for sighting in sightings])
    left = {sighting.addresses for sighting in leg.sightings} - {sighting.addresses for sighting in sightings}
    refuted = disputed(leg, taps, book)
    nat = [record for record in leg.nat if record.translated not in left and record not in refuted]
    home = _home(steps, nat, book)
    places = sorted({step.place for step in steps}, key=lambda place: _place_key(place, steps, home, book))
    ordered: list[Step] = []
    for place in places:
        here = _without_echoes(_order([step for step in steps if step.place == place], home == place, book))
        records = [record for record in nat if record.node == place]
        ordered.extend(_insert_records(leg, here, records, book))
    seen = {step.place for step in steps}
    orphans = [record for record in nat if record.node not in seen]
    return tuple(_each_state_once(_insert_records(leg, ordered, orphans, book)))


def _each_state_once(steps: list[Step]) -> list[Step]:
    """Steps of a connection that comes back to a node, in the order of its translations.

    NAT leads on, never back: where place by place a state of the addresses would come again after another, the
    connection passed through a node twice, as from a pod over another node to a pod of its own.
    """
    states = list(dict.fromkeys(step.addresses for step in steps))
    runs = [addresses for addresses, _ in groupby(step.addresses for step in steps)]
    if len(runs) == len(states):
        return steps
    asked = {step.addresses for step in steps if step.frontend}
    begun = {step.addresses for step in steps if step.kind is TapKind.CLIENT}
    # The beginning is what a client was seen to send, whatever it asks for; else what still asks for an endpoint.
    if not begun - asked:
        states.sort(key=lambda state: state not in asked)  # stable
    result: list[Step] = []
    for state in states:
        here = [step for step in steps if step.addresses == state]
        last = result[-1].place if result else here[0].place
        result += sorted(here, key=lambda step: step.place != last)
    return result


def source_changes(steps: Sequence[Step]) -> tuple[Change, ...]:
    """Every place of the path where the source address is another than just before."""
    pairs = pairwise(steps)
    return tuple(Change(a, b) for a, b in pairs if a.addresses.src != b.addresses.src)


def disputed(leg: Leg, taps: Sequence[Tap], book: AddressBook) -> list[NatRecord]:
    """Records of the kernel that the leg's own packets contradict.

    A table read at the end may hold a later user of the same port, and some datapaths bypass it. Packets win: a
    record is set aside when packets towards an endpoint were seen, on its node or after it, and none is as it says.
    """
    packets = _outbound([_step(leg, sighting, taps[sighting.tap], book) for sighting in leg.sightings])
    exact = [step for step in packets if step.asked and step.kind in EXACT_TAPS and not step.everywhere]
    arrived = {step.addresses for step in exact if step.at_endpoint}

    def contradicted(record: NatRecord) -> bool:
        others = [other for other in leg.nat if other != record]
        asked = book.target(leg.protocol, record.original.dst, record.original.dport)
        entered = {step.addresses for step in exact if step.frontend and step.place == record.node}
        entered -= {record.translated}
        if asked is not None and asked.frontend and entered:
            entered |= {other.translated for other in others}
            if record.original not in entered:
                return True
        reached = book.target(leg.protocol, record.translated.dst, record.translated.dport)
        if reached is None or reached.frontend or not arrived:
            return False
        return record.translated not in arrived | {other.original for other in others}

    return [record for record in leg.nat if contradicted(record)]


def _lasting(sightings: Sequence[Sighting]) -> list[Sighting]:
    """Without a way that the client's SYN took in vain before it, sent again, got through by another port.

    Where a port that NAT gives is still held by an earlier connection at the server, the kernel forgets the attempt and
    gives the next SYN another one (RFC 9293 §3.10.7.4, a challenge ACK and the RST after it). Of two such ways the one
    that was answered is the connection's. Addresses decide nothing here: both ways have the same.
    """

    def way(sighting: Sighting) -> tuple[int, int, int]:
        return sighting.addresses.src, sighting.addresses.dst, sighting.addresses.dport

    replied = {sighting.addresses for sighting in sightings if sighting.replied}
    through = {(sighting.tap, way(sighting)) for sighting in sightings if sighting.addresses in replied}
    return [
        sighting
        for sighting in sightings
        if sighting.addresses in replied or (sighting.tap, way(sighting)) not in through
    ]


def _outbound(steps: list[Step]) -> list[Step]:
    """Without answers that took a way of their own.

    With direct server return the endpoint's node answers in the Service's name although the client's packets came
    to it already translated; mirrored, that answer would look like a packet that never was.
    """
    arrived = {
        (step.place, step.addresses.src)
        for step in steps
        if step.at_endpoint and step.kind in {TapKind.NIC, TapKind.TUNNEL} and step.asked
    }
    return [
        step
        for step in steps
        if step.asked
        or not (step.frontend and step.kind is TapKind.NIC and (step.place, step.addresses.src) in arrived)
    ]


def _step(leg: Leg, sighting: Sighting, tap: Tap, book: AddressBook) -> Step:
    return Step(
        place=tap.node,
        kind=tap.kind,
        interface=tap.interface,
        addresses=sighting.addresses,
        target=book.target(leg.protocol, sighting.addresses.dst, sighting.addresses.dport),
        time=sighting.first if sighting.first is not None else sighting.seen,
        tunnel=sighting.tunnel,
        sighting=sighting,
    )


def _home(steps: list[Step], records: list[NatRecord], book: AddressBook) -> str | None:
    """The node that the connection comes from, when the client is in the cluster."""
    sources = [step.addresses.src for step in steps if step.frontend]
    sources += [record.original.src for record in records]
    for source in sources or [step.addresses.src for step in steps]:
        owner = book.owner(source)
        if owner.kind is OwnerKind.LOOPBACK:
            return records[0].node if records else None
        if owner.kind in {OwnerKind.POD, OwnerKind.NODE} and any(step.place == owner.node for step in steps):
            return owner.node
    return None


def _place_key(
    place: str, steps: list[Step], home: str | None, book: AddressBook
) -> tuple[int, int, int, int]:
    here = [step for step in steps if step.place == place]
    kinds = {step.kind for step in here}
    if TapKind.CLIENT in kinds:
        rank = 0
    elif place == home:
        rank = 1
    elif TapKind.LB in kinds:
        rank = 2
    elif any(step.frontend for step in here):
        rank = 3
    else:
        rank = 4
    serves = any(step.at_endpoint and book.owner(step.addresses.dst).node == place for step in here)
    # A node or balancer whose own address is the source has sent what the others received.
    sources = {step.addresses.src for step in here}
    sender = any(place in {book.owner(source).node, book.home(source)} for source in sources)
    return rank, int(serves and not sender), int(not sender), min(step.time for step in here)


def _order(here: list[Step], home: bool, book: AddressBook) -> list[Step]:
    """Steps of one place. By time where every tap saw the client's own packet, else by structure."""

    def structure(step: Step) -> tuple[int, int]:
        stage = 0 if step.frontend else 2 if step.at_endpoint else 1
        serves = step.at_endpoint and book.owner(step.addresses.dst).node == step.place
        inward = serves if step.at_endpoint else not home
        kinds = INWARD if inward else OUTWARD
        return stage, kinds.index(step.kind) if step.kind in kinds else -1

    asking = {step.addresses.src for step in here if step.frontend}

    def translated(step: Step) -> int:
        """How far NAT has come: bridge netfilter shows the state between its halves, microseconds early or late."""
        return 0 if not step.at_endpoint else 1 if step.addresses.src in asking else 2

    if all(step.asked for step in here):
        return sorted(here, key=lambda step: (translated(step), step.time, structure(step)))
    return sorted(here, key=structure)


def _without_echoes(here: list[Step]) -> list[Step]:
    """Without frames that a bridge floods back: a state of the addresses that was left does not come again.

    Where a pod reaches itself, bridge netfilter lets it see its own packet half translated, from itself to itself.
    """
    kept: list[Step] = []
    for step in here:
        flooded = step.kind is TapKind.POD and step.addresses.src == step.addresses.dst
        left = (
            any(other.addresses == step.addresses for other in kept) and kept[-1].addresses != step.addresses
        )
        if not (flooded or left):
            kept.append(step)
    return kept or here


def _record_step(leg: Leg, record: NatRecord, tuple_: FourTuple, time: int, book: AddressBook) -> Step:
    target = book.target(leg.protocol, tuple_.dst, tuple_.dport)
    return Step(record.node, None, None, tuple_, target, time, Tunnel.NONE, None)


def _insert_records(leg: Leg, here: list[Step], records: list[NatRecord], book: AddressBook) -> list[Step]:
    """Put what the kernel says just before the first packet that shows it.

    Bridge netfilter can show a packet between its two translations, so the record goes after everything that is
    not yet fully translated.
    """
    result = list(here)
    for record in records:
        at = next((i for i, step in enumerate(result) if step.addresses == record.translated), len(result))
        time = result[at].time if at < len(result) else result[-1].time if result else leg.start
        said = [_record_step(leg, record, record.translated, time, book)]
        if all(step.addresses != record.original for step in result[:at]):
            first = min(at, next((i for i, step in enumerate(result) if not step.frontend), at))
            result.insert(first, _record_step(leg, record, record.original, time, book))
            at += 1
        result[at:at] = said
    return result
