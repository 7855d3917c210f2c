"""The Gateway API: from a Gateway to the Service of its proxy, and to the servers behind its routes.

The API says nothing of Services: each implementation makes one for every Gateway and labels it, or serves all
Gateways by one of its own. `gateway.networking.k8s.io/gateway-name` is the label that the API itself recommends
(GEP-1762) and that Istio, NGINX Gateway Fabric, Contour and others set; Envoy Gateway, Contour and Cilium have their
own. Status addresses settle the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from probe.cluster.controllers import (
    OUTSIDE,
    Asked,
    Product,
    Way,
    choose,
    product_of_controller,
    status_addresses,
)
from probe.cluster.exposure import missing
from probe.cluster.fields import Json, labels, name_of, namespace_of, objects, plain, text
from probe.cluster.reading import GATEWAY_CLASSES, GATEWAYS, HTTP_ROUTES, Reading
from probe.errors import UnavailableError

#: Labels by which a Service says whose Gateway it serves, in the Gateway's own namespace.
OWN_LABELS = (
    "gateway.networking.k8s.io/gateway-name",
    "projectcontour.io/owning-gateway-name",
    "io.cilium.gateway/owning-gateway",
)

#: Envoy Gateway's, whose Services stand in a namespace of their own.
ENVOY_NAME = "gateway.envoyproxy.io/owning-gateway-name"
ENVOY_NAMESPACE = "gateway.envoyproxy.io/owning-gateway-namespace"
ENVOY_CLASS = "gateway.envoyproxy.io/owning-gatewayclass"  # with mergeGateways


def service_of_gateway(reading: Reading, name: str, services: Sequence[Json]) -> Way:
    """The Service of the proxy that serves a Gateway. Raises UnavailableError."""
    gateways = reading.all(GATEWAYS)
    found = next((g for g in gateways if (namespace_of(g), name_of(g)) == (reading.home, name)), None)
    if found is None:
        if not reading.knows(GATEWAYS, reading.home):
            raise UnavailableError(
                "Gateways cannot be read: the cluster has no Gateway API (gateway.networking.k8s.io/v1), or you may "
                "not list them; give svc/NAME or ingress/NAME"
            )
        known = [(namespace_of(item), name_of(item)) for item in gateways]
        raise missing("Gateway", "gateway", name, reading.home, known)
    return way_of_gateway(reading, found, services)


def way_of_gateway(reading: Reading, gateway: Json, services: Sequence[Json]) -> Way:
    """The same for a Gateway that is at hand."""
    name = f"gateway/{name_of(gateway)}"
    class_name = text(gateway, "spec.gatewayClassName")
    classes = [item for item in reading.all(GATEWAY_CLASSES) if name_of(item) == class_name]
    controller = text(classes[0], "spec.controllerName") if classes else ""
    if controller.startswith(OUTSIDE):
        raise UnavailableError(
            f"{name} is served by a load balancer outside the cluster ({plain(controller)}); give the Service that it "
            "sends to as svc/NAME"
        )
    signs = product_of_controller(controller)
    asked = Asked(
        name,
        f"class {plain(class_name) or 'none'}, controller {plain(controller) or 'not known'}",
        signs,
        status_addresses(gateway, "status.addresses"),
    )
    service, source = choose(asked, services, _owned(gateway, class_name))
    return Way(service, source, signs.product if signs else None, (gateway, *classes))


def _owned(gateway: Json, class_name: str) -> Callable[[Json], bool]:
    place, name = namespace_of(gateway), name_of(gateway)

    def own(item: Json) -> bool:
        known = labels(item)
        if namespace_of(item) == place and any(known.get(label) == name for label in OWN_LABELS):
            return True
        if known.get(ENVOY_NAME) == name and known.get(ENVOY_NAMESPACE) == place:
            return True
        return ENVOY_NAME not in known and bool(class_name) and known.get(ENVOY_CLASS) == class_name

    return own


def gateways_of_service(reading: Reading, service: Json, product: Product | None) -> list[Json]:
    """The Gateways that a Service serves, as far as its labels or their addresses tell."""
    known = labels(service)
    by_label = any(label in known for label in (*OWN_LABELS, ENVOY_NAME, ENVOY_CLASS))
    if not by_label and product not in {Product.ISTIO, Product.NGINX_GATEWAY, Product.ENVOY_GATEWAY}:
        return []
    found: list[Json] = []
    for gateway in reading.all(GATEWAYS):
        try:
            way = way_of_gateway(reading, gateway, [service])
        except UnavailableError:
            continue
        if way.service is service and (by_label or "address" in way.source):
            found.append(gateway)
    return found


def backends_of_gateways(reading: Reading, gateways: Sequence[Json]) -> list[tuple[str, str]]:
    """Namespace and name of each Service that routes of these Gateways pass requests on to."""
    wanted = {(namespace_of(each), name_of(each)) for each in gateways}
    found: dict[tuple[str, str], None] = {}
    for route in reading.all(HTTP_ROUTES) if gateways else ():
        place = namespace_of(route)
        parents = {
            (text(parent, "namespace", place), text(parent, "name"))
            for parent in objects(route, "spec.parentRefs")
            if text(parent, "kind", "Gateway") == "Gateway"
        }
        if not parents & wanted:
            continue
        for rule in objects(route, "spec.rules"):
            for backend in objects(rule, "backendRefs"):
                if text(backend, "kind", "Service") == "Service" and text(backend, "name"):
                    found[text(backend, "namespace", place), text(backend, "name")] = None
    return list(found)
