"""From a Gateway of each implementation to its Service, and what its proxy is told of its clients."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from analysis.ingress import Ingress, IngressRecord, Kind
from analysis.trust.model import EnvoyTrust, EnvoyXff, NginxRealIp
from probe.cluster.lister import Json
from probe.errors import UnavailableError
from tests.cluster_facts.cluster import INTERNAL, Cluster, app, configmap, node, obj, pod, service, slice_of

CONTROLLERS = {
    "eg": "gateway.envoyproxy.io/gatewayclass-controller",
    "istio": "istio.io/gateway-controller",
    "nginx": "gateway.nginx.org/nginx-gateway-controller",
    "contour": "projectcontour.io/gateway-controller",
    "cilium": "io.cilium/gateway-controller",
    "traefik": "traefik.io/gateway-controller",
    "gke": "networking.gke.io/gateway",
    "mine": "example.test/mine",
}
PORTS = [
    {"name": "http", "port": 80, "nodePort": 30080, "targetPort": 10080},
    {"name": "https", "port": 443, "nodePort": 30443, "targetPort": 10443},
]
LISTENERS = [
    {"name": "http", "port": 80, "protocol": "HTTP"},
    {"name": "https", "port": 443, "protocol": "HTTPS"},
]


def gateway(class_name: str, address: str | None = None, **spec: Any) -> list[Json]:
    """A Gateway with its class, a route and the application behind it."""
    addresses = [{"type": "IPAddress", "value": address}] if address else []
    parent = {"name": "edge"}
    route = obj(
        "HTTPRoute",
        "api",
        spec={"parentRefs": [parent], "rules": [{"backendRefs": [{"name": "api", "port": 80}]}]},
    )
    return [
        node(),
        obj(
            "Gateway",
            "edge",
            spec={"gatewayClassName": class_name, "listeners": LISTENERS, **spec},
            status={"addresses": addresses},
        ),
        obj("GatewayClass", class_name, None, spec={"controllerName": CONTROLLERS[class_name]}),
        route,
        *app("api", "10.244.1.20", spec=INTERNAL, container={"command": ["uvicorn", "main:app"]}),
    ]


def proxy(name: str, labels: dict[str, str], namespace: str = "default", **container: Any) -> list[Json]:
    """The Service of a proxy with its slice and a pod."""
    annotations = container.pop("annotations", {})
    return [
        service(
            name,
            name,
            namespace,
            ports=PORTS,
            spec={"type": "LoadBalancer"},
            balancers=[{"ip": "203.0.113.9"}],
            labels=labels,
        ),
        slice_of(name, [(f"{name}-1", "10.244.1.9")], namespace, [("http", 10080), ("https", 10443)]),
        pod(f"{name}-1", "10.244.1.9", name, namespace, container=container, annotations=annotations),
    ]


ENVOY = {
    "app.kubernetes.io/managed-by": "envoy-gateway",
    "app.kubernetes.io/component": "proxy",
    "gateway.envoyproxy.io/owning-gateway-name": "edge",
    "gateway.envoyproxy.io/owning-gateway-namespace": "default",
}


@pytest.mark.parametrize(
    ("class_name", "labels", "namespace"),
    [
        ("eg", ENVOY, "envoy-gateway-system"),
        ("eg", {"gateway.envoyproxy.io/owning-gatewayclass": "eg"}, "envoy-gateway-system"),
        ("istio", {"gateway.networking.k8s.io/gateway-name": "edge"}, "default"),
        ("nginx", {"gateway.networking.k8s.io/gateway-name": "edge"}, "default"),
        ("nginx", {"app.kubernetes.io/name": "nginx-gateway-fabric"}, "nginx-gateway"),
        ("contour", {"projectcontour.io/owning-gateway-name": "edge"}, "default"),
        ("cilium", {"io.cilium.gateway/owning-gateway": "edge"}, "default"),
        ("traefik", {"app.kubernetes.io/name": "traefik"}, "traefik"),
    ],
)
def test_each_implementation_labels_its_service(
    class_name: str, labels: dict[str, str], namespace: str
) -> None:
    other = proxy("other", {"gateway.networking.k8s.io/gateway-name": "another"})
    cluster = Cluster([*gateway(class_name), *proxy("front", labels, namespace), *other])
    found = cluster.gather("gateway/edge")
    assert found.service.key == f"{namespace}/front"
    assert {80, 443, 10080, 10443, 8080} <= set(found.ports)
    assert found.ingress.application is not None


def test_a_label_in_another_namespace_is_another_gateways() -> None:
    stranger = proxy("front", {"gateway.networking.k8s.io/gateway-name": "edge"}, "elsewhere")
    with pytest.raises(UnavailableError, match="no Service is known"):
        Cluster([*gateway("contour"), *stranger]).gather("gateway/edge")


def test_the_address_settles_an_implementation_that_nobody_knows() -> None:
    cluster = Cluster([*gateway("mine", "203.0.113.9"), *proxy("front", {}, "proxies")])
    assert cluster.gather("gtw/edge").service.key == "proxies/front"


def test_istios_gateway_by_the_name_of_its_service() -> None:
    manual = gateway("istio", "front.istio-system.svc.cluster.local")
    assert (
        Cluster([*manual, *proxy("front", {}, "istio-system")]).gather("gateway/edge").service.name == "front"
    )


def test_a_clouds_gateway_is_outside() -> None:
    with pytest.raises(UnavailableError, match="outside the cluster"):
        Cluster(gateway("gke")).gather("gateway/edge")


def test_a_gateway_that_is_not_there() -> None:
    with pytest.raises(UnavailableError, match="did you mean gateway/edge"):
        Cluster(gateway("istio")).gather("gateway/egde")


# ── what it is told ──────────────────────────────────────────────────────────────────────────────────────


def told(cluster: Cluster, asked: str = "gateway/edge", namespace: str = "default") -> Ingress:
    found = cluster.gather(asked, namespace).ingress
    assert msgspec.json.decode(msgspec.json.encode(found), type=IngressRecord) == found
    (only,) = found.ingresses
    return only


def policy(name: str, spec: Json, section: str | None = None) -> Json:
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}
    target |= {"sectionName": section} if section else {}
    return obj("ClientTrafficPolicy", name, spec={"targetRefs": [target], **spec})


def test_envoy_gateways_policies() -> None:
    whole = policy("whole", {"clientIPDetection": {"xForwardedFor": {"numTrustedHops": 2}}})
    one = policy("one", {"proxyProtocol": {"optional": True}}, "https")
    cluster = Cluster([*gateway("eg"), *proxy("front", ENVOY, "envoy-gateway-system"), whole, one])
    found = told(cluster)
    assert (found.kind, [(each.port, each.tls) for each in found.listeners]) == (
        Kind.ENVOY,
        [(10080, False), (10443, True)],
    )
    first, last = found.listeners
    assert first.trust == EnvoyTrust(detection=(EnvoyXff(trusted_hops=1, skip_append=False),))
    assert last.trust == EnvoyTrust(use_remote_address=True, proxy_protocol=True, proxy_optional=True)
    assert last.proxy_protocol is None
    assert found.file == "ClientTrafficPolicy default/whole, ClientTrafficPolicy default/one"


def test_the_same_when_the_service_itself_is_asked_for() -> None:
    whole = policy("whole", {"enableProxyProtocol": True})
    cluster = Cluster([*gateway("eg"), *proxy("front", ENVOY, "envoy-gateway-system"), whole])
    found = told(cluster, "svc/front", "envoy-gateway-system")
    assert [each.proxy_protocol for each in found.listeners] == [True, True]


def test_envoy_gateways_policies_that_are_not_there_are_told() -> None:
    found = Cluster([*gateway("eg"), *proxy("front", ENVOY, "envoy-gateway-system")]).gather("gateway/edge")
    assert not found.ingress.ingresses
    assert any("no clienttrafficpolicies" in remark for remark in found.remarks)


def test_istios_topology_of_the_pod_and_of_the_mesh() -> None:
    labels = {"gateway.networking.k8s.io/gateway-name": "edge"}
    mesh = configmap(
        "istio",
        {"mesh": "defaultConfig:\n  gatewayTopology:\n    numTrustedProxies: 2\n    proxyProtocol: {}\n"},
        "istio-system",
    )
    found = told(Cluster([*gateway("istio"), *proxy("front", labels), mesh]))
    assert found.file == "ConfigMap istio-system/istio"
    assert found.listeners[0].trust == EnvoyTrust(
        use_remote_address=True, trusted_hops=2, proxy_protocol=True
    )
    own = {"proxy.istio.io/config": json.dumps({"gatewayTopology": {"numTrustedProxies": 1}})}
    found = told(Cluster([*gateway("istio"), *proxy("front", labels, annotations=own), mesh]))
    assert found.listeners[0].trust == EnvoyTrust(use_remote_address=True, trusted_hops=1)


def test_nginx_gateway_fabrics_parameters() -> None:
    reference = {"parametersRef": {"group": "gateway.nginx.org", "kind": "NginxProxy", "name": "told"}}
    trusted = [{"type": "CIDR", "value": "10.0.0.0/8"}]
    rewrite = {"mode": "ProxyProtocol", "trustedAddresses": trusted, "setIPRecursively": True}
    parameters = obj("NginxProxy", "told", spec={"rewriteClientIP": rewrite})
    front = proxy("front", {"gateway.networking.k8s.io/gateway-name": "edge"})
    found = told(Cluster([*gateway("nginx", infrastructure=reference), *front, parameters]))
    trust = found.listeners[0].trust
    assert isinstance(trust, NginxRealIp)
    assert (trust.trusted, trust.header, trust.recursive) == (("10.0.0.0/8",), "proxy_protocol", True)
    assert found.listeners[0].proxy_protocol is True


def test_contours_file_and_flags() -> None:
    labels = {"app.kubernetes.io/name": "contour", "app.kubernetes.io/component": "envoy"}
    server = pod(
        "contour-1",
        "10.244.1.30",
        "contour",
        "projectcontour",
        container={
            "image": "ghcr.io/projectcontour/contour:v1.30",
            "command": ["contour"],
            "args": ["serve", "--incluster", "--use-proxy-protocol"],
        },
    )
    file = configmap("contour", {"contour.yaml": "network:\n  num-trusted-hops: 1\n"}, "projectcontour")
    found = told(
        Cluster([node(), *proxy("envoy", labels, "projectcontour"), server, file]),
        "svc/envoy",
        "projectcontour",
    )
    assert found.listeners[0].trust == EnvoyTrust(
        use_remote_address=True, trusted_hops=1, proxy_protocol=True
    )
    assert found.file == "ConfigMap projectcontour/contour and arguments of contour"


def test_routes_of_other_gateways_do_not_count() -> None:
    parts = gateway("istio")
    parts[3]["spec"]["parentRefs"][0]["name"] = "another"
    found = Cluster([*parts, *proxy("front", {"gateway.networking.k8s.io/gateway-name": "edge"})]).gather(
        "gateway/edge"
    )
    assert 8080 not in found.ports
    assert found.ingress.application is None
