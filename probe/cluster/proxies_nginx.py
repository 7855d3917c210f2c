"""What nginx is told under its three controllers: ingress-nginx, NGINX Inc's, and NGINX Gateway Fabric."""

from __future__ import annotations

import re
from collections.abc import Sequence

from analysis.ingress import Ingress, Kind, Listener
from analysis.trust import readers
from analysis.trust.model import NginxRealIp
from probe.cluster.fields import Json, field, key_of, name_of, namespace_of, objects, plain, text
from probe.cluster.proxy import BOTH_VERSIONS, Proxy, configmap_of, no_gateway, ports_of_proxy, split_list
from probe.cluster.reading import NGINX_PROXIES, Reading


def ingress_nginx_settings(reading: Reading, proxy: Proxy) -> Ingress | None:
    """Its ConfigMap, by the keys of its documentation, for the version in its image."""
    data, source = configmap_of(reading, proxy, "ingress-nginx-controller", "nginx-configuration")
    if data is None:
        return None
    settings = readers.ingress_nginx(data, _version(proxy.pods))
    listeners = tuple(
        Listener(
            port=each.port,
            proxy_protocol=settings.use_proxy_protocol,
            versions=BOTH_VERSIONS if settings.use_proxy_protocol else None,
            tls=each.tls,
            ingress_nginx=settings,
            name=each.name,
        )
        for each in ports_of_proxy(proxy.service)
    )
    return Ingress(Kind.INGRESS_NGINX, listeners, source)


_TAG = re.compile(r":v?(\d{1,3})\.(\d{1,3})(?:[.@-]|$)")


def _version(pods: Sequence[Json]) -> tuple[int, int] | None:
    """The version in the tag of the first image that has one."""
    for pod in pods:
        for container in objects(pod, "spec.containers"):
            if met := _TAG.search(text(container, "image")):
                return int(met[1]), int(met[2])
    return None


#: What NGINX Inc's controller and NGINX Gateway Fabric set onward.
_NGINX_SENDS = (("X-Real-IP", "$remote_addr"), ("X-Forwarded-For", "$proxy_add_x_forwarded_for"))


def nginx_inc_settings(reading: Reading, proxy: Proxy) -> Ingress | None:
    """proxy-protocol, real-ip-header, set-real-ip-from and real-ip-recursive of its ConfigMap."""
    data, source = configmap_of(reading, proxy, "nginx-ingress", "nginx-config")
    if data is None:
        return None
    expects = data.get("proxy-protocol", "").lower() == "true"
    settings = NginxRealIp(
        trusted=split_list(data.get("set-real-ip-from", "")),
        header=data.get("real-ip-header", "").strip() or "X-Real-IP",
        recursive=data.get("real-ip-recursive", "").lower() == "true",
        proxy_protocol=expects,
        sends=_NGINX_SENDS,
        version=(1, 25),
    )
    return Ingress(Kind.NGINX, _nginx_listeners(proxy, settings), source)


def _nginx_listeners(proxy: Proxy, settings: NginxRealIp) -> tuple[Listener, ...]:
    return tuple(
        Listener(
            port=each.port,
            proxy_protocol=settings.proxy_protocol,
            versions=BOTH_VERSIONS if settings.proxy_protocol else None,
            tls=each.tls,
            nginx=settings,
            forwards=tuple((name.lower(), value) for name, value in settings.sends),
            name=each.name,
        )
        for each in ports_of_proxy(proxy.service)
    )


def nginx_gateway_settings(reading: Reading, proxy: Proxy) -> Ingress | None:
    """The NginxProxy that a Gateway names, or else its class (NGINX Gateway Fabric's data plane configuration)."""
    if not proxy.gateways:
        no_gateway(reading, proxy)
        return None
    spec, source = _parameters(reading, proxy)
    if spec is None:
        return None
    mode = text(spec, "rewriteClientIP.mode")
    settings = NginxRealIp(
        trusted=tuple(text(each, "value") for each in objects(spec, "rewriteClientIP.trustedAddresses")),
        header={"ProxyProtocol": "proxy_protocol", "XForwardedFor": "X-Forwarded-For"}.get(mode, "X-Real-IP"),
        recursive=bool(field(spec, "rewriteClientIP.setIPRecursively", bool, False)),
        proxy_protocol=mode == "ProxyProtocol",
        sends=_NGINX_SENDS,
        version=(1, 27),
    )
    return Ingress(Kind.NGINX, _nginx_listeners(proxy, settings), source)


def _parameters(reading: Reading, proxy: Proxy) -> tuple[Json | None, str]:
    own, of_class = "spec.infrastructure.parametersRef", "spec.parametersRef"
    wanted = [
        (namespace_of(gateway), text(gateway, f"{own}.name"))
        for gateway in proxy.gateways
        if text(gateway, f"{own}.kind") == "NginxProxy"
    ]
    wanted += [
        (text(item, f"{of_class}.namespace"), text(item, f"{of_class}.name"))
        for item in proxy.classes
        if text(item, f"{of_class}.kind") == "NginxProxy"
    ]
    if not wanted:
        return {}, f"defaults of {proxy.product}"
    place, name = wanted[0]
    if len(wanted) > 1:
        reading.remark(
            f"{proxy.product}: settings of the class, beside those of the Gateway, are not joined in"
        )
    for item in reading.all(NGINX_PROXIES):
        if name_of(item) == name and (not place or namespace_of(item) == place):
            return field(item, "spec", dict, {}), f"NginxProxy {key_of(item)}"
    if reading.knows(NGINX_PROXIES, reading.home):
        reading.remark(
            f"{proxy.product}: there is no NginxProxy {plain(name)}; whom it believes is not known"
        )
    return None, ""
