"""Who owns an address, and what a destination stands for.

Both questions are answered from facts (objects, and what agents said of their nodes), never from traffic.
Addresses are 128-bit integers here, IPv4 mapped, as in the observation schema.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.engine.interning import at_least
from analysis.facts import Facts, Service
from daemonset.observation import TapKind, Topology, address_text, address_words

MAPPED = 0xFFFF_0000_0000  # ::ffff:0:0/96

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


_WORD = 0xFFFF_FFFF_FFFF_FFFF


class OwnerKind(enum.StrEnum):
    """What kind of thing an address belongs to."""

    EXTERNAL = "external"
    NODE = "node"
    POD = "pod"
    POD_NETWORK = "pod-network"  # inside a node's pod CIDR but no pod's: its bridge or tunnel device
    BALANCER = "balancer"
    LOOPBACK = "loopback"


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of an address; `node` is where it lives, when that is known."""

    kind: OwnerKind
    name: str
    node: str | None = None


EXTERNAL = Owner(OwnerKind.EXTERNAL, "")


class TargetKind(enum.StrEnum):
    """How a Service is reached at an address and port."""

    CLUSTER_IP = "cluster-ip"
    NODE_PORT = "node-port"
    LOAD_BALANCER = "load-balancer"
    EXTERNAL_IP = "external-ip"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class Target:
    """A Service reached in one of its ways. `port` is the Service's port name."""

    service: Service
    kind: TargetKind
    port: str

    @property
    def frontend(self) -> bool:
        """Whether a node has still to choose an endpoint for packets sent here."""
        return self.kind is not TargetKind.ENDPOINT


def integer(address: str) -> int:
    """The 128-bit integer of an address text."""
    high, low = address_words(address)
    return high << 64 | low


@lru_cache(maxsize=1 << 16)  # few addresses are written again and again
def text(address: int) -> str:
    """The address as people write it."""
    return address_text(address >> 64, address & 0xFFFF_FFFF_FFFF_FFFF)


def endpoint(address: int, port: int) -> str:
    """`ip:port` or `[ip]:port`."""
    written = text(address)
    return f"[{written}]:{port}" if ":" in written else f"{written}:{port}"


@dataclass(frozen=True, slots=True)
class _Range:
    first: int
    last: int
    owner: Owner


class AddressBook:
    """Looks up owners and targets. Built once for an analysis."""

    def __init__(self, facts: Facts, topologies: dict[str, Topology], wanted: tuple[Service, ...]) -> None:
        self.known = facts.known
        self.wanted = frozenset(service.key for service in wanted)
        self._suspects: set[int] = set()
        self._homes: dict[int, str] = {}
        self._node_names = frozenset(node.name for node in facts.nodes if node.addresses)
        self._owners: dict[int, Owner] = {}
        self._ranges: list[_Range] = []
        self._targets: dict[tuple[int, int, int], Target] = {}
        self._node_ports: dict[tuple[int, int], Target] = {}
        self._target_numbers: dict[tuple[str, TargetKind, str], int] = {}
        self._virtual = frozenset(
            address
            for entry in facts.services
            for address in (*entry.cluster_ips, *entry.external_ips, *_virtual(entry))
        )
        self._balancers(facts)
        self._pods(facts)
        self._nodes(facts)
        self._observed(topologies)
        # Services can share endpoints; what is asked about comes first.
        for service in (*wanted, *(entry for entry in facts.services if entry.key not in self.wanted)):
            self._service(service)

    def owner(self, address: int) -> Owner:
        """Whose address this is. EXTERNAL where nothing in the cluster claims it."""
        found = self._owners.get(address)
        if found is None:
            found = self._search(address)
            self._owners[address] = found
        return found

    def target(self, protocol: int, address: int, port: int) -> Target | None:
        """What a packet sent there asks for; node ports answer on every address of a node."""
        found = self._targets.get((protocol, address, port))
        if found is None and (protocol, port) in self._node_ports:
            local = {OwnerKind.NODE, OwnerKind.POD_NETWORK, OwnerKind.LOOPBACK}
            if self.owner(address).kind in local:
                found = self._node_ports[protocol, port]
        return found

    def claim_balancer(self, address: int, name: str) -> None:
        """Record that an address belongs to a load balancer, when a tap there has shown it."""
        if self.owner(address).kind is OwnerKind.EXTERNAL:
            self._owners[address] = Owner(OwnerKind.BALANCER, name)
        if self.owner(address).kind is OwnerKind.BALANCER:
            self._homes.setdefault(address, name)

    def home(self, address: int) -> str | None:
        """The place at which taps have shown an address to be the load balancer's."""
        return self._homes.get(address)

    def suspect_balancer(self, address: int) -> None:
        """Record that an outsider behaves as a load balancer would, which proves nothing."""
        self._suspects.add(address)

    def suspected(self, address: int) -> bool:
        """Whether an outsider may be a load balancer."""
        return address in self._suspects and self.owner(address).kind is OwnerKind.EXTERNAL

    def claim_balancer_text(self, address: str, name: str) -> None:
        """The same for an address as text, with or without a prefix length."""
        bare = address.split("/", maxsplit=1)[0]
        if not ip_address(bare).is_link_local:
            self.claim_balancer(integer(bare), name)

    def owner_codes(self, high: NDArray[Any], low: NDArray[Any]) -> NDArray[Any]:
        """For columns of address words, a number for each owner; addresses of nobody share 0."""
        codes = np.zeros(len(high), dtype=np.int32)
        for address in self._suspects:
            codes[(high == address >> 64) & (low == address & _WORD)] = -1
        numbers: dict[Owner, int] = {EXTERNAL: 0}
        for entry in reversed(self._ranges):
            inside = at_least(high, low, entry.first) & ~at_least(high, low, entry.last + 1)
            codes[inside] = numbers.setdefault(entry.owner, len(numbers))
        for address, owner in self._owners.items():
            here = (high == address >> 64) & (low == address & _WORD)
            if owner != EXTERNAL:
                codes[here] = numbers.setdefault(owner, len(numbers))
        return codes

    def target_code(self, protocol: int, address: int, port: int) -> int:
        """A number for each target; destinations that are no Service's share 0."""
        found = self.target(protocol, address, port)
        if found is None:
            return 0
        return self._target_numbers.setdefault(
            (found.service.key, found.kind, found.port), len(self._target_numbers) + 1
        )

    def _search(self, address: int) -> Owner:
        for entry in self._ranges:
            if entry.first <= address <= entry.last:
                return entry.owner
        return EXTERNAL

    def _claim(self, address: str, owner: Owner) -> None:
        self._owners.setdefault(integer(address), owner)

    def _balancers(self, facts: Facts) -> None:
        for service in facts.services:
            for balancer in service.balancers:
                if balancer.address and balancer.ip_mode == "Proxy":
                    name = f"load balancer of {service.key}"
                    self._claim(balancer.address, Owner(OwnerKind.BALANCER, name))
        for named in facts.balancers:
            self._range(named, Owner(OwnerKind.BALANCER, f"load balancer {named}"))

    def _nodes(self, facts: Facts) -> None:
        self._range("127.0.0.0/8", Owner(OwnerKind.LOOPBACK, "loopback"))
        self._range("::1/128", Owner(OwnerKind.LOOPBACK, "loopback"))
        for node in facts.nodes:
            for address in node.addresses:
                self._claim(address, Owner(OwnerKind.NODE, node.name, node.name))
            for cidr in node.pod_cidrs:
                self._range(cidr, Owner(OwnerKind.POD_NETWORK, f"pod network of {node.name}", node.name))

    def _pods(self, facts: Facts) -> None:
        for pod in facts.pods:
            if not pod.host_network:
                kind = OwnerKind.BALANCER if _is_service_lb(pod.name, pod.labels) else OwnerKind.POD
                for address in pod.addresses:
                    self._claim(address, Owner(kind, f"{pod.namespace}/{pod.name}", pod.node))

    def _observed(self, topologies: dict[str, Topology]) -> None:
        """What agents read from their kernels closes the gaps of the objects."""
        for node, topology in topologies.items():
            for pod in topology.pods:
                for address in pod.addresses:
                    self._claim(address.split("/")[0], Owner(OwnerKind.POD, address.split("/")[0], node))
            if not self.is_node(node):
                continue
            for interface in topology.interfaces:
                for address in interface.addresses:
                    self._claim_node(ip_address(address.split("/")[0]), node)

    def _claim_node(self, address: IPv4Address | IPv6Address, node: str) -> None:
        """An address on a node's interface is the node's, unless every node has it (or a Service bound it there)."""
        if not (address.is_loopback or address.is_link_local or str(address) in self._virtual):
            self._claim(str(address), Owner(OwnerKind.NODE, node, node))

    def is_node(self, name: str) -> bool:
        """Whether a place is a node of the cluster."""
        return name in self._node_names

    def _range(self, cidr: str, owner: Owner) -> None:
        try:
            network = ip_network(cidr, strict=False)
        except ValueError:  # a cluster may carry anything in a string field; an unusable range claims nothing
            return
        base = MAPPED if network.version == 4 else 0
        first, last = int(network.network_address) | base, int(network.broadcast_address) | base
        self._ranges.append(_Range(first, last, owner))

    def _service(self, service: Service) -> None:
        for port in service.ports:
            number = PROTOCOLS.get(port.protocol, 0)
            ways = (
                (TargetKind.CLUSTER_IP, service.cluster_ips),
                (TargetKind.EXTERNAL_IP, service.external_ips),
                (TargetKind.LOAD_BALANCER, _virtual(service)),
            )
            for kind, addresses in ways:
                for address in addresses:
                    key = (number, integer(address), port.port)
                    self._targets.setdefault(key, Target(service, kind, port.name))
            if port.node_port:
                target = Target(service, TargetKind.NODE_PORT, port.name)
                self._node_ports.setdefault((number, port.node_port), target)
        for entry in service.endpoints:
            key = (PROTOCOLS.get(entry.protocol, 0), integer(entry.address), entry.port)
            self._targets.setdefault(key, Target(service, TargetKind.ENDPOINT, entry.port_name))


def _virtual(service: Service) -> tuple[str, ...]:
    """Balancer addresses that the nodes themselves answer for."""
    return tuple(entry.address for entry in service.balancers if entry.address and entry.ip_mode == "VIP")


def _is_service_lb(name: str, labels: dict[str, str]) -> bool:
    """Pods of a load balancer that runs inside the cluster (klipper-lb and its kin)."""
    return "svccontroller.k3s.cattle.io/svcname" in labels or name.startswith("svclb-")


def every_interface(interface: str | None) -> bool:
    """Whether a tap is called after tcpdump's pseudo interface, and so shows every interface of its node."""
    return interface is not None and interface.split("-")[0] == "any"


#: Taps whose packets are as they are on the wire in both directions. On a bridge or the host end of a veth a
#: reply can be half translated already (bridge netfilter), so replies there prove nothing about addresses.
EXACT_TAPS = frozenset({TapKind.CLIENT, TapKind.LB, TapKind.NIC, TapKind.TUNNEL, TapKind.POD})
