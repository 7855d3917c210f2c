"""How pods begin and end, against the time that a balancer takes to notice."""

from __future__ import annotations

from analysis.checks.case import Case, Workload
from analysis.checks.providers import checking, ip_targets
from analysis.checks.result import Result, fine, found, not_checked, not_needed
from analysis.checks.words import patch_pods, service_name, workload_name
from analysis.facts import Policy


def readiness(case: Case) -> list[Result]:
    """Readiness probes, and readiness gates where the balancer's targets are pods."""
    results = [
        found("readiness", "SIP773", workload_name(workload), "no container has a readinessProbe")
        for workload in case.entry.workloads
        if not workload.readiness
    ]
    service = case.entry.service
    if ip_targets(service.annotations):
        if case.gated is None and not any(each.gates for each in case.entry.workloads):
            results.append(
                not_checked(
                    "readiness",
                    "the namespace's labels, by which readiness gates are put into pods, are not known",
                    service_name(service),
                )
            )
        elif not case.gated and not any(each.gates for each in case.entry.workloads):
            label = "elbv2.k8s.aws/pod-readiness-gate-inject=enabled"
            results.append(
                found(
                    "readiness",
                    "SIP774",
                    service_name(service),
                    "targets are pods, and no gate waits",
                    commands=(f"kubectl label namespace {service.namespace} {label}",),
                )
            )
    if not results and case.entry.workloads:
        results.append(fine("readiness", "pods take connections once they are ready"))
    return results


def drain(case: Case) -> list[Result]:
    """What is served between the order to end and the balancer's last connection."""
    results = [each for workload in case.entry.workloads if (each := _hook(workload)) is not None]
    service, subject = case.entry.service, service_name(case.entry.service)
    if service.external_policy is not Policy.LOCAL or not service.external:
        return [
            *results,
            not_needed("drain", "other nodes' endpoints serve, unless the policy is Local", subject),
        ]
    lag, source = case.balancer_lag, "--balancer-lag"
    if lag is None:
        asked = checking(service.annotations)
        lag, source = asked.lag, "the annotations of its check"
    if lag is None:
        return [
            *results,
            not_checked(
                "drain",
                "nothing says how long the balancer takes to leave a node alone; "
                "--balancer-lag says it, and `probe health --watch` measures it",
                subject,
            ),
        ]
    return [*results, *(_lag(workload, lag, source) for workload in case.entry.workloads)]


def _hook(workload: Workload) -> Result | None:
    ending = workload.ending
    if ending.hook is not None and ending.hook >= ending.grace and ending.hook > 0:
        return found(
            "drain",
            "SIP772",
            workload_name(workload),
            f"the hook takes {ending.hook:g} s, terminationGracePeriodSeconds is {ending.grace}",
            commands=(patch_pods(workload, {"terminationGracePeriodSeconds": int(ending.hook) + 30}),),
        )
    return None


def _lag(workload: Workload, lag: float, source: str) -> Result:
    ending, subject = workload.ending, workload_name(workload)
    if ending.serves is None:
        return not_checked("drain", f"how long the pod serves on cannot be read from {ending.how}", subject)
    serves = min(ending.serves, float(ending.grace))
    how = f" ({ending.how})" if ending.how else ""
    if serves >= lag:
        return fine(
            "drain",
            f"a pod serves on for {serves:g} s{how}, the balancer takes {lag:g} s by {source}",
            subject,
        )
    return found(
        "drain",
        "SIP771",
        subject,
        f"a pod serves on for {serves:g} s{how}, and the balancer takes at least {lag:g} s by {source}",
        fix=f"Let a preStop hook sleep for more than {lag:g} s, with terminationGracePeriodSeconds above that.",
    )
