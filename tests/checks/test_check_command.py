"""`probe check` as a command: forms of the answer, suppression, threshold, exit codes; and against an API server."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from probe.cluster.lister import ForbiddenError
from tests.checks.manifests import CONTROLLER, DEPLOYMENT, codes, open_checks, seed
from tests.cli.helpers import Ending, ended, start
from tests.cluster.agents import scripted_agent
from tests.cluster.double import Double, Faults
from tests.cluster.double.double import namespaces
from tests.cluster.double.execution import ScriptExecutor
from tests.cluster_facts.cluster import Cluster

SERVICE = ("-n", "ingress-nginx", "svc/ingress-nginx-controller")


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """The seed with policy Cluster, an error, and without a spread, a warning."""
    them = seed().drop(CONTROLLER, "spec.externalTrafficPolicy")
    return them.drop(DEPLOYMENT, "spec.template.spec.topologySpreadConstraints").written(tmp_path)


def check(path: Path, *options: str) -> Ending:
    return ended(start("check", "-f", path, *SERVICE, *options))


def test_for_people(wrong: Path) -> None:
    ending = check(wrong)
    assert ending.code == 3
    assert "× SIP702" in ending.out
    patch = """patch svc ingress-nginx-controller -p '{"spec":{"externalTrafficPolicy":"Local"}}'"""
    assert f"kubectl -n ingress-nginx {patch}\n" in ending.out, "a command is never folded"
    assert "helm: controller.service.externalTrafficPolicy=Local" in ending.out
    assert "docs/findings.md#sip702" in ending.out


def test_ascii_where_nothing_else_can_be_written(wrong: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert check(wrong).out.isascii()


def test_json_yaml_and_lines_are_one_answer(wrong: Path) -> None:
    whole = check(wrong, "-o", "json").json
    lines = [json.loads(line) for line in check(wrong, "-o", "jsonl").out.splitlines()]
    assert lines == whole["results"]
    assert whole["summary"]["errors"] == 1
    assert 'code: "SIP702"' in check(wrong, "-o", "yaml").out


def test_junit_counts_failures_from_the_threshold_on(wrong: Path, tmp_path: Path) -> None:
    suite = ET.fromstring(check(wrong, "-o", "junit").out)
    assert suite.get("failures") == "1"
    beside = tmp_path / "junit.xml"
    assert check(wrong, "--fail-on", "warning", "--junit", str(beside)).code == 3
    suite = ET.fromstring(beside.read_text())
    assert int(suite.get("failures") or 0) == 2
    local = seed().written(tmp_path)  # nothing in it says how its balancer checks
    suite = ET.fromstring(check(local, "-o", "junit").out)
    assert int(suite.get("skipped") or 0) >= 1, "what was not checked is no success"


def test_sarif_names_rules_results_and_suppressions(wrong: Path) -> None:
    (run,) = check(wrong, "-o", "sarif", "--ignore", "SIP722").json["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    suppressed = {each["ruleId"] for each in run["results"] if each.get("suppressions")}
    assert suppressed == {"SIP722"}


def test_what_is_suppressed_is_shown_and_decides_nothing(wrong: Path) -> None:
    ending = check(wrong, "--ignore", "sip702", "-o", "json")
    assert ending.code == 0
    assert [each["suppressed"] for each in ending.json["results"] if each["code"] == "SIP702"] == [True]
    check(wrong, "--ignore", "SIP101").complains(2, "SIP101")


def test_bad_options_say_what_to_write(wrong: Path) -> None:
    check(wrong, "--balancer", "10.0.0.0/40").complains(2, "ADDRESS/LENGTH")
    check(wrong, "--context", "x").complains(2, "-f reads files")


def test_where_the_service_is_missing_what_could_not_be_read_is_said_too(tmp_path: Path) -> None:
    """It may have stood there."""
    (tmp_path / "web.yaml").write_text(
        "kind: Service\nmetadata: {name: ingress-nginx-controller}\n spec: {\n"
    )
    check(tmp_path / "web.yaml").complains(5, "there is no Service", "web.yaml, document 1 is not YAML")


def test_text_of_an_object_is_never_obeyed_by_a_terminal(tmp_path: Path) -> None:
    them = seed().annotate("load-balancer.hetzner.cloud/uses-proxyprotocol", "\x1b[31mtrue\x1b]0;x\x07")
    ending = check(them.written(tmp_path))
    assert "\x1b" not in ending.out
    assert "SIP733" in ending.out
    ET.fromstring(check(them.written(tmp_path), "-o", "junit").out)


# ── on a cluster ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[Double, Path]]:
    faults = Faults()
    items = [item for item in live_items() if item["kind"] != "Namespace"]
    items += namespaces("default", "kube-system", "ingress-nginx", "shop")
    with Double(items, ScriptExecutor(scripted_agent(faults)), faults) as double:
        yield double, double.kubeconfig(tmp_path / "kubeconfig")


def test_the_same_on_a_cluster(api: tuple[Double, Path]) -> None:
    _, kubeconfig = api
    ending = ended(start("check", *SERVICE, "--kubeconfig", kubeconfig, "-o", "json"))
    assert ending.code in {0, 4}, ending.err
    assert not {each["code"] for each in ending.json["results"]} - {None}


@pytest.mark.parametrize(
    ("plural", "checks"),
    [
        ("nodes", {"zones"}),
        ("deployments", {"spread"}),
        ("poddisruptionbudgets", {"disruption"}),
        ("configmaps", {"real-ip", "proxy-protocol"}),
    ],
)
def test_what_may_not_be_read_is_told(plural: str, checks: set[str]) -> None:
    forbidden = {(plural, None), (plural, "ingress-nginx"), (plural, "kube-system"), (plural, "shop")}
    report = seed().report(lister=Cluster(live_items(), forbidden), live=True)
    assert checks <= set(open_checks(report)), report.remarks
    assert not codes(report) & {"SIP722", "SIP726", "SIP732"}


def test_services_that_may_not_be_read_end_it() -> None:
    with pytest.raises(ForbiddenError):
        seed().report(lister=Cluster(live_items(), {("services", None), ("services", "ingress-nginx")}))


def live_items() -> list[dict[str, Any]]:
    """The seed with the pods and endpoints that its workloads make."""
    them = seed().set(CONTROLLER, "spec.healthCheckNodePort", 32100)
    template = them.the(DEPLOYMENT)["spec"]["template"]
    endpoints = []
    for at in (1, 2, 3):
        name, address = f"ingress-nginx-controller-{at}", f"10.244.{at}.7"
        metadata = {**template["metadata"], "name": name, "namespace": "ingress-nginx"}
        metadata["ownerReferences"] = [{"kind": "ReplicaSet", "name": "ingress-nginx-controller-x"}]
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        them.add(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata,
                "spec": {**template["spec"], "nodeName": f"node{at}"},
                "status": status,
            }
        )
        endpoints.append(
            {
                "addresses": [address],
                "nodeName": f"node{at}",
                "targetRef": {"kind": "Pod", "name": name},
            }
        )
    them.add({
        "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
        "metadata": {"name": "ingress-nginx-controller-x", "namespace": "ingress-nginx",
                     "labels": {"kubernetes.io/service-name": "ingress-nginx-controller"}},
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    })  # fmt: skip
    return them.items


def test_endpoints_tell_the_share_of_each_pod() -> None:
    report = seed().report(lister=Cluster(live_items()), live=True)
    assert codes(report) == set()
    assert {share.share for share in report.shares} == {0.3333}


def test_all_pods_on_one_node_is_found() -> None:
    items = live_items()
    (ready,) = [item for item in items if item["kind"] == "EndpointSlice"]
    for endpoint in ready["endpoints"]:
        endpoint["nodeName"] = "node1"
    report = seed().report(lister=Cluster(items), live=True)
    assert "SIP723" in codes(report)
