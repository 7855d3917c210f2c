"""`probe manifests`: what an installation would place on a cluster, to read, review and apply by other means."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probe.errors import UsageError, os_error
from probe.output import note, put

if TYPE_CHECKING:
    from probe.manifests.chart import Files


class ManifestFormat(enum.StrEnum):
    """What kubectl reads."""

    YAML = "yaml"
    JSON = "json"


def manifests(
    output: Annotated[
        ManifestFormat, typer.Option("-o", "--output", help="YAML documents, or one JSON List.")
    ] = ManifestFormat.YAML,
    namespace: Annotated[
        str | None,
        typer.Option("-n", "--namespace", metavar="NAMESPACE", help="Where agents run. [client-ip-probe]"),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="IMAGE", help="The agents' image, as the nodes' runtime pulls it."),
    ] = None,
    node_selector: Annotated[
        list[str] | None,
        typer.Option(
            "--node-selector",
            metavar="KEY=VALUE",
            help="Only nodes with this label. May be given many times.",
        ),
    ] = None,
    config_namespace: Annotated[
        list[str] | None,
        typer.Option(
            "--config-namespace",
            metavar="NAMESPACE",
            help="Where 'may look' reads ConfigMaps, beside kube-system: the ingress controller's namespace. "
            "May be given many times.",
        ),
    ] = None,
    privileged: Annotated[
        bool, typer.Option("--privileged", help="A privileged container instead of four capabilities.")
    ] = False,
    openshift: Annotated[
        bool, typer.Option("--openshift", help="Add SecurityContextConstraints and the SELinux type spc_t.")
    ] = False,
    selinux_type: Annotated[
        str | None, typer.Option("--selinux-type", metavar="TYPE", help="The agents' SELinux type: spc_t.")
    ] = None,
    kubernetes: Annotated[
        str | None,
        typer.Option("--kubernetes", metavar="1.N", help="The cluster's version, where it is before 1.30."),
    ] = None,
    roles: Annotated[
        bool, typer.Option("--roles/--no-roles", help="With the roles 'may look' and 'may install'.")
    ] = True,
    kustomize: Annotated[
        Path | None,
        typer.Option("--kustomize", metavar="DIR", help="Write a kustomize base into a new folder instead."),
    ] = None,
    helm: Annotated[
        Path | None,
        typer.Option("--helm", metavar="DIR", help="Write the Helm chart into a new folder instead."),
    ] = None,
) -> None:
    """Print what a standing installation places on a cluster; nothing is applied."""
    from probe.manifests import chart
    from probe.manifests.objects import CONFIG_NAMESPACES, IMAGE, KUBERNETES, NAMESPACE, installation
    from probe.manifests.objects import roles as make_roles

    if helm is not None and kustomize is not None:
        raise UsageError("--helm and --kustomize are two forms of the same; give one of them")
    namespace = NAMESPACE if namespace is None else namespace
    image = IMAGE if image is None else image
    labels = dict(map(_label, node_selector or []))
    config_namespaces = (*CONFIG_NAMESPACES, *(config_namespace or []))
    objects = installation(
        namespace=namespace,
        image=image,
        node_selector=labels,
        privileged=privileged,
        openshift=openshift,
        selinux_type=selinux_type,
        kubernetes=KUBERNETES if kubernetes is None else _version(kubernetes),
    )
    if roles:
        objects += make_roles(config_namespaces, openshift=openshift)
    if kustomize is not None:
        _write(kustomize, chart.kustomize_base(objects), f"kubectl apply -k {kustomize}")
    elif helm is not None:  # the objects are made all the same, for what they refuse
        files = chart.helm_chart(
            namespace=namespace,
            image=image,
            nodeSelector=labels,
            privileged=privileged,
            openshift=openshift,
            seLinuxType=selinux_type or "",
            roles=roles,
            configNamespaces=list(dict.fromkeys(config_namespaces)),
        )
        _write(helm, files, f"helm install -n kube-system client-ip-probe {helm}")
    else:
        put(chart.to_yaml(objects) if output is ManifestFormat.YAML else chart.to_json(objects))


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!a} is no node label; give KEY=VALUE")
    return key, value


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.removeprefix("v").partition(".")
    minor = minor.partition(".")[0].rstrip("+")
    if not (major.isdecimal() and minor.isdecimal() and major.isascii() and minor.isascii()):
        raise UsageError(f"{text!a} is no version of Kubernetes; give one like 1.29")
    return int(major), int(minor)


def _write(folder: Path, files: Files, next_step: str) -> None:
    """Write files into a folder that is new or empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty; name a new folder")
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise os_error(error, f"write {folder}") from error
    note(f"· wrote {len(files)} files into {folder}; next: {next_step}")
