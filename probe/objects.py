"""Kubernetes objects as JSON → `analysis.facts.Facts`.

The JSON is what `kubectl get nodes,pods,services,endpointslices -A -o json` prints (a List), a single object, or
what an API client returns in the same shape. Objects of other kinds are passed over, but for those that say how the
nodes forward (`probe.cluster.forwarding`). Only fields that exist in the API since Kubernetes 1.27 are read, and
later ones where they are; a field of the wrong type is an `ObjectsError` that names it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from analysis.facts import Balancer, Endpoint, Facts, HostPort, Node, Pod, Policy, Service, ServicePort
from probe.cluster.fields import (
    Json,
    ObjectsError,
    address,
    addresses,
    annotations_of,
    entries,
    field,
    labels,
    name_of,
    namespace_of,
    number,
    objects,
    port,
    table,
    text,
    texts,
)
from probe.cluster.forwarding import read_forwarding

__all__ = ["SERVICE_NAME_LABEL", "ObjectsError", "facts_from_objects", "service_from_object"]

T = TypeVar("T")

SERVICE_NAME_LABEL = "kubernetes.io/service-name"  # discovery.k8s.io/v1

#: Words in the names of annotations by which load balancers are told what to do.
_BALANCER_WORDS = (
    "load-balancer",
    "loadbalancer",
    "proxy-protocol",
    "proxyprotocol",
    "metallb",
    "klipper",
    "kube-vip",
)


def facts_from_objects(document: Any, problems: list[str] | None = None) -> Facts:
    """Facts from a List, a list of objects, or one object.

    Raises ObjectsError; where `problems` is given, objects that cannot be read are left out and named there instead.
    """
    items = list(_items(document))
    by_kind: dict[str, list[Json]] = defaultdict(list)
    for item in items:
        by_kind[item["kind"]].append(item)
    slices = _each(_slice, by_kind["EndpointSlice"], problems)
    endpoints = _endpoints(slices)
    pods = [item for item in by_kind["Pod"] if not _over(item)]
    forwarding = read_forwarding(by_kind)
    if problems is not None:
        problems += forwarding.remarks
    return Facts(
        nodes=tuple(_each(_node, by_kind["Node"], problems)),
        pods=tuple(_each(_pod, pods, problems)),
        services=tuple(
            _each(lambda item: service_from_object(item, endpoints), by_kind["Service"], problems)
        ),
        proxy_mode=forwarding.proxy_mode,
        cluster_cidrs=forwarding.cluster_cidrs,
        masquerade_all=forwarding.masquerade_all,
        datapath=forwarding.datapath,
        sources=forwarding.sources,
        known=bool(items),
        local_detection=forwarding.local_detection,
        node_port_addresses=forwarding.node_port_addresses,
        forwarding_mode=forwarding.mode,
    )


def _each(build: Callable[[Json], T], items: Iterable[Json], problems: list[str] | None) -> list[T]:
    """What is built of each object; without those that cannot be read where `problems` is to name them."""
    built: list[T] = []
    for item in items:
        try:
            built.append(build(item))
        except ObjectsError as error:
            if problems is None:
                raise
            problems.append(f"left out: {error}")
    return built


def _items(document: Any) -> Iterable[Json]:
    if isinstance(document, dict) and isinstance(document.get("items"), list):
        document = document["items"]
    elif isinstance(document, dict):
        document = [document]
    if not isinstance(document, list):
        raise ObjectsError("it is no List of Kubernetes objects")
    for item in document:
        if not isinstance(item, dict) or not isinstance(item.get("kind"), str):
            raise ObjectsError("an item of the List has no kind")
        yield item


def _over(item: Json) -> bool:
    """Whether a pod has ended: its address may be somebody else's by now."""
    status = item.get("status")
    return isinstance(status, dict) and status.get("phase") in ("Succeeded", "Failed")


def _node(item: Json) -> Node:
    cidrs = texts(item, "spec.podCIDRs") or (text(item, "spec.podCIDR"),)
    return Node(
        name=name_of(item),
        addresses=addresses(entry.get("address") for entry in objects(item, "status.addresses")),
        pod_cidrs=tuple(cidr for cidr in cidrs if cidr),
        labels=labels(item),
        ready=_condition(item, "Ready"),
        os=text(item, "status.nodeInfo.operatingSystem") or labels(item).get("kubernetes.io/os", ""),
        architecture=text(item, "status.nodeInfo.architecture") or labels(item).get("kubernetes.io/arch", ""),
        taints=tuple(_taint(entry) for entry in objects(item, "spec.taints")),
        unschedulable=bool(field(item, "spec.unschedulable", bool, False)),
    )


def _taint(entry: Json) -> str:
    key, value = text(entry, "key"), text(entry, "value")
    return f"{key}={value}:{text(entry, 'effect')}" if value else f"{key}:{text(entry, 'effect')}"


def _condition(item: Json, wanted: str) -> bool | None:
    """Whether a condition of a node or pod holds; None where it is not told, or Unknown."""
    for entry in objects(item, "status.conditions"):
        if entry.get("type") == wanted:
            return {"True": True, "False": False}.get(text(entry, "status"))
    return None


def _pod(item: Json) -> Pod:
    found = [entry.get("ip") for entry in objects(item, "status.podIPs")]
    return Pod(
        namespace=namespace_of(item),
        name=name_of(item),
        node=text(item, "spec.nodeName") or None,
        addresses=addresses(found or [text(item, "status.podIP")]),
        host_network=bool(field(item, "spec.hostNetwork", bool, False)),
        labels=labels(item),
        host_ports=tuple(
            _host_port(entry)
            for container in objects(item, "spec.containers")
            for entry in objects(container, "ports")
            if entry.get("hostPort")
        ),
        ready=_condition(item, "Ready"),
    )


def _host_port(entry: Json) -> HostPort:
    return HostPort(
        host=port(entry, "hostPort"),
        container=port(entry, "containerPort"),
        protocol=text(entry, "protocol", "TCP").lower(),
        address=address(entry.get("hostIP")) or "",
    )


def _policy(item: Json, path: str) -> Policy:
    return Policy.LOCAL if text(item, path) == "Local" else Policy.CLUSTER


def service_from_object(item: Json, endpoints: dict[str, list[Endpoint]]) -> Service:
    """One Service; `endpoints` are given by `namespace/name`. Raises ObjectsError."""
    namespace, name = namespace_of(item), name_of(item)
    cluster_ips = entries(item, "spec.clusterIPs") or [text(item, "spec.clusterIP")]
    affinity = text(item, "spec.sessionAffinity", "None")
    seconds = number(item, "spec.sessionAffinityConfig.clientIP.timeoutSeconds")
    return Service(
        namespace=namespace,
        name=name,
        type=text(item, "spec.type", "ClusterIP"),
        external_policy=_policy(item, "spec.externalTrafficPolicy"),
        internal_policy=_policy(item, "spec.internalTrafficPolicy"),
        cluster_ips=addresses(cluster_ips),
        external_ips=addresses(entries(item, "spec.externalIPs")),
        balancers=tuple(_balancer(entry) for entry in objects(item, "status.loadBalancer.ingress")),
        source_ranges=texts(item, "spec.loadBalancerSourceRanges"),
        ports=tuple(_service_port(entry) for entry in objects(item, "spec.ports")),
        endpoints=tuple(endpoints.get(f"{namespace}/{name}", ())),
        health_check_node_port=port(item, "spec.healthCheckNodePort"),
        session_affinity=affinity,
        labels=labels(item),
        # Three hours where the API says nothing of how long (core/v1 DefaultClientIPServiceAffinitySeconds).
        affinity_seconds=seconds or 10_800 if affinity == "ClientIP" else 0,
        selector=table(item, "spec.selector"),
        ip_families=texts(item, "spec.ipFamilies"),
        ip_family_policy=text(item, "spec.ipFamilyPolicy"),
        traffic_distribution=text(item, "spec.trafficDistribution"),
        load_balancer_class=text(item, "spec.loadBalancerClass"),
        annotations={
            key: value[:1024]
            for key, value in annotations_of(item).items()
            if any(word in key for word in _BALANCER_WORDS)
        },
    )


def _service_port(entry: Json) -> ServicePort:
    target = entry.get("targetPort")
    return ServicePort(
        name=text(entry, "name"),
        protocol=text(entry, "protocol", "TCP").lower(),
        port=port(entry, "port"),
        node_port=port(entry, "nodePort"),
        target=str(target)[:63] if isinstance(target, str | int) else "",
        app_protocol=text(entry, "appProtocol"),
    )


def _balancer(entry: Json) -> Balancer:
    return Balancer(
        address=address(entry.get("ip")),
        hostname=text(entry, "hostname") or None,
        ip_mode=text(entry, "ipMode", "VIP"),
    )


def _endpoints(slices: Iterable[tuple[str, list[Endpoint]]]) -> dict[str, list[Endpoint]]:
    """Endpoints by `namespace/service`; an address in two slices (while one is replaced) counts once."""
    found: dict[str, dict[tuple[str, int, str], Endpoint]] = defaultdict(dict)
    for service, listed in slices:
        for endpoint in listed:
            found[service][endpoint.address, endpoint.port, endpoint.protocol] = endpoint
    return {service: list(known.values()) for service, known in found.items()}


def _slice(item: Json) -> tuple[str, list[Endpoint]]:
    """The Service of a slice, as `namespace/name`, and its endpoints; none for a slice that is nobody's."""
    owner = labels(item).get(SERVICE_NAME_LABEL)
    if not owner:
        return "", []
    ports = objects(item, "ports")
    listed = [each for entry in objects(item, "endpoints") for each in _slice_endpoints(entry, ports)]
    return f"{namespace_of(item)}/{owner}", listed


def _slice_endpoints(entry: Json, ports: list[Json]) -> Iterable[Endpoint]:
    # A condition that is absent means: ready, serving as ready, not terminating (discovery/v1 types).
    ready = bool(field(entry, "conditions.ready", bool, True))
    for each in ports:
        for found in addresses(entries(entry, "addresses")):
            yield Endpoint(
                address=found,
                port=port(each, "port"),
                protocol=text(each, "protocol", "TCP").lower(),
                port_name=text(each, "name"),
                node=text(entry, "nodeName") or None,
                pod=text(entry, "targetRef.name") or None,
                ready=ready,
                serving=bool(field(entry, "conditions.serving", bool, ready)),
                terminating=bool(field(entry, "conditions.terminating", bool, False)),
                zone=text(entry, "zone"),
                zone_hints=tuple(text(hint, "name") for hint in objects(entry, "hints.forZones")),
                node_hints=tuple(text(hint, "name") for hint in objects(entry, "hints.forNodes")),
            )
