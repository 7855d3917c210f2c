"""Objects and patches in kubectl's words."""

from __future__ import annotations

import json
from typing import Any

from analysis.checks.case import Workload
from analysis.facts import Service


def service_name(service: Service) -> str:
    """`svc/NAME -n NAMESPACE`."""
    return f"svc/{service.name} -n {service.namespace}"


def workload_name(workload: Workload) -> str:
    """`deployment/NAME -n NAMESPACE`."""
    return f"{workload.shown} -n {workload.namespace}"


def patch(kind: str, namespace: str, name: str, change: dict[str, Any], how: str = "") -> str:
    """A `kubectl patch` that makes the change; `how` is the type of the patch, strategic where left out."""
    typed = f" --type={how}" if how else ""
    written = json.dumps(change, separators=(",", ":")).replace("'", "'\\''")
    return f"kubectl -n {namespace} patch {kind} {name}{typed} -p '{written}'"


def patch_service(service: Service, spec: dict[str, Any]) -> str:
    """A patch of a Service's spec."""
    return patch("svc", service.namespace, service.name, {"spec": spec})


def patch_pods(workload: Workload, spec: dict[str, Any]) -> str:
    """A patch of the pods that a workload makes."""
    change = {"spec": {"template": {"spec": spec}}}
    return patch(workload.kind.lower(), workload.namespace, workload.name, change)


def annotate(service: Service, key: str, value: str) -> str:
    """Set an annotation of a Service; "" as value takes it away."""
    written = f"{key}-" if not value else f"{key}='{value}'"
    return f"kubectl -n {service.namespace} annotate --overwrite svc {service.name} {written}"


#: Where a chart keeps what is set, by product: (policy, type, replicas, budget).
_CHARTS = {
    "ingress-nginx": (
        "controller.service.externalTrafficPolicy", "controller.service.type", "controller.replicaCount",
        "controller.minAvailable",
    ),
    "Traefik": ("service.spec.externalTrafficPolicy", "service.type", "deployment.replicas", ""),
    "HAProxy Kubernetes Ingress Controller": (
        "controller.service.externalTrafficPolicy", "controller.service.type", "controller.replicaCount", "",
    ),
    "NGINX Ingress Controller": (
        "controller.service.externalTrafficPolicy", "controller.service.type", "controller.replicaCount", "",
    ),
    "Contour": ("envoy.service.externalTrafficPolicy", "envoy.service.type", "", ""),
}  # fmt: skip
POLICY, TYPE, REPLICAS, BUDGET = range(4)


def helm(product: str, what: int, value: str) -> tuple[str, ...]:
    """A value of the product's chart, none where that is not known. `what` is one of POLICY, TYPE, REPLICAS, BUDGET."""
    key = _CHARTS.get(product, ("",) * 4)[what]
    return (f"{key}={value}",) if key else ()


def listed(names: tuple[str, ...] | list[str], most: int = 4) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
