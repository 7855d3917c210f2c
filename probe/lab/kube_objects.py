"""The plan as Kubernetes would tell of it: what `kubectl get nodes,pods,services,endpointslices -A -o json` prints.

Only fields that a reader of such a listing may depend on are there; shapes follow the API's v1 and
discovery.k8s.io/v1. The kube-proxy ConfigMap is the one that kubeadm keeps.
"""

from __future__ import annotations

from typing import Any

from probe.lab.network import BRIDGE
from probe.lab.plan import (
    APP_PORT,
    APP_SERVICE,
    APP_SERVICE_PORT,
    CLUSTER_CIDRS,
    Addresses,
    Plan,
    PlannedNode,
    PlannedPod,
)
from probe.lab.scenario import Family

Json = dict[str, Any]

SERVICE_CIDRS: Addresses = {"ipv4": "10.96.0.0/16", "ipv6": "fd00:10:96::/112"}
_FAMILY_NAMES: dict[Family, str] = {"ipv4": "IPv4", "ipv6": "IPv6"}


def objects(plan: Plan) -> Json:
    """A List of the cluster's objects."""
    items: list[Json] = [_node(plan, node) for node in plan.nodes]
    items += [_pod(plan, pod) for pod in plan.pods]
    items += [_service(plan), *_slices(plan, plan.scenario.service.name, plan.endpoints())]
    if plan.apps():
        items += [_app_service(plan), *_slices(plan, APP_SERVICE, plan.apps())]
    items.append(_kube_proxy(plan))
    return {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items}


def _node(plan: Plan, node: PlannedNode) -> Json:
    addresses = [{"type": "InternalIP", "address": address} for address in node.host.addresses.values()]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name}},
        "spec": {
            "podCIDR": node.pod_cidrs[plan.families[0]],
            "podCIDRs": list(node.pod_cidrs.values()),
        },
        "status": {
            "addresses": [*addresses, {"type": "Hostname", "address": node.name}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _pod(plan: Plan, planned: PlannedPod) -> Json:
    pod, addresses = planned.pod, list(planned.addresses.values())
    metadata: Json = {
        "name": pod.name,
        "namespace": plan.scenario.service.namespace,
        "labels": _labels(plan, planned),
    }
    if pod.terminating:
        metadata |= {"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "nodeName": pod.node,
            "hostNetwork": pod.host_network,
            "containers": [{"name": pod.role, "ports": [{"containerPort": planned.port}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
            "hostIP": plan.node(pod.node).host.addresses[plan.families[0]],
            "conditions": [{"type": "Ready", "status": _bool(pod.ready)}],
        },
    }


def _labels(plan: Plan, planned: PlannedPod) -> dict[str, str]:
    service = plan.scenario.service.name
    if planned.pod.role == "svclb":
        # The label by which k3s's ServiceLB marks its pods.
        return {"app": f"svclb-{service}", "svccontroller.k3s.cattle.io/svcname": service}
    if planned.pod.role == "app":
        return {"app": APP_SERVICE}
    if planned.pod.role == "client":
        return {"app": "client"}
    return {"app": service}


def _bool(value: bool) -> str:
    return "True" if value else "False"


def _service(plan: Plan) -> Json:
    service = plan.scenario.service
    external = service.type != "ClusterIP"
    port: Json = {
        "name": _port_name(plan),
        "protocol": service.protocol.upper(),
        "port": service.port,
        "targetPort": plan.endpoints()[0].port if plan.endpoints() else service.port,
    }
    spec: Json = {
        "type": service.type,
        "clusterIP": plan.cluster_ip[plan.families[0]],
        "clusterIPs": list(plan.cluster_ip.values()),
        "ipFamilies": [_FAMILY_NAMES[family] for family in plan.families],
        "ipFamilyPolicy": "RequireDualStack" if len(plan.families) > 1 else "SingleStack",
        "internalTrafficPolicy": service.internal_policy,
        "selector": {"app": service.name},
        "sessionAffinity": service.session_affinity,
        "ports": [port],
    }
    if external:
        port["nodePort"] = service.node_port
        spec["externalTrafficPolicy"] = service.external_policy
    if plan.external_ip:
        spec["externalIPs"] = list(plan.external_ip.values())
        spec["externalTrafficPolicy"] = service.external_policy
    if plan.health_check_node_port():
        spec["healthCheckNodePort"] = plan.health_check_node_port()
    if service.source_ranges:
        spec["loadBalancerSourceRanges"] = list(service.source_ranges)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "namespace": service.namespace},
        "spec": spec,
        "status": {"loadBalancer": _load_balancer(plan)},
    }


def _port_name(plan: Plan) -> str:
    return "dns" if plan.scenario.service.protocol == "udp" else "http"


def _load_balancer(plan: Plan) -> Json:
    """status.loadBalancer: the VIP where there is one, or the balancer's own address.

    An address that the balancer keeps for itself must not be short-circuited by the nodes: ipMode Proxy
    (KEP-1860), unless the scenario says otherwise.
    """
    service = plan.scenario.service
    if service.type != "LoadBalancer":
        return {}
    if plan.vip:
        addresses, mode = plan.vip, service.ip_mode or "VIP"
    elif plan.lb:
        addresses, mode = plan.lb.addresses, service.ip_mode or "Proxy"
    elif any(pod.pod.role == "svclb" for pod in plan.pods):
        nodes = [plan.node(pod.pod.node) for pod in plan.pods if pod.pod.role == "svclb"]
        ingress = [{"ip": node.host.addresses[plan.families[0]]} for node in nodes]
        return {"ingress": [entry | {"ipMode": service.ip_mode or "Proxy"} for entry in ingress]}
    else:
        return {}
    return {"ingress": [{"ip": address, "ipMode": mode} for address in addresses.values()]}


def _app_service(plan: Plan) -> Json:
    app = plan.scenario.app_service
    port: Json = {"name": "http", "protocol": "TCP", "port": APP_SERVICE_PORT, "targetPort": APP_PORT}
    spec: Json = {
        "type": "ClusterIP",
        "clusterIP": plan.app_cluster_ip[plan.families[0]],
        "clusterIPs": list(plan.app_cluster_ip.values()),
        "internalTrafficPolicy": "Cluster",
        "selector": {"app": APP_SERVICE},
        "ports": [port],
    }
    if app.node_port:
        port["nodePort"] = app.node_port
        spec |= {"type": "NodePort", "externalTrafficPolicy": app.external_policy}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": APP_SERVICE, "namespace": plan.scenario.service.namespace},
        "spec": spec,
        "status": {"loadBalancer": {}},
    }


def _slices(plan: Plan, service: str, pods: list[PlannedPod]) -> list[Json]:
    return [_slice(plan, service, pods, family) for family in plan.families]


def _slice(plan: Plan, service: str, pods: list[PlannedPod], family: Family) -> Json:
    namespace = plan.scenario.service.namespace
    own = service == plan.scenario.service.name
    port_name, protocol = (_port_name(plan), plan.scenario.service.protocol) if own else ("http", "tcp")
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-{family}",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": _FAMILY_NAMES[family],
        "endpoints": [
            {
                "addresses": [pod.addresses[family]],
                "conditions": {
                    "ready": pod.pod.ready and not pod.pod.terminating,
                    "serving": pod.pod.serving,
                    "terminating": pod.pod.terminating,
                },
                "nodeName": pod.pod.node,
                "targetRef": {"kind": "Pod", "name": pod.name, "namespace": namespace},
            }
            for pod in pods
        ],
        "ports": [{"name": port_name, "protocol": protocol.upper(), "port": pods[0].port}] if pods else [],
    }


def _kube_proxy(plan: Plan) -> Json:
    cluster = plan.scenario.cluster
    cidr = ",".join(CLUSTER_CIDRS[family] for family in plan.families) if cluster.cluster_cidr else ""
    masquerade_all = "true" if cluster.masquerade_all else "false"
    # kube-proxy does not know which of the two iptables it runs.
    mode = plan.proxy_mode.removesuffix("-legacy")
    lines = [
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1",
        "kind: KubeProxyConfiguration",
        f'clusterCIDR: "{cidr}"',
        f"detectLocalMode: {cluster.detect_local}",
        f"mode: {mode}",
        f"{mode}:",
        f"  masqueradeAll: {masquerade_all}",
        "detectLocal:",
        f"  bridgeInterface: {BRIDGE}",
        f"  interfaceNamePrefix: {BRIDGE[:3]}",
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
        "data": {"config.conf": "\n".join(lines) + "\n"},
    }
