"""Whether externalTrafficPolicy stands where traffic enters, and whether the datapath needs it at all."""

from __future__ import annotations

import msgspec

from analysis.checks.case import Case, Party
from analysis.checks.providers import ip_targets, keeps_client, sends_proxy
from analysis.checks.result import Result, fine, found, not_checked, not_needed
from analysis.checks.words import POLICY, annotate, helm, listed, patch_service, service_name
from analysis.facts import Facts, Policy, Service
from analysis.judging.expectation import Source, source_expected


def policy(case: Case) -> list[Result]:
    """The policy of the Service by which traffic enters."""
    service = case.entry.service
    subject = service_name(service)
    if not service.external:
        return [_not_external(case, subject)]
    if ip_targets(service.annotations):
        return [_targets(case, subject)]
    if kept := kept_by_datapath(case):
        if service.external_policy is Policy.LOCAL:
            return [found("policy", "SIP761", subject, f"{kept}; the policy is Local")]
        return [fine("policy", f"{kept}, although the policy is Cluster", subject)]
    if service.external_policy is Policy.LOCAL:
        return [
            fine("policy", "externalTrafficPolicy is Local: kube-proxy keeps the client's address", subject)
        ]
    if carried := carried_by_header(case):
        return [fine("policy", f"the policy is Cluster, and {carried}", subject)]
    if open_question := _may_be_carried(case):
        return [not_checked("policy", open_question, subject, essential=True)]
    return [_cluster(case, subject)]


def _not_external(case: Case, subject: str) -> Result:
    service = case.entry.service
    if any(workload.host_network for workload in case.entry.workloads):
        return not_needed("policy", "its pods use the nodes' own network, where no policy applies", subject)
    if case.routed:
        return not_checked("policy", case.routed, subject, essential=True)
    if case.unread("Pod", "Deployment"):
        return not_checked("policy", f"{case.unread('Pod', 'Deployment')}", subject, essential=True)
    return found(
        "policy",
        "SIP706",
        subject,
        f"it is of type {service.type} and no Ingress is known that leads to it",
    )


def _targets(case: Case, subject: str) -> Result:
    service = case.entry.service
    if keeps_client(service.annotations) or sends_proxy(service.annotations).on:
        return fine(
            "policy", "the balancer's targets are pods, and the client's address is kept or told", subject
        )
    key = "service.beta.kubernetes.io/aws-load-balancer-target-group-attributes"
    return found(
        "policy",
        "SIP736",
        subject,
        "its targets are pods (nlb-target-type ip), and neither preserve_client_ip.enabled=true nor the PROXY protocol "
        "is among the target group's attributes",
        commands=(annotate(service, key, "preserve_client_ip.enabled=true"),),
    )


def _cluster(case: Case, subject: str) -> Result:
    service = case.entry.service
    misplaced = [party for party in case.apps if party.policy == "Local"]
    by = "kube-proxy masquerades what comes from outside"
    if not case.facts.proxy_mode:
        by += " (nothing says who forwards here; kube-proxy is what a cluster has by default)"
    commands = (patch_service(service, {"externalTrafficPolicy": "Local"}),)
    values = helm(case.product, POLICY, "Local")
    if misplaced:
        names = listed([service_name(party.service) for party in misplaced])
        away = tuple(_take_away(party) for party in misplaced)
        return found(
            "policy",
            "SIP701",
            subject,
            f"{names} has externalTrafficPolicy: Local, but traffic enters by {subject}, whose policy is Cluster: {by}",
            commands=(*commands, *away),
            helm=values,
        )
    written = "" if case.entry.policy else ", which is what holds where nothing is written"
    return found(
        "policy", "SIP702", subject, f"the policy is Cluster{written}: {by}", commands=commands, helm=values
    )


def _take_away(party: Party) -> str:
    service = party.service
    if service.external:
        return patch_service(service, {"externalTrafficPolicy": "Cluster"})
    return patch_service(service, {"externalTrafficPolicy": None})


def kept_by_datapath(case: Case) -> str:
    """Why the source survives whatever the policy is, in words; "" where it does not, or nothing tells."""
    if case.product == "Cilium":
        return "Cilium's own ingress hands the client's address on"
    return datapath_keeps(case.entry.service, case.facts)


def datapath_keeps(service: Service, facts: Facts) -> str:
    """Why this datapath keeps a source that policy Cluster would have replaced; "" where it does not."""
    cluster = msgspec.structs.replace(service, external_policy=Policy.CLUSTER)
    if source_expected(cluster, facts) is not Source.KEPT:
        return ""
    if facts.forwarding_mode in {"dsr", "hybrid"}:
        name = facts.datapath or "an eBPF datapath"
        return f"{name} answers clients directly from the endpoint's node ({facts.forwarding_mode})"
    return f"the eBPF datapath of {facts.datapath} hands the client's address on"


def carried_by_header(case: Case) -> str:
    """Why a PROXY header makes up for replaced addresses: both sides speak it; "" where that is not so."""
    sends = sends_proxy(case.entry.service.annotations)
    if not sends.on or case.ingress is None or not case.ingress.listeners:
        return ""
    if all(listener.proxy_protocol for listener in case.ingress.listeners):
        return "a PROXY header, sent and expected, carries the client's address"
    return ""


def _may_be_carried(case: Case) -> str:
    """Why it cannot be told whether a PROXY header makes up for policy Cluster; "" where it does not."""
    sends = sends_proxy(case.entry.service.annotations)
    if not sends.on:
        return ""
    listeners = case.ingress.listeners if case.ingress is not None else ()
    if listeners and all(listener.proxy_protocol is False for listener in listeners):
        return ""
    return f"the policy is Cluster, {sends.annotation} is on, and whether the header is believed is not known"


def placement(case: Case) -> list[Result]:
    """Policies on Services where they do nothing, or harm."""
    results: list[Result] = []
    for party in (case.entry, *case.apps):
        service, subject = party.service, service_name(party.service)
        if party.policy and not service.external and service.type == "ClusterIP":
            results.append(
                found(
                    "placement",
                    "SIP704",
                    subject,
                    f"externalTrafficPolicy: {party.policy} on type ClusterIP",
                    commands=(_take_away(party),),
                )
            )
    for party in case.apps:
        service, subject = party.service, service_name(party.service)
        if service.external:
            results.append(
                found(
                    "placement",
                    "SIP703",
                    subject,
                    f"it is of type {service.type} and behind {case.product}",
                    commands=(patch_service(service, {"type": "ClusterIP", "externalTrafficPolicy": None}),),
                )
            )
        if service.internal_policy is Policy.LOCAL:
            results.append(
                found(
                    "placement",
                    "SIP705",
                    subject,
                    "internalTrafficPolicy: Local, and the ingress is its client",
                    commands=(patch_service(service, {"internalTrafficPolicy": "Cluster"}),),
                )
            )
    if not results and case.apps:
        names = listed([f"svc/{party.service.name}" for party in case.apps])
        results.append(fine("placement", f"no policy stands where it does nothing ({names})"))
    return results
