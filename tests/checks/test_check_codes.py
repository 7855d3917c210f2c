"""Every code of the checks: one change that leads to it, and one nearby that must not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from analysis.checks.catalogue import BY_CODE
from tests.checks.manifests import APP, CONFIG, CONTROLLER, DEPLOYMENT, WEB, Manifests, seed
from tests.checks.mistakes import MISTAKES

Change = Callable[[Manifests], object]

AWS = "service.beta.kubernetes.io/aws-load-balancer-"
HETZNER = "load-balancer.hetzner.cloud/"
POD = "spec.template.spec"
CONTAINER = f"{POD}.containers.0"
PDB = "PodDisruptionBudget/ingress-nginx-controller"


class Pair(NamedTuple):
    """What leads to a finding, and what is near it and does not; `given` is what the command line knows."""

    wrong: Change
    right: Change
    given: Mapping[str, Any] = MappingProxyType({})


def controller(path: str, value: Any) -> Change:
    return lambda them: them.set(CONTROLLER, path, value)


def config(**data: str) -> Change:
    def change(them: Manifests) -> None:
        for key, value in data.items():
            them.set(CONFIG, f"data.{key.replace('_', '-')}", value)

    return change


def deployment(path: str, value: Any) -> Change:
    return lambda them: them.set(DEPLOYMENT, path, value)


def app(*arguments: str) -> Change:
    return lambda them: them.set(APP, f"{CONTAINER}.args", list(arguments))


def command(*words: str) -> Change:
    return lambda them: them.set(APP, f"{CONTAINER}.command", list(words))


def note(**values: str) -> Change:
    """Annotations, by names whose `__` is the prefix's slash and `_` a dash."""

    def change(them: Manifests) -> None:
        for key, value in values.items():
            maker, _, name = key.partition("__")
            them.annotate({"aws": AWS, "hetzner": HETZNER}[maker] + name.replace("_", "-"), value)

    return change


def both(*changes: Change) -> Change:
    def change(them: Manifests) -> None:
        for each in changes:
            each(them)

    return change


def nodes(count: int, zones: int = 1) -> Change:
    """Other nodes than the seed's."""

    def change(them: Manifests) -> None:
        them.items = [item for item in them.items if item["kind"] != "Node"]
        for at in range(count):
            labels = {"kubernetes.io/hostname": f"n{at}", "kubernetes.io/os": "linux",
                      "topology.kubernetes.io/zone": f"zone{at % zones}"}  # fmt: skip
            them.add({"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"n{at}", "labels": labels}})

    return change


def cilium(**data: str) -> Change:
    return lambda them: them.add(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cilium-config", "namespace": "kube-system"},
         "data": {"kube-proxy-replacement": "true", **{key.replace("_", "-"): value for key, value in data.items()}}}
    )  # fmt: skip


def namespace(**labels: str) -> Change:
    return lambda them: them.set("Namespace/ingress-nginx", "metadata|labels", {
        f"elbv2.k8s.aws/{key.replace('_', '-')}": value for key, value in labels.items()})  # fmt: skip


def nothing(_: Manifests) -> None:
    """The seed as it is."""


def single(them: Manifests) -> None:
    them.set(DEPLOYMENT, "spec.replicas", 1)


METALLB = "metallb.io/address-pool"
ADDRESS = {"ingress": [{"ip": "203.0.113.10"}]}
IP_TARGETS = note(aws__nlb_target_type="ip", aws__target_group_attributes="preserve_client_ip.enabled=true")
GATE = namespace(pod_readiness_gate_inject="enabled")
TRUSTS = "--forwarded-allow-ips=10.244.0.0/16"
SPREAD = f"{POD}.topologySpreadConstraints.0"
GUNICORN = ("gunicorn", "app.main:app")

PAIRS: dict[str, Pair] = {
    "SIP702": Pair(controller("spec.externalTrafficPolicy", "Cluster"), nothing),
    "SIP703": Pair(lambda them: them.set(WEB, "spec.type", "NodePort"), nothing),
    "SIP704": Pair(lambda them: them.set(WEB, "spec.externalTrafficPolicy", "Cluster"), nothing),
    "SIP705": Pair(
        lambda them: them.set(WEB, "spec.internalTrafficPolicy", "Local"),
        lambda them: them.set(WEB, "spec.internalTrafficPolicy", "Cluster"),
    ),
    "SIP706": Pair(
        lambda them: them.set(CONTROLLER, "spec.type", "ClusterIP").drop(
            CONTROLLER, "spec.externalTrafficPolicy"
        ),
        lambda them: (
            them.set(CONTROLLER, "spec.type", "ClusterIP")
            .drop(CONTROLLER, "spec.externalTrafficPolicy")
            .set(DEPLOYMENT, f"{POD}.hostNetwork", True)
        ),
    ),
    "SIP711": Pair(nothing, controller("spec.healthCheckNodePort", 32100), {"live": True}),
    "SIP712": Pair(controller("spec.type", "NodePort"), nothing),
    "SIP713": Pair(
        note(hetzner__health_check_port="10256", hetzner__health_check_protocol="http"),
        both(
            note(hetzner__health_check_port="32100", hetzner__health_check_protocol="http"),
            controller("spec.healthCheckNodePort", 32100),
        ),
    ),
    "SIP714": Pair(
        note(aws__healthcheck_port="traffic-port", aws__healthcheck_protocol="TCP"),
        note(aws__healthcheck_interval="10"),
    ),
    "SIP715": Pair(
        lambda them: them.annotate("loadbalancer.openstack.org/enable-health-monitor", "false"),
        lambda them: them.annotate("loadbalancer.openstack.org/enable-health-monitor", "true"),
    ),
    "SIP721": Pair(single, deployment("spec.replicas", 2)),
    "SIP723": Pair(
        deployment(f"{POD}.nodeSelector", {"kubernetes.io/hostname": "node1"}),
        deployment(f"{POD}.nodeSelector", {"kubernetes.io/os": "linux"}),
    ),
    "SIP724": Pair(nodes(3, zones=3), nodes(3, zones=1)),
    "SIP725": Pair(deployment("spec.replicas", 4), deployment("spec.replicas", 6)),
    "SIP726": Pair(lambda them: them.drop(PDB), nothing),
    "SIP727": Pair(
        lambda them: them.set(PDB, "spec.minAvailable", 3),
        lambda them: them.set(PDB, "spec.minAvailable", "50%"),
    ),
    "SIP728": Pair(
        both(
            deployment("spec.replicas", 4),
            lambda them: them.set(
                DEPLOYMENT,
                f"{POD}.affinity",
                {
                    "podAntiAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": [
                            {
                                "topologyKey": "kubernetes.io/hostname",
                                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "ingress-nginx"}},
                            }
                        ]
                    }
                },
            ),
        ),
        deployment("spec.replicas", 4),
    ),
    "SIP732": Pair(
        both(config(use_proxy_protocol="true"), lambda them: them.annotate(METALLB, "public")),
        both(config(use_proxy_protocol="true"), note(hetzner__uses_proxyprotocol="true")),
    ),
    "SIP733": Pair(
        note(aws__proxy_protocol="true"),
        both(config(use_proxy_protocol="true"), note(aws__proxy_protocol="*")),
    ),
    "SIP734": Pair(
        both(
            config(use_proxy_protocol="true"),
            note(hetzner__uses_proxyprotocol="true"),
            controller("status.loadBalancer", ADDRESS),
        ),
        both(
            config(use_proxy_protocol="true"),
            note(hetzner__uses_proxyprotocol="true"),
            controller("status.loadBalancer", {"ingress": [{"ip": "203.0.113.10", "ipMode": "Proxy"}]}),
        ),
    ),
    "SIP736": Pair(both(note(aws__nlb_target_type="ip"), GATE), both(IP_TARGETS, GATE)),
    "SIP742": Pair(config(proxy_real_ip_cidr="0.0.0.0/0"), nothing),
    "SIP743": Pair(config(proxy_real_ip_cidr="10.0.0.0/33"), nothing),
    "SIP744": Pair(
        both(config(use_forwarded_headers="false"), note(hetzner__protocol="http")),
        note(hetzner__protocol="http"),
    ),
    "SIP745": Pair(
        both(config(proxy_real_ip_cidr="0.0.0.0/0"), lambda them: them.annotate(METALLB, "public")),
        both(config(use_forwarded_headers="false"), lambda them: them.annotate(METALLB, "public")),
        {"balancers": ()},
    ),
    "SIP752": Pair(app("--forwarded-allow-ips='10.244.0.0/16'"), app(TRUSTS)),
    "SIP753": Pair(app("--forwarded-allow-ips=*"), app(TRUSTS)),
    "SIP754": Pair(app("--no-proxy-headers", TRUSTS), app("--proxy-headers", TRUSTS)),
    "SIP755": Pair(
        both(command(*GUNICORN), app(TRUSTS)),
        both(command(*GUNICORN), app("-k", "uvicorn.workers.UvicornWorker", TRUSTS)),
    ),
    "SIP756": Pair(
        both(app("--forwarded-allow-ips=*"), lambda them: them.set(WEB, "spec.type", "LoadBalancer")),
        app("--forwarded-allow-ips=*"),
    ),
    "SIP761": Pair(cilium(bpf_lb_mode="dsr"), cilium(bpf_lb_mode="snat")),
    "SIP771": Pair(nothing, nothing, {"balancer_lag": 90.0}),
    "SIP772": Pair(
        deployment(f"{CONTAINER}.lifecycle.preStop", {"sleep": {"seconds": 300}}),
        deployment(f"{CONTAINER}.lifecycle.preStop", {"sleep": {"seconds": 60}}),
    ),
    "SIP773": Pair(lambda them: them.drop(DEPLOYMENT, f"{CONTAINER}.readinessProbe"), nothing),
    "SIP774": Pair(both(IP_TARGETS, namespace()), both(IP_TARGETS, GATE)),
    "SIP781": Pair(
        controller("spec.loadBalancerSourceRanges", ["203.0.113.0/33"]),
        controller("spec.loadBalancerSourceRanges", ["203.0.113.0/24"]),
    ),
    "SIP782": Pair(
        both(
            controller("spec.loadBalancerSourceRanges", ["203.0.113.0/24"]),
            controller("spec.type", "NodePort"),
        ),
        controller("spec.type", "NodePort"),
    ),
    "SIP783": Pair(
        both(
            config(use_proxy_protocol="true"),
            note(hetzner__uses_proxyprotocol="true"),
            controller("spec.sessionAffinity", "ClientIP"),
        ),
        controller("spec.sessionAffinity", "ClientIP"),
    ),
}


def test_every_code_of_the_checks_has_its_pair() -> None:
    assert set(PAIRS) | {mistake.code for mistake in MISTAKES} == set(BY_CODE)


def changed(change: Change) -> Manifests:
    them = seed()
    change(them)
    return them


@pytest.mark.parametrize("code", sorted(PAIRS))
def test_the_change_leads_to_the_finding(code: str) -> None:
    pair = PAIRS[code]
    assert code in changed(pair.wrong).codes(**pair.given)


@pytest.mark.parametrize("code", sorted(PAIRS))
def test_what_is_near_does_not(code: str) -> None:
    pair = PAIRS[code]
    given = {} if code == "SIP771" else pair.given  # what is near is a balancer that notices sooner
    assert code not in changed(pair.right).codes(**given)
