"""The six classic mistakes, each one change to the seed: to its manifests, and to its scenario in the lab.

Both have a finding that names them: `check` reads the manifests, `capture` sees the scenario's packets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.checks.manifests import APP, CONFIG, CONTROLLER, DEPLOYMENT, WEB, Manifests


class Mistake(NamedTuple):
    """What is changed, and what has to be found; `rest` are findings of the check that come with it."""

    name: str
    change: Callable[[Manifests], Manifests]
    code: str
    scenario: str
    seen: str
    rest: frozenset[str] = frozenset()


def _policy(seed: Manifests) -> Manifests:
    return seed.drop(CONTROLLER, "spec.externalTrafficPolicy").set(WEB, "spec.externalTrafficPolicy", "Local")


def _check_port(seed: Manifests) -> Manifests:
    seed.annotate("load-balancer.hetzner.cloud/health-check-protocol", "http")
    return seed.annotate("load-balancer.hetzner.cloud/health-check-port", "10256")


MISTAKES = (
    Mistake(
        "policy-on-the-wrong-service",
        _policy,
        "SIP701",
        "seed-policy-misplaced",
        "SIP431",
        frozenset({"SIP704"}),
    ),
    Mistake("checks-not-on-the-health-node-port", _check_port, "SIP713", "seed-wrong-health-check", "SIP604"),
    Mistake(
        "pods-not-spread",
        lambda seed: seed.drop(DEPLOYMENT, "spec.template.spec.topologySpreadConstraints"),
        "SIP722",
        "seed-not-spread",
        "SIP201",
    ),
    Mistake(
        "wrong-real-ip-cidr",
        lambda seed: seed.set(CONFIG, "data.proxy-real-ip-cidr", "192.168.0.0/16"),
        "SIP741",
        "seed-wrong-real-ip",
        "SIP502",
    ),
    Mistake(
        "proxy-mismatch",
        lambda seed: seed.annotate("load-balancer.hetzner.cloud/uses-proxyprotocol", "true"),
        "SIP731",
        "seed-proxy-mismatch",
        "SIP302",
    ),
    Mistake(
        "application-does-not-trust-the-ingress",
        lambda seed: seed.set(APP, "spec.template.spec.containers.0.args", ["--host=0.0.0.0"]),
        "SIP751",
        "seed-app-untrusting",
        "SIP501",
    ),
)
