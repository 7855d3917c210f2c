"""What HAProxy is told under its two controllers, by the keys of their ConfigMaps."""

from __future__ import annotations

from analysis.ingress import Ingress, Kind, Listener
from analysis.trust.model import HaproxyRule, HaproxyTrust
from probe.cluster.proxy import BOTH_VERSIONS, Proxy, configmap_of, ports_of_proxy, split_list
from probe.cluster.reading import Reading


def haproxy_tech_settings(reading: Reading, proxy: Proxy) -> Ingress | None:
    """`proxy-protocol` lists who must send a header; `src-ip-header` replaces the source for everybody."""
    data, source = configmap_of(
        reading, proxy, "haproxy-kubernetes-ingress", "haproxy-configmap", "haproxy-ingress"
    )
    if data is None:
        return None
    header = data.get("src-ip-header", "").strip()
    settings = HaproxyTrust(
        expect_proxy_from=split_list(data.get("proxy-protocol", "")),
        forward_for=data.get("forwarded-for", "true").strip().lower() != "false",
        rules=(HaproxyRule("set-src", header),) if header else (),
    )
    notes = ("annotations of an Ingress may set src-ip-header and forwarded-for otherwise",)
    return Ingress(Kind.HAPROXY, _haproxy_listeners(proxy, settings, notes), source)


def haproxy_ingress_settings(reading: Reading, proxy: Proxy) -> Ingress | None:
    """`use-proxy-protocol`, and `forwardfor`: add (the client's own is set aside), update, ifmissing, ignore."""
    data, source = configmap_of(reading, proxy, "haproxy-ingress")
    if data is None:
        return None
    mode = data.get("forwardfor", "add").strip().lower()
    settings = HaproxyTrust(
        accept_proxy=data.get("use-proxy-protocol", "false").strip().lower() == "true",
        forward_for=mode in {"add", "update", "ifmissing"},
        forward_for_if_none=mode == "ifmissing",
        rules=(HaproxyRule("del-header", "X-Forwarded-For"),) if mode == "add" else (),
    )
    return Ingress(Kind.HAPROXY, _haproxy_listeners(proxy, settings, ()), source)


def _haproxy_listeners(proxy: Proxy, settings: HaproxyTrust, notes: tuple[str, ...]) -> tuple[Listener, ...]:
    # Where only some peers must send a header, whether one comes first depends on who connects.
    expects = True if settings.accept_proxy else None if settings.expect_proxy_from else False
    return tuple(
        Listener(
            port=each.port,
            proxy_protocol=expects,
            versions=BOTH_VERSIONS if expects is not False else None,
            tls=each.tls,
            haproxy=settings,
            name=each.name,
            notes=notes,
        )
        for each in ports_of_proxy(proxy.service)
    )
