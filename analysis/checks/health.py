"""Whether the balancer can know which nodes have an endpoint: the health check node port, and what it asks."""

from __future__ import annotations

import enum

from analysis.checks.case import Case
from analysis.checks.providers import DIGITALOCEAN, OPENSTACK, TRUE, Checking, checking, ip_targets
from analysis.checks.result import Result, fine, found, not_checked, not_needed
from analysis.checks.words import TYPE, annotate, helm, patch_service, service_name
from analysis.facts import Policy, Service


class Default(enum.Enum):
    """What a maker's balancers check of themselves, of a Service with policy Local."""

    HEALTH_PORT = "asks the health check node port"
    NODE_PORT = "opens connections to the node port"
    ENDPOINTS = "announces only nodes with endpoints"


#: By maker, as their controllers do it where no annotation says otherwise. Makers that are not here are not known, nor
#: are those whose checks depend on what the controller itself was told: cloud-provider-openstack makes none without
#: create-monitor, which is false by default; with an annotation it asks /healthz (pkg/openstack/loadbalancer.go).
DEFAULTS = {
    # aws-load-balancer-controller, pkg/service/model_build_target_group.go (…ForInstanceModeLocal: HTTP, /healthz);
    # cloud-provider-aws and Kubernetes before it, GetServiceHealthCheckPathPort
    "AWS": Default.HEALTH_PORT,
    # cloud-provider-azure, pkg/provider/azure_loadbalancer_healthprobe.go (healthCheckNodePortProbe)
    "Azure": Default.HEALTH_PORT,
    # cloud-provider-gcp, gce_loadbalancer_external.go (GetServiceHealthCheckPathPort)
    "Google Cloud": Default.HEALTH_PORT,
    # digitalocean-cloud-controller-manager, docs/controllers/services/annotations.md; DOKS 1.26 and later
    "DigitalOcean": Default.HEALTH_PORT,
    # MetalLB's speaker: no announcement from nodes without a ready endpoint
    "MetalLB": Default.ENDPOINTS,
    # hcloud-cloud-controller-manager, internal/hcops/load_balancer.go (TCP, destinationPort)
    "Hetzner": Default.NODE_PORT,
    # scaleway-cloud-controller-manager, issue 192 and pull request 195
    "Scaleway": Default.NODE_PORT,
    # linode-cloud-controller-manager, docs/configuration/annotations.md (check-type: connection)
    "Linode": Default.NODE_PORT,
}

#: The annotation without which DigitalOcean's controller passes over what others say of port, path and protocol.
OVERRIDE = f"{DIGITALOCEAN}override-health-check"

#: kube-proxy's own health, which says nothing of endpoints.
KUBE_PROXY = "10256"


def health_port(case: Case) -> list[Result]:
    """Whether a health check node port is there."""
    service, subject = case.entry.service, service_name(case.entry.service)
    if service.external_policy is not Policy.LOCAL or not service.external:
        return [not_needed("health-port", "health check node ports belong to policy Local", subject)]
    if service.type != "LoadBalancer":
        return [
            found(
                "health-port",
                "SIP712",
                subject,
                f"it is of type {service.type}",
                commands=(patch_service(service, {"type": "LoadBalancer"}),),
                helm=helm(case.product, TYPE, "LoadBalancer"),
            )
        ]
    if service.health_check_node_port:
        return [fine("health-port", f"healthCheckNodePort is {service.health_check_node_port}", subject)]
    if case.live:
        return [
            found(
                "health-port",
                "SIP711",
                subject,
                "policy Local, type LoadBalancer, and no healthCheckNodePort",
                commands=(
                    patch_service(service, {"externalTrafficPolicy": "Cluster"}),
                    patch_service(service, {"externalTrafficPolicy": "Local"}),
                ),
            )
        ]
    return [fine("health-port", "the API server allocates one when the Service is made", subject)]


def health_check(case: Case) -> list[Result]:
    """What the balancer's annotations say that it asks."""
    service, subject = case.entry.service, service_name(case.entry.service)
    if service.external_policy is not Policy.LOCAL or service.type != "LoadBalancer":
        return [
            not_needed(
                "health-check", "nodes without endpoint answer too, unless the policy is Local", subject
            )
        ]
    if ip_targets(service.annotations):
        return [
            not_needed("health-check", "the balancer's targets are pods, which it asks themselves", subject)
        ]
    asked = checking(service.annotations)
    if asked.off:
        return [_finding(case, "SIP715", f"its checks are turned off ({asked.annotations[0]})", asked)]
    if not (asked.protocol or asked.port or asked.path):
        return [_by_default(case, subject)]
    if asked.maker == "DigitalOcean" and OVERRIDE not in service.annotations:
        why = f"what annotations say of its check counts with {OVERRIDE} alone, or with older controllers"
        return [not_checked("health-check", why, subject)]
    if asked.by_port:
        return [not_checked("health-check", "its annotations say something else for each port", subject)]
    return [_judged(case, asked)]


def _by_default(case: Case, subject: str) -> Result:
    """Of a check that no annotation describes."""
    default = DEFAULTS.get(case.provider)
    if case.entry.service.annotations.get(f"{OPENSTACK}enable-health-monitor", "") in TRUE:
        return fine(
            "health-check", "its health monitor is turned on, and asks the health check node port", subject
        )
    if default in {Default.HEALTH_PORT, Default.ENDPOINTS}:
        words = (
            f"{case.provider} asks the health check node port or looks at endpoints, unless told otherwise"
        )
        return fine("health-check", words, subject)
    if default is Default.NODE_PORT:
        unknown = f"{case.provider}'s controller of itself {default.value}, unless a newer one does otherwise"
    elif case.provider:
        unknown = f"what {case.provider}'s controller checks by default is not known here"
    else:
        unknown = "nothing says which balancer it is"
    return not_checked("health-check", f"{unknown}; `probe health` sees what is asked", subject)


def _judged(case: Case, asked: Checking) -> Result:
    """Of a check that annotations describe. Its path is of no account: kube-proxy answers every path alike.

    (pkg/proxy/healthcheck/service_health.go: one handler for the whole server, over plain HTTP.)
    """
    service, subject = case.entry.service, service_name(case.entry.service)
    numbers = {str(service.health_check_node_port)} if service.health_check_node_port else set()
    by_itself = DEFAULTS.get(asked.maker) is Default.HEALTH_PORT and asked.maker != "DigitalOcean"
    right = asked.port in {*numbers, "auto"} or (not asked.port and by_itself)
    if right:
        return _of_the_right_port(case, asked)
    if not asked.port or asked.port in _traffic(service, asked.maker):
        where = asked.port or "the node port"
        return _finding(case, "SIP714", f"it asks {where} by {asked.protocol or 'its default'}", asked)
    if _served_by_pods(case, asked.port):
        detail = f"it asks port {asked.port}, which only nodes with a pod of the Service answer"
        return fine("health-check", detail, subject)
    if not numbers and not case.live and _in_range(asked.port):
        why = f"it asks port {asked.port}, and the healthCheckNodePort is chosen when the Service is made"
        return not_checked("health-check", why, subject)
    own = ", kube-proxy's own health" if asked.port == KUBE_PROXY else ""
    wanted = f", not {min(numbers)}" if numbers else ""
    return _finding(case, "SIP713", f"it asks port {asked.port}{own}{wanted}", asked)


def _of_the_right_port(case: Case, asked: Checking) -> Result:
    """Of a check of the health check node port: whether it reads the answer."""
    number = case.entry.service.health_check_node_port
    port = f"the healthCheckNodePort{f' {number}' if number else ''}"
    if asked.protocol in {"tcp", "tls", "ssl"}:
        detail = f"it opens connections to {port}, which listens on every node, and reads no answer"
        return _finding(case, "SIP713", detail, asked)
    if asked.protocol == "https":
        return _finding(case, "SIP713", f"it asks {port} by HTTPS, and that speaks plain HTTP", asked)
    return fine("health-check", f"it asks {port}", service_name(case.entry.service))


def _traffic(service: Service, maker: str) -> set[str]:
    """How annotations write the ports that clients' connections come to."""
    ports = {"traffic-port", *(str(port.node_port) for port in service.ports if port.node_port)}
    if maker == "AWS":
        ports |= {port.name for port in service.ports if port.name}  # resolved to its node port
    if maker == "DigitalOcean":
        ports |= {str(port.port) for port in service.ports}  # "an exposed port and not the NodePort"
    return ports


def _served_by_pods(case: Case, port: str) -> bool:
    """Whether a port of the nodes is one of the Service's own pods (hostPort, hostNetwork)."""
    service = case.entry.service
    own = [
        pod
        for pod in case.facts.pods
        if pod.namespace == service.namespace
        and service.selector
        and service.selector.items() <= pod.labels.items()
    ]
    return any(pod.host_network or any(str(each.host) == port for each in pod.host_ports) for pod in own)


def _in_range(port: str) -> bool:
    """Whether it is a port that the API server gives out for nodes, unless it is told another range."""
    return port.isascii() and port.isdigit() and 30_000 <= int(port[:6]) <= 32_767


def _finding(case: Case, code: str, detail: str, asked: Checking) -> Result:
    service = case.entry.service
    timing = ("interval", "delay", "threshold", "retries", "attempts")
    wrong = tuple(key for key in asked.annotations if not any(word in key for word in timing))
    commands = tuple(annotate(service, key, "") for key in wrong)
    return found(
        "health-check",
        code,
        service_name(service),
        f"{detail} (annotation {wrong[0]})" if wrong else detail,
        commands=commands,
    )
