"""What is wrong with a scenario that its types allow: ranges, names that refer to nothing, contradictions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # scenario.py asks this module when it loads a file
    from probe.lab.scenario import Balancer, Pod, Request, Scenario

#: More nodes than this would run into the addresses of clients (the scheme of addresses: see plan.py).
MAX_NODES = 80
MAX_CLIENTS = 40

#: Ranges of addresses that have a name.
RANGES = ("nodes", "pods", "everyone")

#: A place within text, to be replaced with its address.
PLACES = re.compile(r"\{([^{}]+)\}")


def complaints(scenario: Scenario) -> Iterator[str]:
    """One line for each; none: the scenario can be built."""
    yield from _cluster(scenario)
    yield from _pods(scenario)
    yield from _service(scenario)
    yield from _balancers(scenario)
    yield from _health(scenario)
    if not scenario.requests:
        yield "requests is empty: nothing would be sent"
    for request in scenario.requests:
        yield from _request(scenario, request)


def _nodes(scenario: Scenario) -> set[str]:
    return {f"node{number + 1}" for number in range(scenario.cluster.nodes)}


def _clients(scenario: Scenario) -> set[str]:
    return {f"client{number + 1}" for number in range(scenario.cluster.clients)}


def _cluster(scenario: Scenario) -> Iterator[str]:
    cluster = scenario.cluster
    if not 1 <= cluster.nodes <= MAX_NODES:
        yield f"cluster.nodes is {cluster.nodes}: it must be 1 to {MAX_NODES}"
    if not 1 <= cluster.clients <= MAX_CLIENTS:
        yield f"cluster.clients is {cluster.clients}: it must be 1 to {MAX_CLIENTS}"
    if not cluster.families:
        yield "cluster.families is empty: name ipv4, ipv6 or both"


def _pods(scenario: Scenario) -> Iterator[str]:
    names = [pod.name for pod in scenario.pods]
    nodes = _nodes(scenario)
    hosts = nodes | _clients(scenario) | {"lb", "edge", "fabric", "kube-proxy"}
    for name in names:
        if name in hosts:
            yield f"pods: the name {name} is taken by a host of the lab"
    if len(set(names)) != len(names):
        yield "pods: two pods have the same name"
    for pod in scenario.pods:
        if pod.node not in nodes:
            yield f"pods: {pod.name} is on unknown {pod.node}"
        yield from _pod(scenario, pod)
    hosted = [pod.node for pod in scenario.pods if pod.host_network]
    if len(set(hosted)) != len(hosted):
        yield "pods: two pods with host_network on one node would want the same port"
    serving = [pod for pod in scenario.pods if pod.role in {"echo", "ingress"} and not pod.host_network]
    if len({(pod.proxy_protocol, pod.tls) for pod in serving}) > 1:
        yield "pods: the Service's pods must agree on proxy_protocol and tls, for it has one target port"


def _pod(scenario: Scenario, pod: Pod) -> Iterator[str]:
    if pod.server != "nginx" and (pod.role != "echo" or pod.host_network):
        yield f"pods: {pod.name}: server {pod.server} is for echo pods that are not on the host network"
    if pod.tls and pod.server == "gunicorn":
        yield f"pods: {pod.name}: gunicorn is here without TLS"
    apps = {other.name for other in scenario.pods if other.role == "app"}
    for name in pod.nginx.apps:
        if name not in apps:
            yield f"pods: {pod.name}: nginx.apps: {name} is no app pod"
    for text in pod.nginx.real_ip_from or ():
        if not (text in RANGES or is_place(scenario, text) or _is_network(text)):
            yield f"pods: {pod.name}: nginx.real_ip_from: {text} is no place, address or range"
    for place in PLACES.findall(pod.app.forwarded_allow_ips or ""):
        if not is_place(scenario, place):
            yield f"pods: {pod.name}: app.forwarded_allow_ips: {{{place}}} is no place"


def is_place(scenario: Scenario, who: str) -> bool:
    """Whether this means an address of the cluster, as `Expect.seen` writes it."""
    kind, _, name = who.partition(":")
    if kind in {"node", "bridge", "tunnel"}:
        return name in _nodes(scenario)
    if kind == "pod":
        return name in {pod.name for pod in scenario.pods}
    return (who == "balancer" and bool(scenario.balancer)) or (who == "edge" and bool(scenario.edge))


def _service(scenario: Scenario) -> Iterator[str]:
    for text in scenario.service.source_ranges:
        if not _is_network(text):
            yield f"service.source_ranges: {text} is no address range"
    if scenario.service.announced_by not in _nodes(scenario):
        yield f"service.announced_by: unknown {scenario.service.announced_by}"


def _balancers(scenario: Scenario) -> Iterator[str]:
    if scenario.balancer:
        yield from _balancer("balancer", scenario.balancer, _nodes(scenario))
    if scenario.edge:
        yield from _balancer("edge", scenario.edge, {"balancer"} if scenario.balancer else set())
        if scenario.edge.kind != "haproxy":
            yield "edge.kind: the edge is a haproxy"


def _balancer(key: str, balancer: Balancer, known: set[str]) -> Iterator[str]:
    if not balancer.targets:
        yield f"{key}.targets is empty: name a {'balancer' if key == 'edge' else 'node'}"
    for frontend in balancer.all_frontends():
        yield from (f"{key}.targets: unknown {name}" for name in frontend.targets if name not in known)
        if (frontend.split or frontend.proxy_text) and balancer.kind != "relay":
            yield f"{key}: split and proxy_text are for the kind relay"
        try:
            frontend.proxy_text.encode("latin-1")
        except UnicodeEncodeError:
            yield f"{key}.proxy_text: it has characters beyond Latin-1"
        if frontend.mode == "http" and balancer.kind != "haproxy":
            yield f"{key}.mode: http is for the kind haproxy"
    ports = [frontend.port for frontend in balancer.all_frontends()]
    if len(set(ports)) != len(ports):
        yield f"{key}.frontends: two frontends have the same port"


def _health(scenario: Scenario) -> Iterator[str]:
    pods = {pod.name for pod in scenario.pods if pod.role in {"echo", "ingress", "dns"}}
    for port in scenario.health_ports:
        if port.node not in _nodes(scenario):
            yield f"health_ports: unknown {port.node}"
    for event in scenario.events:
        if event.pod not in pods:
            yield f"events: {event.pod} is no endpoint of the Service"
        if event.before >= len(scenario.requests):
            yield f"events: there are no requests of index {event.before}"
        if event.until == "balancer" and (scenario.balancer is None or scenario.balancer.kind != "haproxy"):
            yield "events: until balancer needs a haproxy"


def _request(scenario: Scenario, request: Request) -> Iterator[str]:
    pods = {pod.name: pod for pod in scenario.pods}
    clients = _clients(scenario) | {name for name, pod in pods.items() if pod.role == "client"}
    targets = _nodes(scenario) | set(pods) | {"cluster-ip"}
    targets |= {"balancer"} if scenario.balancer else set()
    targets |= {"edge"} if scenario.edge else set()
    targets |= {"vip"} if scenario.service.vip else set()
    targets |= {"external-ip"} if scenario.service.external_ip else set()
    targets |= {"app-cluster-ip"} if any(pod.role == "app" for pod in pods.values()) else set()
    if request.from_ not in clients:
        yield f"requests.from: unknown client {request.from_}"
    if request.to not in targets:
        yield f"requests.to: {request.to} is none of {', '.join(sorted(targets))}"
    if request.family and request.family not in scenario.cluster.families:
        yield f"requests.family: the cluster has no {request.family}"
    if request.proxy and request.proxy.source:
        family = request.family or next(iter(scenario.cluster.families), "ipv4")
        if not _is_address(request.proxy.source):
            yield f"requests.proxy.source: {request.proxy.source} is no address"
        elif (":" in request.proxy.source) != (family == "ipv6"):
            yield f"requests.proxy.source: {request.proxy.source} is not of the family of the request, {family}"
    if request.h2c and (request.pipelined or request.per_connection > 1):
        yield "requests.h2c: one request a connection is all that the lab's client can"
    for name, value in request.headers.items():
        if not f"{name}{value}".isprintable() or not f"{name}{value}".isascii():
            yield f"requests.headers: {name!r} must be printable ASCII, and so must its value"


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
