"""A cluster on paper: objects as the API would give them, and a client that lists them, with what it may not.

`Cluster(...).gather("svc/web")` asks as the command line does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from probe.cluster.lister import AbsentError, ForbiddenError, Json
from probe.cluster.reading import KINDS
from probe.cluster.resolve import Gathered, gather
from probe.cluster.selection import parse

PLURALS = {kind.kind: kind.plural for kind in KINDS}

#: Kinds that every cluster has; the others are there once an object of theirs is.
BUILT_IN = frozenset({
    "nodes", "pods", "services", "endpointslices", "configmaps", "daemonsets", "ingresses", "ingressclasses",
})  # fmt: skip


class Cluster:
    """Answers lists out of objects, as a client does; `forbidden` are (plural, namespace or None for all)."""

    def __init__(self, objects: Iterable[Json], forbidden: Iterable[tuple[str, str | None]] = ()) -> None:
        self.items = list(objects)
        self.forbidden = frozenset(forbidden)
        self.asked: list[tuple[str, str, str | None]] = []

    def list(self, group_version: str, plural: str, namespace: str | None) -> list[Json]:
        self.asked.append((group_version, plural, namespace))
        if (plural, namespace) in self.forbidden:
            raise ForbiddenError("list", plural, namespace)
        found = [item for item in self.items if PLURALS.get(item.get("kind", "")) == plural]
        if not found and plural not in BUILT_IN:
            raise AbsentError(group_version, plural)
        inside = [item for item in found if namespace in {None, item["metadata"].get("namespace", "default")}]
        # Items of a list name neither kind nor version.
        return [
            {key: copy.deepcopy(item[key]) for key in item if key not in {"kind", "apiVersion"}}
            for item in inside
        ]

    def gather(self, text: str | None, namespace: str = "default", label: str | None = None) -> Gathered:
        return gather(self, parse(text, namespace, label=label))


def obj(kind: str, name: str, namespace: str | None = "default", **rest: Any) -> Json:
    """An object; `labels` and `annotations` go where they belong."""
    metadata: Json = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    for key in ("labels", "annotations"):
        if key in rest:
            metadata[key] = rest.pop(key)
    return {"kind": kind, "metadata": metadata, **rest}


def node(name: str = "node1", address: str = "192.0.2.11", cidr: str = "10.244.1.0/24", **rest: Any) -> Json:
    return obj(
        "Node",
        name,
        None,
        spec={"podCIDRs": [cidr], **rest.pop("spec", {})},
        status={
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "conditions": [{"type": "Ready", "status": rest.pop("ready", "True")}],
            "nodeInfo": {"operatingSystem": rest.pop("os", "linux"), "architecture": "amd64"},
        },
        **rest,
    )


def pod(name: str, ip: str, app: str, namespace: str = "default", **rest: Any) -> Json:
    container = {
        "name": "main",
        "image": rest.pop("image", "example.test/app:1"),
        **rest.pop("container", {}),
    }
    return obj(
        "Pod",
        name,
        namespace,
        labels={"app": app, **rest.pop("labels", {})},
        spec={"nodeName": "node1", "containers": [container], **rest.pop("spec", {})},
        status={"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
        **rest,
    )


def service(name: str, app: str, namespace: str = "default", **rest: Any) -> Json:
    """A Service of type NodePort, 80 to the port named http."""
    ports = rest.pop("ports", [{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "http"}])
    spec: Json = {"type": "NodePort", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": ports}
    spec["selector"] = {"app": app}
    spec |= rest.pop("spec", {})
    balancers = rest.pop("balancers", [])
    status = {"loadBalancer": {"ingress": balancers} if balancers else {}}
    return obj("Service", name, namespace, spec=spec, status=status, **rest)


def slice_of(
    name: str,
    addresses: Sequence[tuple[str, str]],
    namespace: str = "default",
    ports: Sequence[tuple[str, int]] = (("http", 8080),),
) -> Json:
    """The EndpointSlice of a Service: pairs of pod and address."""
    return obj(
        "EndpointSlice",
        f"{name}-abcde",
        namespace,
        labels={"kubernetes.io/service-name": name},
        addressType="IPv4",
        endpoints=[
            {
                "addresses": [ip],
                "nodeName": "node1",
                "targetRef": {"kind": "Pod", "name": who},
                "conditions": {"ready": True},
            }
            for who, ip in addresses
        ],
        ports=[{"name": each, "port": number, "protocol": "TCP"} for each, number in ports],
    )


def app(name: str, ip: str, namespace: str = "default", **rest: Any) -> list[Json]:
    """A Service with one pod behind it, which has the Service's name."""
    exposed = {"spec": rest.pop("spec")} if "spec" in rest else {}
    return [
        service(name, name, namespace, **exposed),
        slice_of(name, [(f"{name}-1", ip)], namespace),
        pod(f"{name}-1", ip, name, namespace, **rest),
    ]


def configmap(name: str, data: dict[str, str], namespace: str = "kube-system") -> Json:
    return obj("ConfigMap", name, namespace, data=data)


def kube_proxy(text: str = 'mode: "iptables"\nclusterCIDR: 10.244.0.0/16\n') -> Json:
    """kubeadm's ConfigMap."""
    return configmap("kube-proxy", {"config.conf": text, "kubeconfig.conf": "apiVersion: v1\n"})


INTERNAL = {"type": "ClusterIP"}
