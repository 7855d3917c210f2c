"""What settings hold: their trust lists, the fields they read, and in whose words they let everybody in."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.trust import haproxy, nginx, python_servers
from analysis.trust.fields import FORWARDED_FOR, REAL_IP
from analysis.trust.ingress_nginx import rendered
from analysis.trust.model import (
    Claim,
    EnvoyCustomHeader,
    EnvoyTrust,
    EnvoyXff,
    Gunicorn,
    HaproxyTrust,
    Hypercorn,
    IngressNginx,
    NginxRealIp,
    Settings,
    TraefikTrust,
    Uvicorn,
)
from analysis.trust.ranges import Ranges, network, strict_ranges

_MOST = 1024  # entries; more fit into no server's limit for a header


def lists(settings: Settings) -> tuple[Ranges, ...]:
    """Every list of addresses that settings trust. Raises TrustError for one that the product would not take."""
    match settings:
        case NginxRealIp():
            return (nginx.trusted(settings),)
        case IngressNginx():
            return (nginx.trusted(rendered(settings)),)
        case HaproxyTrust():
            sources = (rule.sources for rule in settings.rules if rule.sources is not None)
            return tuple(strict_ranges(one, "src") for one in (settings.expect_proxy_from, *sources))
        case EnvoyTrust():
            ranges = (one.trusted_cidrs for one in settings.detection if isinstance(one, EnvoyXff))
            return tuple(strict_ranges(one or (), "xff_trusted_cidrs") for one in ranges)
        case TraefikTrust():
            both = (settings.proxy_trusted, settings.forwarded_trusted)
            return tuple(strict_ranges(one, "trustedIPs") for one in both)
        case Uvicorn():
            return (python_servers.allow_list(settings).ranges,)
        case Gunicorn(worker="uvicorn"):
            return (python_servers.worker_list(settings).ranges,)
        case Gunicorn():
            entries = python_servers.gunicorn_list(settings, settings.proxy_allow, "proxy_allow_ips")
            return (_ranges(entries),)
        case _:
            return ()


def _ranges(entries: Iterable[str]) -> Ranges:
    return Ranges(tuple(one for one in map(network, entries) if one is not None))


def fields_read(settings: Settings) -> tuple[str, ...]:
    """The header fields that may decide the client."""
    match settings:
        case NginxRealIp():
            return (settings.header,)
        case IngressNginx():
            return (settings.forwarded_for_header,)
        case HaproxyTrust():
            return haproxy.fields_read(settings)
        case EnvoyTrust():
            custom = (one.name for one in settings.detection if isinstance(one, EnvoyCustomHeader))
            return (FORWARDED_FOR, *custom)
        case TraefikTrust():
            return (REAL_IP,)
        case Hypercorn():
            return (FORWARDED_FOR, "Forwarded")
        case Uvicorn() | Gunicorn():
            return (FORWARDED_FOR,)
        case _:
            return ()


def deepest(settings: Settings) -> int:
    """How many entries of a list a stranger has to write at most to reach the one that is read."""
    wanted = 1
    match settings:
        case HaproxyTrust():
            wanted = max((abs(rule.occurrence) for rule in settings.rules), default=1)
        case EnvoyTrust():
            hops = [one.trusted_hops for one in settings.detection if isinstance(one, EnvoyXff)]
            wanted = max([settings.trusted_hops, *hops]) + 1
        case Hypercorn():
            wanted = settings.trusted_hops
        case _:
            pass
    return min(max(wanted, 1), _MOST)


def cause(settings: Settings, claim: Claim, in_front: int) -> str:
    """The setting that admits a stranger's claim, in the product's own words."""
    proxy = claim is Claim.PROXY
    match settings:
        case NginxRealIp():
            return f"set_real_ip_from {_written(settings.trusted)} admits every address"
        case IngressNginx():
            return f"proxy-real-ip-cidr {_written(settings.proxy_real_ip_cidr)} admits every address"
        case HaproxyTrust():
            return _haproxy(settings, proxy=proxy)
        case EnvoyTrust():
            return _envoy(settings, in_front, proxy=proxy)
        case TraefikTrust():
            return _traefik(settings, proxy=proxy)
        case Uvicorn():
            return f"--forwarded-allow-ips {settings.allow or ''} admits every address"
        case Gunicorn(worker="uvicorn"):
            return f"forwarded_allow_ips {settings.allow or ''} admits every address"
        case Gunicorn():
            return f"proxy_allow_ips {settings.proxy_allow or ''} admits every address"
        case Hypercorn():
            return (
                f"ProxyFixMiddleware counts {settings.trusted_hops} trusted hops whoever connects, and"
                f" {in_front} {_stand(in_front)} in front"
            )
        case _:
            return "it takes the PROXY header of whoever connects"


def _written(entries: tuple[str, ...]) -> str:
    return ",".join(entries[:8])[:200]


def _stand(number: int) -> str:
    return "proxy stands" if number == 1 else "proxies stand"


def _haproxy(settings: HaproxyTrust, *, proxy: bool) -> str:
    if proxy and settings.accept_proxy:
        return "accept-proxy takes the header of whoever connects"
    if proxy:
        return f"expect-proxy layer4 if {{ src {_written(settings.expect_proxy_from)} }} admits every address"
    return "http-request set-src reads it without a list of sources that excludes strangers"


def _envoy(settings: EnvoyTrust, in_front: int, *, proxy: bool) -> str:
    if proxy:
        return "the proxy_protocol listener filter takes the header of whoever connects"
    if not settings.detection and settings.use_remote_address:
        return f"xff_num_trusted_hops is {settings.trusted_hops}, and {in_front} {_stand(in_front)} in front"
    if not settings.detection:
        return "use_remote_address is off, so X-Forwarded-For is believed whoever connects"
    return "original-IP detection reads it without a list of sources that excludes strangers"


def _traefik(settings: TraefikTrust, *, proxy: bool) -> str:
    name, insecure, trusted = (
        ("proxyProtocol", settings.proxy_insecure, settings.proxy_trusted)
        if proxy
        else ("forwardedHeaders", settings.forwarded_insecure, settings.forwarded_trusted)
    )
    if insecure:
        return f"{name}.insecure is true"
    return f"{name}.trustedIPs {_written(trusted)} admits strangers"
