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


#: Where a chart keeps what is set, by product: (policy, type, replicas, budget); "" where that is not known. Read from
#: the templates that are named, which is where a value has its effect.
_CHARTS = {
    # kubernetes/ingress-nginx, charts/ingress-nginx/templates: controller-service.yaml,
    # controller-poddisruptionbudget.yaml
    "ingress-nginx": (
        "controller.service.externalTrafficPolicy", "controller.service.type", "controller.replicaCount",
        "controller.minAvailable",
    ),
    # traefik/traefik-helm-chart, traefik/templates: _service.tpl (service.spec as it stands, service.type),
    # deployment.yaml, poddisruptionbudget.yaml
    "Traefik": (
        "service.spec.externalTrafficPolicy", "service.type", "deployment.replicas",
        "podDisruptionBudget.minAvailable",
    ),
    # haproxytech/helm-charts, kubernetes-ingress: templates/controller-service.yaml,
    # templates/controller-poddisruptionbudget.yaml, ci/deployment-replicacount-unset.yaml
    "HAProxy Kubernetes Ingress Controller": (
        "controller.service.externalTrafficPolicy", "controller.service.type", "controller.replicaCount",
        "controller.PodDisruptionBudget.minAvailable",
    ),
    # nginx/kubernetes-ingress, charts/nginx-ingress/templates: controller-service.yaml, controller-deployment.yaml
    "NGINX Ingress Controller": (
        "controller.service.externalTrafficPolicy", "controller.service.type", "controller.replicaCount", "",
    ),
    # bitnami/charts, bitnami/contour/templates/envoy/service.yaml
    "Contour": ("envoy.service.externalTrafficPolicy", "envoy.service.type", "", ""),
}  # fmt: skip
POLICY, TYPE, REPLICAS, BUDGET = range(4)

#: What has to be turned on besides for a value to count.
_SWITCHES = {
    "podDisruptionBudget.minAvailable": "podDisruptionBudget.enabled=true",
    "controller.PodDisruptionBudget.minAvailable": "controller.PodDisruptionBudget.enable=true",
}


def helm(product: str, what: int, value: str) -> tuple[str, ...]:
    """Values of the product's chart, none where they are not known. `what`: one of POLICY, TYPE, REPLICAS, BUDGET."""
    key = _CHARTS.get(product, ("",) * 4)[what]
    return tuple(filter(None, (_SWITCHES.get(key), f"{key}={value}"))) if key else ()


def listed(names: tuple[str, ...] | list[str], most: int = 4) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
