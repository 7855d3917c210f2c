"""Steps → the hops, replacements and node crossing that a report shows."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from analysis.chain.claims import address_in
from analysis.chain.trips import Connection, Trip, Word
from analysis.hops.addresses import AddressBook, OwnerKind, TargetKind, endpoint
from analysis.hops.steps import Step
from analysis.judging.blame import Blame
from analysis.judging.knowledge import entry_step
from analysis.report import CrossNode, Hop, ProxyProtocol, Snat
from analysis.rules.hits import Met
from daemonset.observation import Payload, Tap, TapKind, Topology, Tunnel

_VIA = {
    Tunnel.VXLAN: "vxlan",
    Tunnel.GENEVE: "geneve",
    Tunnel.IPIP: "ipip",
    Tunnel.GRE: "gre",
}

_VERSIONS = {Payload.PROXY_V1: 1, Payload.PROXY_V2: 2}

#: Tunnel devices by the names that CNIs give them, for captures that come without the node's topology.
_DEVICE_NAMES = (
    (re.compile(r"vxlan|^flannel\.\d"), "vxlan"),
    (re.compile(r"genev"), "geneve"),
    (re.compile(r"^wg|wireguard|-wg|^cilium_wg"), "encrypted"),
    (re.compile(r"^tunl|ipip|ip6tnl|^sit"), "ipip"),
    (re.compile(r"gre"), "gre"),
)
_DEVICE_KINDS = {
    "vxlan": "vxlan",
    "geneve": "geneve",
    "wireguard": "encrypted",
    "ipip": "ipip",
    "sit": "ipip",
    "ip6tnl": "ipip",
    "gre": "gre",
    "gretap": "gre",
    "ip6gre": "gre",
}


def source_text(step: Step) -> str:
    """`ip:port` of the source."""
    return endpoint(step.addresses.src, step.addresses.sport)


def destination_text(step: Step) -> str:
    """`ip:port` of the destination."""
    return endpoint(step.addresses.dst, step.addresses.dport)


def hops(connection: Connection, taps: Sequence[Tap], book: AddressBook) -> tuple[Hop, ...]:
    """The hops of a journey: the client's own leg first, then what the servers said."""
    result: list[Hop] = []
    trips = (*(link.trip for link in connection.chain), connection.trip)
    for leg, trip in enumerate(trips):
        ties = [link.by for link in connection.chain]
        result.extend(_leg_hops(trip, leg, book, f"tied by {ties[leg - 1]}" if leg else None))
    result.extend(_header_hops(connection.trip, len(trips) - 1, taps))
    result.extend(_word_hops(connection, len(trips), book))
    return tuple(result)


def ended(last: Hop, met: Met) -> Hop:
    """The end of a way at a rule that let the packet go no further, as the kernel itself says."""
    return Hop(
        node=met.node,
        point=last.point if last.node == met.node else "nic",
        interface=None,
        source=met.hit.source,
        destination=met.hit.destination,
        changed=(),
        evidence="rule",
        time=last.time,
        leg=last.leg,
        note=f"{'rejected' if met.does == 'reject' else 'dropped'} by {met.text}",
    )


def _header_hops(trip: Trip, leg: int, taps: Sequence[Tap]) -> list[Hop]:
    """What the PROXY headers said, in the order in which they stand."""
    first = trip.leg.first_bytes
    if first is None:
        return []
    tap = taps[first.tap]
    return [
        Hop(
            node=tap.node,
            point="proxy-header",
            interface=tap.interface,
            source=header.source,
            destination=header.destination or "",
            changed=(),
            evidence="header",
            time=first.time / 1e9,
            leg=leg,
            note=f"PROXY v{header.version}",
            tap=str(tap.kind),
        )
        for header in trip.headers
        if header.source is not None
    ]


def _word_hops(connection: Connection, leg: int, book: AddressBook) -> list[Hop]:
    """The connection of the server to the one behind it, whom it named there, and whom that one took for its client."""
    result: list[Hop] = []
    word = connection.word
    if word is not None:
        if word.onward is not None:
            opened = _leg_hops(word.onward, leg, book, f"tied by {word.by}")
            # The one who asks here is the server, not the client of the journey.
            result.extend(
                msgspec.structs.replace(hop, point="pod") if hop.point == "client" else hop for hop in opened
            )
        arrived = result[-1:]
        result.append(_word_hop(word, leg, arrived, "log" if word.point == "log" else "header"))
        if connection.told is not None:
            result.append(_word_hop(connection.told, leg, arrived, "log"))
    elif connection.told is not None:
        result.append(_word_hop(connection.told, leg, (), "log"))
    return result


def _word_hop(word: Word, leg: int, before: Sequence[Hop], evidence: str) -> Hop:
    """The addresses of fields come without a port: 0. The application is where the last connection arrived."""
    address = address_in(word.addresses[0])
    return Hop(
        node=word.place or (before[-1].node if before else None),
        point=word.point,
        interface=None,
        source=endpoint(address, 0) if address is not None else word.addresses[0],
        destination=before[-1].destination if before else "",
        changed=(),
        evidence=evidence,
        time=word.time / 1e9,
        leg=leg,
        note=f"by {word.by}",
    )


def _leg_hops(trip: Trip, leg: int, book: AddressBook, tie: str | None = None) -> list[Hop]:
    result: list[Hop] = []
    previous: Step | None = None
    for step in trip.steps:
        changed: list[str] = []
        if previous is not None:
            if source_text(previous) != source_text(step):
                changed.append("source")
            if destination_text(previous) != destination_text(step):
                changed.append("destination")
        result.append(
            Hop(
                node=step.place,
                point=_point(step, trip.steps, book),
                interface=step.interface,
                source=source_text(step),
                destination=destination_text(step),
                changed=tuple(changed),
                evidence="conntrack" if step.kind is None else "packet",
                time=step.time / 1e9,
                leg=leg,
                note=", ".join(filter(None, [tie if previous is None else None, _VIA.get(step.tunnel)]))
                or None,
                tap=str(step.kind) if step.kind else None,
            )
        )
        previous = step
    return result


def _point(step: Step, steps: Sequence[Step], book: AddressBook) -> str:
    """The point of the way (docs/architecture.md, "The words") that a step stands for."""
    if step.kind in {TapKind.CLIENT, TapKind.LB}:
        return str(step.kind)
    if step.kind is TapKind.TUNNEL or step.tunnel is not Tunnel.NONE:
        return "tunnel"
    asking = step.frontend or (step.target is None and step.addresses.dst == steps[0].addresses.dst)
    if step.kind is None:
        inside = book.owner(step.addresses.src).kind is not OwnerKind.EXTERNAL
        return ("client" if inside else "nic") if asking else "dnat"
    if step.kind is TapKind.POD:
        return "client" if step.frontend and book.owner(step.addresses.src).kind is OwnerKind.POD else "pod"
    if step.kind is TapKind.NIC:
        earlier = steps[: steps.index(step)]
        translated_here = any(
            s.place == step.place and s.addresses.dst != step.addresses.dst for s in earlier
        )
        return "dnat" if translated_here and not step.frontend else "nic"
    return "client" if asking else "dnat"


def replacements(blames: Sequence[Blame]) -> tuple[Snat, ...]:
    """Each replacement of the source address."""
    return tuple(
        Snat(
            node=blame.node,
            from_=source_text(blame.change.before),
            to=source_text(blame.change.after),
            mechanism=str(blame.mechanism),
            rule=blame.rule,
        )
        for blame in blames
    )


def crossing(
    trip: Trip, taps: Sequence[Tap], topologies: dict[str, Topology], book: AddressBook
) -> CrossNode | None:
    """The forwarding from the node that was asked to the node of the endpoint, if they differ."""
    entry = entry_step(trip.steps)
    reached = [step for step in trip.steps if step.at_endpoint]
    if entry is None or not reached:
        return None
    start = _entry_node(entry, book)
    places = {tap.node for tap in taps if tap.kind not in {TapKind.CLIENT, TapKind.LB}}
    owner = book.owner(reached[-1].addresses.dst)
    end = owner.node or (reached[-1].place if reached[-1].place in places else None)
    if start is None or end is None or start == end:
        return None
    return CrossNode(from_=start, to=end, via=_via(reached, topologies))


def _entry_node(entry: Step, book: AddressBook) -> str | None:
    asked = book.owner(entry.addresses.dst).node
    node_port = entry.target is not None and entry.target.kind is TargetKind.NODE_PORT
    if entry.kind in {TapKind.CLIENT, TapKind.LB} or (node_port and asked is not None):
        return asked
    return entry.place


def _via(steps: Sequence[Step], topologies: dict[str, Topology]) -> str:
    for step in steps:
        if step.tunnel is not Tunnel.NONE:
            return _VIA[step.tunnel]
    for step in steps:
        if step.kind is TapKind.TUNNEL and step.interface:
            return _device(step.place, step.interface, topologies)
    return "routed"


def _device(place: str, interface: str, topologies: dict[str, Topology]) -> str:
    topology = topologies.get(place, Topology())
    for entry in topology.interfaces:
        if entry.name == interface and entry.kind in _DEVICE_KINDS:
            return _DEVICE_KINDS[entry.kind]
    return next((via for pattern, via in _DEVICE_NAMES if pattern.search(interface)), "encrypted")


def proxy_protocol(trip: Trip) -> ProxyProtocol | None:
    """The PROXY header of the leg, for the report; of one that could not be read to its end, its version."""
    header = trip.header
    if header is None:
        first = trip.leg.first_bytes
        cut = first is not None and first.head is not None and not first.head.proxy_complete
        return (
            ProxyProtocol(_VERSIONS[first.payload], "PROXY", None, None)
            if first is not None and cut
            else None
        )
    tlvs = tuple(
        {"type": tlv.type, "name": tlv.name, "value": tlv.value.hex(), "decoded": tlv.decoded}
        for tlv in header.tlvs
    )
    return ProxyProtocol(header.version, header.command, header.source, header.destination, tlvs)
