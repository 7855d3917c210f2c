"""From a scenario to a plan: every host, pod and address of the cluster, before any of it exists.

Addresses follow one scheme, so that a reader recognises them in any report:

=================  ==================  ====================
what               IPv4                IPv6
=================  ==================  ====================
node N             172.30.0.(10+N)     fd00:30::(10+N)
client N           172.30.0.(100+N)    fd00:30::(100+N)
balancer           172.30.0.150        fd00:30::150
edge balancer      172.30.0.151        fd00:30::151
VIP                172.30.0.200        fd00:30::200
external IP        172.30.0.220        fd00:30::220
pods of node N     10.244.N.0/24       fd00:10:244:N::/64
pod bridge         10.244.N.1          fd00:10:244:N::1
VXLAN device       10.244.N.0          fd00:10:244:N::
Services           10.96.0.0/16        fd00:10:96::/112
=================  ==================  ====================

The numbers of the IPv6 form are the same digits, read as hexadecimal. Pure: no kernel, no files.
"""

from __future__ import annotations

import hashlib
from ipaddress import ip_address
from typing import Literal

import msgspec

from probe.lab.complaints import is_place
from probe.lab.scenario import Family, Pod, Request, Scenario

#: How nodes forward. "iptables-legacy" is kube-proxy's iptables mode on nodes whose iptables is the legacy one.
ProxyMode = Literal["iptables", "nftables", "iptables-legacy"]

APP_SERVICE = "app"
APP_SERVICE_PORT = 80

#: Where each role of pod listens. nginx takes plain HTTP on 8080 and PROXY-headed HTTP on 8081; with TLS, 8443.
ECHO_PORT = 8080
PROXY_PORT = 8081
TLS_PORT = 8443
HOST_PORT = 80
APP_PORT = 8000
DNS_PORT = 5353
HEALTHZ_PORT = 10256  # kube-proxy's own

#: Headers by which a server says whom it spoke with and which pod it is.
PEER_HEADER = "X-Lab-Peer"
POD_HEADER = "X-Lab-Pod"

CLUSTER_CIDRS: dict[Family, str] = {"ipv4": "10.244.0.0/16", "ipv6": "fd00:10:244::/48"}
EVERYONE: dict[Family, str] = {"ipv4": "0.0.0.0/0", "ipv6": "::/0"}

Addresses = dict[Family, str]


class Host(msgspec.Struct, frozen=True):
    """A machine on the fabric. `number` counts from 1 within its role."""

    name: str
    role: Literal["node", "client", "lb"]
    number: int
    addresses: Addresses


class PlannedNode(msgspec.Struct, frozen=True):
    """What a node has beyond a host: its slice of the pod network."""

    host: Host
    pod_cidrs: Addresses
    bridge: Addresses
    tunnel: Addresses

    @property
    def name(self) -> str:
        """The node's name."""
        return self.host.name


class PlannedPod(msgspec.Struct, frozen=True):
    """A pod with its addresses (its node's, when on the host network), the veth on its node, and its namespace."""

    pod: Pod
    addresses: Addresses
    namespace: str  # the network namespace's name
    veth: str = ""  # host end; "" on the host network
    veth_index: int = 0

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.pod.name

    @property
    def port(self) -> int:
        """The port it serves on."""
        if self.pod.role == "app":
            return APP_PORT
        if self.pod.role == "dns":
            return DNS_PORT
        if self.pod.host_network:
            return HOST_PORT
        if self.pod.tls:
            return TLS_PORT
        return PROXY_PORT if self.pod.proxy_protocol else ECHO_PORT


class Plan(msgspec.Struct, frozen=True):
    """The cluster as it is to be built."""

    scenario: Scenario
    proxy_mode: ProxyMode
    nodes: tuple[PlannedNode, ...]
    clients: tuple[Host, ...]
    lb: Host | None
    edge: Host | None
    pods: tuple[PlannedPod, ...]
    vip: Addresses
    external_ip: Addresses
    cluster_ip: Addresses
    app_cluster_ip: Addresses

    @property
    def families(self) -> tuple[Family, ...]:
        """Address families in use, the preferred one first."""
        return self.scenario.cluster.families

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Everything with a NIC on the fabric."""
        return (*self.clients, *self.balancers, *(node.host for node in self.nodes))

    @property
    def balancers(self) -> tuple[Host, ...]:
        """The hosts before the cluster, in the order of the way in."""
        return tuple(host for host in (self.edge, self.lb) if host)

    def node(self, name: str) -> PlannedNode:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def pod(self, name: str) -> PlannedPod:
        """The pod of that name."""
        return next(pod for pod in self.pods if pod.name == name)

    def pods_on(self, node: str) -> list[PlannedPod]:
        """The pods of a node, without those on the host network."""
        return [pod for pod in self.pods if pod.pod.node == node and not pod.pod.host_network]

    def endpoints(self) -> list[PlannedPod]:
        """The pods behind the Service."""
        return [pod for pod in self.pods if pod.pod.role in {"echo", "ingress", "dns"}]

    def apps(self) -> list[PlannedPod]:
        """The application pods behind the ingress."""
        return [pod for pod in self.pods if pod.pod.role == "app"]

    def health_check_node_port(self) -> int:
        """The Service's health check node port, 0 without one (only LoadBalancer with policy Local has it)."""
        service = self.scenario.service
        local = service.external_policy == "Local" and service.type == "LoadBalancer"
        return service.health_check_node_port if local else 0

    def family_of(self, request: Request) -> Family:
        """The family that a request is sent in."""
        return request.family or self.families[0]

    def source_of(self, request: Request) -> str:
        """The client's own address."""
        family = self.family_of(request)
        for host in self.clients:
            if host.name == request.from_:
                return host.addresses[family]
        return self.pod(request.from_).addresses[family]

    def target_of(self, request: Request) -> tuple[str, int]:
        """Address and port that a request is sent to."""
        family, service = self.family_of(request), self.scenario.service
        named: dict[str, tuple[Addresses, int]] = {
            "vip": (self.vip, service.port),
            "external-ip": (self.external_ip, service.port),
            "cluster-ip": (self.cluster_ip, service.port),
            "app-cluster-ip": (self.app_cluster_ip, APP_SERVICE_PORT),
        }
        named |= {node.name: (node.host.addresses, service.node_port) for node in self.nodes}
        named |= {pod.name: (pod.addresses, pod.port) for pod in self.pods}
        if self.lb and self.scenario.balancer:
            named["balancer"] = (self.lb.addresses, self.scenario.balancer.port)
        if self.edge and self.scenario.edge:
            named["edge"] = (self.edge.addresses, self.scenario.edge.port)
        addresses, port = named[request.to]
        return addresses[family], request.port or port

    def resolve(self, who: str, request: Request) -> str:
        """The address that `Expect.seen` means: "client", "forged:ADDRESS", or a place.

        Raises KeyError where it means nothing in this cluster.
        """
        if who == "client":
            return self.source_of(request)
        if who.startswith("forged:"):
            return who.removeprefix("forged:")
        return self.address(who, self.family_of(request))

    def address(self, who: str, family: Family) -> str:
        """The address of a place: "balancer", "edge", "node:NAME", "bridge:NAME", "tunnel:NAME", "pod:NAME".

        Raises KeyError where there is no such place.
        """
        known: dict[str, Addresses] = {f"pod:{pod.name}": pod.addresses for pod in self.pods}
        known |= {"balancer": self.lb.addresses} if self.lb else {}
        known |= {"edge": self.edge.addresses} if self.edge else {}
        for node in self.nodes:
            known |= {
                f"node:{node.name}": node.host.addresses,
                f"bridge:{node.name}": node.bridge,
                f"tunnel:{node.name}": node.tunnel,
            }
        return known[who][family]

    def trusted(self, texts: tuple[str, ...]) -> list[str]:
        """Addresses and ranges that are meant by the names of `Nginx.real_ip_from`, in all families."""
        found: list[str] = []
        for text in texts:
            if text == "nodes":
                found += [address for node in self.nodes for address in node.host.addresses.values()]
            elif text == "pods":
                found += [CLUSTER_CIDRS[family] for family in self.families]
            elif text == "everyone":
                found += [EVERYONE[family] for family in self.families]
            elif is_place(self.scenario, text):
                found += [self.address(text, family) for family in self.families]
            else:
                found.append(text)
        return found


def make_plan(scenario: Scenario, proxy_mode: ProxyMode) -> Plan:
    """Give every part of a scenario its addresses."""
    cluster = scenario.cluster
    nodes = tuple(_node(number, cluster.families) for number in range(1, cluster.nodes + 1))
    clients = tuple(
        Host(f"client{number}", "client", number, _fabric(100 + number, cluster.families))
        for number in range(1, cluster.clients + 1)
    )
    return Plan(
        scenario=scenario,
        proxy_mode=proxy_mode,
        nodes=nodes,
        clients=clients,
        lb=Host("lb", "lb", 1, _fabric(150, cluster.families)) if scenario.balancer else None,
        edge=Host("edge", "lb", 2, _fabric(151, cluster.families)) if scenario.edge else None,
        pods=_pods(scenario, nodes),
        vip=_fabric(200, cluster.families) if scenario.service.vip else {},
        external_ip=_fabric(220, cluster.families) if scenario.service.external_ip else {},
        cluster_ip=_cluster_ip(80, cluster.families),
        app_cluster_ip=_cluster_ip(81, cluster.families),
    )


def _fabric(number: int, families: tuple[Family, ...]) -> Addresses:
    both: Addresses = {"ipv4": f"172.30.0.{number}", "ipv6": f"fd00:30::{number}"}
    return {family: both[family] for family in families}


def _cluster_ip(number: int, families: tuple[Family, ...]) -> Addresses:
    both: Addresses = {"ipv4": f"10.96.0.{number}", "ipv6": f"fd00:10:96::{number}"}
    return {family: both[family] for family in families}


def _pod_net(node: int, host: str, families: tuple[Family, ...]) -> Addresses:
    both: Addresses = {"ipv4": f"10.244.{node}.{host or 0}", "ipv6": f"fd00:10:244:{node}::{host}"}
    return {family: both[family] for family in families}


def _node(number: int, families: tuple[Family, ...]) -> PlannedNode:
    nets = _pod_net(number, "", families)
    lengths = {"ipv4": 24, "ipv6": 64}
    return PlannedNode(
        host=Host(f"node{number}", "node", number, _fabric(10 + number, families)),
        pod_cidrs={family: f"{net}/{lengths[family]}" for family, net in nets.items()},
        bridge=_pod_net(number, "1", families),
        tunnel=nets,
    )


def _pods(scenario: Scenario, nodes: tuple[PlannedNode, ...]) -> tuple[PlannedPod, ...]:
    planned: list[PlannedPod] = []
    used: dict[str, int] = {}
    by_name = {node.name: node for node in nodes}
    for pod in scenario.pods:
        node = by_name[pod.node]
        if pod.host_network:
            planned.append(PlannedPod(pod, node.host.addresses, node.name))
            continue
        used[pod.node] = used.get(pod.node, 1) + 1
        planned.append(
            PlannedPod(
                pod=pod,
                addresses=_pod_net(node.host.number, str(used[pod.node]), scenario.cluster.families),
                namespace=f"pod-{pod.name}",
                veth="veth" + hashlib.sha256(pod.name.encode()).hexdigest()[:8],
                # Unlike real nodes, those of the lab share one /proc. An index that no other node of the lab
                # uses keeps what is true of a real one: a pod's peer index means one interface only.
                veth_index=node.host.number * 1000 + used[pod.node],
            )
        )
    return tuple(planned)


def same_address(left: str, right: str) -> bool:
    """Whether two spellings mean one address."""
    return ip_address(left) == ip_address(right)


def host_and_port(address: str, port: int) -> str:
    """As URLs and configuration files write it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
