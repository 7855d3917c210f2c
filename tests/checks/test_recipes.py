"""The recipes of docs/recipes.md are right, and each of their lines is needed: without it something is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.checks.result import CheckReport, Status
from analysis.checks.run import run
from probe.checking.documents import read_documents
from probe.checking.files import FileLister
from probe.checking.gathering import Given, gather_case
from probe.cluster.selection import parse

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
CLUSTER = EXAMPLES / "seed" / "cluster.yaml"

#: Recipe → what is checked.
TARGETS = {
    "aws-nlb-ingress-nginx": ("ingress-nginx", "svc/ingress-nginx-controller"),
    "digitalocean-envoy-gateway": ("edge", "gateway/public"),
    "google-traefik": ("traefik", "svc/traefik"),
    "hetzner-traefik": ("traefik", "svc/traefik"),
    "metallb-haproxy": ("haproxy", "svc/haproxy-ingress"),
}

#: What may be said of a recipe beside what is as it should be: Envoy has no list of whose PROXY headers it takes.
ADMITTED = {"digitalocean-envoy-gateway": {"SIP742"}}

#: Recipe, a piece of it, what stands there instead, and what is found then.
MISTAKES = [
    ("aws-nlb-ingress-nginx", 'use-proxy-protocol: "true"', 'use-proxy-protocol: "false"', "SIP731"),
    ("aws-nlb-ingress-nginx", "proxy_protocol_v2.enabled=true", "proxy_protocol_v2.enabled=false", "SIP732"),
    ("aws-nlb-ingress-nginx", "10.0.0.0/16", "192.168.0.0/16", "SIP741"),
    ("digitalocean-envoy-gateway", "enableProxyProtocol: true", "enableProxyProtocol: false", "SIP731"),
    ("digitalocean-envoy-gateway", 'do-loadbalancer-enable-proxy-protocol: "true"',
     'do-loadbalancer-enable-proxy-protocol: "yes"', "SIP733"),
    ("google-traefik", "externalTrafficPolicy: Local", "externalTrafficPolicy: Cluster", "SIP702"),
    ("hetzner-traefik", "proxyProtocol.trustedIPs=10.0.0.0/24", "proxyProtocol.trustedIPs=192.0.2.0/24", "SIP741"),
    ("metallb-haproxy", "externalTrafficPolicy: Local", "externalTrafficPolicy: Cluster", "SIP702"),
    ("metallb-haproxy", '"--forwarded-allow-ips=10.244.0.0/16"', '"--workers=2"', "SIP751"),
]  # fmt: skip


def checked(name: str, folder: Path, old: str = "", new: str = "") -> CheckReport:
    """What the checks say of a recipe with one piece replaced."""
    text = (EXAMPLES / "recipes" / f"{name}.yaml").read_text()
    assert old in text
    (folder / "recipe.yaml").write_text(text.replace(old, new) if old else text)
    namespace, target = TARGETS[name]
    items = read_documents([folder / "recipe.yaml", CLUSTER]).items
    known = Given(balancers=("10.0.0.5/32",), balancer_lag=20.0, live=False)
    case, way, remarks = gather_case(FileLister(items, namespace), parse(target, namespace), known)
    return run(case, way=way, remarks=remarks)


def codes(report: CheckReport) -> set[str]:
    return {each.code for each in report.results if each.code is not None}


def test_every_recipe_is_tried() -> None:
    assert {path.stem for path in (EXAMPLES / "recipes").glob("*.yaml")} == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_a_recipe_has_nothing_wrong(name: str, tmp_path: Path) -> None:
    report = checked(name, tmp_path)
    assert codes(report) == ADMITTED.get(name, set())
    fine = {each.check for each in report.results if each.status is Status.OK}
    assert {"policy", "spread", "application", "drain", "readiness", "disruption"} <= fine


@pytest.mark.parametrize(("name", "old", "new", "code"), MISTAKES)
def test_each_line_is_needed(name: str, old: str, new: str, code: str, tmp_path: Path) -> None:
    assert code in codes(checked(name, tmp_path, old, new))
