"""What the cluster says of itself, as plain values: nodes, pods, Services, endpoints, proxy mode.

Facts are claims, not observations: they say what *should* be, and who owns an address. They are made from
Kubernetes objects on the top floor and kept in the session, so that a recording can be judged years later.
"""

from __future__ import annotations

import enum

import msgspec


class Policy(enum.StrEnum):
    """externalTrafficPolicy and internalTrafficPolicy of a Service."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Node(msgspec.Struct, frozen=True):
    """A node and the addresses that are its own; `pod_cidrs` is where its pods' addresses come from."""

    name: str
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class Pod(msgspec.Struct, frozen=True):
    """A pod that holds addresses of its own, or its node's when `host_network`."""

    namespace: str
    name: str
    node: str | None = None
    addresses: tuple[str, ...] = ()
    host_network: bool = False
    labels: dict[str, str] = {}


class ServicePort(msgspec.Struct, frozen=True):
    """One port of a Service. `protocol` is lower case: tcp, udp or sctp; `node_port` 0 means none."""

    name: str
    protocol: str
    port: int
    node_port: int = 0


class Balancer(msgspec.Struct, frozen=True):
    """One entry of status.loadBalancer.ingress.

    With ip_mode VIP the nodes short-circuit the address and packets reach them with it as destination; with
    Proxy the balancer makes connections of its own (KEP-1860).
    """

    address: str | None = None
    hostname: str | None = None
    ip_mode: str = "VIP"


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint of one Service port, from its EndpointSlices."""

    address: str
    port: int
    protocol: str
    port_name: str = ""
    node: str | None = None
    pod: str | None = None
    ready: bool = True
    serving: bool = True
    terminating: bool = False


class Service(msgspec.Struct, frozen=True):
    """A Service with its endpoints joined in."""

    namespace: str
    name: str
    type: str = "ClusterIP"
    external_policy: Policy = Policy.CLUSTER
    internal_policy: Policy = Policy.CLUSTER
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    balancers: tuple[Balancer, ...] = ()
    source_ranges: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    health_check_node_port: int = 0
    session_affinity: str = "None"
    labels: dict[str, str] = {}

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def external(self) -> bool:
        """Whether traffic from outside the cluster can reach it through this Service."""
        return self.type in {"LoadBalancer", "NodePort"} or bool(self.external_ips)


class Facts(msgspec.Struct, frozen=True):
    """All of it. `proxy_mode` is iptables, nftables, ipvs, ebpf or "" (unknown); see `sources` for how it is known.

    `known` is False where no objects were given at all: then nothing may be concluded from an address's absence.
    """

    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    services: tuple[Service, ...] = ()
    proxy_mode: str = ""
    cluster_cidrs: tuple[str, ...] = ()
    masquerade_all: bool = False
    datapath: str = ""
    sources: dict[str, str] = {}
    balancers: tuple[str, ...] = ()  # addresses or prefixes that the operator says are load balancers'
    known: bool = True
