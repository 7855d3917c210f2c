"""Whatever form is taken, it is the same installation: the command's, the kustomize base, the Helm chart."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from probe.manifests import chart
from probe.manifests.objects import NAMESPACE, SOURCE, installation, roles
from tests.cli.helpers import Ending, start
from tests.manifests.objects import Object, documents, in_order, pod_of
from tests.manifests.templates import render

ELSEWHERE = {"namespace": "tools", "image": "registry.example/probe@sha256:" + "0" * 64}

#: What can be set, as the chart's values and as the arguments of `installation`.
VARIANTS: dict[str, tuple[Object, Object]] = {
    "as it is": ({}, {}),
    "elsewhere": (ELSEWHERE, ELSEWHERE),
    "privileged": ({"privileged": True}, {"privileged": True}),
    "OpenShift": ({"openshift": True}, {"openshift": True}),
    "OpenShift, privileged": (
        {"openshift": True, "privileged": True},
        {"openshift": True, "privileged": True},
    ),
    "some nodes": (
        {"nodeSelector": {"pool": "edge", "on": "yes"}, "priorityClassName": "system-node-critical"},
        {"node_selector": {"pool": "edge", "on": "yes"}, "priority_class": "system-node-critical"},
    ),
    "a registry with a password": (
        {"imagePullSecrets": ["one", "two"], "imagePullPolicy": "Always"},
        {"image_pull_secrets": ["one", "two"], "image_pull_policy": "Always"},
    ),
    "SELinux": ({"seLinuxType": "spc_t"}, {"selinux_type": "spc_t"}),
    "a namespace that is there": ({"createNamespace": False}, {"create_namespace": False}),
}


def manifests(*arguments: str | Path) -> Ending:
    process = start("manifests", *arguments)
    out, err = process.communicate(timeout=60)
    return Ending(process.returncode, out.decode(), err.decode())


def rendered(values: Object, kubernetes: str = "v1.36.0") -> list[Object]:
    """What the repository's chart makes of these values."""
    folder = SOURCE / "chart"
    merged = {**yaml.safe_load((folder / "values.yaml").read_text()), **values}
    texts = [render(path.read_text(), merged, kubernetes) for path in sorted(folder.glob("templates/*.yaml"))]
    return [item for text in texts for item in documents(text)]


def files_below(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_gives_what_the_command_gives(variant: str) -> None:
    values, settings = VARIANTS[variant]
    expected = installation(**{"namespace": NAMESPACE, **settings}) + roles(openshift="openshift" in settings)
    assert in_order(rendered(values)) == in_order(expected)


@pytest.mark.parametrize("privileged", [False, True])
def test_the_chart_names_apparmor_as_an_older_server_knows_it(privileged: bool) -> None:
    expected = installation(namespace=NAMESPACE, privileged=privileged, kubernetes=(1, 29)) + roles()
    assert in_order(rendered({"privileged": privileged}, "v1.29.4-eks-1234")) == in_order(expected)


def test_the_chart_gives_the_roles_in_the_namespaces_that_are_named_or_not_at_all() -> None:
    several = rendered({"roles": {"create": True, "configNamespaces": ["kube-system", "ingress-nginx"]}})
    expected = installation(namespace=NAMESPACE) + roles(["kube-system", "ingress-nginx"])
    assert in_order(several) == in_order(expected)
    none = rendered({"roles": {"create": False, "configNamespaces": []}})
    assert in_order(none) == in_order(installation(namespace=NAMESPACE))


def test_the_chart_in_the_repository_is_the_one_that_the_command_writes(tmp_path: Path) -> None:
    assert manifests("--helm", tmp_path / "chart").code == 0
    assert files_below(tmp_path / "chart") == files_below(SOURCE / "chart"), (
        "write it anew: rm -r daemonset/manifests/chart && probe manifests --helm daemonset/manifests/chart"
    )


def test_the_chart_is_written_with_what_was_asked_as_its_defaults(tmp_path: Path) -> None:
    asked = [
        "-n",
        "tools",
        "--image",
        "r.example/p:1",
        "--node-selector",
        "a=b",
        "--privileged",
        "--openshift",
    ]
    assert manifests("--helm", tmp_path / "c", *asked, "--config-namespace", "ingress-nginx").code == 0
    values = yaml.safe_load((tmp_path / "c" / "values.yaml").read_text())
    settings = {"namespace": "tools", "image": "r.example/p:1", "node_selector": {"a": "b"}}
    expected = installation(**settings, privileged=True, openshift=True)  # type: ignore[arg-type] # of many types
    assert in_order(rendered(values)) == in_order(
        expected + roles(["kube-system", "ingress-nginx"], openshift=True)
    )


def test_the_charts_values_have_no_key_that_its_schema_does_not_know() -> None:
    values = yaml.safe_load((SOURCE / "chart" / "values.yaml").read_text())
    schema = json.loads((SOURCE / "chart" / "values.schema.json").read_text())
    assert set(values) | {"global"} == set(schema["properties"])
    assert set(values["roles"]) == set(schema["properties"]["roles"]["properties"])


@pytest.mark.parametrize("folder", ["base", "roles"])
def test_the_kustomize_bases_of_the_repository_are_the_source(folder: str) -> None:
    expected = installation(namespace=NAMESPACE) if folder == "base" else roles()
    assert in_order(built(SOURCE / folder)) == in_order(expected)


def test_the_command_writes_a_kustomize_base(tmp_path: Path) -> None:
    ending = manifests("--kustomize", tmp_path / "k", "-n", "tools", "--image", "r.example/p:1")
    assert ending.code == 0
    assert ending.err.endswith(f"kubectl apply -k {tmp_path / 'k'}\n")
    expected = installation(namespace="tools", image="r.example/p:1") + roles()
    assert in_order(built(tmp_path / "k")) == in_order(expected)


def built(folder: Path) -> list[Object]:
    """What kustomize makes of a base: by kubectl where it is installed, else by reading what it lists."""
    if shutil.which("kubectl") is not None:
        done = subprocess.run(
            ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return documents(done.stdout)
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return [item for name in kustomization["resources"] for item in documents((folder / name).read_text())]


def test_the_command_prints_the_same_as_yaml_and_as_json() -> None:
    as_yaml, as_json = manifests("-o", "yaml"), manifests("-o", "json")
    assert documents(as_yaml.out) == as_json.json["items"] == installation(namespace=NAMESPACE) + roles()
    assert as_json.json["kind"] == "List"


def test_the_command_prints_without_the_roles_and_for_an_older_server() -> None:
    printed = documents(manifests("--no-roles", "--kubernetes", "v1.28.3", "--selinux-type", "spc_t").out)
    assert printed == installation(namespace=NAMESPACE, kubernetes=(1, 28), selinux_type="spc_t")
    (container,) = pod_of(printed)["containers"]
    assert "appArmorProfile" not in container["securityContext"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-n", "Not_A_Name"], "namespace"),
        (["-n", ""], "namespace"),
        (["--image", "two words"], "image"),
        (["--image", "evil\n  command: [sh]"], "image"),
        (["--node-selector", "no-equals-sign"], "KEY=VALUE"),
        (["--node-selector", "a=b c"], "KEY=VALUE"),
        (["--node-selector", "kubernetes.io/os=windows"], "linux"),
        (["--config-namespace", "x y"], "namespace"),
        (["--selinux-type", "a:b"], "SELinux"),
        (["--kubernetes", "newest"], "1.29"),
        (["--kubernetes", "1.20"], "too old"),
        (["--helm", "/tmp", "--kustomize", "/tmp"], "one of them"),
        (["--helm", "/proc/nowhere/chart"], "cannot write"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: list[str], word: str) -> None:
    manifests(*arguments).complains(2, word)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    manifests("--kustomize", tmp_path).complains(2, "not empty")
    assert files_below(tmp_path) == {"mine": "mine"}


def test_a_template_that_the_check_does_not_know_is_no_silent_success() -> None:
    unknown: list[tuple[str, type[Exception]]] = [
        ("{{ .Values.missing }}", KeyError),
        ("{{ upper .Values.a }}", KeyError),
        ("{{ if .Values.a }}x", AssertionError),
        ("x{{ end }}", AssertionError),
    ]
    values: dict[str, Any] = {"a": "b"}
    for template, error in unknown:
        with pytest.raises(error):
            render(template, values, "v1.36.0")


def test_a_line_that_the_chart_fills_in_must_be_in_the_source_once() -> None:
    with pytest.raises(AssertionError, match="0 times"):
        chart._replace("kind: Pod\n", ("namespace: x\n", "namespace: y\n"))
