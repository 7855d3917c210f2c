"""`--installed`: captures by agents that somebody else has placed, and that stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from probe.manifests.objects import installation
from tests.cluster.conftest import Stage
from tests.cluster.test_refusals import refused

#: What making and deleting anything would take.
PLACING = {
    (verb, kind)
    for verb in ("create", "delete")
    for kind in ("namespaces", "serviceaccounts", "daemonsets", "pods")
}


def install(stage: Stage, namespace: str = "client-ip-probe") -> None:
    """What `probe manifests | kubectl apply -f -` does."""
    for body in installation(namespace=namespace):
        kind = {"Namespace": "namespaces", "ServiceAccount": "serviceaccounts", "DaemonSet": "daemonsets"}[
            body["kind"]
        ]
        made = stage.double.call(
            lambda body=body, kind=kind: stage.double.store.create((body["apiVersion"], kind), body)
        )
        if kind == "daemonsets":
            stage.double.call(lambda made=made: stage.double.nodes.daemon_set_created(made))


@pytest.mark.lab
def test_agents_that_are_there_are_used_and_stay(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("cluster-remote")
    install(stage)
    stage.faults.forbidden = PLACING
    running = stage.start(
        "capture", "svc/web", "--installed", "client-ip-probe", "--duration", "60s", "-o", "json"
    )
    running.until("watching for")
    answers = stage.lab.send()
    running.until(f"{len(answers)} connections")
    running.interrupt()
    ending = running.ending()
    assert ending.code == 3, ending.err
    assert ending.json["capture"]["complete"] is True
    assert ending.json["summary"]["lost"] == len(answers)
    assert [each["metadata"]["name"] for each in stage.double.objects("apps/v1", "daemonsets")] == [
        "client-ip-probe"
    ]


def test_agents_of_a_session_in_the_same_namespace_are_not_taken(stage: Stage) -> None:
    session = installation("abcd", namespace="client-ip-probe", create_namespace=False)[-1]
    made = stage.double.call(lambda: stage.double.store.create(("apps/v1", "daemonsets"), session))
    stage.double.call(lambda: stage.double.nodes.daemon_set_created(made))
    stage.double.until(lambda: len(stage.double.store.all(("v1", "pods"))) >= 3)
    stage.faults.pods = {"node2": "no-pod"}
    install(stage)
    ending = stage.start(
        "capture", "svc/web", "--installed", "client-ip-probe", "--duration", "1s", "-o", "json"
    ).ending()
    assert "session abcd" in ending.err, "it is told of, and not used"
    assert ending.json["capture"]["complete"] is False, "the session's agent on node2 is not ours"


@pytest.mark.lab
def test_health_ports_are_asked_by_agents_that_are_there(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("hc-ok")
    install(stage)
    stage.faults.forbidden = PLACING
    ending = stage.start("health", "svc/web", "--installed", "client-ip-probe", "-o", "json").ending()
    assert ending.code == 0, ending.err
    asked_from = {
        reply["askedFrom"]
        for node in ending.json["asking"]["nodes"]
        for reply in node["replies"]
        if reply.get("status") == 200
    }
    assert {"itself", "peer"} <= asked_from


def test_where_none_are_is_said(stage: Stage) -> None:
    ending = stage.start("capture", "svc/web", "--installed", "default").ending()
    refused(ending, 5, "namespace default has no standing installation", "probe manifests")


def test_who_may_not_look_for_them_is_told_what_is_missing(stage: Stage) -> None:
    stage.faults.forbidden = {("list", "daemonsets")}
    ending = stage.start("capture", "svc/web", "--installed", "default").ending()
    refused(ending, 5, "you may not list daemonsets in namespace default")


@pytest.mark.parametrize(
    "option",
    [("--keep",), ("--image", "x"), ("--privileged",), ("--dry-run",), ("--debug-node", "node1")],
    ids=lambda option: option[0],
)
def test_what_says_how_agents_are_placed_contradicts_it(stage: Stage, option: tuple[str, ...]) -> None:
    ending = stage.start("capture", "svc/web", "--installed", "default", *option).ending()
    refused(ending, 2, "--installed uses agents that are there", f"leave {option[0]} out")
