"""From a lister, over a cluster or over files, to the case that the checks look at.

The Service that is asked about may be the application's: where an Ingress leads to it, the entry is the Service of
that Ingress's controller, since what becomes of a client's address is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from analysis.checks.case import Case, Party
from analysis.checks.providers import CLOUDS, maker
from analysis.facts import Facts, Service
from analysis.ingress import IngressRecord
from probe.checking.workloads import budgets_of, workloads_of
from probe.cluster import reading as kinds
from probe.cluster.controllers import Product, Way, backends_of, product_of_service, way_of_ingress
from probe.cluster.exposure import check_type
from probe.cluster.fields import (
    Json,
    ObjectsError,
    field,
    key_of,
    labels,
    name_of,
    namespace_of,
    objects,
    plain,
    text,
)
from probe.cluster.lister import Lister
from probe.cluster.reading import Kind, Reading
from probe.cluster.resolve import CHECKS, Behind, cluster_objects, find, raw_pods
from probe.cluster.selection import Selection
from probe.errors import UnavailableError
from probe.objects import facts_from_objects, service_from_object

#: Kinds without which a check cannot look; the rest is told as a remark where it matters.
_CORE = (
    kinds.NODES,
    kinds.PODS,
    kinds.SLICES,
    kinds.CONFIGMAPS,
    kinds.DEPLOYMENTS,
    kinds.DAEMONSETS,
    kinds.STATEFUL_SETS,
    kinds.BUDGETS,
    kinds.INGRESSES,
)

_GATE = "elbv2.k8s.aws/pod-readiness-gate-inject"


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line knows beside the objects."""

    balancers: tuple[str, ...] = ()
    pod_ranges: tuple[str, ...] = ()
    balancer_lag: float | None = None
    live: bool = True


def gather_case(lister: Lister, selection: Selection, given: Given) -> tuple[Case, str, tuple[str, ...]]:
    """The case, how its entry was found, and remarks. Raises UnavailableError where there is no such Service."""
    reading = Reading(lister, selection.namespace, _checks(), whole=given.live)
    services = reading.needed(kinds.SERVICES)
    asked = find(reading, selection, services)
    check_type(service_from_object(asked.service, {}))
    kept = cluster_objects(reading)
    problems: list[str] = []
    facts = _facts([*kept, *services], problems, given)
    for problem in problems:
        reading.remark(problem)
    way, product, routed = _entry(reading, asked, services, facts)
    entry = next(each for each in facts.services if each.key == key_of(way.service))
    behind = Behind.of(reading, way, entry, facts)
    record, reached = behind.read(reading, facts)
    product = behind.proxy.product if behind.proxy is not None else product
    found = _Found(services, facts, entry, product, reached, record, routed)
    case = _case(reading, found, given)
    said = (case.ingress_problem, case.ingress_refused, case.application_problem)
    # What a check says anyway needs no note.
    remarks = [each for each in reading.remarks if not any(one and each.startswith(one) for one in said)]
    return case, way.source, tuple(remarks)


def _facts(items: Sequence[Json], problems: list[str], given: Given) -> Facts:
    facts = facts_from_objects(list(items), problems)
    ranges = given.pod_ranges or facts.cluster_cidrs
    return msgspec.structs.replace(facts, cluster_cidrs=ranges, balancers=given.balancers)


def _entry(
    reading: Reading, asked: Way, services: Sequence[Json], facts: Facts
) -> tuple[Way, Product | None, str]:
    """The Service by which traffic enters: the one that was asked about, or that of the ingress in front of it.

    The last value says what leads to it where that could not be followed to a Service.
    """
    service = next(each for each in facts.services if each.key == key_of(asked.service))
    product = asked.product or product_of_service(asked.service, raw_pods(reading, [service], facts))
    if product is not None:
        return asked, product, ""
    routed = _routed(reading, service)
    for ingress in reading.all(kinds.INGRESSES):
        if (service.namespace, service.name) not in backends_of(ingress):
            continue
        try:
            way = way_of_ingress(reading, ingress, services)
        except UnavailableError as error:
            routed = f"ingress/{name_of(ingress)} leads to it; {error}"
            continue
        source = f"ingress/{name_of(ingress)}, which leads to {asked.source}"
        return Way(way.service, source, way.product, way.objects), way.product, ""
    return asked, None, routed


def _routed(reading: Reading, service: Service) -> str:
    """The HTTPRoute that leads to a Service, as something to go on from."""
    for route in reading.all(kinds.HTTP_ROUTES):
        for rule in objects(route, "spec.rules"):
            for backend in objects(rule, "backendRefs"):
                place = text(backend, "namespace") or namespace_of(route)
                if (place, text(backend, "name")) == (service.namespace, service.name):
                    parents = [text(each, "name") for each in objects(route, "spec.parentRefs")]
                    gateways = ", ".join(f"gateway/{plain(name)}" for name in parents[:3]) or "its gateway"
                    return f"httproute/{name_of(route)} leads to it; check {gateways}"
    return ""


@dataclass(frozen=True, slots=True)
class _Found:
    """What was resolved: the entry with its product, the Services behind it, and what their servers are told."""

    services: Sequence[Json]
    facts: Facts
    entry: Service
    product: Product | None
    reached: Sequence[Service]
    record: IngressRecord
    routed: str


def _case(reading: Reading, found: _Found, given: Given) -> Case:
    raw = {key_of(item): item for item in found.services}
    entry, record, product = found.entry, found.record, found.product.value if found.product else ""
    provider, source = maker(entry.annotations, entry.load_balancer_class)
    if not provider:
        provider, source = _provider_of_nodes(reading, entry)
    return Case(
        facts=found.facts,
        entry=_party(reading, raw, entry, found.product),
        apps=tuple(_party(reading, raw, each, None) for each in found.reached),
        product=product,
        ingress=record.ingresses[0] if record.ingresses else None,
        ingress_problem=_told(reading, "not known", product or "?"),
        ingress_refused=_told(reading, "cannot be used", product or "?"),
        application=record.application,
        application_problem=_told(reading, "whom the application", "")
        or _told(reading, "the applications in pods", ""),
        provider=provider,
        provider_source=source,
        balancers=given.balancers,
        balancer_lag=given.balancer_lag,
        live=given.live,
        lacking={kind.kind: _why(kind) for kind in _CORE if reading.lacks(kind)},
        gated=_gated(reading, entry),
        routed=found.routed,
    )


def _told(reading: Reading, words: str, subject: str) -> str:
    """The remark that says so, without the advice about captures."""
    found = next((each for each in reading.remarks if words in each and subject in each), "")
    return found.partition("; --app-server")[0]


def _why(kind: Kind) -> str:
    return f"{kind.plural} could not be listed everywhere, so {kind.purpose} is not known"


def _party(reading: Reading, raw: dict[str, Json], service: Service, product: Product | None) -> Party:
    workloads = workloads_of(reading, service.namespace, service.selector, product)
    return Party(
        service=service,
        workloads=workloads,
        budgets=budgets_of(reading, workloads),
        policy=text(raw[service.key], "spec.externalTrafficPolicy") if service.key in raw else "",
    )


def _provider_of_nodes(reading: Reading, entry: Service) -> tuple[str, str]:
    """Who makes the cluster's balancers, by the one cloud that all its nodes are of."""
    if entry.type != "LoadBalancer" or entry.load_balancer_class:
        return "", ""
    clouds = {text(node, "spec.providerID").partition(":")[0] for node in reading.all(kinds.NODES)}
    if len(clouds) == 1 and (name := CLOUDS.get(min(clouds))):
        return name, "the nodes' providerID"
    return "", ""


def _gated(reading: Reading, entry: Service) -> bool | None:
    for item in reading.all(kinds.NAMESPACES):
        if name_of(item) == entry.namespace:
            return labels(item).get(_GATE) == "enabled"
    return None


def _checks() -> Mapping[str, Callable[[Json], object]]:
    """What is read of each kind, tried once, so that an odd object is left out and told."""
    return {
        **CHECKS,
        "Deployment": _check_maker,
        "StatefulSet": _check_maker,
        "DaemonSet": _check_maker,
        "PodDisruptionBudget": lambda item: field(item, "spec.selector", dict, {}),
        "HorizontalPodAutoscaler": lambda item: text(item, "spec.scaleTargetRef.name"),
    }


def _check_maker(item: Json) -> None:
    template = field(item, "spec.template", dict, {})
    labels(template)
    field(template, "spec", dict, {})
    if not isinstance(item.get("spec"), dict):
        raise ObjectsError("it has no spec")
