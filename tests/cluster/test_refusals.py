"""What a cluster may refuse: one line that says what, why and what to do, the right exit code, nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.helpers import Ending, ended, start
from tests.cluster.conftest import Stage

CAPTURE = ("capture", "svc/web", "--duration", "1s", "--wait", "2s")


def refused(ending: Ending, code: int, *words: str) -> None:
    """Assert a last line on stderr with these words, no result, and the exit code."""
    assert ending.out == "", "a result was printed although there is none"
    assert "Traceback" not in ending.err
    last = ending.err.splitlines()[-1]
    assert last.startswith("probe: "), ending.err
    for word in words:
        assert word in last, f"{word!r} is not in {last!r}"
    assert ending.code == code, ending.err


def incomplete(ending: Ending, *words: str) -> None:
    """Assert a report that says of itself that something is missing, and what."""
    assert ending.code == 4, ending.err
    capture = ending.json["capture"]
    assert capture["complete"] is False
    reasons = " | ".join(capture["reasons"])
    for word in words:
        assert word in reasons, f"{word!r} is not in {reasons!r}"


def test_without_a_kubeconfig(tmp_path: Path) -> None:
    refused(
        ended(start("capture", "svc/web", "--kubeconfig", tmp_path / "nowhere")), 5, "there is no kubeconfig"
    )


def test_a_file_that_is_no_kubeconfig(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    for text in ("", "just words", "{", "- 1", '{"contexts": 3}', "\x00"):
        file.write_text(text)
        refused(ended(start("capture", "svc/web", "--kubeconfig", file)), 5, "kubeconfig")


def test_a_context_that_is_not_there(stage: Stage) -> None:
    refused(stage.start(*CAPTURE, "--context", "labb").ending(), 5, "no context 'labb'", "elsewhere, lab")


def test_a_server_that_does_not_answer(stage: Stage) -> None:
    refused(
        stage.start(*CAPTURE, "--context", "elsewhere").ending(), 5, "http://127.0.0.1:9", "cannot be reached"
    )


def test_a_token_that_has_expired(stage: Stage) -> None:
    stage.faults.tokens = {"second"}
    refused(stage.start(*CAPTURE).ending(), 5, "credentials", "expired", "log in again")


def test_a_token_that_is_renewed_in_the_middle_is_taken_up(stage: Stage) -> None:
    running = stage.start("capture", "svc/web", "--duration", "60s", "-o", "json")
    running.until("watching for")
    stage.double.kubeconfig(stage.kubeconfig, token="second")
    stage.faults.tokens = {"second"}
    running.interrupt()
    ending = running.ending()
    assert ending.json["capture"]["complete"] is True, ending.err
    assert stage.double.left() == [], "the old token could not take it away, the new one can"


def test_a_service_that_is_not_there(stage: Stage) -> None:
    refused(stage.start("capture", "svc/wep").ending(), 5, "wep")
    assert stage.double.left() == []


def test_a_service_that_nothing_outside_reaches(stage: Stage) -> None:
    service = stage.double.store.get(("v1", "services"), "default", "web")
    service["spec"]["type"] = "ClusterIP"
    del service["spec"]["ports"][0]["nodePort"], service["spec"]["externalTrafficPolicy"]
    ending = stage.start(*CAPTURE).ending()
    refused(ending, 5, "svc/web", "nothing outside the cluster reaches it")
    assert stage.double.left() == []


def test_a_node_that_is_not_there(stage: Stage) -> None:
    refused(stage.start(*CAPTURE, "--node", "node9").ending(), 5, "no node node9", "node1, node2, node3")
    assert stage.double.left() == []


@pytest.mark.parametrize(
    ("verb", "resource", "role"),
    [
        ("list", "nodes", "may-look"),
        ("list", "services", "may-look"),
        ("create", "namespaces", "may-install"),
        ("create", "serviceaccounts", "may-install"),
        ("create", "daemonsets", "may-install"),
        ("list", "pods", "may-look"),
        ("watch", "pods", "may-look"),
        ("get", "pods/exec", "may-install"),
    ],
)
def test_what_is_not_allowed_is_named_with_the_role_that_allows_it(
    stage: Stage, verb: str, resource: str, role: str
) -> None:
    stage.faults.forbidden.add((verb, resource))
    refused(stage.start(*CAPTURE).ending(), 5, verb, resource, role)
    assert stage.double.left() == [], "what was created before that is taken away"


@pytest.mark.parametrize(
    ("resource", "what"),
    [
        ("endpointslices", "where the Service leads"),
        ("configmaps", "what proxies are told"),
        ("daemonsets", "how kube-proxy is started"),
    ],
)
def test_what_may_not_be_looked_at_is_told_and_the_capture_goes_on(
    stage: Stage, resource: str, what: str
) -> None:
    stage.faults.forbidden.add(("list", resource))
    ending = stage.start(*CAPTURE, "-o", "json").ending()
    assert f"you may not list {resource} in namespace " in ending.err
    assert f"{what} is not known" in ending.err
    assert ending.json["capture"]["complete"] is True
    assert stage.double.left() == []


def test_what_goes_with_its_namespace_needs_no_permission_of_its_own(stage: Stage) -> None:
    stage.faults.forbidden.add(("delete", "serviceaccounts"))
    ending = stage.start(*CAPTURE, "-o", "json").ending()
    assert "left on the cluster" not in ending.err
    assert stage.double.left() == []


def test_who_may_not_delete_is_told_what_stays(stage: Stage) -> None:
    stage.faults.forbidden |= {("delete", "namespaces"), ("delete", "daemonsets")}
    ending = stage.start(*CAPTURE, "-o", "json").ending()
    assert ending.json["capture"]["complete"] is True
    assert "left on the cluster: daemonsets/client-ip-probe-" in ending.err
    assert "may-install" in ending.err
    assert "probe cleanup" in ending.err
    stage.faults.forbidden.clear()
    cleaned = stage.start("cleanup").ending()
    assert cleaned.code == 0, cleaned.err
    assert stage.double.left() == []


def test_an_image_that_no_node_can_pull(stage: Stage) -> None:
    stage.faults.pods = dict.fromkeys(("node1", "node2", "node3"), "image")
    ending = stage.start(*CAPTURE, "--image", "registry.example/probe:9").ending()
    refused(ending, 5, "cannot be pulled", "registry.example/probe:9", "--image", "node1 and 2 more")
    assert stage.double.left() == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("image", "cannot be pulled"),
        ("unschedulable", "Insufficient memory"),
        ("crash", "ends again and again"),
        ("no-pod", "made no pod"),
    ],
)
def test_a_node_without_an_agent_makes_the_capture_incomplete(stage: Stage, fault: str, words: str) -> None:
    stage.faults.pods = {"node2": fault}
    ending = stage.start(*CAPTURE, "-o", "json").ending()
    incomplete(ending, "node2 has no tap", words)
    assert "· no agent on node2: " in ending.err
    assert stage.double.left() == []


def test_a_node_that_is_not_ready_is_named_as_that(stage: Stage) -> None:
    node = stage.double.store.get(("v1", "nodes"), "", "node3")
    message = "Kubelet stopped posting node status."
    node["status"]["conditions"] = [{"type": "Ready", "status": "Unknown", "message": message}]
    stage.faults.pods = {"node3": "not-ready"}
    incomplete(stage.start(*CAPTURE, "-o", "json").ending(), "the node is not ready", message)


def test_a_windows_node_is_not_waited_for(stage: Stage) -> None:
    node = stage.double.store.get(("v1", "nodes"), "", "node3")
    node["metadata"]["labels"]["kubernetes.io/os"] = "windows"
    ending = stage.start("capture", "svc/web", "--duration", "1s", "-o", "json").ending()
    incomplete(ending, "node3: it runs Windows")


def test_pod_security_that_refuses_the_agents(stage: Stage) -> None:
    stage.faults.strict_policy = True
    ending = stage.start(*CAPTURE).ending()
    refused(ending, 5, "Pod Security refuses", 'PodSecurity "restricted:latest"', "enforce=privileged")
    assert stage.double.left() == []


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--sample", "1/3", "power of two"),
        ("--sample", "2/4", "1/16"),
        ("--from-ip", "10.0.0.0/33", "--from-ip"),
    ],
)
def test_what_cannot_be_watched_is_told_before_anything_is_asked(
    stage: Stage, option: str, value: str, word: str
) -> None:
    refused(stage.start("capture", "svc/web", option, value).ending(), 2, value, word)
    assert not stage.double.server.requests


def test_a_dry_run_places_nothing(stage: Stage) -> None:
    ending = stage.start("capture", "svc/web", "--dry-run", "-o", "json").ending()
    assert ending.code == 0, ending.err
    kinds = [item["kind"] for item in json.loads(ending.out)["items"]]
    assert kinds == ["Namespace", "ServiceAccount", "DaemonSet"]
    assert {verb for verb, _ in stage.double.server.requests} <= {"get", "list"}
    every_right = stage.start("capture", "svc/web", "--privileged", "--dry-run", "-o", "json").ending()
    (container,) = json.loads(every_right.out)["items"][2]["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["privileged"] is True
