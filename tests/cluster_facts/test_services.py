"""A Service, and everything that the cluster says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.facts import HostPort, Policy
from probe.errors import ExitCode, UnavailableError
from probe.objects import facts_from_objects
from tests.cluster_facts.cluster import (
    INTERNAL,
    Cluster,
    app,
    configmap,
    kube_proxy,
    node,
    obj,
    pod,
    service,
    slice_of,
)


def test_a_service_of_a_real_cluster(evidence: Path) -> None:
    document = json.loads((evidence / "kubernetes-1.36-iptables" / "objects.json").read_text())
    found = Cluster(document["items"]).gather("svc/web-local")
    assert found.service.external_policy is Policy.LOCAL
    assert found.service.health_check_node_port
    assert {each.pod for each in found.service.endpoints} == {"web-59bc9b4c99-48ttv", "web-59bc9b4c99-5w97b"}
    assert {80, 30081, 8080, found.service.health_check_node_port} <= set(found.ports)
    assert [each.name for each in found.facts.nodes] == ["node1", "node2", "node3"]
    assert all(each.ready and each.os == "linux" for each in found.facts.nodes)
    # What is kept makes the same facts again, on any machine.
    assert facts_from_objects(json.loads(json.dumps(found.objects))) == found.facts


def test_everything_that_a_service_can_say() -> None:
    web = service(
        "web",
        "web",
        ports=[{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "http", "appProtocol": "http"}],
        spec={
            "type": "LoadBalancer",
            "externalIPs": ["198.51.100.7"],
            "clusterIPs": ["10.96.0.10", "fd00::10"],
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 32001,
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "trafficDistribution": "PreferSameZone",
            "loadBalancerClass": "example.test/lb",
        },
        balancers=[{"ip": "203.0.113.9", "ipMode": "Proxy"}, {"hostname": "lb.example.test"}],
        annotations={
            "service.beta.kubernetes.io/aws-load-balancer-proxy-protocol": "*",
            "example.test/secret": "hush",
        },
    )
    listed = slice_of("web", [("web-1", "10.244.1.5")])
    listed["endpoints"][0] |= {
        "zone": "a",
        "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "node1"}]},
    }
    listed["endpoints"].append(
        {"addresses": ["10.244.1.6"], "conditions": {"ready": False, "serving": True, "terminating": True}}
    )
    found = Cluster([node(), web, listed, pod("web-1", "10.244.1.5", "web")]).gather("svc/web")
    said = found.service
    assert (said.ip_families, said.ip_family_policy) == (("IPv4", "IPv6"), "RequireDualStack")
    assert (said.session_affinity, said.affinity_seconds) == ("ClientIP", 60)
    assert [(each.address, each.hostname, each.ip_mode) for each in said.balancers] == [
        ("203.0.113.9", None, "Proxy"),
        (None, "lb.example.test", "VIP"),
    ]
    assert (said.external_ips, said.load_balancer_class) == (("198.51.100.7",), "example.test/lb")
    assert said.traffic_distribution == "PreferSameZone"
    assert (said.ports[0].target, said.ports[0].app_protocol) == ("http", "http")
    assert list(said.annotations) == ["service.beta.kubernetes.io/aws-load-balancer-proxy-protocol"]
    first, last = said.endpoints
    assert (first.zone, first.zone_hints, first.node_hints) == ("a", ("a",), ("node1",))
    assert (last.ready, last.serving, last.terminating) == (False, True, True)
    assert found.ports == (80, 8080, 30080, 32001)
    assert "hush" not in json.dumps(found.objects)


def test_nodes_that_cannot_be_watched_are_told() -> None:
    nodes = [
        node(
            spec={
                "taints": [
                    {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"},
                    {"key": "x", "effect": "NoExecute"},
                ]
            }
        ),
        node("win1", "192.0.2.21", "10.244.2.0/24", os="windows"),
        node("node3", "192.0.2.13", "10.244.3.0/24", ready="Unknown"),
        node("node4", "192.0.2.14", "10.244.4.0/24", ready="False"),
    ]
    found = Cluster([*nodes, *app("web", "10.244.1.5")]).gather("svc/web")
    assert found.facts.nodes[0].taints == ("dedicated=gpu:NoSchedule", "x:NoExecute")
    assert [each.ready for each in found.facts.nodes] == [True, True, None, False]
    assert "no agent runs on Windows: nothing is seen at win1" in found.remarks
    assert any("not ready" in remark and "node4" in remark for remark in found.remarks)


def test_a_controller_on_host_ports_is_reached_without_its_service() -> None:
    container = {"ports": [{"containerPort": 8080, "hostPort": 80}]}
    found = Cluster([node(), *app("web", "10.244.1.5", spec=INTERNAL, container=container)]).gather("svc/web")
    assert found.facts.pods[0].host_ports == (HostPort(80, 8080),)
    assert {80, 8080} <= set(found.ports)
    assert any("hostPort" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("objects", "asked", "says"),
    [
        (app("web", "10.0.0.1", spec=INTERNAL), "svc/web", "nothing outside the cluster reaches it"),
        (app("web", "10.0.0.1"), "svc/wbe", "did you mean svc/web?"),
        (app("web", "10.0.0.1", namespace="shop"), "svc/web", "give -n shop"),
        ([], "svc/web", "kubectl get svc -A"),
        (
            [obj("Service", "web", spec={"type": "ExternalName", "externalName": "db.example.test"})],
            "svc/web",
            "ExternalName",
        ),
        ([service("web", "web", spec={"selector": None})], "svc/web", "no selector and no EndpointSlice"),
        ([], "ingress/web", "no Ingress web"),
        ([], "gateway/web", "no Gateway API"),
    ],
)
def test_what_is_not_there_or_not_reached(objects: list[dict[str, object]], asked: str, says: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        Cluster(objects).gather(asked)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.ENVIRONMENT


def test_endpoints_that_somebody_else_keeps() -> None:
    web = service("web", "web", spec={"selector": None})
    found = Cluster([node(), web, slice_of("web", [("", "203.0.113.50")])]).gather("svc/web")
    assert any("has no selector" in remark for remark in found.remarks)


def test_labels_choose_the_service_that_is_reached_from_outside() -> None:
    inner, outer = service("webhook", "web", spec=INTERNAL), service("web", "web")
    for each in (inner, outer):
        each["metadata"]["labels"] = {"part": "ingress"}
    cluster = Cluster([node(), inner, outer, slice_of("web", [("web-1", "10.244.1.5")])])
    assert cluster.gather(None, label="part=ingress").service.name == "web"
    inner["spec"]["type"] = "NodePort"
    with pytest.raises(UnavailableError, match="several Services: svc/web, svc/webhook"):
        cluster.gather(None, label="part=ingress")
    with pytest.raises(UnavailableError, match="has the labels"):
        cluster.gather(None, label="part=nothing")


# ── what may not be read ─────────────────────────────────────────────────────────────────────────────────


def test_who_may_see_one_namespace_only_is_told_what_is_hidden() -> None:
    everywhere = [(plural, None) for plural in ("nodes", "pods", "services", "endpointslices")]
    hidden = [*everywhere, ("configmaps", "kube-system"), ("daemonsets", "kube-system")]
    found = Cluster([node(), kube_proxy(), *app("web", "10.244.1.5")], hidden).gather("svc/web")
    assert found.service.endpoints
    told = "\n".join(found.remarks)
    assert "you may not list nodes" in told
    assert "you may not list pods in the whole cluster, only in namespace default" in told
    assert "you may not list configmaps in namespace kube-system" in told
    assert "who forwards Services on the nodes is not known" in told
    assert not found.facts.nodes


def test_slices_that_may_not_be_read_are_not_taken_for_none() -> None:
    hidden = [("endpointslices", None), ("endpointslices", "default")]
    found = Cluster([node(), *app("web", "10.244.1.5")], hidden).gather("svc/web")
    assert not any("no endpoints now" in remark for remark in found.remarks)
    assert any("you may not list endpointslices" in remark for remark in found.remarks)


def test_without_services_there_is_nothing_to_say() -> None:
    with pytest.raises(UnavailableError, match="you may not list services in namespace default"):
        Cluster(app("web", "10.0.0.1"), [("services", None), ("services", "default")]).gather("svc/web")


def test_secrets_are_not_kept() -> None:
    secret = "hunter2"
    objects = [
        node(
            annotations={
                "k3s.io/node-args": json.dumps(
                    ["server", "--token", secret, "--kube-proxy-arg=proxy-mode=ipvs"]
                )
            }
        ),
        *app(
            "web",
            "10.244.1.5",
            container={"env": [{"name": "PASSWORD", "value": secret}], "args": ["--password", secret]},
            annotations={"example.test/password": secret},
        ),
        configmap("kube-proxy", {"kubeconfig.conf": secret, "config.conf": "mode: ipvs"}),
        configmap("other", {"password": secret}),
    ]
    found = Cluster(objects).gather("svc/web")
    assert secret not in json.dumps(found.objects)
    assert secret not in "\n".join(found.remarks)
    assert facts_from_objects(found.objects).proxy_mode == "ipvs"
