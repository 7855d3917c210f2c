"""What Envoy is told under four control planes: Envoy Gateway, Istio, Contour and Cilium."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.ingress import EnvoySettings, Ingress, Kind, Listener
from analysis.trust import readers
from analysis.trust.model import EnvoyTrust
from probe.cluster.command_lines import Flags, command_line, flags_of
from probe.cluster.fields import (
    Json,
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
from probe.cluster.proxy import BOTH_VERSIONS, Port, Proxy, no_gateway, ports_of_proxy
from probe.cluster.reading import CONFIGMAPS, CONTOUR_CONFIGURATIONS, PODS, TRAFFIC_POLICIES, Reading


def envoy_gateway_settings(reading: Reading, proxy: Proxy) -> Ingress | None:
    """ClientTrafficPolicies of the Gateways; one that names a listener goes before one that does not."""
    if not proxy.gateways:
        no_gateway(reading, proxy)
        return None
    policies = reading.all(TRAFFIC_POLICIES)
    whole = reading.knows(TRAFFIC_POLICIES, reading.home)
    listeners: list[Listener] = []
    sources: dict[str, None] = {}
    for gateway in proxy.gateways:
        for listener in objects(gateway, "spec.listeners"):
            policy = _policy_for(policies, gateway, text(listener, "name"))
            if policy is None and not whole:
                return None  # there may be one elsewhere
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
        versions=BOTH_VERSIONS if expects else None,
        tls=port.tls if tls is None else tls,
        envoy=EnvoySettings.of(trust),
        name=port.name,
    )


def istio_settings(reading: Reading, proxy: Proxy) -> Ingress | None:
    """gatewayTopology of the pods' own proxy.istio.io/config, before that of the mesh (ProxyConfig in MeshConfig)."""
    topology, source = _pod_topology(proxy.pods), ""
    if topology is not None:
        source = f"annotation proxy.istio.io/config of pod {key_of(proxy.pods[0])}"
    else:
        meshes = [each for each in reading.within(CONFIGMAPS, "istio-system") if name_of(each) == "istio"]
        if not reading.knows(CONFIGMAPS, "istio-system"):
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


def contour_settings(reading: Reading, proxy: Proxy) -> Ingress | None:
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


def cilium_settings(reading: Reading, proxy: Proxy) -> Ingress | None:
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
                "Cilium's Envoy takes connections on ports of its own choice, so its settings are not held against "
                f"what is seen ({', '.join(told) or 'defaults'})"
            )
    return None
