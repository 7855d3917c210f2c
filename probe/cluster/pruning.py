"""What a session keeps of the cluster's objects: what the analysis reads, and nothing that is nobody's business.

Environment, command lines, volumes and annotations of people's own can hold passwords; a ConfigMap can hold
anything. They are used while facts are gathered and stay behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from probe.cluster.fields import ENTRY_LIMIT, Json
from probe.cluster.forwarding import kept_arguments
from probe.ingress.objects import KEYS

#: Which part of an object is kept: a table of parts, or everything below.
Shape = Mapping[str, "Shape"] | None

_WHOLE: Shape = None
_META: Shape = {"name": _WHOLE, "namespace": _WHOLE, "labels": _WHOLE, "uid": _WHOLE}
_SPEC: Shape = {"metadata": _META, "spec": _WHOLE}

_SHAPES: dict[str, Shape] = {
    "Node": {
        "metadata": _META,
        "spec": {"podCIDR": _WHOLE, "podCIDRs": _WHOLE, "taints": _WHOLE, "unschedulable": _WHOLE},
        "status": {
            "addresses": _WHOLE,
            "conditions": {"type": _WHOLE, "status": _WHOLE},
            "nodeInfo": {"operatingSystem": _WHOLE, "architecture": _WHOLE, "kubeletVersion": _WHOLE,
                         "kernelVersion": _WHOLE, "osImage": _WHOLE},
        },
    },
    "Pod": {
        "metadata": _META,
        "spec": {"nodeName": _WHOLE, "hostNetwork": _WHOLE, "containers": {"name": _WHOLE, "ports": _WHOLE}},
        "status": {
            "phase": _WHOLE,
            "podIP": _WHOLE,
            "podIPs": _WHOLE,
            "conditions": {"type": _WHOLE, "status": _WHOLE},
        },
    },
    "Service": {"metadata": _META, "spec": _WHOLE, "status": {"loadBalancer": _WHOLE}},
    "EndpointSlice": {"metadata": _META, "addressType": _WHOLE, "endpoints": _WHOLE, "ports": _WHOLE},
    "IngressClass": {"metadata": _META, "spec": {"controller": _WHOLE}},
    "GatewayClass": {"metadata": _META, "spec": {"controllerName": _WHOLE}},
    "Gateway": {
        "metadata": _META,
        "spec": {"gatewayClassName": _WHOLE, "listeners": {"name": _WHOLE, "port": _WHOLE, "protocol": _WHOLE}},
        "status": {"addresses": _WHOLE},
    },
    "Ingress": {
        "metadata": _META,
        "spec": {"ingressClassName": _WHOLE, "defaultBackend": _WHOLE, "rules": _WHOLE},
        "status": {"loadBalancer": _WHOLE},
    },
    "FelixConfiguration": {"metadata": _META, "spec": {"bpfEnabled": _WHOLE, "bpfExternalServiceMode": _WHOLE}},
    "Installation": {"metadata": _META, "spec": {"calicoNetwork": {"linuxDataplane": _WHOLE}}},
    "ClientTrafficPolicy": _SPEC,
    "NginxProxy": _SPEC,
}  # fmt: skip

#: Annotations that facts are read from, by kind.
_ANNOTATIONS = {
    "Node": ("k3s.io/node-args", "rke2.io/node-args", "flannel.alpha.coreos.com/backend-type"),
    "Service": (
        "load-balancer",
        "loadbalancer",
        "proxy-protocol",
        "proxyprotocol",
        "metallb",
        "klipper",
        "kube-vip",
    ),
}

#: Keys of ConfigMaps that facts are read from, by the ConfigMap's name.
_DATA = {
    "cilium-config": ("kube-proxy-replacement", "enable-node-port", "bpf-lb-mode", "bpf-lb-mode-annotation"),
    "kube-proxy": ("config.conf", "config"),
    "kube-proxy-config": ("config.conf", "config"),
}


def pruned(items: Iterable[Json]) -> list[Json]:
    """The objects with what is kept of them."""
    kept: list[Json] = []
    for item in items:
        shape = _SHAPES.get(str(item.get("kind")))
        if item.get("kind") == "ConfigMap":
            found: Json | None = _configmap(item)
        else:
            found = _part(item, shape) if shape is not None else None
        if found is not None:
            found["apiVersion"], found["kind"] = item.get("apiVersion"), item.get("kind")
            _annotate(found, item)
            kept.append(found)
    return kept


def _part(value: Any, shape: Shape) -> Any:
    """The part of a value that a shape names; a shape holds for each entry of a list."""
    if shape is None:
        return value
    if isinstance(value, list):
        return [_part(entry, shape) for entry in value[:ENTRY_LIMIT]]
    if not isinstance(value, dict):
        return value
    return {key: _part(value[key], below) for key, below in shape.items() if key in value}


def _configmap(item: Json) -> Json | None:
    metadata, data = item.get("metadata"), item.get("data")
    if not isinstance(metadata, dict) or not isinstance(data, dict):
        return None
    wanted = _DATA.get(str(metadata.get("name")), tuple(KEYS))
    kept = {key: value for key, value in data.items() if key in wanted}
    return {"metadata": _part(metadata, _META), "data": kept} if kept else None


def _annotate(found: Json, item: Json) -> None:
    words = _ANNOTATIONS.get(str(item.get("kind")), ())
    metadata = item.get("metadata")
    written = metadata.get("annotations") if isinstance(metadata, dict) else None
    if not words or not isinstance(written, dict) or not isinstance(found.get("metadata"), dict):
        return
    kept = {key: value for key, value in written.items() if any(word in str(key) for word in words)}
    for key in [key for key in kept if str(key).endswith("node-args")]:
        kept[key] = kept_arguments(str(kept[key]))
    if kept:
        found["metadata"] = {**found["metadata"], "annotations": kept}
