"""What a balancer checks: by annotations as its controller reads them, and by what the controller does of itself."""

from __future__ import annotations

import pytest

from analysis.checks.providers import sends_proxy
from analysis.checks.words import BUDGET, POLICY, helm
from tests.checks.manifests import CONTROLLER, seed

AWS = "service.beta.kubernetes.io/aws-load-balancer-"
DO = "service.beta.kubernetes.io/do-loadbalancer-"
HETZNER = "load-balancer.hetzner.cloud/"
SCALEWAY = "service.beta.kubernetes.io/scw-loadbalancer-"
LINODE = "service.beta.kubernetes.io/linode-loadbalancer-"
OPENSTACK = "loadbalancer.openstack.org/"


@pytest.mark.parametrize(
    ("annotations", "status", "code"),
    [
        # aws-load-balancer-controller: the health check node port is the default, and a path changes nothing
        ({f"{AWS}healthcheck-interval": "10"}, "ok", None),
        ({f"{AWS}healthcheck-path": "/ready"}, "ok", None),
        ({f"{AWS}healthcheck-protocol": "HTTP"}, "ok", None),
        ({f"{AWS}healthcheck-protocol": "TCP"}, "finding", "SIP713"),
        ({f"{AWS}healthcheck-protocol": "HTTPS"}, "finding", "SIP713"),
        ({f"{AWS}healthcheck-port": "32100", f"{AWS}healthcheck-path": "/any"}, "ok", None),
        ({f"{AWS}healthcheck-port": "traffic-port"}, "finding", "SIP714"),
        ({f"{AWS}healthcheck-port": "http"}, "finding", "SIP714"),
        ({f"{AWS}healthcheck-port": "10256"}, "finding", "SIP713"),
        # DigitalOcean: annotations count with another one alone
        ({f"{DO}healthcheck-port": "80", f"{DO}healthcheck-path": "/x"}, "not checked", None),
        ({f"{DO}healthcheck-port": "80", f"{DO}override-health-check": "true"}, "finding", "SIP714"),
        ({f"{DO}healthcheck-path": "/x", f"{DO}override-health-check": "true"}, "finding", "SIP714"),
        ({f"{DO}healthcheck-port": "10256", f"{DO}override-health-check": "true"}, "finding", "SIP713"),
        ({f"{DO}healthcheck-check-interval-seconds": "3"}, "ok", None),
        # these open connections to the node port, unless told otherwise; the path alone changes nothing
        ({f"{HETZNER}location": "fsn1"}, "not checked", None),
        ({f"{HETZNER}health-check-interval": "15s"}, "not checked", None),
        ({f"{HETZNER}health-check-protocol": "http"}, "finding", "SIP714"),
        ({f"{HETZNER}health-check-port": "32100"}, "finding", "SIP713"),
        ({f"{HETZNER}health-check-port": "32100", f"{HETZNER}protocol": "http"}, "ok", None),
        ({f"{HETZNER}health-check-port": "32100", f"{HETZNER}health-check-protocol": "tcp"}, "finding", "SIP713"),
        ({f"{LINODE}check-type": "http", f"{LINODE}check-path": "/healthz"}, "finding", "SIP714"),
        ({f"{LINODE}check-type": "none"}, "finding", "SIP715"),
        ({f"{SCALEWAY}health-check-port": "auto", f"{SCALEWAY}health-check-type": "http"}, "ok", None),
        ({f"{SCALEWAY}health-check-port": "auto"}, "finding", "SIP713"),
        ({f"{SCALEWAY}health-check-port": "auto", f"{SCALEWAY}health-check-type": "tcp"}, "finding", "SIP713"),
        ({f"{SCALEWAY}health-check-port": "80:auto;443:31234"}, "not checked", None),
        ({f"{SCALEWAY}health-check-type": "80:http;443:https"}, "not checked", None),
        ({f"{SCALEWAY}health-check-delay": "10s"}, "not checked", None),
        # whether it checks at all is written in the controller's configuration
        ({f"{OPENSTACK}health-monitor-delay": "5"}, "not checked", None),
        ({f"{OPENSTACK}enable-health-monitor": "true"}, "ok", None),
        ({f"{OPENSTACK}enable-health-monitor": "false"}, "finding", "SIP715"),
        # of themselves
        ({"metallb.io/address-pool": "public"}, "ok", None),
        ({"service.beta.kubernetes.io/azure-load-balancer-health-probe-request-path": "/x"}, "ok", None),
        ({"kube-vip.io/loadbalancerIPs": "10.0.0.9"}, "not checked", None),
    ],
)  # fmt: skip
def test_a_check_is_judged_as_its_controller_makes_it(
    annotations: dict[str, str], status: str, code: str | None
) -> None:
    them = seed().set(CONTROLLER, "spec.healthCheckNodePort", 32100)
    for key, value in annotations.items():
        them.annotate(key, value)
    (result,) = [each for each in them.report().results if each.check == "health-check"]
    assert (result.status, result.code) == (status, code), result.detail


def test_a_port_of_linodes_has_its_own_word_about_proxy_headers() -> None:
    own = {f"{LINODE}port-443": '{"protocol": "https", "proxy-protocol": "v2"}'}
    said = sends_proxy({f"{LINODE}default-proxy-protocol": "none", **own})
    assert (said.on, said.ports) == (True, (443,))
    for odd in ('{"protocol": "http"}', "{", "[]", '{"proxy-protocol": 2}', '{"x":' + "[" * 4000):
        assert sends_proxy({f"{LINODE}port-443": odd}).on is None
    assert sends_proxy({f"{LINODE}port-x": own[f"{LINODE}port-443"]}).on is None


def test_a_value_of_a_chart_comes_with_what_turns_it_on() -> None:
    assert helm("Traefik", BUDGET, "1") == (
        "podDisruptionBudget.enabled=true",
        "podDisruptionBudget.minAvailable=1",
    )
    assert helm("ingress-nginx", BUDGET, "1") == ("controller.minAvailable=1",)
    assert helm("Contour", BUDGET, "1") == ()
    assert helm("HAProxy Kubernetes Ingress Controller", POLICY, "Local") == (
        "controller.service.externalTrafficPolicy=Local",
    )
    assert helm("Istio", POLICY, "Local") == ()
