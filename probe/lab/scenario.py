"""Scenarios as data: how a small cluster is built, what is sent through it, and what must come of it.

A scenario is one TOML file. What is expected in it follows from how the cluster is built, never from what our
own analysis says, so that the two can be held against each other. One file serves both proxy modes.
An unknown key is an error: a typo must not quietly play another scenario.
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from probe.lab.complaints import complaints
from probe.lab.errors import ScenarioError
from probe.render.escape import escape

FOLDER = Path(__file__).parent / "scenarios"

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

#: HAProxy's names for what it adds to a PROXY header of version 2 (its manual, proxy-v2-options).
ProxyOption = Literal[
    "ssl", "cert-cn", "ssl-cipher", "cert-sig", "cert-key", "authority", "crc32c", "unique-id"
]
FieldName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The knobs of topology and CNI.

    `cni_masquerade`: "outgoing" masquerades what leaves the pod network, as CNIs do; "everything" masquerades
    what enters it as well, as flannel once did; "off" leaves addresses alone.
    `cluster_cidr`: whether kube-proxy is told the pods' network. `detect_local` (detectLocalMode) is how it tells pods
    from others: by that network, by the node's part of it, or by the bridge that their packets come from.
    `bridge_netfilter`: whether bridged packets pass the IP hooks too; None takes what the kernel offers.
    """

    nodes: int = 3
    clients: int = 1
    families: tuple[Family, ...] = ("ipv4",)
    pod_network: Literal["routed", "vxlan"] = "routed"
    cni_masquerade: Literal["off", "outgoing", "everything"] = "outgoing"
    masquerade_all: bool = False
    cluster_cidr: bool = True
    detect_local: Literal["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"] = "ClusterCIDR"
    bridge_netfilter: bool | None = None


class Frontend(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A port of a balancer, and what becomes of a connection to it. All but `port` and `targets` needs HAProxy.

    `mode`: "tcp" passes bytes on; "http" reads requests, adds the client to X-Forwarded-For, and sends requests of
    any client through connections that it keeps open. `send_proxy`: the PROXY header before the bytes, of version 2
    with `proxy_options` (HAProxy's proxy-v2-options). `accept_proxy`: it expects such a header itself. `tls`: it
    ends TLS. `targets`: nodes by name, in the edge's case "balancer"; none: the balancer's.
    `check`: how it finds out which targets live: "kube-proxy" asks the health check node port (or kube-proxy's own
    health), "tcp" opens a connection to the node port, "proxy" does so and sends a header there (check-send-proxy),
    "healthz" asks kube-proxy's own health whatever the policy. `check_header`: a PROXY header goes before the check.
    `broken`: no target can pass its check. `check_interval` is in ms, `check_fall` how many checks have to fail.
    `balance`: "first" takes the first target that lives, "roundrobin" each in turn.
    Of the kind `relay` only: `split` is how many bytes of the PROXY header go into the first segment, 0: all.
    `proxy_text` are the characters (Latin-1) that it sends instead of a proper header, with {source}, {destination},
    {source_port} and {destination_port} replaced by those of the client's connection, {block} by all of them as
    version 2 packs them.
    """

    port: Port = 80
    mode: Literal["tcp", "http"] = "tcp"
    send_proxy: Literal["none", "v1", "v2"] = "none"
    proxy_options: tuple[ProxyOption, ...] = ()
    accept_proxy: bool = False
    tls: bool = False
    targets: tuple[str, ...] = ()
    check: Literal["kube-proxy", "tcp", "proxy", "healthz"] = "kube-proxy"
    check_header: bool = False
    broken: bool = False
    check_interval: Annotated[int, msgspec.Meta(ge=20, le=60_000)] = 300
    check_fall: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    balance: Literal["roundrobin", "first"] = "roundrobin"
    split: Annotated[int, msgspec.Meta(ge=0, le=536)] = 0
    proxy_text: str = ""


class Balancer(Frontend, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The external load balancer, on a host of its own: its first frontend, and more of them in `frontends`.

    `haproxy` ends the connection and opens its own, `relay` does so too (a program of the lab), `snat` rewrites
    both addresses in the kernel, `router` passes the packet on with the VIP still in it.
    """

    kind: Literal["haproxy", "relay", "snat", "router"]
    frontends: tuple[Frontend, ...] = ()

    @property
    def ends_connections(self) -> bool:
        """Whether a connection to it ends there."""
        return self.kind in {"haproxy", "relay"}

    def all_frontends(self) -> tuple[Frontend, ...]:
        """Its own settings first, then the others with their targets filled in."""
        others = (
            msgspec.structs.replace(each, targets=each.targets or self.targets) for each in self.frontends
        )
        return (self, *others)


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


class AppService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The application's own Service, where there are app pods: of type ClusterIP unless it has a node port."""

    node_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    external_policy: Literal["Cluster", "Local"] = "Cluster"


class Nginx(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How nginx in an echo or ingress pod finds out who the client is, and what it tells the application.

    `real_ip_from` (set_real_ip_from): whom it believes, as addresses, ranges or places: "balancer", "edge",
    "node:NAME", "bridge:NAME", "pod:NAME", "nodes", "pods" (their whole network), "everyone". None: the balancer
    where it expects PROXY headers, else nobody. `real_ip_header`: what it believes them; None: the PROXY header
    where it expects one, else X-Forwarded-For. `recursive` (real_ip_recursive): it looks further to the left while
    an address is one of those that it believes.
    `forwarded`: the application's X-Forwarded-For is what came and the client ("append"), the client alone
    ("overwrite") or what came ("pass"). `keepalive`: connections to applications stay open for requests of any
    client. `apps`: the app pods that it sends to, by name; none: all. `h2c`: it takes HTTP/2 without TLS only.
    """

    real_ip_from: tuple[str, ...] | None = None
    real_ip_header: FieldName | None = None
    recursive: bool = False
    forwarded: Literal["append", "overwrite", "pass"] = "append"
    keepalive: bool = False
    apps: tuple[str, ...] = ()
    h2c: bool = False


class App(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the application's server is told whom it may believe, in its own options.

    `proxy_headers` and `forwarded_allow_ips` are uvicorn's; in the latter `{PLACE}` stands for that place's
    address, as in "{pod:ingress-1}". None: the ingress pods' addresses.
    """

    proxy_headers: bool = True
    forwarded_allow_ips: str | None = None


class Pod(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pod and what runs in it.

    `echo`: a server that itself answers who it saw · `ingress`: nginx in front of the `app` pods · `app`: FastAPI
    under uvicorn · `dns`: a UDP name server · `client`: sends requests · `svclb`: a pod that load-balances for
    the Service by DNAT and masquerade. echo, ingress and dns pods are the Service's endpoints.
    `server` is what serves in an echo pod. `proxy_protocol`: it expects PROXY headers. `tls`: it expects TLS.
    """

    name: Name
    node: str
    role: Role = "echo"
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    host_network: bool = False
    server: Literal["nginx", "haproxy", "gunicorn"] = "nginx"
    proxy_protocol: bool = False
    tls: bool = False
    nginx: Nginx = Nginx()
    app: App = App()


class CrossNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The connection leaves one node for another."""

    from_: str = msgspec.field(name="from")
    to: str = ""
    via: Literal["routed", "vxlan"] = "routed"


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must come of a request, known by construction.

    `seen` and `peer` say whose address the application, and the endpoint itself, must see: "client", "balancer",
    "edge", "node:NAME", "bridge:NAME" (the node's address on the pod bridge), "tunnel:NAME" (on its VXLAN device),
    "pod:NAME", "forged:ADDRESS"; "" where nobody says. `peer` "" is the same as `seen`.
    `snat` is where the source address is replaced: a node's name, "balancer", "edge" or "pod:NAME"; "" nowhere.
    `hops` are points that the connection passes, in this order and as "place/point"; others may lie between.
    `findings` are all codes, no more, no fewer. `untied`: a balancer tried for several clients at once in vain, so
    whose an attempt was cannot be known; then the verdict may be inconclusive too, and findings are not compared.
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
    untied: bool = False


class ProxyHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A PROXY header that a client makes up: who it says it is. Without `source`: UNKNOWN (v1) or LOCAL (v2)."""

    version: Literal[1, 2] = 1
    source: str = ""
    port: Port = 40000


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests to send: from a client host or a client pod, to a place by name.

    `to` is a node's name (its node port), "balancer", "edge" (the balancer before it), "vip", "external-ip",
    "cluster-ip", "app-cluster-ip" or a pod's name; `port` overrides the port that follows from it.
    `count` connections carry `per_connection` requests each, one after the other's answer, or at once if `pipelined`.
    Each connection begins when all before it of the same place have ended; with `every`, so many seconds after the
    one before it began. `headers` are further fields of each. `proxy` is sent first. `tls`: within TLS.
    `h2c`: HTTP/2 with prior knowledge. `token`: each request carries one of its own, as the probe's own requests do.
    """

    expect: Expect
    from_: str = msgspec.field(name="from", default="client1")
    to: str = "node1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    family: Family | None = None
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)] = 3
    every: Annotated[float, msgspec.Meta(ge=0, le=10)] | None = None
    per_connection: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)] = 1
    pipelined: bool = False
    headers: dict[FieldName, str] = {}
    proxy: ProxyHeader | None = None
    tls: bool = False
    h2c: bool = False
    token: bool = False
    outcome: Outcome = "answered"
    status: int = 200
    patience: Annotated[float, msgspec.Meta(gt=0, le=MAX_PATIENCE)] = PATIENCE


class HealthPort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a node's health check node port misbehaves. What is not given is as kube-proxy has it.

    `served`: whether anything listens. `local_endpoints` is what body and weight claim.
    """

    node: str
    served: bool = True
    status: Literal[200, 503] | None = None
    local_endpoints: int | None = None


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens before the requests of index `before`: an endpoint changes. They wait until it has taken effect.

    `until`: "rules", the node's rules and its health port have it; "balancer", HAProxy has marked the pod's node as up
    or down as well.
    """

    before: Annotated[int, msgspec.Meta(ge=0)]
    pod: str
    becomes: Literal["ready", "terminating", "gone"] | None = None
    until: Literal["rules", "balancer"] = "rules"


class HealthExpect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must come of the health checks, known by construction.

    `findings` are all codes about them, no more, no fewer. `lost` are clients that got nothing, `saved` those that a
    terminating endpoint served.
    """

    findings: tuple[str, ...] = ()
    lost: int = 0
    saved: int = 0


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole scenario; `name` is the file's name without its ending. `edge` is a balancer before the balancer.

    `ingress_config` is what the analysis is told of the ingress, as by --ingress-config. `findings` are those of the
    whole session, which belong to no request.
    """

    title: str
    story: str
    requests: tuple[Request, ...]
    service: Service = Service()
    app_service: AppService = AppService()
    pods: tuple[Pod, ...] = ()
    cluster: Cluster = Cluster()
    balancer: Balancer | None = None
    edge: Balancer | None = None
    health_ports: tuple[HealthPort, ...] = ()
    events: tuple[Event, ...] = ()
    health_expect: HealthExpect | None = None
    ingress_config: str = ""
    findings: tuple[str, ...] = ()
    name: str = ""

    def after(self, event: Event) -> Scenario:
        """The scenario as it stands when the event has happened."""
        if event.becomes is None:
            return self
        ready, draining = event.becomes == "ready", event.becomes == "terminating"
        state = {"ready": ready, "terminating": draining, "serving": ready or draining}
        pods = [msgspec.structs.replace(pod, **state) if pod.name == event.pod else pod for pod in self.pods]
        return msgspec.structs.replace(self, pods=tuple(pods))


def list_scenarios() -> list[str]:
    """Names of the scenarios that ship with the lab, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_scenario(name: str) -> Scenario:
    """The shipped scenario of that name, or the one in the file that `name` is a path to.

    Raises ScenarioError, naming file and key, where there is none or it is wrong.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        near = get_close_matches(name, list_scenarios(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ScenarioError(
            f"there is no scenario {name!a}; {hint}`probe lab list` lists them; a file of your own ends in .toml"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror}; give the path of a .toml file") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"cannot read {path}: it is not text; see docs/lab.md") from error
    return parse_scenario(text, str(path))


def parse_scenario(text: str, file: str) -> Scenario:
    """A scenario from TOML text; `file` is how errors name it. Raises ScenarioError."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number with too many digits
        raise ScenarioError(f"{file}: it is not TOML: {escape(str(error), 300)}; see docs/lab.md") from error
    return scenario_of(table, file)


def scenario_of(table: dict[str, Any], file: str) -> Scenario:
    """A scenario from what stands in a file of that name. Raises ScenarioError."""
    if "name" in table:
        raise ScenarioError(f"{file}: unknown key `name`; the file's name is the scenario's")
    try:
        scenario = msgspec.convert({**table, "name": Path(file).stem}, Scenario)
    except msgspec.ValidationError as error:
        reason = str(error).replace("Object contains unknown field", "unknown key")
        raise ScenarioError(f"{file}: {escape(reason, 300)}; see docs/lab.md") from error
    for complaint in complaints(scenario):
        raise ScenarioError(f"{file}: {escape(complaint, 300)}; see docs/lab.md")
    return scenario
