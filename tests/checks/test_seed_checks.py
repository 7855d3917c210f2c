"""The seed is as it should be; each classic mistake, made alone, is found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.checks.result import Sight
from analysis.report import Verdict
from probe.errors import UnavailableError
from probe.lab import ProxyMode, list_scenarios, load_scenario
from probe.playing.play import play
from tests.checks.manifests import APP, CONFIG, CONTROLLER, DEPLOYMENT, Manifests, codes, open_checks, seed
from tests.checks.mistakes import MISTAKES, Mistake
from tests.cli.helpers import ended, start

#: What no node can be foretold of, so that it is no scenario of the lab's own.
SCENARIOS = Path(__file__).parent / "scenarios"


def test_the_seed_is_well() -> None:
    report = seed().report()
    assert codes(report) == set()
    assert report.exit_code == 0
    assert set(open_checks(report)) == {"health-check"}, "files alone do not say which balancer it is"
    assert report.imbalance == 1.0
    assert [share.node for share in report.shares] == ["node1", "node2", "node3"]


def test_from_the_application_the_way_leads_to_the_controller() -> None:
    report = seed().report("svc/web", "shop")
    assert report.service == "svc/ingress-nginx-controller -n ingress-nginx"
    assert "ingress/web" in report.way


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_classic_mistake_is_found_by_name(mistake: Mistake) -> None:
    assert mistake.change(seed()).codes() == {mistake.code} | mistake.rest


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_command_finds_it_in_files(mistake: Mistake, tmp_path: Path) -> None:
    path = mistake.change(seed()).written(tmp_path)
    ending = ended(
        start("check", "-f", path, "-n", "ingress-nginx", "svc/ingress-nginx-controller", "--balancer", "10.0.0.5",
              "--fail-on", "warning", "-o", "json")
    )  # fmt: skip
    assert ending.code == 3, ending.err
    assert mistake.code in {result["code"] for result in ending.json["results"]}


# ── what is not certain is not said ─────────────────────────────────────────────────────────────────────


def test_a_fixed_check_port_is_not_held_against_one_that_is_not_chosen_yet() -> None:
    them = seed().annotate("load-balancer.hetzner.cloud/health-check-protocol", "http")
    report = them.annotate("load-balancer.hetzner.cloud/health-check-port", "32100").report()
    assert "SIP713" not in codes(report)
    assert "health-check" in open_checks(report)


def test_a_port_that_only_nodes_with_a_pod_answer_is_as_good() -> None:
    them = seed().annotate("load-balancer.hetzner.cloud/health-check-protocol", "http")
    them.annotate("load-balancer.hetzner.cloud/health-check-port", "10254")
    assert "SIP713" in them.codes()
    port = {"name": "health", "containerPort": 10254, "hostPort": 10254}
    assert "SIP713" not in them.set(DEPLOYMENT, "spec.template.spec.containers.0.ports.0", port).codes()


def test_a_proxy_in_the_applications_own_pod_may_be_the_peer() -> None:
    them = seed().set(APP, "spec.template.spec.containers.0.args", ["--host=127.0.0.1"])
    them.the(APP)["spec"]["template"]["spec"]["containers"].append({"name": "sidecar", "image": "envoy"})
    report = them.report()
    assert "SIP751" not in codes(report)
    assert "application" in open_checks(report)


def test_a_balancer_that_may_send_headers_by_itself_is_not_accused() -> None:
    them = (
        seed()
        .set(CONFIG, "data.use-proxy-protocol", "true")
        .annotate("load-balancer.hetzner.cloud/location", "fsn1")
    )
    report = them.report()
    assert "SIP732" not in codes(report)
    assert report.exit_code == 4, "whether both sides speak it is essential"


def test_a_header_that_may_be_believed_makes_no_lost_address() -> None:
    """Without its ConfigMap nobody knows whether the ingress expects the header."""
    them = seed().drop(CONTROLLER, "spec.externalTrafficPolicy").drop(CONFIG)
    them.annotate("service.beta.kubernetes.io/do-loadbalancer-enable-proxy-protocol", "true")
    report = them.report()
    assert "SIP702" not in codes(report)
    assert "PROXY" in open_checks(report)["policy"] or "proxy" in open_checks(report)["policy"]
    assert report.exit_code == 4


def test_under_policy_cluster_the_ingress_meets_nodes_and_has_to_believe_those() -> None:
    them = (
        seed().drop(CONTROLLER, "spec.externalTrafficPolicy").set(CONFIG, "data.use-proxy-protocol", "true")
    )
    them.annotate("service.beta.kubernetes.io/do-loadbalancer-enable-proxy-protocol", "true")
    assert codes(them.report()) == set()
    assert "SIP741" in them.set(CONFIG, "data.proxy-real-ip-cidr", "10.0.0.5/32").codes()


def test_an_ingress_whose_controller_is_not_in_the_files_leaves_it_open() -> None:
    them = Manifests([seed().the(what) for what in ("Service/web", "Deployment/web", "Ingress/web")])
    report = them.report("svc/web", "shop")
    assert "SIP706" not in codes(report)
    assert "ingress/web leads to it" in open_checks(report)["policy"]


# ── the expectation ──────────────────────────────────────────────────────────────────────────────────────


def rows(them: Manifests, client: str = "client outside") -> dict[str, Sight]:
    """The rows of one kind of client, by node."""
    return {row.node: row for row in them.report().expectation if row.client == client}


def outcomes(them: Manifests, client: str = "client outside") -> list[str]:
    return [row.outcome for row in rows(them, client).values()]


def test_policy_local_is_expected_to_keep_the_source_on_nodes_with_a_pod_and_to_drop_elsewhere() -> None:
    assert outcomes(seed()) == ["preserved"] * 3
    two = rows(seed().set(DEPLOYMENT, "spec.replicas", 2))
    assert [row.outcome for row in two.values()] == ["preserved", "preserved", "dropped"]
    assert two["node1"].to == ("ingress-nginx-controller-1",)


def test_policy_cluster_is_expected_to_masquerade_on_every_node() -> None:
    them = seed().set(CONTROLLER, "spec.externalTrafficPolicy", "Cluster")
    assert outcomes(them) == ["masqueraded"] * 3
    assert rows(them)["node2"].by == "kube-proxy on node2"


@pytest.mark.parametrize(
    ("mode", "outcome"),
    [("dsr", "preserved"), ("hybrid", "preserved"), ("snat", "masqueraded to other nodes")],
)
def test_cilium_is_expected_to_keep_what_it_answers_directly(mode: str, outcome: str) -> None:
    data = {"kube-proxy-replacement": "true", "bpf-lb-mode": mode}
    them = (
        seed()
        .set(CONTROLLER, "spec.externalTrafficPolicy", "Cluster")
        .add(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "cilium-config", "namespace": "kube-system"},
                "data": data,
            }
        )
    )
    assert outcomes(them) == [outcome] * 3
    assert ("SIP702" in them.codes()) is (mode == "snat")


def test_pods_are_led_past_the_balancer_unless_it_is_known_by_a_name_or_ip_mode_proxy() -> None:
    inside = "pod, to the balancer's address"
    assert outcomes(seed(), inside) == ["short-circuited"] * 3
    named = seed().set(CONTROLLER, "status.loadBalancer", {"ingress": [{"hostname": "lb.example"}]})
    assert outcomes(named, inside) == ["goes out to the balancer"] * 3


def test_without_a_cluster_cidr_kube_proxy_tells_no_pod_apart() -> None:
    config = 'mode: iptables\nclusterCIDR: ""\n'
    them = seed().set("ConfigMap/kube-proxy", "data|config.conf", config).set(DEPLOYMENT, "spec.replicas", 2)
    assert outcomes(them, "pod, to the balancer's address") == [
        "short-circuited",
        "short-circuited",
        "dropped",
    ]


def test_node_ports_are_answered_where_kube_proxy_is_told_to() -> None:
    config = "mode: iptables\nclusterCIDR: 10.244.0.0/16\nnodePortAddresses: [10.0.0.12/32]\n"
    them = (
        seed()
        .set("ConfigMap/kube-proxy", "data|config.conf", config)
        .set(CONTROLLER, "spec.type", "NodePort")
    )
    assert outcomes(them) == ["refused", "preserved", "refused"]


def test_a_balancer_of_its_own_connections_is_named_as_the_client_of_the_node() -> None:
    them = seed().annotate("load-balancer.hetzner.cloud/uses-proxyprotocol", "true")
    row = rows(them, "balancer")["node1"]
    assert (row.outcome, row.seen) == ("preserved", "the balancer's address")
    assert row.header == "a PROXY header names the client"


# ── and on the wire ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def codes_of_the_seed() -> frozenset[str]:
    """What a capture says of the seed as it should be."""
    return found_by_capture("seed")


def found_by_capture(name: str, mode: ProxyMode = "iptables") -> frozenset[str]:
    own = SCENARIOS / f"{name}.toml"
    try:
        played = play(load_scenario(str(own) if own.exists() else name), mode, progress=lambda _: None)
    except UnavailableError as error:
        pytest.skip(str(error))
    return frozenset(finding.code for finding in played.report.findings)


@pytest.mark.lab
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_classic_mistake_is_found_on_the_wire_by_name(
    mistake: Mistake, codes_of_the_seed: frozenset[str]
) -> None:
    assert mistake.seen not in codes_of_the_seed
    assert mistake.seen in found_by_capture(mistake.scenario)


def test_the_six_mistakes_are_all_there() -> None:
    assert [mistake.name for mistake in MISTAKES] == [
        "policy-on-the-wrong-service",
        "checks-not-on-the-health-node-port",
        "pods-not-spread",
        "wrong-real-ip-cidr",
        "proxy-mismatch",
        "application-does-not-trust-the-ingress",
    ]
    shipped = {name for name in list_scenarios() if name.startswith("seed-")}
    assert {mistake.scenario for mistake in MISTAKES} == shipped | {"seed-policy-misplaced"}


@pytest.mark.lab
@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_the_capture_finds_the_misplaced_policy_by_name(mode: ProxyMode) -> None:
    scenario = load_scenario(str(SCENARIOS / "seed-policy-misplaced.toml"))
    try:
        played = play(scenario, mode, progress=lambda _: None)
    except UnavailableError as error:
        pytest.skip(str(error))
    assert played.answers
    for answer in played.answers:
        assert answer.result.seen != answer.result.source, "the application itself was told the client"
    for journey in played.report.journeys:
        assert journey.verdict is Verdict.LOST
        assert "SIP431" in journey.findings
    (finding,) = [each for each in played.report.findings if each.code == "SIP431"]
    assert any("externalTrafficPolicy: Cluster" in line for line in finding.evidence)
