"""Whether the balancer can know which nodes have an endpoint: the health check node port, and what it asks."""

from __future__ import annotations

from analysis.checks.case import Case
from analysis.checks.providers import Checking, checking, ip_targets
from analysis.checks.result import Result, fine, found, not_checked, not_needed
from analysis.checks.words import TYPE, annotate, helm, patch_service, service_name
from analysis.facts import Policy

#: What kube-proxy's server for health check node ports answers at; it takes every path, and this is the usual one.
PATHS = frozenset({"", "/healthz", "/"})

#: Makers whose balancers ask the health check node port of a Service with policy Local (AWS Load Balancer Controller,
#: cloud-provider-azure, cloud-provider-gcp, cloud-provider-openstack, DigitalOcean), or announce only nodes with
#: endpoints (MetalLB), where no annotation says otherwise.
OF_THEMSELVES = frozenset({"AWS", "Azure", "Google Cloud", "OpenStack", "DigitalOcean", "MetalLB"})

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
    if not asked.annotations or not (asked.protocol or asked.port or asked.path):
        if case.provider in OF_THEMSELVES:
            words = f"{case.provider} asks the health check node port or looks at endpoints, unless told otherwise"
            return [fine("health-check", words, subject)]
        unknown = "nothing says which balancer it is"
        if case.provider:
            unknown = f"what {case.provider}'s controller checks by default is not known here"
        return [not_checked("health-check", f"{unknown}; `probe health` sees what is asked", subject)]
    return [_judged(case, asked)]


def _judged(case: Case, asked: Checking) -> Result:
    """Of a check that annotations describe."""
    service = case.entry.service
    numbers = {str(service.health_check_node_port)} if service.health_check_node_port else set()
    traffic = {"traffic-port", *(str(port.node_port) for port in service.ports if port.node_port)}
    tcp = asked.protocol in {"tcp", "tls", "ssl"}
    if asked.port in numbers and not tcp:
        return fine("health-check", f"it asks the healthCheckNodePort {asked.port}", service_name(service))
    if asked.port in numbers:
        detail = (
            f"it opens connections to port {asked.port}, which listens on every node, and reads no answer"
        )
        return _finding(case, "SIP713", detail, asked)
    if asked.port in traffic or (tcp and not asked.port):
        where = asked.port or "the node port"
        return _finding(case, "SIP714", f"it asks {where} by {asked.protocol or 'its default'}", asked)
    if asked.port and _served_by_pods(case, asked.port):
        detail = f"it asks port {asked.port}, which only nodes with a pod of the Service answer"
        return fine("health-check", detail, service_name(service))
    if asked.port and not numbers and not case.live and _in_range(asked.port):
        why = f"it asks port {asked.port}, and the healthCheckNodePort is chosen when the Service is made"
        return not_checked("health-check", why, service_name(service))
    if asked.port:
        own = ", kube-proxy's own health" if asked.port == KUBE_PROXY else ""
        wanted = f", not {min(numbers)}" if numbers else ""
        return _finding(case, "SIP713", f"it asks port {asked.port}{own}{wanted}", asked)
    if asked.path not in PATHS:
        return _finding(
            case, "SIP713", f"it asks for {asked.path}, which is no path of the health check node port", asked
        )
    return fine(
        "health-check", "it is not turned away from the health check node port", service_name(service)
    )


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
