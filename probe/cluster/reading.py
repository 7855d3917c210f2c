"""Lists of objects, each asked for once, with what could not be read kept as remarks.

A kind that may be listed in one namespace only is listed there; what that hides is told. Objects are given a kind
and version, which lists of the API leave out; what is no object at all is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from probe.cluster.fields import Json, ObjectsError, labels, namespace_of, plain, text
from probe.cluster.lister import AbsentError, ForbiddenError, Lister


class Kind(NamedTuple):
    """A kind of objects by the API's names, and what it is read for."""

    group_version: str
    plural: str
    kind: str
    purpose: str
    namespaced: bool = True


NODES = Kind("v1", "nodes", "Node", "whose an address is", namespaced=False)
PODS = Kind("v1", "pods", "Pod", "whose an address is")
SERVICES = Kind("v1", "services", "Service", "how the Service is reached")
SLICES = Kind("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", "where the Service leads")
CONFIGMAPS = Kind("v1", "configmaps", "ConfigMap", "what proxies are told")
DAEMONSETS = Kind("apps/v1", "daemonsets", "DaemonSet", "how kube-proxy is started")
INGRESSES = Kind("networking.k8s.io/v1", "ingresses", "Ingress", "which Ingress leads where")
INGRESS_CLASSES = Kind(
    "networking.k8s.io/v1", "ingressclasses", "IngressClass", "whose an Ingress is", namespaced=False
)
GATEWAYS = Kind("gateway.networking.k8s.io/v1", "gateways", "Gateway", "which Gateway leads where")
GATEWAY_CLASSES = Kind(
    "gateway.networking.k8s.io/v1", "gatewayclasses", "GatewayClass", "whose a Gateway is", namespaced=False
)
HTTP_ROUTES = Kind(
    "gateway.networking.k8s.io/v1", "httproutes", "HTTPRoute", "which server is behind a Gateway"
)
FELIX = Kind(
    "crd.projectcalico.org/v1",
    "felixconfigurations",
    "FelixConfiguration",
    "whether Calico forwards by eBPF",
    namespaced=False,
)
INSTALLATIONS = Kind(
    "operator.tigera.io/v1",
    "installations",
    "Installation",
    "whether Calico forwards by eBPF",
    namespaced=False,
)
TRAFFIC_POLICIES = Kind(
    "gateway.envoyproxy.io/v1alpha1",
    "clienttrafficpolicies",
    "ClientTrafficPolicy",
    "whom Envoy Gateway believes",
)
NGINX_PROXIES = Kind(
    "gateway.nginx.org/v1alpha2", "nginxproxies", "NginxProxy", "whom NGINX Gateway Fabric believes"
)
CONTOUR_CONFIGURATIONS = Kind(
    "projectcontour.io/v1alpha1", "contourconfigurations", "ContourConfiguration", "whom Contour believes"
)
NAMESPACES = Kind(
    "v1", "namespaces", "Namespace", "whether readiness gates are put into pods", namespaced=False
)
DEPLOYMENTS = Kind("apps/v1", "deployments", "Deployment", "how pods are spread and how they end")
STATEFUL_SETS = Kind("apps/v1", "statefulsets", "StatefulSet", "how pods are spread and how they end")
BUDGETS = Kind("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", "how many pods a drain may end")
AUTOSCALERS = Kind(
    "autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "how few pods there may be"
)

#: Everything that may be listed, for the role of those who may look.
KINDS = (
    NODES, PODS, SERVICES, SLICES, CONFIGMAPS, DAEMONSETS, INGRESSES, INGRESS_CLASSES, GATEWAYS, GATEWAY_CLASSES,
    HTTP_ROUTES, FELIX, INSTALLATIONS, TRAFFIC_POLICIES, NGINX_PROXIES, CONTOUR_CONFIGURATIONS, NAMESPACES,
    DEPLOYMENTS, STATEFUL_SETS, BUDGETS, AUTOSCALERS,
)  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,251}[A-Za-z0-9])?")

#: Most objects of one kind that are read; 1,000 nodes hold at most 110,000 pods by default.
MOST = 250_000

#: Longest remark, in characters.
_LONGEST = 600


@dataclass(slots=True)
class Reading:
    """What was read of a cluster so far. `home` is the namespace that was asked about.

    `checks` read all of an object that will be looked at, by kind: one of a wrong type is left out, not met later.
    `whole` is whether the lister holds all that there is: files may be a part, and what they lack may stand elsewhere.
    """

    lister: Lister
    home: str
    checks: Mapping[str, Callable[[Json], object]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    _kept: dict[tuple[str, str, str | None], list[Json]] = field(default_factory=dict)
    whole: bool = True
    _lacking: set[tuple[str, str | None]] = field(default_factory=set)

    def all(self, kind: Kind) -> list[Json]:
        """Every object of a kind in all namespaces; where that is forbidden, those of the namespace asked about."""
        try:
            return self._list(kind, None)
        except ForbiddenError as error:
            if not kind.namespaced:
                self._forbidden(kind, error, None)
                return []
        try:
            found = self._list(kind, self.home)
        except ForbiddenError as error:
            self._forbidden(kind, error, self.home)
            return []
        self.remark(
            f"you may not list {kind.plural} in the whole cluster, only in namespace {self.home}: {kind.purpose} is "
            "known there alone"
        )
        return found

    def within(self, kind: Kind, namespace: str) -> list[Json]:
        """Every object of a kind in one namespace."""
        everywhere = self._kept.get((kind.group_version, kind.plural, None))
        if everywhere is not None:
            return [item for item in everywhere if namespace_of(item) == namespace]
        try:
            return self._list(kind, namespace)
        except ForbiddenError as error:
            self._forbidden(kind, error, namespace)
            return []

    def needed(self, kind: Kind) -> list[Json]:
        """`all`, for what nothing can be said without. Raises ForbiddenError where it may not be read at all."""
        found = self.all(kind)
        if (kind.plural, self.home) in self._lacking:
            raise ForbiddenError("list", kind.plural, self.home)
        return found

    def knows(self, kind: Kind, namespace: str | None = None) -> bool:
        """Whether what is not listed is not there: False where it was forbidden, or may stand in other files."""
        return self.whole and not {(kind.plural, None), (kind.plural, namespace)} & self._lacking

    def lacks(self, kind: Kind) -> bool:
        """Whether a kind that was asked for could not be listed everywhere that it was looked for."""
        return any(plural == kind.plural for plural, _ in self._lacking)

    def remark(self, text: str) -> None:
        """Keep something for people, once."""
        # What is quoted of objects is bounded and escaped where it is put in; this is for what was forgotten.
        shown = text[:_LONGEST] if text.isprintable() else plain(text, _LONGEST)
        if shown not in self.remarks:
            self.remarks.append(shown)

    def _forbidden(self, kind: Kind, error: ForbiddenError, place: str | None) -> None:
        self._lacking.add((kind.plural, place))
        self._kept[kind.group_version, kind.plural, place] = []
        where = f" in namespace {place}" if place is not None else ""
        self.remark(f"you may not {error.verb} {error.resource}{where}: {kind.purpose} is not known")

    def _list(self, kind: Kind, namespace: str | None) -> list[Json]:
        key = (kind.group_version, kind.plural, namespace)
        if key not in self._kept:
            try:
                items: Sequence[object] = self.lister.list(kind.group_version, kind.plural, namespace)
            except AbsentError:
                self._lacking.add((kind.plural, None))
                self.remark(
                    f"the cluster has no {kind.plural} of {kind.group_version}: {kind.purpose} is not known"
                )
                items = ()
            self._kept[key] = self._sound(kind, items)
        return self._kept[key]

    def _sound(self, kind: Kind, items: Sequence[object]) -> list[Json]:
        """The objects among the items, named as what they are."""
        found = [
            {**item, "apiVersion": kind.group_version, "kind": kind.kind}
            for item in items[:MOST]
            if isinstance(item, dict) and _named(item) and self._readable(kind, item)
        ]
        if len(found) < len(items):
            self.remark(
                f"{len(items) - len(found)} of {len(items)} {kind.plural} cannot be read and are left out"
            )
        return found

    def _readable(self, kind: Kind, item: Json) -> bool:
        try:
            self.checks.get(kind.kind, namespace_of)(item)
        except ObjectsError:
            return False
        return True


def _named(item: Json) -> bool:
    """Whether an object has what every reader looks at: a name as the API server takes it, a namespace, labels."""
    try:
        labels(item)
        return bool(_NAME.fullmatch(text(item, "metadata.name")) and _NAME.fullmatch(namespace_of(item)))
    except ObjectsError:
        return False
