"""From an Ingress to the Service of its controller, and what that controller is told of its clients."""

from __future__ import annotations

import msgspec
import pytest

from analysis.ingress import Ingress, IngressRecord, Kind, Listener, LogEntry
from analysis.trust.model import HaproxyRule, HaproxyTrust, IngressNginx, NginxRealIp, TraefikTrust
from probe.cluster.lister import Json
from probe.errors import UnavailableError
from probe.ingress.settle import settled
from tests.cluster_facts.cluster import INTERNAL, Cluster, app, configmap, node, obj, pod, service, slice_of

NGINX = {"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"}
PORTS = [
    {"name": "http", "port": 80, "nodePort": 30080, "targetPort": "http"},
    {"name": "https", "port": 443, "nodePort": 30443, "targetPort": "https"},
]


def ingress(name: str = "shop", backend: str = "api", **rest: object) -> Json:
    paths = [
        {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": backend, "port": {"number": 80}}}}
    ]
    spec: Json = {
        "ingressClassName": "nginx",
        "rules": [{"host": "shop.example.test", "http": {"paths": paths}}],
    }
    spec |= rest.pop("spec", {})  # type: ignore[operator]  # a table, as objects are
    addresses = rest.pop("addresses", [])
    return obj("Ingress", name, spec=spec, status={"loadBalancer": {"ingress": addresses}}, **rest)


def ingress_class(name: str = "nginx", controller: str = "k8s.io/ingress-nginx", **rest: object) -> Json:
    return obj("IngressClass", name, None, spec={"controller": controller}, **rest)


def proxy(
    name: str,
    labels: dict[str, str],
    container: Json,
    address: str = "203.0.113.9",
    ports: tuple[int, int] = (80, 443),
) -> list[Json]:
    """A controller in a namespace of its own name: Service, slice, and a pod."""
    front = service(
        name,
        name,
        name,
        ports=PORTS,
        spec={"type": "LoadBalancer"},
        balancers=[{"ip": address}],
        labels=labels,
    )
    listed = slice_of(name, [(f"{name}-1", "10.244.1.9")], name, [("http", ports[0]), ("https", ports[1])])
    return [front, listed, pod(f"{name}-1", "10.244.1.9", name, name, labels=labels, container=container)]


def nginx(
    *arguments: str, image: str = "registry.k8s.io/ingress-nginx/controller:v1.11.3@sha256:ab"
) -> list[Json]:
    words = ["/nginx-ingress-controller", "--configmap=$(POD_NAMESPACE)/ingress-nginx-controller", *arguments]
    container = {
        "image": image,
        "args": words,
        "env": [{"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {}}}],
    }
    return proxy("ingress-nginx", NGINX, container)


def settings(cluster: Cluster, asked: str, namespace: str = "default") -> Ingress:
    found = cluster.gather(asked, namespace).ingress
    # It is kept in a session's folder, and has to come back as it was.
    assert msgspec.json.decode(msgspec.json.encode(found), type=IngressRecord) == found
    (only,) = found.ingresses
    return only


# ── which Service ────────────────────────────────────────────────────────────────────────────────────────


def test_an_ingress_leads_to_its_controllers_service_by_the_address() -> None:
    backend = app("api", "10.244.1.20", spec=INTERNAL)
    cluster = Cluster(
        [node(), *nginx(), ingress_class(), ingress(addresses=[{"ip": "203.0.113.9"}]), *backend]
    )
    found = cluster.gather("ingress/shop")
    assert found.service.key == "ingress-nginx/ingress-nginx"
    assert found.way == "ingress/shop: the address in its status"
    # The servers behind it are watched too.
    assert {80, 443, 30080, 30443, 8080} <= set(found.ports)
    assert {"Ingress", "IngressClass"} <= {item["kind"] for item in found.objects["items"]}


def test_labels_settle_it_where_the_status_names_nodes() -> None:
    shown = [{"ip": "192.0.2.11"}]
    cluster = Cluster(
        [node(), *nginx(), ingress_class(), ingress(addresses=shown), *app("api", "10.244.1.20")]
    )
    found = cluster.gather("ingress/shop")
    assert (found.service.key, "labels" in found.way) == ("ingress-nginx/ingress-nginx", True)


def test_the_default_class_and_the_old_annotation() -> None:
    default = {"ingressclass.kubernetes.io/is-default-class": "true"}
    bare = ingress(spec={"ingressClassName": None})
    cluster = Cluster(
        [node(), *nginx(), ingress_class(annotations=default), bare, *app("api", "10.244.1.20")]
    )
    assert cluster.gather("ingress/shop").service.name == "ingress-nginx"
    old = ingress(spec={"ingressClassName": None}, annotations={"kubernetes.io/ingress.class": "nginx"})
    cluster = Cluster([node(), *nginx(), old, *app("api", "10.244.1.20")])
    assert cluster.gather("ingress/shop").service.name == "ingress-nginx"


def test_two_controllers_that_fit_are_named_and_not_chosen_from() -> None:
    other = proxy("internal", NGINX, {}, "203.0.113.10")
    cluster = Cluster([node(), *nginx(), *other, ingress_class(), ingress(), *app("api", "10.244.1.20")])
    with pytest.raises(
        UnavailableError,
        match=r"several Services may lead .* svc/ingress-nginx -n ingress-nginx, svc/internal",
    ):
        cluster.gather("ingress/shop")


@pytest.mark.parametrize("controller", ["ingress.k8s.aws/alb", "k8s.io/ingress-gce"])
def test_a_clouds_own_balancer_is_outside(controller: str) -> None:
    cluster = Cluster([node(), ingress_class("nginx", controller), ingress(), *app("api", "10.244.1.20")])
    with pytest.raises(UnavailableError, match=r"outside the cluster .* as svc/api"):
        cluster.gather("ingress/shop")


def test_an_unknown_controller_is_asked_for() -> None:
    cluster = Cluster(
        [node(), ingress_class("nginx", "example.test/mine"), ingress(), *app("api", "10.244.1.20")]
    )
    with pytest.raises(
        UnavailableError, match=r"controller example.test/mine.*give that Service as svc/NAME"
    ):
        cluster.gather("ingress/shop")


def test_ciliums_own_service_for_an_ingress() -> None:
    own = service("cilium-ingress-shop", "x", spec={"selector": None, "type": "LoadBalancer"})
    dummy = slice_of("cilium-ingress-shop", [("", "192.192.192.192")], ports=[("http", 9999)])
    objects = [node(), own, dummy, ingress_class("nginx", "cilium.io/ingress-controller"), ingress()]
    cluster = Cluster(
        [
            *objects,
            configmap("cilium-config", {"enable-ingress-proxy-protocol": "true"}),
            *app("api", "10.244.1.20"),
        ]
    )
    found = cluster.gather("ingress/shop")
    assert found.service.name == "cilium-ingress-shop"
    assert any("enable-ingress-proxy-protocol true" in remark for remark in found.remarks)


# ── what it is told ──────────────────────────────────────────────────────────────────────────────────────


def test_ingress_nginx_by_its_configmap() -> None:
    told = {"use-proxy-protocol": "true", "proxy-real-ip-cidr": "10.0.0.0/8", "use-forwarded-headers": "true"}
    cluster = Cluster([node(), *nginx(), configmap("ingress-nginx-controller", told, "ingress-nginx")])
    found = settings(cluster, "svc/ingress-nginx", "ingress-nginx")
    assert (found.kind, found.file) == (
        Kind.INGRESS_NGINX,
        "ConfigMap ingress-nginx/ingress-nginx-controller",
    )
    assert [(each.port, each.tls, each.proxy_protocol) for each in found.listeners] == [
        (80, False, True),
        (443, True, True),
    ]
    assert found.listeners[0].trust == IngressNginx(
        use_proxy_protocol=True,
        use_forwarded_headers=True,
        proxy_real_ip_cidr=("10.0.0.0/8",),
        header_wins=False,  # the controller is 1.11
    )


def test_ingress_nginx_without_its_configmap_has_its_defaults() -> None:
    cluster = Cluster([node(), *nginx()])
    found = settings(cluster, "svc/ingress-nginx", "ingress-nginx")
    assert found.file == "defaults of ingress-nginx"
    assert any(
        "there is no ConfigMap" in remark
        for remark in cluster.gather("svc/ingress-nginx", "ingress-nginx").remarks
    )


def test_a_configmap_that_may_not_be_read_is_not_taken_for_defaults() -> None:
    cluster = Cluster([node(), *nginx()], [("configmaps", "ingress-nginx")])
    found = cluster.gather("svc/ingress-nginx", "ingress-nginx")
    assert not found.ingress.ingresses
    assert any("you may not list configmaps in namespace ingress-nginx" in remark for remark in found.remarks)


def test_a_list_that_the_product_would_refuse_is_told() -> None:
    bad = configmap("ingress-nginx-controller", {"use-proxy-protocol": "perhaps\x1b[2J"}, "ingress-nginx")
    found = Cluster([node(), *nginx(), bad]).gather("svc/ingress-nginx", "ingress-nginx")
    assert not found.ingress.ingresses
    assert any("cannot be used" in remark and remark.isprintable() for remark in found.remarks)


def test_traefik_by_its_arguments() -> None:
    arguments = [
        "--entrypoints.web.address=:8000/tcp",
        "--entryPoints.websecure.address=:8443/tcp",
        "--entryPoints.websecure.proxyProtocol.trustedIPs=10.0.0.0/8,192.0.2.1",
        "--entryPoints.websecure.forwardedHeaders.insecure",
        "--entrypoints.websecure.http.tls=true",
        "--entrypoints.metrics.address=:9100/tcp",
    ]
    parts = proxy("traefik", {"app.kubernetes.io/name": "traefik"}, {"args": arguments}, ports=(8000, 8443))
    found = settings(Cluster([node(), *parts]), "svc/traefik", "traefik")
    assert found.kind is Kind.TRAEFIK
    assert [(each.name, each.port, each.tls, each.proxy_protocol) for each in found.listeners] == [
        ("web", 8000, False, False),
        ("websecure", 8443, True, None),
    ]
    assert found.listeners[1].trust == TraefikTrust(
        proxy=True, proxy_trusted=("10.0.0.0/8", "192.0.2.1"), forwarded_insecure=True
    )


def test_a_port_of_traefik_that_is_none_is_no_listener() -> None:
    arguments = [
        f"--entrypoints.odd{number}.address=:{odd}" for number, odd in enumerate(["²", "9" * 5000, "0", ""])
    ]
    arguments.append("--entrypoints.web.address=:8000")
    parts = proxy("traefik", {"app.kubernetes.io/name": "traefik"}, {"args": arguments}, ports=(8000, 8443))
    found = settings(Cluster([node(), *parts]), "svc/traefik", "traefik")
    assert [each.port for each in found.listeners] == [8000]


def test_traefik_by_its_environment_and_by_a_file() -> None:
    env = [
        {"name": "TRAEFIK_ENTRYPOINTS_WEB_ADDRESS", "value": ":8000"},
        {"name": "TRAEFIK_ENTRYPOINTS_WEB_FORWARDEDHEADERS_TRUSTEDIPS", "value": "10.0.0.0/8"},
    ]
    labels = {"app.kubernetes.io/name": "traefik"}
    found = settings(
        Cluster([node(), *proxy("traefik", labels, {"env": env}, ports=(8000, 8443))]),
        "svc/traefik",
        "traefik",
    )
    assert found.listeners[0].trust == TraefikTrust(forwarded_trusted=("10.0.0.0/8",))
    by_file = Cluster([node(), *proxy("traefik", labels, {"args": ["--configFile=/etc/traefik.yml"]})])
    gathered = by_file.gather("svc/traefik", "traefik")
    assert not gathered.ingress.ingresses
    assert any("--configfile" in remark for remark in gathered.remarks)


def test_logs_can_be_held_against_every_kind_of_proxy() -> None:
    kinds = [Ingress(kind, (Listener(port=80),)) for kind in Kind]
    entry = LogEntry(kind=Kind.NGINX, peer="192.0.2.1", local=":80")
    assert [each.peer for each in settled([entry], kinds)] == ["192.0.2.1"]


def test_haproxys_two_controllers() -> None:
    tech = proxy(
        "haproxy",
        {"app.kubernetes.io/name": "kubernetes-ingress"},
        {"args": ["--configmap=haproxy/told"]},
        ports=(8080, 8443),
    )
    told = configmap(
        "told", {"proxy-protocol": "10.0.0.0/8, 192.0.2.0/24", "src-ip-header": "True-Client-IP"}, "haproxy"
    )
    found = settings(Cluster([node(), *tech, told]), "svc/haproxy", "haproxy")
    assert found.listeners[0].proxy_protocol is None
    assert found.listeners[0].trust == HaproxyTrust(
        expect_proxy_from=("10.0.0.0/8", "192.0.2.0/24"),
        forward_for=True,
        rules=(HaproxyRule("set-src", "True-Client-IP"),),
    )
    other = proxy(
        "haproxy", {"app.kubernetes.io/name": "haproxy-ingress"}, {"args": ["--configmap=haproxy/told"]}
    )
    told = configmap("told", {"use-proxy-protocol": "true", "forwardfor": "ifmissing"}, "haproxy")
    found = settings(Cluster([node(), *other, told]), "svc/haproxy", "haproxy")
    assert (found.listeners[0].port, found.listeners[0].proxy_protocol) == (80, True)
    assert found.listeners[0].trust == HaproxyTrust(
        accept_proxy=True, forward_for=True, forward_for_if_none=True
    )


def test_nginx_incs_controller() -> None:
    container = {
        "args": ["-nginx-configmaps=$(POD_NAMESPACE)/nginx-config"],
        "image": "docker.io/nginx/nginx-ingress:4.0",
    }
    told = {"proxy-protocol": "True", "real-ip-header": "proxy_protocol", "set-real-ip-from": "10.0.0.0/8"}
    parts = proxy("nginx-ingress", {}, container)
    cluster = Cluster([node(), *parts, configmap("nginx-config", told, "nginx-ingress")])
    found = settings(cluster, "svc/nginx-ingress", "nginx-ingress")
    trust = found.listeners[0].trust
    assert isinstance(trust, NginxRealIp)
    assert (trust.trusted, trust.header, trust.proxy_protocol) == (("10.0.0.0/8",), "proxy_protocol", True)


# ── the application ──────────────────────────────────────────────────────────────────────────────────────


def application(*containers: Json) -> Cluster:
    parts = app("api", "10.244.1.20", spec=INTERNAL, container=containers[0])
    for number, container in enumerate(containers[1:], 2):
        entry = {
            "addresses": [f"10.244.1.{20 + number}"],
            "targetRef": {"kind": "Pod", "name": f"api-{number}"},
        }
        parts[1]["endpoints"].append(entry)
        parts.append(pod(f"api-{number}", f"10.244.1.{20 + number}", "api", container=container))
    return Cluster([node(), *nginx(), ingress_class(), ingress(addresses=[{"ip": "203.0.113.9"}]), *parts])


def test_the_application_behind_the_route() -> None:
    words = [
        "uvicorn",
        "main:app",
        "--host",
        "0.0.0.0",
        "--proxy-headers",
        "--forwarded-allow-ips",
        "10.244.0.0/16",
    ]
    found = application({"command": words}).gather("ingress/shop").ingress.application
    assert found is not None
    assert found.uvicorn is not None
    assert found.uvicorn.allow == "10.244.0.0/16"
    assert found.command == "uvicorn --proxy-headers --forwarded-allow-ips 10.244.0.0/16"


def test_the_environment_counts_and_passwords_are_not_kept() -> None:
    container = {
        "command": ["sh", "-c", "exec gunicorn -k uvicorn.workers.UvicornWorker --certfile s3cret main:app"],
        "env": [{"name": "FORWARDED_ALLOW_IPS", "value": "*"}, {"name": "PASSWORD", "value": "s3cret"}],
    }
    found = application(container).gather("ingress/shop").ingress.application
    assert found is not None
    assert found.gunicorn is not None
    assert (found.gunicorn.worker, found.gunicorn.allow) == ("uvicorn", "*")
    assert "s3cret" not in found.command


@pytest.mark.parametrize(
    ("container", "why"),
    [
        ({}, "stands in its image"),
        ({"args": ["--port", "80"]}, "stands in its image"),
        ({"command": ["node", "server.js"]}, "neither uvicorn nor gunicorn but node"),
        ({"command": ["sh", "-c", "migrate && uvicorn main:app"]}, "a shell's script"),
        ({"command": ["uvicorn", "main:app", "--forwarded-allow-ips", "$(TRUSTED)"]}, "variables"),
        (
            {
                "command": ["uvicorn", "main:app"],
                "env": [{"name": "FORWARDED_ALLOW_IPS", "valueFrom": {"x": {}}}],
            },
            "FORWARDED_ALLOW_IPS comes from elsewhere",
        ),
        ({"command": ["uvicorn", "main:app"], "envFrom": [{"configMapRef": {"name": "x"}}]}, "envFrom"),
        ({"command": ["gunicorn", "-c", "conf.py", "main:app"]}, "configuration file"),
    ],
)
def test_an_application_that_is_not_known_is_told(container: Json, why: str) -> None:
    found = application(container).gather("ingress/shop")
    assert found.ingress.application is None
    assert any(why in remark and "--app-server" in remark for remark in found.remarks)


def test_applications_that_differ_are_none() -> None:
    first, second = (
        {"command": ["uvicorn", "m:a", f"--forwarded-allow-ips={each}"]} for each in ("*", "10.0.0.1")
    )
    found = application(first, second).gather("ingress/shop")
    assert found.ingress.application is None
    assert any("not told the same" in remark for remark in found.remarks)


def test_a_service_that_is_the_application_itself() -> None:
    words = ["python", "-m", "uvicorn", "main:app", "--no-proxy-headers"]
    found = Cluster([node(), *app("web", "10.244.1.5", container={"command": words})]).gather("svc/web")
    assert found.ingress.application is not None
    assert found.ingress.application.uvicorn is not None
    assert not found.ingress.application.uvicorn.proxy_headers
