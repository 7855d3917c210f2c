"""From what was selected to all that is known of it: the Service, the cluster's facts, ports to watch, configurations.

The way: `reading` lists, `controllers` and `gateway` find the Service behind an Ingress or Gateway, `exposure` says
whether it is reached and at which ports, `probe.objects` makes facts, `proxies` and `applications` read what servers
are told. Nothing is decided here that the cluster does not say; what could not be read is in the remarks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.facts import Facts, Service
from analysis.ingress import IngressRecord
from probe.cluster import reading as kinds
from probe.cluster.applications import read_application
from probe.cluster.command_lines import command_line
from probe.cluster.controllers import (
    Product,
    Way,
    backends_of,
    bears,
    class_of,
    product_of_controller,
    product_of_service,
    service_addresses,
    service_of_ingress,
    status_addresses,
    way_of_ingress,
)
from probe.cluster.exposure import PodIndex, check_exposed, check_type, few, missing, ports_of
from probe.cluster.fields import (
    Json,
    annotations_of,
    key_of,
    labels,
    name_of,
    namespace_of,
    objects,
    plain,
    table,
    text,
)
from probe.cluster.fields import field as read
from probe.cluster.forwarding import proxy_flags
from probe.cluster.gateway import backends_of_gateways, gateways_of_service, service_of_gateway
from probe.cluster.lister import Lister
from probe.cluster.proxies import read_proxy
from probe.cluster.proxy import Proxy
from probe.cluster.pruning import pruned
from probe.cluster.reading import Reading
from probe.cluster.selection import Selection, Wanted
from probe.errors import UnavailableError
from probe.objects import facts_from_objects, service_from_object

#: All that may be listed, as (group and version, plural): for the role of those who may look.
READS: tuple[tuple[str, str], ...] = tuple((kind.group_version, kind.plural) for kind in kinds.KINDS)

#: Most remarks of one kind about odd objects that are shown one by one.
_MOST_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that the cluster says about what is to be watched.

    `objects` is a List as kubectl prints it, without what the analysis does not read; `ports` is every port at
    which a connection of the Service can be met, on either side of NAT, with those of the servers behind it where
    it is an ingress; `remarks` is what could not be read or should be known; `ingress` is what the proxy behind the
    Service and the application behind that are told of their clients; `way` is how the Service was found.
    """

    objects: dict[str, Any]
    facts: Facts
    service: Service
    ports: tuple[int, ...]
    remarks: tuple[str, ...]
    ingress: IngressRecord = field(default_factory=IngressRecord)
    way: str = ""


def gather(lister: Lister, selection: Selection) -> Gathered:
    """Resolve what was selected.

    Raises UnavailableError where there is no such thing, where it is not reached from outside, or where nothing can
    be said without what may not be read (ForbiddenError).
    """
    reading = Reading(lister, selection.namespace, CHECKS)
    services = reading.needed(kinds.SERVICES)
    way = find(reading, selection, services)
    check_type(service_from_object(way.service, {}))
    kept = cluster_objects(reading)
    problems: list[str] = []
    facts = facts_from_objects([*kept, *services], problems)
    _tell(reading, problems)
    service = next(each for each in facts.services if each.key == key_of(way.service))
    for remark in check_exposed(service, facts, reading.knows(kinds.SLICES, service.namespace)):
        reading.remark(remark)
    behind = Behind.of(reading, way, service, facts)
    ingress, reached = behind.read(reading, facts)
    ports, left_out = ports_of(service, facts, reached)
    for remark in (*left_out, *_nodes_remarks(facts), *_forwarding_remarks(facts)):
        reading.remark(remark)
    found: Iterable[Json] = _distinct([*kept, *services, *way.objects, *behind.objects])
    return Gathered(
        objects={"apiVersion": "v1", "kind": "List", "items": pruned(found)},
        facts=facts,
        service=service,
        ports=ports,
        remarks=tuple(reading.remarks),
        ingress=ingress,
        way=way.source,
    )


# ── the Service ──────────────────────────────────────────────────────────────────────────────────────────


def find(reading: Reading, selection: Selection, services: Sequence[Json]) -> Way:
    """The Service that a selection leads to. Raises UnavailableError."""
    if selection.selector is not None:
        return _by_labels(reading, selection, services)
    if selection.kind is Wanted.INGRESS:
        return service_of_ingress(reading, selection.name, services)
    if selection.kind is Wanted.GATEWAY:
        return service_of_gateway(reading, selection.name, services)
    for item in services:
        if (namespace_of(item), name_of(item)) == (selection.namespace, selection.name):
            return Way(item, str(selection))
    known = [(namespace_of(item), name_of(item)) for item in services]
    raise missing("Service", "svc", selection.name, selection.namespace, known)


def _by_labels(reading: Reading, selection: Selection, services: Sequence[Json]) -> Way:
    assert selection.selector is not None
    listed = {
        Wanted.SERVICE: services,
        Wanted.INGRESS: reading.all(kinds.INGRESSES) if selection.kind is Wanted.INGRESS else (),
        Wanted.GATEWAY: reading.all(kinds.GATEWAYS) if selection.kind is Wanted.GATEWAY else (),
    }[selection.kind]
    selector, place = selection.selector, selection.namespace
    found = [item for item in listed if namespace_of(item) == place and selector.admits(labels(item))]
    if not found:
        raise UnavailableError(
            f"no {selection.kind.value} in namespace {place} has the labels {selector}; "
            f"see `kubectl get {selection.kind.value} -n {place} --show-labels`"
        )
    if selection.kind is Wanted.INGRESS:
        ways = [service_of_ingress(reading, name_of(item), services) for item in found]
    elif selection.kind is Wanted.GATEWAY:
        ways = [service_of_gateway(reading, name_of(item), services) for item in found]
    else:
        outside = [item for item in found if service_from_object(item, {}).external]
        ways = [Way(item, str(selection)) for item in outside or found]
    if len({key_of(way.service) for way in ways}) > 1:
        names = sorted({f"svc/{name_of(way.service)}" for way in ways})
        raise UnavailableError(f"{selection} means several Services: {few(names)}; give one of them")
    return ways[0]


# ── the cluster ──────────────────────────────────────────────────────────────────────────────────────────


def cluster_objects(reading: Reading) -> list[Json]:
    """What facts are made of, beside the Services: as it came, with all that is dropped later."""
    pods = reading.all(kinds.PODS)
    found = [*reading.all(kinds.NODES), *pods, *reading.all(kinds.SLICES)]
    found += reading.within(kinds.CONFIGMAPS, "kube-system")
    if not any(proxy_flags(pod) is not None for pod in pods):
        found += [
            item for item in reading.within(kinds.DAEMONSETS, "kube-system") if "kube-proxy" in name_of(item)
        ]
    if any(labels(pod).get("k8s-app") == "calico-node" for pod in pods):
        found += reading.all(kinds.FELIX)
        if any(namespace_of(pod) == "calico-system" for pod in pods):
            found += reading.all(kinds.INSTALLATIONS)
    return found


def _tell(reading: Reading, problems: Sequence[str]) -> None:
    for problem in problems[:_MOST_PROBLEMS]:
        reading.remark(problem)
    if len(problems) > _MOST_PROBLEMS:
        reading.remark(f"{len(problems) - _MOST_PROBLEMS} more objects cannot be read and are left out")


def _nodes_remarks(facts: Facts) -> list[str]:
    """Nodes at which nothing can be watched, or perhaps not."""
    remarks: list[str] = []
    windows = sorted(node.name for node in facts.nodes if node.os and node.os != "linux")
    if windows:
        remarks.append(f"no agent runs on Windows: nothing is seen at {few(windows)}")
    unready = sorted(node.name for node in facts.nodes if node.ready is False)
    if unready:
        remarks.append(f"not ready, so perhaps not watched: {few(unready)}")
    return remarks


def _forwarding_remarks(facts: Facts) -> list[str]:
    remarks: list[str] = []
    if not facts.proxy_mode:
        remarks.append(
            "who forwards Services on the nodes is not known: no configuration of kube-proxy, Cilium, Calico or k3s "
            "was found; only the nodes' own rules can tell"
        )
    if facts.local_detection.mode not in {"", "ClusterCIDR"}:
        detection = facts.local_detection
        by = f" {detection.interface}" if detection.interface else ""
        remarks.append(f"kube-proxy tells the cluster's own traffic by {detection.mode}{by}, not by address")
    return remarks


# ── the servers behind ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Behind:
    """The proxy behind the Service, if that is one, and what it passes requests on to."""

    proxy: Proxy | None
    pods: Sequence[Json]
    backends: Sequence[tuple[str, str]]
    objects: tuple[Json, ...]

    @classmethod
    def of(cls, reading: Reading, way: Way, service: Service, facts: Facts) -> Behind:
        """What is behind the Service that a way leads to."""
        pods = raw_pods(reading, [service], facts)
        product = way.product or product_of_service(way.service, pods)
        if product is None:
            return cls(None, pods, (), ())
        chosen = {item["kind"]: item for item in way.objects}
        ingresses, gateways = list[Json](), list[Json]()
        if "Ingress" in chosen:
            ingresses = [chosen["Ingress"]]
        elif "Gateway" in chosen:
            gateways = [chosen["Gateway"]]
        else:
            ingresses = ingresses_of(reading, way.service, product)
            gateways = gateways_of_service(reading, way.service, product)
        backends = [each for item in ingresses for each in backends_of(item)]
        backends += backends_of_gateways(reading, gateways)
        named = {text(gateway, "spec.gatewayClassName") for gateway in gateways}
        every = reading.all(kinds.GATEWAY_CLASSES) if gateways else []
        classes = [item for item in every if name_of(item) in named]
        proxy = Proxy(product, service, pods, gateways, classes)
        return cls(proxy, pods, tuple(dict.fromkeys(backends)), (*ingresses, *gateways, *classes))

    def read(self, reading: Reading, facts: Facts) -> tuple[IngressRecord, list[Service]]:
        """What the servers are told, and the Services behind the proxy."""
        if self.proxy is None:
            # The Service leads to the application itself.
            return IngressRecord(application=read_application(reading, self.pods) if self.pods else None), []
        by_key = {each.key: each for each in facts.services}
        keys = [f"{place}/{name}" for place, name in self.backends]
        reached = [by_key[key] for key in keys if key in by_key]
        if lost := [key for key in keys if key not in by_key]:
            reading.remark(
                f"there is no Service {plain(few(sorted(lost)), 300)} to which {self.proxy.product} is to send"
            )
        ingress = read_proxy(reading, self.proxy)
        pods = raw_pods(reading, reached, facts)
        application = read_application(reading, pods) if pods else None
        return IngressRecord(ingresses=(ingress,) if ingress else (), application=application), reached


def raw_pods(reading: Reading, services: Sequence[Service], facts: Facts) -> list[Json]:
    """The pods behind Services as the API has them."""
    index = PodIndex(facts.pods if services else ())
    wanted = {(pod.namespace, pod.name) for each in services for pod in index.behind(each)}
    pods = reading.all(kinds.PODS) if wanted else []
    return [item for item in pods if (namespace_of(item), name_of(item)) in wanted]


def ingresses_of(reading: Reading, service: Json, product: Product) -> list[Json]:
    """The Ingresses that a controller's Service serves, as far as class, address or labels tell."""
    if product in {Product.ENVOY_GATEWAY, Product.NGINX_GATEWAY}:
        return []
    found: list[Json] = []
    for ingress in reading.all(kinds.INGRESSES):
        _, controller, _ = class_of(reading, ingress)
        signs = product_of_controller(controller)
        if signs is None or signs.product is not product:
            continue
        shown = status_addresses(ingress, "status.loadBalancer.ingress")
        if shown & service_addresses(service) or (not shown and bears(service, signs)):
            found.append(ingress)
            continue
        try:
            # Nodes' addresses in the status, and several controllers of one product: whoever it leads to by labels.
            way = way_of_ingress(reading, ingress, reading.all(kinds.SERVICES))
        except UnavailableError:
            continue
        if way.service is service:
            found.append(ingress)
    return found


def _distinct(items: Iterable[Json]) -> list[Json]:
    found: dict[tuple[str, str, str], Json] = {}
    for item in items:
        found.setdefault((item["kind"], namespace_of(item), name_of(item)), item)
    return list(found.values())


# ── what is read of objects, tried once when they are listed ─────────────────────────────────────────────


def _check_service(item: Json) -> None:
    service_from_object(item, {})
    service_addresses(item)


def _check_ingress(item: Json) -> None:
    backends_of(item)
    status_addresses(item, "status.loadBalancer.ingress")
    annotations_of(item)
    text(item, "spec.ingressClassName")


def _check_gateway(item: Json) -> None:
    status_addresses(item, "status.addresses")
    for path in (
        "gatewayClassName",
        "infrastructure.parametersRef.kind",
        "infrastructure.parametersRef.name",
    ):
        text(item, f"spec.{path}")
    objects(item, "spec.listeners")


def _check_route(item: Json) -> None:
    for parent in objects(item, "spec.parentRefs"):
        for name in ("namespace", "name", "kind"):
            text(parent, name)
    for rule in objects(item, "spec.rules"):
        for backend in objects(rule, "backendRefs"):
            for name in ("namespace", "name", "kind"):
                text(backend, name)


def _check_class(item: Json) -> None:
    annotations_of(item)
    text(item, "spec.controller")
    text(item, "spec.controllerName")


def _check_pod(item: Json) -> None:
    annotations_of(item)
    read(item, "spec.hostNetwork", bool, False)
    for container in objects(item, "spec.containers"):
        text(container, "image")
        command_line(container)


CHECKS = {
    "Service": _check_service,
    "Ingress": _check_ingress,
    "Gateway": _check_gateway,
    "HTTPRoute": _check_route,
    "IngressClass": _check_class,
    "GatewayClass": _check_class,
    "Pod": _check_pod,
    "ConfigMap": lambda item: table(item, "data"),
    "ClientTrafficPolicy": lambda item: read(item, "spec", dict, {}),
    "NginxProxy": lambda item: read(item, "spec", dict, {}),
    "DaemonSet": lambda item: read(item, "spec", dict, {}),
}
