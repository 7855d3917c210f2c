"""What keeps the pods of a Service, and how they are spread, begin and end, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from analysis.checks.case import Budget, Ending, Spread, Workload
from probe.checking.selectors import admits
from probe.cluster.command_lines import command_line, flags_of
from probe.cluster.controllers import Product
from probe.cluster.fields import (
    Json,
    ObjectsError,
    entries,
    field,
    labels,
    name_of,
    namespace_of,
    number,
    objects,
    plain,
    table,
    text,
)
from probe.cluster.reading import AUTOSCALERS, BUDGETS, DAEMONSETS, DEPLOYMENTS, PODS, STATEFUL_SETS, Reading

_SLEEP = re.compile(r"(?:^|[\s;&/])sleep\s+(\d{1,6}(?:\.\d{1,3})?)(?:s)?\b")


def workloads_of(
    reading: Reading, namespace: str, selector: Mapping[str, str], product: Product | None
) -> tuple[Workload, ...]:
    """The workloads whose pods a Service selects; pods that nothing keeps where there are none."""
    if not selector:
        return ()
    found: list[Workload] = []
    for kind in (DEPLOYMENTS, STATEFUL_SETS, DAEMONSETS):
        for item in reading.all(kind):
            template = field(item, "spec.template", dict, {})
            if namespace_of(item) == namespace and selector.items() <= labels(template).items():
                _add(found, reading, item, template, product)
    if found or any(reading.lacks(kind) for kind in (DEPLOYMENTS, STATEFUL_SETS, DAEMONSETS)):
        return tuple(found)
    pods = [
        item
        for item in reading.all(PODS)
        if namespace_of(item) == namespace and selector.items() <= labels(item).items()
    ]
    bare = [item for item in pods if not entries(item, "metadata.ownerReferences")]
    for item in bare:
        _add(found, reading, item, item, product)
    return tuple(found)


def _add(
    found: list[Workload], reading: Reading, item: Json, template: Json, product: Product | None
) -> None:
    """One more workload, or a remark where a field of it is of a wrong type."""
    try:
        found.append(_workload(reading, item, template, product))
    except ObjectsError as error:
        reading.remark(f"{item['kind']} {name_of(item)[:253]} is left out: {error}")


def _workload(reading: Reading, item: Json, template: Json, product: Product | None) -> Workload:
    marks, spec = labels(template), field(template, "spec", dict, {})
    spreads, foreign = _spreads(spec, marks)
    containers = objects(spec, "containers")
    return Workload(
        kind=item["kind"],
        namespace=namespace_of(item),
        name=name_of(item),
        replicas=_replicas(reading, item),
        spreads=spreads,
        foreign=foreign,
        node_selector=table(spec, "nodeSelector"),
        host_network=bool(field(spec, "hostNetwork", bool, False)),
        readiness=any(field(each, "readinessProbe", dict, {}) for each in containers),
        gates=tuple(text(each, "conditionType") for each in objects(spec, "readinessGates")),
        ending=_ending(spec, containers, product),
        labels=table(item, "spec.selector.matchLabels") or marks,
        containers=len(containers),
    )


def _replicas(reading: Reading, item: Json) -> int | None:
    if item["kind"] == "DaemonSet":
        return None
    for scaler in reading.all(AUTOSCALERS):
        aimed = (text(scaler, "spec.scaleTargetRef.kind"), text(scaler, "spec.scaleTargetRef.name"))
        if namespace_of(scaler) == namespace_of(item) and aimed == (item["kind"], name_of(item)):
            return number(scaler, "spec.minReplicas") or 1
    # Not written is one, and nought is written (apps/v1 DeploymentSpec).
    return int(field(item, "spec.replicas", int, 1))


def _spreads(spec: Json, marks: Mapping[str, str]) -> tuple[tuple[Spread, ...], tuple[str, ...]]:
    """The rules that spread these pods, and the keys of those whose selector does not hold them."""
    found: list[Spread] = []
    foreign: list[str] = []
    for entry in objects(spec, "topologySpreadConstraints"):
        hard = text(entry, "whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule"
        rule = Spread(text(entry, "topologyKey"), hard, number(entry, "maxSkew") or 1)
        _keep(rule, entry, marks, found, foreign)
    required, preferred = (
        f"affinity.podAntiAffinity.{when}DuringSchedulingIgnoredDuringExecution"
        for when in ("required", "preferred")
    )
    for entry in objects(spec, required):
        _keep(Spread(text(entry, "topologyKey"), True, 1, True), entry, marks, found, foreign)
    for entry in objects(spec, preferred):
        term = field(entry, "podAffinityTerm", dict, {})
        _keep(Spread(text(term, "topologyKey"), False, 1, True), term, marks, found, foreign)
    return tuple(found), tuple(foreign)


def _keep(
    rule: Spread, entry: Json, marks: Mapping[str, str], found: list[Spread], foreign: list[str]
) -> None:
    selector = field(entry, "labelSelector", dict, {})
    # A rule without a selector selects no pods at all (core/v1 TopologySpreadConstraint, PodAffinityTerm).
    if selector and admits(selector, marks):
        found.append(rule)
    else:
        foreign.append(rule.key)


def _ending(spec: Json, containers: Sequence[Json], product: Product | None) -> Ending:
    grace = int(field(spec, "terminationGracePeriodSeconds", int, 30))
    serving = next(
        (each for each in containers if objects(each, "ports")), containers[0] if containers else {}
    )
    hook, words = _hook(serving)
    if product is Product.INGRESS_NGINX:
        return _nginx_ending(serving, grace, hook, words)
    if product is not None and not hook:
        return Ending(grace, None, hook, f"how {product} ends")
    return Ending(grace, hook, hook, words)


def _nginx_ending(container: Json, grace: int, hook: float | None, words: str) -> Ending:
    """The controller waits --shutdown-grace-period before it stops nginx; its own hook waits for just that."""
    own = flags_of(command_line(container)).get("shutdown-grace-period", "0").removesuffix("s")
    waits = float(own) if own.isascii() and own.isdigit() and len(own) < 7 else None
    if "wait-shutdown" in words:
        return Ending(grace, waits, None, f"--shutdown-grace-period={own}")
    if waits is None or hook is None:
        return Ending(grace, None, hook, words or f"--shutdown-grace-period={own}")
    how = " and ".join(each for each in (words, f"--shutdown-grace-period={own}" if waits else "") if each)
    return Ending(grace, waits + hook, hook, how)


def _hook(container: Json) -> tuple[float | None, str]:
    """How long a preStop hook sleeps, None where that cannot be read; and the hook in words."""
    stop = field(container, "lifecycle.preStop", dict, {})
    if not stop:
        return 0.0, ""
    if seconds := number(stop, "sleep.seconds"):
        return float(seconds), f"preStop sleep {seconds} s"
    command = " ".join(str(each)[:1024] for each in entries(stop, "exec.command"))
    if command:
        slept = sum(float(each) for each in _SLEEP.findall(command))
        return (slept or None), f"preStop {plain(command, 80)}"
    return None, "preStop by HTTP"


def budgets_of(reading: Reading, workloads: Sequence[Workload]) -> tuple[Budget, ...]:
    """The PodDisruptionBudgets that hold for pods of these workloads."""
    found: list[Budget] = []
    for item in reading.all(BUDGETS):
        try:
            selector = field(item, "spec.selector", dict, {})
            holds = any(
                each.namespace == namespace_of(item) and selector and admits(selector, each.labels)
                for each in workloads
            )
        except ObjectsError as error:
            reading.remark(f"left out: {error}")
            continue
        if holds:
            spec = field(item, "spec", dict, {})
            found.append(
                Budget(
                    namespace_of(item),
                    name_of(item),
                    _either(spec, "minAvailable"),
                    _either(spec, "maxUnavailable"),
                )
            )
    return tuple(found)


def _either(spec: Json, name: str) -> str:
    """A number or a percentage."""
    value = spec.get(name)
    return str(value)[:16] if isinstance(value, str | int) and not isinstance(value, bool) else ""
