"""Ingress controllers: which one serves an Ingress, and by which Service it is reached.

An Ingress names its class, the class its controller. The way from the controller to its Service is written nowhere:
it is found by the addresses in the Ingress's status, which the controller copies from its Service, and where that
does not settle it by the labels that each project puts on its Service. Two Services that fit are an error that names
them, never a choice.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from probe.cluster.exposure import few, missing
from probe.cluster.fields import (
    Json,
    address,
    annotations_of,
    entries,
    labels,
    name_of,
    namespace_of,
    objects,
    plain,
    text,
)
from probe.cluster.reading import INGRESS_CLASSES, INGRESSES, Reading
from probe.errors import UnavailableError


class Product(enum.StrEnum):
    """A proxy in a cluster whose configuration can be read."""

    INGRESS_NGINX = "ingress-nginx"
    NGINX_INC = "NGINX Ingress Controller"
    NGINX_GATEWAY = "NGINX Gateway Fabric"
    TRAEFIK = "Traefik"
    HAPROXY_TECH = "HAProxy Kubernetes Ingress Controller"
    HAPROXY_INGRESS = "HAProxy Ingress"
    ENVOY_GATEWAY = "Envoy Gateway"
    ISTIO = "Istio"
    CONTOUR = "Contour"
    CILIUM = "Cilium"


class Signs(NamedTuple):
    """How a product is known: by what an IngressClass or GatewayClass names, and by labels of its Service.

    A controller's name counts with what follows a further "/", too. One of the sets of labels has to be there.
    """

    product: Product
    controllers: tuple[str, ...]
    labels: tuple[Mapping[str, str], ...]


#: From each project's chart and manifests.
SIGNS = (
    Signs(
        Product.INGRESS_NGINX,
        ("k8s.io/ingress-nginx",),
        ({"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"},),
    ),
    Signs(Product.NGINX_INC, ("nginx.org/ingress-controller",), ({"app.kubernetes.io/name": "nginx-ingress"},)),
    Signs(
        Product.NGINX_GATEWAY,
        ("gateway.nginx.org/nginx-gateway-controller",),
        ({"app.kubernetes.io/name": "nginx-gateway-fabric"}, {"app.kubernetes.io/name": "nginx-gateway"}),
    ),
    Signs(
        Product.TRAEFIK,
        ("traefik.io/ingress-controller", "traefik.io/gateway-controller"),
        ({"app.kubernetes.io/name": "traefik"},),
    ),
    Signs(
        Product.HAPROXY_TECH,
        ("haproxy.org/ingress-controller",),
        ({"app.kubernetes.io/name": "kubernetes-ingress"}, {"run": "haproxy-ingress"}),
    ),
    Signs(
        Product.HAPROXY_INGRESS,
        ("haproxy-ingress.github.io/controller",),
        ({"app.kubernetes.io/name": "haproxy-ingress"},),
    ),
    Signs(
        Product.ENVOY_GATEWAY,
        ("gateway.envoyproxy.io/gatewayclass-controller",),
        ({"app.kubernetes.io/managed-by": "envoy-gateway", "app.kubernetes.io/component": "proxy"},),
    ),
    Signs(
        Product.ISTIO,
        ("istio.io/gateway-controller", "istio.io/ingress-controller"),
        ({"istio": "ingressgateway"}, {"gateway.istio.io/managed": "istio.io-gateway-controller"}),
    ),
    Signs(
        Product.CONTOUR,
        ("projectcontour.io/ingress-controller", "projectcontour.io/gateway-controller",
         "projectcontour.io/contour", "projectcontour.io"),
        (
            {"app.kubernetes.io/name": "contour", "app.kubernetes.io/component": "envoy"},
            {"app.kubernetes.io/component": "ingress-controller", "app.kubernetes.io/name": "contour"},
        ),
    ),
    Signs(
        Product.CILIUM,
        ("cilium.io/ingress-controller", "io.cilium/gateway-controller"),
        ({"cilium.io/ingress": "true"},),
    ),
)  # fmt: skip

#: Controllers whose proxy stands outside the cluster: the cloud's own balancers.
OUTSIDE = (
    "ingress.k8s.aws/alb", "gateway.k8s.aws/", "k8s.io/ingress-gce", "networking.gke.io/", "azure/application-gateway",
    "application-networking.k8s.aws/", "alb.networking.azure.io/",
)  # fmt: skip

_OUTSIDE_CLASSES = frozenset({"gce", "gce-internal", "alb", "azure/application-gateway"})

#: Classes that may be named without an IngressClass object, by annotation.
_BARE_CLASSES = {
    "nginx": "k8s.io/ingress-nginx",
    "traefik": "traefik.io/ingress-controller",
    "haproxy": "haproxy.org/ingress-controller",
    "contour": "projectcontour.io/ingress-controller",
    "cilium": "cilium.io/ingress-controller",
    "istio": "istio.io/ingress-controller",
}


@dataclass(frozen=True, slots=True)
class Way:
    """A Service that something leads to: how that is known, which product it is, and the objects on the way."""

    service: Json
    source: str
    product: Product | None = None
    objects: tuple[Json, ...] = ()


def product_of_controller(controller: str) -> Signs | None:
    """The product that an IngressClass or GatewayClass names."""
    for signs in SIGNS:
        if any(controller == name or controller.startswith(f"{name}/") for name in signs.controllers):
            return signs
    return None


def bears(item: Json, signs: Signs) -> bool:
    """Whether an object is labelled as a product labels its Service."""
    known = labels(item)
    return any(all(known.get(key) == value for key, value in each.items()) for each in signs.labels)


def service_of_ingress(reading: Reading, name: str, services: Sequence[Json]) -> Way:
    """The Service of the controller that serves an Ingress. Raises UnavailableError."""
    ingresses = reading.all(INGRESSES)
    found = next((i for i in ingresses if (namespace_of(i), name_of(i)) == (reading.home, name)), None)
    if found is None:
        known = [(namespace_of(item), name_of(item)) for item in ingresses]
        raise missing("Ingress", "ingress", name, reading.home, known)
    return way_of_ingress(reading, found, services)


def way_of_ingress(reading: Reading, ingress: Json, services: Sequence[Json]) -> Way:
    """The same for an Ingress that is at hand."""
    name = f"ingress/{name_of(ingress)}"
    class_name, controller, objects_on_the_way = class_of(reading, ingress)
    if class_name in _OUTSIDE_CLASSES or controller.startswith(OUTSIDE):
        raise UnavailableError(
            f"{name} is served by a load balancer outside the cluster ({plain(controller or class_name)}); give the "
            f"Service that it sends to{_backend_hint(ingress)}"
        )
    signs = product_of_controller(controller)
    asked = Asked(
        name,
        f"class {plain(class_name) or 'none'}, controller {plain(controller) or 'not known'}",
        signs,
        status_addresses(ingress, "status.loadBalancer.ingress"),
    )
    own = _cilium_own(ingress, signs)
    service, source = choose(asked, services, own)
    return Way(service, source, signs.product if signs else None, (ingress, *objects_on_the_way))


def class_of(reading: Reading, ingress: Json) -> tuple[str, str, list[Json]]:
    """The class of an Ingress, its controller, and the IngressClass where there is one. "" for what is not known."""
    classes = reading.all(INGRESS_CLASSES)
    name = text(ingress, "spec.ingressClassName") or annotations_of(ingress).get(
        "kubernetes.io/ingress.class", ""
    )
    for item in classes:
        default = annotations_of(item).get("ingressclass.kubernetes.io/is-default-class") == "true"
        if name_of(item) == name or (not name and default):
            return name_of(item), text(item, "spec.controller"), [item]
    return name[:253], _BARE_CLASSES.get(name, ""), []


def _cilium_own(ingress: Json, signs: Signs | None) -> Callable[[Json], bool] | None:
    """Cilium in dedicated mode gives each Ingress a Service of its own, named after it."""
    if signs is None or signs.product is not Product.CILIUM:
        return None
    wanted = (namespace_of(ingress), f"cilium-ingress-{name_of(ingress)}")
    return lambda item: (namespace_of(item), name_of(item)) == wanted


def _backend_hint(ingress: Json) -> str:
    backends = sorted(set(backends_of(ingress)))
    return f", as {few([f'svc/{plain(name)}' for _, name in backends])}" if backends else ""


def backends_of(ingress: Json) -> list[tuple[str, str]]:
    """Namespace and name of each Service that an Ingress passes requests on to."""
    place = namespace_of(ingress)
    found = [text(ingress, "spec.defaultBackend.service.name")]
    for rule in objects(ingress, "spec.rules"):
        found += [text(path, "backend.service.name") for path in objects(rule, "http.paths")]
    return [(place, name) for name in dict.fromkeys(found) if name]


# ── from what an Ingress or Gateway tells to one Service ─────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked for: who asks, in words; the product, if it is known; the addresses that it is reached at."""

    name: str
    words: str
    signs: Signs | None
    addresses: frozenset[str]


def status_addresses(item: Json, path: str) -> frozenset[str]:
    """Addresses and names in a status, "ip" and "hostname" of an Ingress or "value" of a Gateway."""
    found: set[str] = set()
    for entry in objects(item, path):
        for key in ("ip", "hostname", "value"):
            if written := text(entry, key):
                found.add(address(written) or written.lower().rstrip("."))
    return frozenset(found)


def service_addresses(service: Json) -> frozenset[str]:
    """Where a Service is reached, in the same spelling, with its names in the cluster's DNS."""
    place, name = namespace_of(service), name_of(service)
    written = [str(each) for each in entries(service, "spec.externalIPs")]
    written += [str(each) for each in entries(service, "spec.clusterIPs")] or [
        text(service, "spec.clusterIP")
    ]
    found = {known for each in written if (known := address(each))}
    found |= {f"{name}.{place}.svc", f"{name}.{place}.svc.cluster.local"}
    return frozenset(found) | status_addresses(service, "status.loadBalancer.ingress")


def choose(
    asked: Asked, services: Sequence[Json], own: Callable[[Json], bool] | None = None
) -> tuple[Json, str]:
    """The one Service, and how it is known. Raises UnavailableError where there is none, or more than one.

    `own` admits Services that say themselves whose they are; what they say goes before everything else.
    """
    if own is not None and (mine := [item for item in services if own(item)]):
        return _single(asked, mine), f"{asked.name}: the labels or name of its own Service"
    by_address = [item for item in services if asked.addresses & service_addresses(item)]
    by_address = [item for item in by_address if text(item, "spec.type") != "ExternalName"]
    labelled = [item for item in services if asked.signs is not None and bears(item, asked.signs)]
    # Several Services can share an address (MetalLB's allow-shared-ip); the labels tell them apart.
    both = [item for item in by_address if item in labelled]
    if both or by_address:
        return _single(asked, both or by_address), f"{asked.name}: the address in its status"
    reached = [
        item for item in labelled if text(item, "spec.type", "ClusterIP") in {"LoadBalancer", "NodePort"}
    ]
    if reached or labelled:
        return _single(asked, reached or labelled), f"{asked.name}: the labels of its controller's Service"
    raise UnavailableError(
        f"no Service is known that leads to the proxy of {asked.name} ({asked.words}); give that Service as svc/NAME"
    )


def _single(asked: Asked, candidates: Sequence[Json]) -> Json:
    if len(candidates) == 1:
        return candidates[0]
    names = [f"svc/{name_of(item)} -n {namespace_of(item)}" for item in candidates]
    raise UnavailableError(
        f"several Services may lead to the proxy of {asked.name}: {few(sorted(names))}; give one of them"
    )


def product_of_service(service: Json, pods: Iterable[Json]) -> Product | None:
    """The product behind a Service, by its labels or by those and the images of its pods."""
    for item in (service, *pods):
        for signs in SIGNS:
            if bears(item, signs):
                return signs.product
    for pod in pods:
        for container in objects(pod, "spec.containers"):
            if product := _product_of_image(text(container, "image")):
                return product
    return None


_IMAGES = (
    ("ingress-nginx/controller", Product.INGRESS_NGINX),
    ("haproxytech/kubernetes-ingress", Product.HAPROXY_TECH),
    ("jcmoraisjr/haproxy-ingress", Product.HAPROXY_INGRESS),
    ("nginx/nginx-ingress", Product.NGINX_INC),
    ("nginx-gateway-fabric/nginx", Product.NGINX_GATEWAY),
    ("istio/proxyv2", Product.ISTIO),
    ("traefik", Product.TRAEFIK),
)


def _product_of_image(image: str) -> Product | None:
    path = image.partition("@")[0]
    path = path.rpartition(":")[0] if ":" in path.rpartition("/")[2] else path
    for end, product in _IMAGES:
        if path == end or path.endswith(f"/{end}"):
            return product
    return None
