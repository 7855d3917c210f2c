"""Kubernetes objects as JSON → `analysis.facts.Facts`.

The JSON is what `kubectl get nodes,pods,services,endpointslices -A -o json` prints (a List), a single object, or
what an API client returns in the same shape. Objects of other kinds are passed over. Only fields that exist
in the API since Kubernetes 1.27 are read; a field of the wrong type is an `ObjectsError` that names it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from analysis.facts import Balancer, Endpoint, Facts, Node, Pod, Policy, Service, ServicePort

Json = dict[str, Any]

SERVICE_NAME_LABEL = "kubernetes.io/service-name"  # discovery.k8s.io/v1


class ObjectsError(ValueError):
    """The given JSON is not what `kubectl get … -o json` prints."""


def facts_from_objects(document: Any) -> Facts:
    """Facts from a List, a list of objects, or one object. Raises ObjectsError."""
    items = list(_items(document))
    by_kind: dict[str, list[Json]] = defaultdict(list)
    for item in items:
        by_kind[_text(item, "kind")].append(item)
    endpoints = _endpoints(by_kind["EndpointSlice"])
    mode, cidrs, masquerade_all, sources = _kube_proxy(by_kind["ConfigMap"])
    pods = tuple(_pod(item) for item in by_kind["Pod"] if _phase(item) not in {"Succeeded", "Failed"})
    return Facts(
        nodes=tuple(_node(item) for item in by_kind["Node"]),
        pods=pods,
        services=tuple(_service(item, endpoints) for item in by_kind["Service"]),
        proxy_mode=mode,
        cluster_cidrs=cidrs,
        masquerade_all=masquerade_all,
        datapath=_datapath(pods),
        sources=sources,
        known=bool(items),
    )


def _items(document: Any) -> Iterable[Json]:
    if isinstance(document, dict) and isinstance(document.get("items"), list):
        document = document["items"]
    elif isinstance(document, dict):
        document = [document]
    if not isinstance(document, list):
        raise ObjectsError("expected a List of Kubernetes objects, as kubectl get … -o json prints it")
    for item in document:
        if not isinstance(item, dict) or not isinstance(item.get("kind"), str):
            raise ObjectsError("an item of the List has no kind; expected Kubernetes objects")
        yield item


def _field(item: Json, path: str, kind: type, default: Any) -> Any:
    """The value at a dotted path; `default` where absent or null. Raises ObjectsError on another type."""
    value: Any = item
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
        if value is None:
            return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        name = f"{item.get('kind', 'object')} {_name(item)}"
        raise ObjectsError(f"{name}: {path} is not a {kind.__name__}")
    return value


def _name(item: Json) -> str:
    metadata = item.get("metadata")
    return str(metadata.get("name", "?")) if isinstance(metadata, dict) else "?"


def _text(item: Json, path: str, default: str = "") -> str:
    return str(_field(item, path, str, default))


def _list(item: Json, path: str) -> list[Any]:
    return list(_field(item, path, list, []))


def _objects(item: Json, path: str) -> list[Json]:
    return [entry for entry in _list(item, path) if isinstance(entry, dict)]


def _labels(item: Json) -> dict[str, str]:
    return {str(key): str(value) for key, value in _field(item, "metadata.labels", dict, {}).items()}


def _address(text: Any) -> str | None:
    """The canonical spelling of an address, or None where it is a name."""
    try:
        return str(ip_address(str(text)))
    except ValueError:
        return None


def _addresses(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found for value in values if (found := _address(value))))


def _phase(item: Json) -> str:
    return _text(item, "status.phase")


def _node(item: Json) -> Node:
    cidrs = _list(item, "spec.podCIDRs") or [_text(item, "spec.podCIDR")]
    return Node(
        name=_name(item),
        addresses=_addresses(entry.get("address") for entry in _objects(item, "status.addresses")),
        pod_cidrs=tuple(str(cidr) for cidr in cidrs if cidr),
        labels=_labels(item),
    )


def _pod(item: Json) -> Pod:
    addresses = [entry.get("ip") for entry in _objects(item, "status.podIPs")]
    return Pod(
        namespace=_text(item, "metadata.namespace", "default"),
        name=_name(item),
        node=_text(item, "spec.nodeName") or None,
        addresses=_addresses(addresses or [_text(item, "status.podIP")]),
        host_network=bool(_field(item, "spec.hostNetwork", bool, False)),
        labels=_labels(item),
    )


def _policy(item: Json, path: str) -> Policy:
    return Policy.LOCAL if _text(item, path) == "Local" else Policy.CLUSTER


def _service(item: Json, endpoints: dict[str, list[Endpoint]]) -> Service:
    namespace, name = _text(item, "metadata.namespace", "default"), _name(item)
    cluster_ips = _list(item, "spec.clusterIPs") or [_text(item, "spec.clusterIP")]
    return Service(
        namespace=namespace,
        name=name,
        type=_text(item, "spec.type", "ClusterIP"),
        external_policy=_policy(item, "spec.externalTrafficPolicy"),
        internal_policy=_policy(item, "spec.internalTrafficPolicy"),
        cluster_ips=_addresses(cluster_ips),
        external_ips=_addresses(_list(item, "spec.externalIPs")),
        balancers=tuple(_balancer(entry) for entry in _objects(item, "status.loadBalancer.ingress")),
        source_ranges=tuple(str(value) for value in _list(item, "spec.loadBalancerSourceRanges")),
        ports=tuple(
            ServicePort(
                name=_text(port, "name"),
                protocol=_text(port, "protocol", "TCP").lower(),
                port=_field(port, "port", int, 0),
                node_port=_field(port, "nodePort", int, 0),
            )
            for port in _objects(item, "spec.ports")
        ),
        endpoints=tuple(endpoints.get(f"{namespace}/{name}", ())),
        health_check_node_port=_field(item, "spec.healthCheckNodePort", int, 0),
        session_affinity=_text(item, "spec.sessionAffinity", "None"),
        labels=_labels(item),
    )


def _balancer(entry: Json) -> Balancer:
    return Balancer(
        address=_address(entry.get("ip")),
        hostname=_text(entry, "hostname") or None,
        ip_mode=_text(entry, "ipMode", "VIP"),
    )


def _endpoints(slices: Iterable[Json]) -> dict[str, list[Endpoint]]:
    """Endpoints by `namespace/service`; an address in two slices (while one is replaced) counts once."""
    found: dict[str, dict[tuple[str, int, str], Endpoint]] = defaultdict(dict)
    for item in slices:
        owner = _labels(item).get(SERVICE_NAME_LABEL)
        if not owner:
            continue
        service = f"{_text(item, 'metadata.namespace', 'default')}/{owner}"
        for entry in _objects(item, "endpoints"):
            for endpoint in _slice_endpoints(entry, _objects(item, "ports")):
                found[service][endpoint.address, endpoint.port, endpoint.protocol] = endpoint
    return {service: list(entries.values()) for service, entries in found.items()}


def _slice_endpoints(entry: Json, ports: list[Json]) -> Iterable[Endpoint]:
    # A condition that is absent means: ready, serving as ready, not terminating (discovery/v1 types).
    ready = bool(_field(entry, "conditions.ready", bool, True))
    for port in ports:
        for address in _addresses(_list(entry, "addresses")):
            yield Endpoint(
                address=address,
                port=_field(port, "port", int, 0),
                protocol=_text(port, "protocol", "TCP").lower(),
                port_name=_text(port, "name"),
                node=_text(entry, "nodeName") or None,
                pod=_text(entry, "targetRef.name") or None,
                ready=ready,
                serving=bool(_field(entry, "conditions.serving", bool, ready)),
                terminating=bool(_field(entry, "conditions.terminating", bool, False)),
            )


def _kube_proxy(configmaps: Iterable[Json]) -> tuple[str, tuple[str, ...], bool, dict[str, str]]:
    """Mode, clusterCIDR and masqueradeAll from the ConfigMap that kubeadm and its kin keep for kube-proxy.

    Three scalar settings are looked for by name, since the embedded document may be YAML or JSON and both
    write them the same way but for quotes.
    """
    for item in configmaps:
        if _name(item) != "kube-proxy":
            continue
        data = _field(item, "data", dict, {})
        text = "\n".join(str(value) for key, value in data.items() if "kubeconfig" not in str(key))
        mode = _setting(text, "mode")
        cidrs = tuple(part for part in _setting(text, "clusterCIDR").split(",") if part)
        masquerade_all = _setting(text, "masqueradeAll") == "true"
        return mode or "iptables", cidrs, masquerade_all, {"proxyMode": "ConfigMap kube-proxy"}
    return "", (), False, {}


def _setting(text: str, name: str) -> str:
    found = re.search(rf'^\s*"?{name}"?\s*:\s*"?([^"\s,#]*)', text, re.MULTILINE)
    return found.group(1) if found else ""


def _datapath(pods: Iterable[Pod]) -> str:
    """The CNI, as far as the names of its own pods give it away."""
    known = {"cilium": "cilium", "calico-node": "calico", "kube-flannel": "flannel", "flannel": "flannel"}
    for pod in pods:
        app = pod.labels.get("k8s-app") or pod.labels.get("app") or ""
        if pod.host_network and app in known:
            return known[app]
    return ""
