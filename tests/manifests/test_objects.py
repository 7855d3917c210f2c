"""What an installation places: enough to watch a node, nothing that serves anything else."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from probe.cluster import reading
from probe.cluster.resources import INSTALLABLE
from probe.errors import UsageError
from probe.manifests.objects import (
    CONTAINER,
    MAY_INSTALL,
    MAY_LOOK,
    PROBE_LABELS,
    SESSION_LABEL,
    debug_pod,
    installation,
    roles,
)
from tests.manifests.objects import Object, pod_of, the

EVERYTHING: dict[str, Any] = {
    "namespace": "tools",
    "image": "registry.example:5000/team/probe:1@sha256:" + "0" * 64,
    "image_pull_secrets": ["password"],
    "node_selector": {"pool": "edge", "example.com/zone": ""},
    "nodes": ["node1", "node2.example.com"],
    "selinux_type": "spc_t",
    "priority_class": "system-node-critical",
    "annotations": {"client-ip-probe/created": "2026-01-01T00:00:00Z"},
}


def container_of(objects: list[Object]) -> Object:
    (container,) = pod_of(objects)["containers"]
    assert isinstance(container, dict)
    return container


def test_objects_come_in_the_order_in_which_they_can_be_created() -> None:
    assert [item["kind"] for item in installation("a1")] == ["Namespace", "ServiceAccount", "DaemonSet"]
    assert [item["kind"] for item in installation("a1", openshift=True)] == [
        "Namespace", "SecurityContextConstraints", "ServiceAccount", "DaemonSet",
    ]  # fmt: skip
    assert [item["kind"] for item in installation("a1", create_namespace=False)] == [
        "ServiceAccount",
        "DaemonSet",
    ]


def test_everything_that_a_session_places_says_whose_it_is() -> None:
    objects = installation("a1", openshift=True)
    pods = the("DaemonSet", objects)["spec"]["template"]
    for item in [*objects, pods, debug_pod("a1", "node1", namespace="tools")]:
        assert item["metadata"]["labels"].items() >= {**PROBE_LABELS, SESSION_LABEL: "a1"}.items()
    assert all(item["metadata"]["name"] == "client-ip-probe-a1" for item in objects)
    constraints = the("SecurityContextConstraints", objects)
    assert constraints["users"] == ["system:serviceaccount:client-ip-probe-a1:client-ip-probe-a1"]


def test_two_sessions_in_one_namespace_do_not_take_each_others_pods() -> None:
    first, second = (
        the("DaemonSet", installation(session, namespace="tools", create_namespace=False))
        for session in ("a", "b")
    )
    wanted = first["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= first["spec"]["template"]["metadata"]["labels"].items()
    assert not wanted.items() <= second["spec"]["template"]["metadata"]["labels"].items()
    assert first["metadata"]["name"] != second["metadata"]["name"]


def test_a_standing_installation_belongs_to_no_session() -> None:
    objects = installation(namespace="tools")
    assert all(SESSION_LABEL not in item["metadata"]["labels"] for item in objects)
    assert the("Namespace", objects)["metadata"]["name"] == "tools"


def test_the_namespace_allows_what_the_agents_need() -> None:
    labels = the("Namespace", installation("a1"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


def test_the_pods_see_the_node_and_nothing_sees_them() -> None:
    pod, container = pod_of(installation("a1")), container_of(installation("a1"))
    assert pod["hostNetwork"] is pod["hostPID"] is True
    assert "ports" not in container
    assert "volumes" not in pod
    assert "volumeMounts" not in container
    assert "env" not in container
    assert not pod.keys() & {"hostIPC", "shareProcessNamespace", "initContainers"}
    assert pod["enableServiceLinks"] is False


def test_no_token_is_mounted() -> None:
    objects = installation("a1")
    assert pod_of(objects)["automountServiceAccountToken"] is False
    assert the("ServiceAccount", objects)["automountServiceAccountToken"] is False
    assert debug_pod("a1", "node1", namespace="tools")["spec"]["automountServiceAccountToken"] is False


def test_the_container_has_four_capabilities_and_writes_nothing() -> None:
    security = container_of(installation("a1"))["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["privileged"] is False
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {
        "drop": ["ALL"],
        "add": ["NET_RAW", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"],
    }
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_privileged_is_all_or_nothing() -> None:
    """The API refuses "no escalation" beside it, and a list of capabilities would say what is not so."""
    security = container_of(installation("a1", privileged=True))["securityContext"]
    assert security["privileged"] is True
    assert security["readOnlyRootFilesystem"] is True
    assert not security.keys() & {"allowPrivilegeEscalation", "capabilities", "seccompProfile"}


def test_the_pods_have_requests_and_limits_and_end_at_once() -> None:
    resources = container_of(installation("a1"))["resources"]
    for kind in ("requests", "limits"):
        assert resources[kind].keys() == {"cpu", "memory"}
    assert pod_of(installation("a1"))["terminationGracePeriodSeconds"] <= 5


def test_agents_run_on_every_linux_node_whatever_its_taints() -> None:
    pod = pod_of(installation("a1"))
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert "affinity" not in pod


def test_agents_run_on_the_nodes_that_are_named_only() -> None:
    pod = pod_of(installation("a1", nodes=["node1", "node2"], node_selector={"pool": "edge"}))
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (first, second) = required["nodeSelectorTerms"]  # alternatives
    assert first == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node1"]}]}
    assert second["matchFields"][0]["values"] == ["node2"]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "edge"}


def test_the_main_process_sleeps() -> None:
    assert container_of(installation("a1"))["name"] == CONTAINER
    assert container_of(installation("a1"))["command"] == ["python3", "-m", "daemonset.idle"]


def test_a_debug_pod_is_the_same_pod_on_one_node_and_ends_by_itself() -> None:
    pod = debug_pod("a1", "node1.example.com", namespace="tools", image="r/p:1", seconds=90)
    template = pod_of(installation("a1", image="r/p:1"))
    assert pod["spec"]["containers"] == template["containers"]
    assert pod["spec"]["nodeName"] == "node1.example.com"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["activeDeadlineSeconds"] == 90
    other = debug_pod("a1", "node2.example.com", namespace="tools")
    assert pod["metadata"]["name"] != other["metadata"]["name"]


def test_one_object_is_not_changed_by_making_another() -> None:
    before = installation("a1")
    installation("a1", **{**EVERYTHING, "privileged": True})
    assert installation("a1") == before


@pytest.mark.parametrize(
    "settings",
    [
        {"namespace": "UPPER"},
        {"namespace": "a" * 64},
        {"image": ""},
        {"image": "-v"},
        {"image_pull_policy": "Sometimes"},
        {"image_pull_secrets": ["no spaces"]},
        {"node_selector": {"": "x"}},
        {"node_selector": {"key": "a" * 64}},
        {"nodes": ["node 1"]},
        {"priority_class": "High!"},
        {"kubernetes": (1, 26)},
    ],
)
def test_what_the_server_would_refuse_is_refused_before(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        installation("a1", **settings)


@pytest.mark.parametrize("session", ["", "A", "a_b", "-a", "a" * 33, "a\nb"])
def test_a_session_id_must_fit_into_names_and_labels(session: str) -> None:
    with pytest.raises(UsageError):
        installation(session)


# ── roles ────────────────────────────────────────────────────────────────────────────────────────────────────


def allowed(role: Object) -> set[tuple[str, str]]:
    """Verb and resource pairs."""
    rules = role["rules"]
    return {(verb, what) for rule in rules for verb in rule["verbs"] for what in rule["resources"]}


def test_who_may_look_changes_nothing_and_reads_no_secrets() -> None:
    look, config, _ = roles()
    assert look["metadata"]["name"] == MAY_LOOK
    for role in (look, config):
        assert {verb for verb, _ in allowed(role)} == {"get", "list", "watch"}
    assert {"nodes", "pods", "services", "endpointslices", "ingresses", "gateways"} <= {
        what for _, what in allowed(look)
    }
    assert "configmaps" not in {what for _, what in allowed(look)}, "only where they are needed"


def test_configmaps_are_read_in_the_namespaces_that_are_named_only() -> None:
    _, *configs, _ = roles(["kube-system", "ingress-nginx", "kube-system"])
    assert [role["metadata"]["namespace"] for role in configs] == ["kube-system", "ingress-nginx"]
    assert all(role["kind"] == "Role" and role["rules"][0]["resources"] == ["configmaps"] for role in configs)


#: What a Gateway may lead through to a Service, whether or not it is told by it today.
ROUTES = {"grpcroutes", "tlsroutes", "tcproutes", "udproutes", "referencegrants"}


def test_who_may_look_may_read_what_is_read_and_hardly_more() -> None:
    look, config, _ = roles()
    for kind in reading.KINDS:
        group = kind.group_version.rpartition("/")[0] if "/" in kind.group_version else ""
        rules = (config if kind is reading.CONFIGMAPS else look)["rules"]
        assert any(group in rule["apiGroups"] and kind.plural in rule["resources"] for rule in rules), kind
    read = {kind.plural for kind in reading.KINDS}
    assert {what for role in (look, config) for _, what in allowed(role)} == read | ROUTES


def test_who_may_install_may_place_and_find_and_take_away_every_kind_that_is_placed() -> None:
    *_, install = roles(openshift=True)
    for resource in INSTALLABLE:
        assert {(verb, resource.plural) for verb in ("get", "list", "create", "delete")} <= allowed(install)


def test_only_on_openshift_may_who_installs_make_constraints() -> None:
    assert not [what for role in roles() for _, what in allowed(role) if what == "securitycontextconstraints"]


def test_who_may_install_may_do_that_and_take_it_away() -> None:
    *_, install = roles()
    assert install["metadata"]["name"] == MAY_INSTALL
    for what in ("namespaces", "serviceaccounts", "daemonsets"):
        assert {("create", what), ("delete", what), ("get", what)} <= allowed(install)
    assert {verb for verb, what in allowed(install) if what == "pods/exec"} == {"get", "create"}


def test_no_role_allows_more_than_it_names() -> None:
    for role in roles(openshift=True):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"secrets", "roles", "clusterroles", "rolebindings"} & {what for _, what in allowed(role)}
        assert not {"update", "patch", "deletecollection", "escalate", "bind", "impersonate"} & {
            verb for verb, _ in allowed(role)
        }


# ── the API's own schema ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", [(1, 27), (1, 29), (1, 30), (1, 33), (1, 36)], ids=str)
def test_the_api_knows_every_field(version: tuple[int, int]) -> None:
    """Against the OpenAPI schema of that release, in which an unknown field is an error."""
    objects = [
        *installation("a1", kubernetes=version),
        *installation(kubernetes=version, privileged=True, **EVERYTHING),
        *installation("a1", kubernetes=version, **EVERYTHING),
        debug_pod("a1", "node1", namespace="tools", kubernetes=version, image_pull_secrets=["x"]),
        *roles(),
    ]
    for item in objects:
        kubernetes_validate.validate(item, f"{version[0]}.{version[1]}", strict=True)


def test_the_schema_would_have_noticed() -> None:
    old = the("DaemonSet", installation("a1", kubernetes=(1, 36)))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(old, "1.27", strict=True)  # AppArmor is no field there yet
