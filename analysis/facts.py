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
    """A node and the addresses that are its own; `pod_cidrs` is where its pods' addresses come from.

    `os` and `architecture` are as Go writes them (linux, windows; amd64, arm64), "" where that is not known. A taint
    is written "key=value:effect", as kubectl does.
    """

    name: str
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    ready: bool | None = None
    os: str = ""
    architecture: str = ""
    taints: tuple[str, ...] = ()
    unschedulable: bool = False


class HostPort(msgspec.Struct, frozen=True):
    """A port of the node that is passed on to a container; `address` is "" for every address of the node."""

    host: int
    container: int
    protocol: str = "tcp"
    address: str = ""


class Pod(msgspec.Struct, frozen=True):
    """A pod that holds addresses of its own, or its node's when `host_network`."""

    namespace: str
    name: str
    node: str | None = None
    addresses: tuple[str, ...] = ()
    host_network: bool = False
    labels: dict[str, str] = {}
    host_ports: tuple[HostPort, ...] = ()
    ready: bool | None = None


class ServicePort(msgspec.Struct, frozen=True):
    """One port of a Service. `protocol` is lower case: tcp, udp or sctp; `node_port` 0 means none.

    `target` is targetPort as written, a number or the name of a container's port; endpoints carry what it came to.
    """

    name: str
    protocol: str
    port: int
    node_port: int = 0
    target: str = ""
    app_protocol: str = ""


class Balancer(msgspec.Struct, frozen=True):
    """One entry of status.loadBalancer.ingress.

    With ip_mode VIP the nodes short-circuit the address and packets reach them with it as destination; with
    Proxy the balancer makes connections of its own (KEP-1860).
    """

    address: str | None = None
    hostname: str | None = None
    ip_mode: str = "VIP"


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint of one Service port, from its EndpointSlices.

    `zone_hints` and `node_hints` are the zones and nodes that it is kept for (hints.forZones, hints.forNodes).
    """

    address: str
    port: int
    protocol: str
    port_name: str = ""
    node: str | None = None
    pod: str | None = None
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zone: str = ""
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


class Service(msgspec.Struct, frozen=True):
    """A Service with its endpoints joined in.

    `annotations` are those alone by which load balancers are told what to do. `affinity_seconds` is how long a
    client is kept at one endpoint, 0 without session affinity.
    """

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
    affinity_seconds: int = 0
    selector: dict[str, str] = {}
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str = ""
    traffic_distribution: str = ""
    load_balancer_class: str = ""
    annotations: dict[str, str] = {}

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def external(self) -> bool:
        """Whether traffic from outside the cluster can reach it through this Service."""
        return self.type in {"LoadBalancer", "NodePort"} or bool(self.external_ips)


class LocalDetection(msgspec.Struct, frozen=True):
    """How kube-proxy tells traffic of the cluster's own pods from the rest (detectLocalMode).

    `mode` is ClusterCIDR (the source is in `Facts.cluster_cidrs`; without any, nothing is told apart), NodeCIDR (in
    the pod CIDRs of the node that sees the packet), BridgeInterface (it came in by the bridge `interface`),
    InterfaceNamePrefix (by an interface whose name begins with `interface`), or "" where that is not known.
    """

    mode: str = ""
    interface: str = ""


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
    local_detection: LocalDetection = LocalDetection()
    node_port_addresses: tuple[str, ...] = ()  # where node ports are answered; () as the proxy mode has it
    forwarding_mode: str = ""  # of an eBPF datapath: snat, dsr or hybrid (dsr for TCP)
