"""What the proxy behind a Service is told about its clients: from its ConfigMap, arguments and objects to listeners.

A listener is known by its port, and the ports are those of the Service's endpoints: where requests arrive in the
pod. Keys and defaults are each project's own; what a setting means is `analysis.trust`'s business. What cannot be
read is a remark, and the listener is then left out: no settings at all is a better answer than the default ones.
"""

from __future__ import annotations

from collections.abc import Callable

from analysis.ingress import Ingress
from analysis.trust.inspection import lists
from analysis.trust.model import TrustError
from probe.cluster.controllers import Product
from probe.cluster.fields import ObjectsError, plain
from probe.cluster.proxies_envoy import (
    cilium_settings,
    contour_settings,
    envoy_gateway_settings,
    istio_settings,
)
from probe.cluster.proxies_haproxy import haproxy_ingress_settings, haproxy_tech_settings
from probe.cluster.proxies_nginx import ingress_nginx_settings, nginx_gateway_settings, nginx_inc_settings
from probe.cluster.proxies_traefik import traefik_settings
from probe.cluster.proxy import Proxy
from probe.cluster.reading import Reading


def read_proxy(reading: Reading, proxy: Proxy) -> Ingress | None:
    """The configuration of a proxy; None, with a remark, where it cannot be read."""
    try:
        ingress = _READERS[proxy.product](reading, proxy)
        return _checked(ingress) if ingress is not None else None
    except (TrustError, ObjectsError) as error:
        reading.remark(f"what {proxy.product} is told cannot be used: {plain(str(error), 200)}")
        return None


def _checked(ingress: Ingress) -> Ingress:
    """Raise TrustError where a list of addresses is one that the product itself would refuse."""
    for listener in ingress.listeners:
        if listener.trust is not None:
            lists(listener.trust)
    return ingress


_READERS: dict[Product, Callable[[Reading, Proxy], Ingress | None]] = {
    Product.INGRESS_NGINX: ingress_nginx_settings,
    Product.NGINX_INC: nginx_inc_settings,
    Product.NGINX_GATEWAY: nginx_gateway_settings,
    Product.TRAEFIK: traefik_settings,
    Product.HAPROXY_TECH: haproxy_tech_settings,
    Product.HAPROXY_INGRESS: haproxy_ingress_settings,
    Product.ENVOY_GATEWAY: envoy_gateway_settings,
    Product.ISTIO: istio_settings,
    Product.CONTOUR: contour_settings,
    Product.CILIUM: cilium_settings,
}
