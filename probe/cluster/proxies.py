"""What the proxy behind a Service is told about its clients: from its ConfigMap, arguments and objects to listeners.

A listener is known by its port, and the ports are those of the Service's endpoints: where requests arrive in the
pod. Keys and defaults are each project's own; what a setting means is `analysis.trust`'s business. What cannot be
read is a remark, and the listener is then left out: no settings at all is a better answer than the default ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.facts import Service
from analysis.ingress import EnvoySettings, Ingress, Kind, Listener
from analysis.trust import readers
from analysis.trust.inspection import lists
from analysis.trust.model import (
    EnvoyTrust,
    HaproxyRule,
    HaproxyTrust,
    NginxRealIp,
    Settings,
    TraefikTrust,
    TrustError,
)
from probe.cluster.command_lines import Flags, command_line, environment, flags_of
from probe.cluster.controllers import Product
from probe.cluster.fields import (
    Json,
    ObjectsError,
    annotations_of,
    document,
    field,
    key_of,
    name_of,
    namespace_of,
    number,
    objects,
    plain,
    table,
    text,
)
from probe.cluster.reading import (
    CONFIGMAPS,
    CONTOUR_CONFIGURATIONS,
    NGINX_PROXIES,
    PODS,
    TRAFFIC_POLICIES,
    Reading,
)

_BOTH_VERSIONS = (1, 2)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A product behind a Service, with its pods, and the Gateways and classes that lead to it."""

    product: Product
    service: Service
    pods: Sequence[Json]
    gateways: Sequence[Json] = ()
    classes: Sequence[Json] = ()

    @property
    def flags(self) -> Flags:
        """The arguments of the first pod's containers, together; names as written."""
        found: Flags = {}
        for pod in self.pods[:1]:
            for container in objects(pod, "spec.containers"):
                found |= flags_of(command_line(container))
        return found


@dataclass(frozen=True, slots=True)
class Port:
    """Where the proxy takes connections: its own port, and the Service's in front of it."""

    port: int
    service_port: int
    name: str
    tls: bool


def ports_of_proxy(service: Service) -> list[Port]:
    """The TCP ports of a Service, as its pods have them."""
    found: dict[int, Port] = {}
    for port in service.ports:
        if port.protocol != "tcp":
            continue
        targets = {each.port for each in service.endpoints if each.port_name == port.name}
        if not targets:
            targets = {int(port.target)} if port.target.isdigit() else {port.port}
        tls = port.port == 443 or "https" in {port.name, port.app_protocol} or port.name == "websecure"
        for target in sorted(targets):
            found.setdefault(target, Port(target, port.port, port.name, tls))
    return list(found.values())


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


# ── ConfigMaps ───────────────────────────────────────────────────────────────────────────────────────────


def _configmap(
    reading: Reading, proxy: Proxy, default: str, *names: str
) -> tuple[Mapping[str, str] | None, str]:
    """The data of the ConfigMap that a proxy's arguments name, and where it stands; None where it is not known."""
    flags = proxy.flags
    written = next((flags[name] for name in ("configmap", "nginx-configmaps") if name in flags), "")
    place, _, name = written.rpartition("/")
    # The variable of the pod's own namespace comes from the pod and is seldom told.
    place = proxy.service.namespace if not place or place.startswith("$") else place
    wanted = [name] if name and not name.startswith("$") else [default, *names]
    before = len(reading.remarks)
    found = reading.within(CONFIGMAPS, place)
    for item in found:
        if name_of(item) in wanted:
            return table(item, "data"), f"ConfigMap {key_of(item)}"
    if len(reading.remarks) > before or any("configmaps" in remark for remark in reading.remarks):
        return None, ""
    reading.remark(
        f"{proxy.product}: there is no ConfigMap {place}/{plain(wanted[0])}; its defaults are taken"
    )
    return {}, f"defaults of {proxy.product}"


def _ingress_nginx(reading: Reading, proxy: Proxy) -> Ingress | None:
    data, source = _configmap(reading, proxy, "ingress-nginx-controller", "nginx-configuration")
    if data is None:
        return None
    settings = readers.ingress_nginx(data, _version(proxy.pods))
    listeners = tuple(
        Listener(
            port=each.port,
            proxy_protocol=settings.use_proxy_protocol,
            versions=_BOTH_VERSIONS if settings.use_proxy_protocol else None,
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


def _nginx_inc(reading: Reading, proxy: Proxy) -> Ingress | None:
    data, source = _configmap(reading, proxy, "nginx-ingress", "nginx-config")
    if data is None:
        return None
    expects = data.get("proxy-protocol", "").lower() == "true"
    settings = NginxRealIp(
        trusted=_split(data.get("set-real-ip-from", "")),
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
            versions=_BOTH_VERSIONS if settings.proxy_protocol else None,
            tls=each.tls,
            nginx=settings,
            forwards=tuple((name.lower(), value) for name, value in settings.sends),
            name=each.name,
        )
        for each in ports_of_proxy(proxy.service)
    )


def _nginx_gateway(reading: Reading, proxy: Proxy) -> Ingress | None:
    """The NginxProxy that a Gateway names, or else its class (NGINX Gateway Fabric's data plane configuration)."""
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
    wanted: list[tuple[str, str]] = []
    for gateway in proxy.gateways:
        if text(gateway, "spec.infrastructure.parametersRef.kind") == "NginxProxy":
            wanted.append((namespace_of(gateway), text(gateway, "spec.infrastructure.parametersRef.name")))
    for item in proxy.classes:
        if text(item, "spec.parametersRef.kind") == "NginxProxy":
            place = text(item, "spec.parametersRef.namespace")
            wanted.append((place, text(item, "spec.parametersRef.name")))
    if not wanted:
        return {}, f"defaults of {proxy.product}"
    place, name = wanted[0]
    if len(wanted) > 1:
        reading.remark(
            f"{proxy.product}: settings of the class, beside those of the Gateway, are not joined in"
        )
    before = len(reading.remarks)
    for item in reading.all(NGINX_PROXIES):
        if name_of(item) == name and (not place or namespace_of(item) == place):
            return field(item, "spec", dict, {}), f"NginxProxy {key_of(item)}"
    if len(reading.remarks) == before:
        reading.remark(
            f"{proxy.product}: there is no NginxProxy {plain(name)}; whom it believes is not known"
        )
    return None, ""


# ── Traefik ──────────────────────────────────────────────────────────────────────────────────────────────

_OPTIONS = {
    "proxyprotocol.trustedips": ("proxyProtocol", "trustedIPs"),
    "proxyprotocol.insecure": ("proxyProtocol", "insecure"),
    "forwardedheaders.trustedips": ("forwardedHeaders", "trustedIPs"),
    "forwardedheaders.insecure": ("forwardedHeaders", "insecure"),
    "forwardedheaders.notappendxforwardedfor": ("forwardedHeaders", "notAppendXForwardedFor"),
}


def _traefik(reading: Reading, proxy: Proxy) -> Ingress | None:
    """Entry points by their arguments or environment; Traefik takes its static configuration from one source only."""
    flags = {name.lower(): value for name, value in proxy.flags.items()}
    for pod in proxy.pods[:1]:
        for container in objects(pod, "spec.containers"):
            for name, value in environment(container).items():
                if name.startswith("TRAEFIK_ENTRYPOINTS_"):
                    flags.setdefault(name.removeprefix("TRAEFIK_").lower().replace("_", "."), value)
    if "configfile" in flags:
        reading.remark("Traefik is told its entry points by a file (--configfile), which is not read")
        return None
    points: dict[str, dict[str, str]] = {}
    for name, value in flags.items():
        words = name.split(".", 2)
        if words[0] == "entrypoints" and len(words) > 1:
            points.setdefault(words[1], {})[words[2] if len(words) > 2 else ""] = value
    if not points:
        reading.remark(
            "Traefik's pods name no entry points in their arguments; whom it believes is not known"
        )
        return None
    listeners = [
        each for name, options in points.items() if (each := _entry_point(name, options)) is not None
    ]
    wanted = {each.port for each in ports_of_proxy(proxy.service)}
    kept = tuple(each for each in listeners if each.port in wanted) or tuple(listeners)
    return Ingress(Kind.TRAEFIK, kept, f"arguments of pod {key_of(proxy.pods[0])}")


def _entry_point(name: str, options: Mapping[str, str]) -> Listener | None:
    host, _, rest = options.get("address", "").rpartition(":")
    port, _, protocol = rest.partition("/")
    if not port.isdigit() or not 0 < int(port[:6]) <= 0xFFFF or protocol.lower() == "udp":
        return None
    written: dict[str, dict[str, object]] = {}
    if options.get("proxyprotocol", "false").lower() == "true":
        written["proxyProtocol"] = {}
    for option, value in options.items():
        if option in _OPTIONS:
            section, key = _OPTIONS[option]
            listed = key == "trustedIPs"
            written.setdefault(section, {})[key] = list(_split(value)) if listed else value.lower() == "true"
    trust: TraefikTrust = readers.traefik(written)
    notes = ("connections without a PROXY header are taken as well",) if trust.proxy else ()
    return Listener(
        port=int(port),
        addresses=(host.strip("[]"),) if host else (),
        proxy_protocol=None if trust.proxy else False,
        versions=_BOTH_VERSIONS if trust.proxy else None,
        tls=any(option == "http.tls" or option.startswith("http.tls.") for option in options),
        name=name[:63],
        traefik=trust,
        notes=notes,
    )


# ── HAProxy ──────────────────────────────────────────────────────────────────────────────────────────────


def _haproxy_tech(reading: Reading, proxy: Proxy) -> Ingress | None:
    """`proxy-protocol` lists who must send a header; `src-ip-header` replaces the source for everybody."""
    data, source = _configmap(
        reading, proxy, "haproxy-kubernetes-ingress", "haproxy-configmap", "haproxy-ingress"
    )
    if data is None:
        return None
    header = data.get("src-ip-header", "").strip()
    settings = HaproxyTrust(
        expect_proxy_from=_split(data.get("proxy-protocol", "")),
        forward_for=data.get("forwarded-for", "true").strip().lower() != "false",
        rules=(HaproxyRule("set-src", header),) if header else (),
    )
    notes = ("annotations of an Ingress may set src-ip-header and forwarded-for otherwise",)
    return Ingress(Kind.HAPROXY, _haproxy_listeners(proxy, settings, notes), source)


def _haproxy_ingress(reading: Reading, proxy: Proxy) -> Ingress | None:
    """`use-proxy-protocol`, and `forwardfor`: add (the client's own is set aside), update, ifmissing, ignore."""
    data, source = _configmap(reading, proxy, "haproxy-ingress")
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
            versions=_BOTH_VERSIONS if expects is not False else None,
            tls=each.tls,
            haproxy=settings,
            name=each.name,
            notes=notes,
        )
        for each in ports_of_proxy(proxy.service)
    )


# ── Envoy, under four control planes ─────────────────────────────────────────────────────────────────────


def _envoy_gateway(reading: Reading, proxy: Proxy) -> Ingress | None:
    """ClientTrafficPolicies of the Gateways; one that names a listener goes before one that does not."""
    before = len(reading.remarks)
    policies = reading.all(TRAFFIC_POLICIES)
    if len(reading.remarks) > before:
        return None
    listeners: list[Listener] = []
    sources: dict[str, None] = {}
    for gateway in proxy.gateways:
        for listener in objects(gateway, "spec.listeners"):
            policy = _policy_for(policies, gateway, text(listener, "name"))
            spec = field(policy, "spec", dict, {}) if policy is not None else {}
            if policy is not None:
                sources[f"ClientTrafficPolicy {key_of(policy)}"] = None
            trust = readers.client_traffic_policy(spec)
            wanted = number(listener, "port")
            for each in ports_of_proxy(proxy.service):
                if each.service_port == wanted:
                    tls = text(listener, "protocol") in {"HTTPS", "TLS"}
                    listeners.append(_envoy_listener(each, trust, tls=tls))
    file = ", ".join(sources) or f"defaults of {proxy.product}"
    return Ingress(Kind.ENVOY, tuple(listeners), file[:512])


def _policy_for(policies: Iterable[Json], gateway: Json, section: str) -> Json | None:
    whole: Json | None = None
    for policy in policies:
        if namespace_of(policy) != namespace_of(gateway):
            continue
        single = field(policy, "spec.targetRef", dict, None)
        for target in (*objects(policy, "spec.targetRefs"), *([single] if single else ())):
            if text(target, "kind", "Gateway") != "Gateway" or text(target, "name") != name_of(gateway):
                continue
            named = text(target, "sectionName")
            if named and named == section:
                return policy
            whole = policy if not named and whole is None else whole
    return whole


def _envoy_listener(port: Port, trust: EnvoyTrust, *, tls: bool | None = None) -> Listener:
    expects: bool | None = trust.proxy_protocol
    return Listener(
        port=port.port,
        proxy_protocol=None if trust.proxy_protocol and trust.proxy_optional else expects,
        versions=_BOTH_VERSIONS if expects else None,
        tls=port.tls if tls is None else tls,
        envoy=EnvoySettings.of(trust),
        name=port.name,
    )


def _istio(reading: Reading, proxy: Proxy) -> Ingress | None:
    """gatewayTopology of the pods' own proxy.istio.io/config, before that of the mesh (ProxyConfig in MeshConfig)."""
    topology, source = _pod_topology(proxy.pods), ""
    if topology is not None:
        source = f"annotation proxy.istio.io/config of pod {key_of(proxy.pods[0])}"
    else:
        before = len(reading.remarks)
        meshes = [each for each in reading.within(CONFIGMAPS, "istio-system") if name_of(each) == "istio"]
        if len(reading.remarks) > before:
            return None
        mesh = document(table(meshes[0], "data").get("mesh", "")) if meshes else {}
        topology = field(mesh, "defaultConfig.gatewayTopology", dict, {})
        source = f"ConfigMap {key_of(meshes[0])}" if meshes else "defaults of Istio"
    trust = EnvoyTrust(
        use_remote_address=True,
        trusted_hops=number(topology, "numTrustedProxies"),
        proxy_protocol="proxyProtocol" in topology,
    )
    notes = ("an EnvoyFilter may set it otherwise",)
    listeners = tuple(_envoy_listener(each, trust) for each in ports_of_proxy(proxy.service))
    return Ingress(Kind.ENVOY, listeners, source, notes)


def _pod_topology(pods: Sequence[Json]) -> Json | None:
    for pod in pods[:1]:
        config = document(annotations_of(pod).get("proxy.istio.io/config", ""))
        topology = config.get("gatewayTopology")
        if isinstance(topology, dict):
            return topology
    return None


def _contour(reading: Reading, proxy: Proxy) -> Ingress | None:
    """num-trusted-hops of contour.yaml, --use-proxy-protocol of `contour serve`, or a ContourConfiguration."""
    place = proxy.service.namespace
    servers = [_serve_flags(pod) for pod in reading.within(PODS, place)]
    flags = next((each for each in servers if each is not None), None)
    if flags is None:
        reading.remark(
            f"no pod in namespace {place} runs `contour serve`; whom Contour believes is not known"
        )
        return None
    if written := flags.get("contour-config-name"):
        configurations = reading.within(CONTOUR_CONFIGURATIONS, place)
        spec = next((each for each in configurations if name_of(each) == written), None)
        if spec is None:
            reading.remark(
                f"there is no ContourConfiguration {plain(written)}; whom Contour believes is not known"
            )
            return None
        hops = number(spec, "spec.envoy.network.numTrustedHops")
        proxied = bool(field(spec, "spec.envoy.listener.useProxyProtocol", bool, False))
        source = f"ContourConfiguration {key_of(spec)}"
    else:
        maps = [each for each in reading.within(CONFIGMAPS, place) if name_of(each).startswith("contour")]
        documents = [(key_of(each), table(each, "data").get("contour.yaml")) for each in maps]
        found = next(((key, data) for key, data in documents if data), ("", ""))
        config = document(found[1] or "")
        hops = number(config, "network.num-trusted-hops")
        proxied = flags.get("use-proxy-protocol", "false").lower() == "true"
        source = f"ConfigMap {found[0]} and arguments of contour" if found[0] else "arguments of contour"
    trust = EnvoyTrust(use_remote_address=True, trusted_hops=hops, proxy_protocol=proxied)
    listeners = tuple(_envoy_listener(each, trust) for each in ports_of_proxy(proxy.service))
    return Ingress(Kind.ENVOY, listeners, source)


def _serve_flags(pod: Json) -> Flags | None:
    for container in objects(pod, "spec.containers"):
        words = command_line(container)
        if "serve" in words[:2] and "contour" in " ".join((text(container, "image"), *words[:2])):
            return flags_of(words)
    return None


def _cilium(reading: Reading, proxy: Proxy) -> Ingress | None:
    """Cilium's Envoy listens on ports that the agent chooses and packets never show: no listener can be named."""
    del proxy
    for item in reading.within(CONFIGMAPS, "kube-system"):
        if name_of(item) == "cilium-config":
            data = table(item, "data")
            told = [
                f"{key} {plain(data[key], 20)}"
                for key in (
                    "enable-ingress-proxy-protocol",
                    "ingress-default-xff-num-trusted-hops",
                    "enable-gateway-api-proxy-protocol",
                    "gateway-api-xff-num-trusted-hops",
                )
                if key in data
            ]
            reading.remark(
                "Cilium's Envoy takes connections on ports of its own choice, so its settings are not held against what "
                f"is seen ({', '.join(told) or 'defaults'})"
            )
    return None


def _split(written: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in written.split(",") if part.strip())


_READERS: dict[Product, Callable[[Reading, Proxy], Ingress | None]] = {
    Product.INGRESS_NGINX: _ingress_nginx,
    Product.NGINX_INC: _nginx_inc,
    Product.NGINX_GATEWAY: _nginx_gateway,
    Product.TRAEFIK: _traefik,
    Product.HAPROXY_TECH: _haproxy_tech,
    Product.HAPROXY_INGRESS: _haproxy_ingress,
    Product.ENVOY_GATEWAY: _envoy_gateway,
    Product.ISTIO: _istio,
    Product.CONTOUR: _contour,
    Product.CILIUM: _cilium,
}
