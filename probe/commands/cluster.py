"""What commands that speak to a cluster have in common: kubectl's options, and the connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probe.commands.options import Format
from probe.errors import UnavailableError, UsageError
from probe.output import put

if TYPE_CHECKING:
    from probe.cluster.client import Api

ContextOption = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="The context of the kubeconfig. [the current one]"),
]

KubeconfigOption = Annotated[
    Path | None,
    typer.Option("--kubeconfig", metavar="FILE", help="The kubeconfig. [$KUBECONFIG, or ~/.kube/config]"),
]

NamespaceOption = Annotated[
    str | None,
    typer.Option("-n", "--namespace", metavar="NAMESPACE", help="The namespace. [the context's]"),
]

ImageOption = Annotated[
    str | None,
    typer.Option("--image", metavar="IMAGE", help="The agents' image, as the nodes' runtime pulls it."),
]

InstalledOption = Annotated[
    str | None,
    typer.Option(
        "--installed",
        metavar="NAMESPACE",
        help="Use the agents of a standing installation in this namespace (`probe manifests`), and place none.",
    ),
]


def check_installed(namespace: str | None, *others: tuple[str, object]) -> None:
    """Refuse what says how agents are placed beside --installed. Raises UsageError."""
    if namespace is not None and (given := [name for name, value in others if value]):
        raise UsageError(f"--installed uses agents that are there; leave {' and '.join(given)} out")


def duration_option(text: str | float | None, option: str) -> float | None:
    """Seconds of "30s", "1m30s" or "30", as `option` has them. Raises UsageError."""
    from probe.cluster.durations import parse_duration

    if text is None or isinstance(text, float):
        return text
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


@contextmanager
def connected(kubeconfig: Path | None, context: str | None) -> Iterator[Api]:
    """A connection to the cluster, with SIGTERM ending it in order. Raises UnavailableError."""
    try:
        from probe.cluster.client import Api
        from probe.cluster.interrupts import termination
    except ImportError as error:
        raise UnavailableError(
            f"to speak to a cluster takes the package {error.name}, which is not here; "
            "install client-ip-probe[cluster]"
        ) from error
    with termination(), Api.connect(kubeconfig, context) as api:
        yield api


def print_objects(objects: Sequence[dict[str, Any]], output: Format) -> None:
    """Objects as kubectl reads them: YAML documents, or one JSON List."""
    from probe.manifests import chart

    put(
        chart.to_json(list(objects))
        if output in {Format.JSON, Format.JSONL}
        else chart.to_yaml(list(objects))
    )
