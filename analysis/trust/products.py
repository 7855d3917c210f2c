"""Which module holds the rules of which settings, and all rules together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis.trust import envoy, haproxy, ingress_nginx, nginx, python_servers, relay, traefik
from analysis.trust.model import (
    Arrival,
    EnvoyTrust,
    Gunicorn,
    HaproxyTrust,
    Hypercorn,
    IngressNginx,
    NginxRealIp,
    Relay,
    Resolution,
    Settings,
    TraefikTrust,
    Uvicorn,
)

# Each resolver takes the settings of its own key, which no type of a table can say.
_RESOLVERS: dict[type, Callable[[Any, Arrival], Resolution]] = {
    NginxRealIp: nginx.resolve,
    IngressNginx: ingress_nginx.resolve,
    HaproxyTrust: haproxy.resolve,
    EnvoyTrust: envoy.resolve,
    TraefikTrust: traefik.resolve,
    Uvicorn: python_servers.resolve_uvicorn,
    Gunicorn: python_servers.resolve_gunicorn,
    Hypercorn: python_servers.resolve_hypercorn,
    Relay: relay.resolve,
}

#: Every rule, in the order of docs/trust.md.
RULES = (
    *nginx.RULES,
    *ingress_nginx.RULES,
    *haproxy.RULES,
    *envoy.RULES,
    *traefik.RULES,
    *python_servers.RULES,
    *relay.RULES,
)


def resolved(settings: Settings, arrival: Arrival) -> Resolution:
    """The resolution by the product's rules; whether it could be forged is not yet said."""
    return _RESOLVERS[type(settings)](settings, arrival)
