"""The six classic mistakes, each one change to the seed's manifests, and the finding that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.checks.manifests import APP, CONFIG, CONTROLLER, DEPLOYMENT, WEB, Manifests


class Mistake(NamedTuple):
    """What is changed, and what has to be found; `rest` are findings that come with it."""

    name: str
    change: Callable[[Manifests], Manifests]
    code: str
    rest: frozenset[str] = frozenset()


def _policy(seed: Manifests) -> Manifests:
    return seed.drop(CONTROLLER, "spec.externalTrafficPolicy").set(WEB, "spec.externalTrafficPolicy", "Local")


def _check_port(seed: Manifests) -> Manifests:
    seed.annotate("load-balancer.hetzner.cloud/health-check-protocol", "http")
    return seed.annotate("load-balancer.hetzner.cloud/health-check-port", "10256")


MISTAKES = (
    Mistake("policy-on-the-wrong-service", _policy, "SIP701", frozenset({"SIP704"})),
    Mistake("checks-not-on-the-health-node-port", _check_port, "SIP713"),
    Mistake(
        "pods-not-spread",
        lambda seed: seed.drop(DEPLOYMENT, "spec.template.spec.topologySpreadConstraints"),
        "SIP722",
    ),
    Mistake(
        "wrong-real-ip-cidr",
        lambda seed: seed.set(CONFIG, "data.proxy-real-ip-cidr", "192.168.0.0/16"),
        "SIP741",
    ),
    Mistake(
        "proxy-mismatch",
        lambda seed: seed.annotate("load-balancer.hetzner.cloud/uses-proxyprotocol", "true"),
        "SIP731",
    ),
    Mistake(
        "application-does-not-trust-the-ingress",
        lambda seed: seed.set(APP, "spec.template.spec.containers.0.args", ["--host=0.0.0.0"]),
        "SIP751",
    ),
)
