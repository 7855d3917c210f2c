"""`probe capture --debug-node`: for who may create pods, and no DaemonSet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.conftest import Stage
from tests.cluster.test_refusals import refused


@pytest.mark.lab
def test_one_node_is_watched_by_a_pod_of_its_own(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("cluster-remote")
    stage.faults.forbidden = {
        ("create", "daemonsets"),
        ("create", "namespaces"),
        ("create", "serviceaccounts"),
    }
    running = stage.start("capture", "svc/web", "--debug-node", "node1", "--duration", "60s", "-o", "json")
    running.until("watching for")
    (pod,) = (each for each in stage.double.left())
    assert pod.startswith("pods/client-ip-probe-")
    answers = stage.lab.send()
    running.until(f"{len(answers)} connections")
    running.interrupt()
    ending = running.ending()
    report = ending.json
    assert ending.code == 3, ending.err
    assert report["summary"]["lost"] == len(answers), "what node1 did is seen on node1"
    assert {entry["node"] for journey in report["journeys"] for entry in journey["snat"]} == {"node1"}
    assert "node2 has no tap" in report["capture"]["reasons"]
    assert stage.double.left() == [], "something is left on the cluster"


def test_a_namespace_that_allows_no_such_pods_says_so(stage: Stage) -> None:
    stage.faults.pod_security = "restricted"
    ending = stage.start("capture", "svc/web", "--debug-node", "node1").ending()
    refused(ending, 5, "Pod Security refuses the agents' pods in namespace default", "enforce=privileged")
    assert stage.double.left() == []


def test_who_may_create_no_pod_is_told_what_is_missing(stage: Stage) -> None:
    stage.faults.forbidden = {("create", "pods")}
    ending = stage.start("capture", "svc/web", "--debug-node", "node1").ending()
    refused(ending, 5, "you may not create pods in namespace default")


def test_a_node_that_is_not_there(stage: Stage) -> None:
    ending = stage.start("capture", "svc/web", "--debug-node", "node9").ending()
    refused(ending, 5, "the cluster has no node node9")


def test_both_ways_of_naming_nodes_contradict_each_other(stage: Stage) -> None:
    ending = stage.start("capture", "svc/web", "--debug-node", "node1", "--node", "node2").ending()
    refused(ending, 2, "leave --node out")
    for option in ("--node", "--debug-node"):
        ending = stage.start("capture", "svc/web", "--all-nodes", option, "node1").ending()
        refused(ending, 2, "--all-nodes watches on every node")


def test_the_lab_has_its_own_places(stage: Stage) -> None:
    for of_a_cluster in (("--all-nodes",), ("--node", "node1"), ("--context", "here")):
        refused(
            stage.start("capture", "--lab", "local-preserved", *of_a_cluster).ending(), 2, "knows no cluster"
        )


def test_a_dry_run_shows_the_pods(stage: Stage) -> None:
    ending = stage.start("capture", "svc/web", "--debug-node", "node1", "--dry-run", "-o", "json").ending()
    (pod,) = ending.json["items"]
    assert pod["kind"] == "Pod"
    assert pod["spec"]["nodeName"] == "node1"
    assert pod["spec"]["activeDeadlineSeconds"] >= 30
    assert stage.double.left() == []


def test_a_pod_that_is_left_is_found_by_cleanup(stage: Stage) -> None:
    running = stage.start("capture", "svc/web", "--debug-node", "node1", "--keep", "--duration", "1s")
    ending = running.ending()
    assert "kept on the cluster" in ending.err
    assert "in namespace default" in ending.err
    assert len(stage.double.left()) == 1
    assert stage.start("cleanup").ending().code == 0
    assert stage.double.left() == []
