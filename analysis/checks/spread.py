"""Where pods are, or may be put: over nodes, over zones, and what share of the connections each of them gets."""

from __future__ import annotations

from collections import Counter, defaultdict

from analysis.checks.case import Budget, Case, Workload
from analysis.checks.result import Result, Share, fine, found, not_checked, not_needed
from analysis.checks.words import BUDGET, REPLICAS, helm, listed, patch, patch_pods, workload_name
from analysis.facts import Endpoint, Node, Policy
from analysis.judging.expectation import usable

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"

#: From here on shares are told as uneven: one pod gets half as much again as another.
UNEVEN = 1.5


def spread(case: Case) -> list[Result]:
    """Over nodes."""
    results: list[Result | None] = [_one_node(case), *(_rules(case, each) for each in case.entry.workloads)]
    if not case.entry.workloads:
        why = (
            case.unread("Deployment", "DaemonSet", "Pod")
            or "no workload is known whose pods the Service selects"
        )
        results.append(not_checked("spread", why))
    return [each for each in results if each is not None]


def _one_node(case: Case) -> Result | None:
    """What the endpoints show now, or what pins all pods to one node."""
    service = case.entry.service
    if service.external_policy is not Policy.LOCAL:
        return None
    pinned = [each for each in case.entry.workloads if HOSTNAME in each.node_selector]
    if pinned and len(pinned) == len(case.entry.workloads) and pinned[0].replicas is not None:
        node = pinned[0].node_selector[HOSTNAME]
        return found(
            "spread",
            "SIP723",
            workload_name(pinned[0]),
            f"nodeSelector pins every pod to node {node}",
            commands=(patch_pods(pinned[0], {"nodeSelector": {HOSTNAME: None}}),),
        )
    nodes = {entry.node for entry in _endpoints(case) if entry.node}
    pods = {entry.pod or entry.address for entry in _endpoints(case)}
    schedulable = eligible(case)
    if len(nodes) == 1 and len(pods) > 1 and len(schedulable) > 1:
        others = listed(sorted(each.name for each in schedulable if each.name not in nodes))
        subject = workload_name(case.entry.workloads[0]) if case.entry.workloads else service.key
        return found(
            "spread",
            "SIP723",
            subject,
            f"all {len(pods)} pods are on {min(nodes)}; {others} drop connections",
            commands=_spreading(case.entry.workloads),
        )
    return None


def _rules(case: Case, workload: Workload) -> Result:
    """What spreads the pods of one workload, or that nothing does."""
    subject, local = workload_name(workload), case.entry.service.external_policy is Policy.LOCAL
    if workload.kind == "DaemonSet":
        return fine("spread", "a DaemonSet runs a pod on every node that it may", subject)
    if workload.replicas is not None and workload.replicas < 2:
        detail = f"{workload.replicas} replica{'' if workload.replicas == 1 else 's'}"
        if local:
            return found(
                "spread",
                "SIP721",
                subject,
                detail,
                commands=(_scale(workload, 2),),
                helm=helm(case.product, REPLICAS, "3"),
            )
        return not_needed("spread", f"{detail}, and the policy is not Local", subject)
    by_host = [each for each in workload.spreads if each.key == HOSTNAME]
    hard = [each for each in by_host if each.hard and each.max_skew == 1]
    nodes = len(eligible(case))
    strict = [each for each in hard if each.anti_affinity]
    if strict and nodes and (workload.replicas or 0) > nodes:
        return found(
            "spread",
            "SIP728",
            subject,
            f"{workload.replicas} replicas, {nodes} nodes, a required rule by node",
        )
    if by_host:
        how = "required" if hard else "wished for"
        return fine("spread", f"{workload.replicas} replicas; a spread over nodes is {how}", subject)
    foreign = f"; the rule by {workload.foreign[0]} selects other pods" if workload.foreign else ""
    return found(
        "spread",
        "SIP722",
        subject,
        f"{workload.replicas} replicas, and no rule by {HOSTNAME}{foreign}",
        commands=_spreading((workload,)),
    )


def _spreading(workloads: tuple[Workload, ...]) -> tuple[str, ...]:
    return tuple(
        patch_pods(
            each,
            {
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": HOSTNAME,
                        "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": each.labels},
                    }
                ]
            },
        )
        for each in workloads
        if each.kind not in {"DaemonSet", "Pod"}
    )


def _scale(workload: Workload, replicas: int) -> str:
    return (
        f"kubectl -n {workload.namespace} scale {workload.kind.lower()} {workload.name} --replicas={replicas}"
    )


def zones(case: Case) -> list[Result]:
    """Over zones."""
    known: dict[str, set[str]] = defaultdict(set)
    for node in eligible(case):
        if zone := node.labels.get(ZONE):
            known[zone].add(node.name)
    if not case.facts.nodes:
        return [not_checked("zones", case.unread("Node") or "the files hold no nodes")]
    if len(known) < 2:
        return [not_needed("zones", "the nodes are not in several zones")]
    used = {entry.node for entry in _endpoints(case) if entry.node}
    if used:
        empty = sorted(zone for zone, nodes in known.items() if not nodes & used)
        if empty:
            return [found("zones", "SIP724", case.entry.service.key, f"no pod in {listed(empty)}")]
        return [fine("zones", f"there are pods in all {len(known)} zones")]
    unspread = [
        each
        for each in case.entry.workloads
        if each.kind != "DaemonSet" and not any(rule.key == ZONE for rule in each.spreads)
    ]
    if unspread:
        return [
            found("zones", "SIP724", workload_name(unspread[0]), f"{len(known)} zones, and no rule by {ZONE}")
        ]
    return [fine("zones", "pods are spread over zones")]


def eligible(case: Case) -> list[Node]:
    """The nodes on which pods of the entry may be put, as far as selectors, cordons and control planes tell."""
    selectors = [each.node_selector for each in case.entry.workloads] or [{}]
    return [
        node
        for node in case.facts.nodes
        if not node.unschedulable
        and not any("node-role.kubernetes.io/control-plane" in taint for taint in node.taints)
        and any(all(node.labels.get(key) == value for key, value in each.items()) for each in selectors)
    ]


def _endpoints(case: Case) -> tuple[Endpoint, ...]:
    """The endpoints that serve now, each once whatever the number of its ports."""
    seen = {(entry.pod or entry.address): entry for entry in usable(case.entry.service.endpoints)}
    return tuple(seen.values())


def shares_of(case: Case) -> tuple[tuple[Share, ...], float | None]:
    """The share of each pod, and by which factor the largest is above the smallest; none where it cannot be told.

    Every node with an endpoint gets the same from the balancer, and its pods share that. Without endpoints the
    replicas are put on the nodes as evenly as they go.
    """
    where = [(entry.pod or entry.address, entry.node or "") for entry in _endpoints(case)]
    if not where:
        where = placed(case)
    if not where or any(not node for _, node in where):
        return (), None
    if case.entry.service.external_policy is not Policy.LOCAL:
        even = tuple(Share(pod, node, round(1 / len(where), 4)) for pod, node in sorted(where))
        return even, 1.0
    per_node = Counter(node for _, node in where)
    shares = tuple(
        Share(pod, node, round(1 / (len(per_node) * per_node[node]), 4)) for pod, node in sorted(where)
    )
    return shares, round(max(per_node.values()) / min(per_node.values()), 2)


def placed(case: Case) -> list[tuple[str, str]]:
    """Pods as the replicas would be put on the known nodes."""
    nodes = sorted(node.name for node in eligible(case))
    workloads = case.entry.workloads
    if (
        not nodes
        or len(workloads) != 1
        or workloads[0].kind not in {"Deployment", "StatefulSet", "DaemonSet"}
    ):
        return []
    count = len(nodes) if workloads[0].replicas is None else workloads[0].replicas
    return [
        (f"{workloads[0].name}-{number + 1}", nodes[number % len(nodes)])
        for number in range(min(count, 1000))
    ]


def share(case: Case) -> list[Result]:
    """How evenly connections fall on the pods."""
    shares, factor = shares_of(case)
    if factor is None:
        why = case.unread("Node", "EndpointSlice") or "neither endpoints with their nodes nor nodes are known"
        return [not_checked("share", why)]
    words = f"{len(shares)} pods on {len({each.node for each in shares})} nodes, imbalance factor {factor:g}"
    if factor >= UNEVEN:
        most, least = max(shares, key=lambda each: each.share), min(shares, key=lambda each: each.share)
        detail = (
            f"{words}: {most.pod} gets {most.share:.1%} of the connections, {least.pod} {least.share:.1%}"
        )
        return [
            found(
                "share", "SIP725", case.entry.service.key, detail, commands=_spreading(case.entry.workloads)
            )
        ]
    return [fine("share", words)]


def disruption(case: Case) -> list[Result]:
    """PodDisruptionBudgets of the entry's pods."""
    if why := case.unread("PodDisruptionBudget"):
        return [not_checked("disruption", why)]
    several = [
        each
        for each in case.entry.workloads
        if each.kind in {"Deployment", "StatefulSet"} and (each.replicas or 0) > 1
    ]
    if not several:
        return [not_needed("disruption", "a budget is for several replicas of a Deployment")]
    workload, budgets = several[0], case.entry.budgets
    if not budgets:
        name = workload.name
        command = (
            f"kubectl -n {workload.namespace} create poddisruptionbudget {name} --max-unavailable=1 "
            f"--selector={_selector(workload)}"
        )
        return [
            found(
                "disruption",
                "SIP726",
                workload_name(workload),
                f"{workload.replicas} replicas and no budget",
                commands=(command,),
                helm=helm(case.product, BUDGET, "1"),
            )
        ]
    if stuck := next((each for each in budgets if _forbids(each, workload.replicas or 0)), None):
        wanted = f"minAvailable {stuck.minimum}" if stuck.minimum else f"maxUnavailable {stuck.unavailable}"
        change = {"spec": {"minAvailable": None, "maxUnavailable": 1}}
        return [
            found(
                "disruption",
                "SIP727",
                f"pdb/{stuck.name} -n {stuck.namespace}",
                f"{wanted} with {workload.replicas} replicas",
                commands=(patch("pdb", stuck.namespace, stuck.name, change, "merge"),),
            )
        ]
    return [fine("disruption", f"pdb/{budgets[0].name} keeps pods running", workload_name(workload))]


def _selector(workload: Workload) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(workload.labels.items()))


def _forbids(budget: Budget, replicas: int) -> bool:
    if budget.unavailable in {"0", "0%"} or budget.minimum == "100%":
        return True
    written = budget.minimum
    return written.isascii() and written.isdigit() and len(written) < 10 and int(written) >= replicas
