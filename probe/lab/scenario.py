"""Scenarios as data: how a small cluster is built, what is sent through it, and what must come of it.

A scenario is one TOML file. What is expected in it follows from how the cluster is built, never from what our
own analysis says, so that the two can be held against each other. One file serves both proxy modes.
An unknown key is an error: a typo must not quietly play another scenario.
"""

from __future__ import annotations

import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from probe.lab.errors import ScenarioError

FOLDER = Path(__file__).parent / "scenarios"

#: More nodes than this would run into the addresses of clients (DESIGN of addresses: see plan.py).
MAX_NODES = 80
MAX_CLIENTS = 40

#: What one client can have open at a time, and how long one may want to watch it wait.
MAX_COUNT = 500
MAX_PATIENCE = 600.0

#: Long enough for the SYN and two retransmissions of it, after 1 s and 3 s (RFC 6298 §2.1 and §5.5).
PATIENCE = 3.2

#: An RFC 1123 label, as Kubernetes wants it; names end up in rules, configuration and paths of files.
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?\Z")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]

Family = Literal["ipv4", "ipv6"]
Role = Literal["echo", "ingress", "app", "dns", "client", "svclb"]
Outcome = Literal["answered", "timeout", "refused", "reset", "empty", "error"]


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The knobs of topology and CNI.

    `cni_masquerade`: "outgoing" masquerades what leaves the pod network, as CNIs do; "everything" masquerades
    what enters it as well, as flannel once did; "off" leaves addresses alone.
    `bridge_netfilter`: whether bridged packets pass the IP hooks too; None takes what the kernel offers.
    """

    nodes: int = 3
    clients: int = 1
    families: tuple[Family, ...] = ("ipv4",)
    pod_network: Literal["routed", "vxlan"] = "routed"
    cni_masquerade: Literal["off", "outgoing", "everything"] = "outgoing"
    masquerade_all: bool = False
    cluster_cidr: bool = True
    bridge_netfilter: bool | None = None


class Balancer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The external load balancer, on a host of its own.

    `haproxy` ends the connection and opens its own (mode tcp), `snat` rewrites both addresses in the kernel,
    `router` passes the packet on with the VIP still in it. It sends to `targets`, nodes by name.
    """

    kind: Literal["haproxy", "snat", "router"]
    targets: tuple[str, ...]
    port: Port = 80
    send_proxy: Literal["none", "v1", "v2"] = "none"


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Service on trial. `announced_by` is the node that attracts the VIP and the external IP."""

    name: Name = "web"
    namespace: Name = "default"
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "NodePort"
    protocol: Literal["tcp", "udp"] = "tcp"
    external_policy: Literal["Cluster", "Local"] = "Cluster"
    internal_policy: Literal["Cluster", "Local"] = "Cluster"
    port: Port = 80
    node_port: Port = 30080
    health_check_node_port: Port = 32100
    vip: bool = False
    external_ip: bool = False
    announced_by: str = "node1"
    ip_mode: Literal["VIP", "Proxy"] | None = None
    source_ranges: tuple[str, ...] = ()
    session_affinity: Literal["None", "ClientIP"] = "None"


class Pod(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pod and what runs in it.

    `echo`: nginx that itself answers who it saw · `ingress`: nginx in front of the `app` pods · `app`: FastAPI
    under uvicorn · `dns`: a UDP name server · `client`: sends requests · `svclb`: a pod that load-balances for
    the Service by DNAT and masquerade. echo, ingress and dns pods are the Service's endpoints.
    """

    name: Name
    node: str
    role: Role = "echo"
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    host_network: bool = False
    proxy_protocol: bool = False


class CrossNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The connection leaves one node for another."""

    from_: str = msgspec.field(name="from")
    to: str = ""
    via: Literal["routed", "vxlan"] = "routed"


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must come of a request, known by construction.

    `seen` and `peer` say whose address the application, and the endpoint itself, must see: "client",
    "node:NAME", "bridge:NAME" (the node's address on the pod bridge), "tunnel:NAME" (on its VXLAN device),
    "balancer", "pod:NAME"; "" where no answer comes. `peer` "" is the same as `seen`. `snat` is where the source
    address is replaced: a node's name, "balancer" or "pod:NAME"; "" nowhere. `hops` are points that the connection
    passes, in this order and as "place/point"; others may lie between. `findings` are all codes, no more, no fewer.
    """

    verdict: Literal["preserved", "lost", "blackholed", "inconclusive"]
    seen: str = ""
    peer: str = ""
    snat: str = ""
    mechanism: str = ""
    cross_node: CrossNode | None = None
    proxy_version: int = 0
    hops: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests to send: from a client host or a client pod, to a place by name.

    `to` is a node's name (its node port), "balancer", "vip", "external-ip", "cluster-ip" or a pod's name;
    `port` overrides the port that follows from it.
    """

    expect: Expect
    from_: str = msgspec.field(name="from", default="client1")
    to: str = "node1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    family: Family | None = None
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)] = 3
    outcome: Outcome = "answered"
    status: int = 200
    patience: Annotated[float, msgspec.Meta(gt=0, le=MAX_PATIENCE)] = PATIENCE


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole scenario; `name` is the file's name without its ending."""

    title: str
    story: str
    requests: tuple[Request, ...]
    service: Service = Service()
    pods: tuple[Pod, ...] = ()
    cluster: Cluster = Cluster()
    balancer: Balancer | None = None
    name: str = ""


def list_scenarios() -> list[str]:
    """Names of the scenarios that ship with the lab, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_scenario(name: str) -> Scenario:
    """The shipped scenario of that name, or the one in the file that `name` is a path to.

    Raises ScenarioError, naming file and key, where there is none or it is wrong.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(list_scenarios())
        raise ScenarioError(
            f"there is no scenario {name!r}; take one of {known}, or the path of a .toml file"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from error
    return parse_scenario(text, str(path))


def parse_scenario(text: str, file: str) -> Scenario:
    """A scenario from TOML text; `file` is how errors name it. Raises ScenarioError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{file}: not TOML: {error}") from error
    if "name" in table:
        raise ScenarioError(f"{file}: unknown key `name`; the file's name is the scenario's")
    try:
        scenario = msgspec.convert({**table, "name": Path(file).stem}, Scenario)
    except msgspec.ValidationError as error:
        reason = str(error).replace("Object contains unknown field", "unknown key")
        raise ScenarioError(f"{file}: {reason}") from error
    for complaint in _complaints(scenario):
        raise ScenarioError(f"{file}: {complaint}")
    return scenario


def _complaints(scenario: Scenario) -> list[str]:
    """What types cannot say: ranges, and names that refer to nothing."""
    cluster, complaints = scenario.cluster, []
    if not 1 <= cluster.nodes <= MAX_NODES:
        complaints.append(f"cluster.nodes is {cluster.nodes}: it must be 1 to {MAX_NODES}")
    if not 1 <= cluster.clients <= MAX_CLIENTS:
        complaints.append(f"cluster.clients is {cluster.clients}: it must be 1 to {MAX_CLIENTS}")
    if not cluster.families:
        complaints.append("cluster.families is empty: name ipv4, ipv6 or both")
    nodes = {f"node{number + 1}" for number in range(cluster.nodes)}
    pods = {pod.name: pod for pod in scenario.pods}
    hosts = (
        nodes | {f"client{number + 1}" for number in range(cluster.clients)} | {"lb", "fabric", "kube-proxy"}
    )
    complaints += [f"pods: the name {name} is taken by a host of the lab" for name in pods if name in hosts]
    if len(pods) != len(scenario.pods):
        complaints.append("pods: two pods have the same name")
    complaints += [
        f"pods: {pod.name} is on unknown {pod.node}" for pod in scenario.pods if pod.node not in nodes
    ]
    hosted = [pod.node for pod in scenario.pods if pod.host_network]
    if len(set(hosted)) != len(hosted):
        complaints.append("pods: two pods with host_network on one node would want the same port")
    complaints += [
        f"service.source_ranges: {text} is no address range"
        for text in scenario.service.source_ranges
        if not _is_network(text)
    ]
    if scenario.service.announced_by not in nodes:
        complaints.append(f"service.announced_by: unknown {scenario.service.announced_by}")
    if scenario.balancer:
        targets = scenario.balancer.targets
        complaints += [f"balancer.targets: unknown {target}" for target in targets if target not in nodes]
        if not targets:
            complaints.append("balancer.targets is empty: name a node")
    if not scenario.requests:
        complaints.append("requests is empty: nothing would be sent")
    for request in scenario.requests:
        complaints += _request_complaints(scenario, request, nodes, pods)
    return complaints


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _request_complaints(
    scenario: Scenario, request: Request, nodes: set[str], pods: dict[str, Pod]
) -> list[str]:
    clients = {f"client{number + 1}" for number in range(scenario.cluster.clients)}
    clients |= {name for name, pod in pods.items() if pod.role == "client"}
    targets = nodes | set(pods) | {"cluster-ip"}
    targets |= {"balancer"} if scenario.balancer else set()
    targets |= {"vip"} if scenario.service.vip else set()
    targets |= {"external-ip"} if scenario.service.external_ip else set()
    complaints = []
    if request.from_ not in clients:
        complaints.append(f"requests.from: unknown client {request.from_}")
    if request.to not in targets:
        complaints.append(f"requests.to: {request.to} is none of {', '.join(sorted(targets))}")
    if request.family and request.family not in scenario.cluster.families:
        complaints.append(f"requests.family: the cluster has no {request.family}")
    return complaints
