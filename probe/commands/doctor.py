"""`probe doctor`: whether this machine, and the cluster that it leads to, allow what is wanted."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probe.commands.cluster import ContextOption, KubeconfigOption
from probe.commands.options import Format, OutputOption, quiet_progress
from probe.output import put

if TYPE_CHECKING:
    from analysis.report import Severity
    from probe.doctor import Check


class Area(enum.StrEnum):
    """What may be asked about alone."""

    PROGRAM = "program"
    CLUSTER = "cluster"
    LAB = "lab"
    PACKETS = "packets"


def doctor(
    areas: Annotated[
        list[Area] | None,
        typer.Argument(
            metavar="AREA",
            help="Only these: program, cluster, lab, packets. What is missing of them is then an error.",
            show_default=False,
        ),
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Look at this machine and the way to the cluster, and say what to do where something is missing.

    Nothing is changed, and root is not needed. Exits with 5 where something that is configured or was asked for
    does not work, else with 0.
    """
    from probe.doctor import diagnose

    def cluster(gravity: Severity) -> Iterable[Check]:
        return _cluster(kubeconfig, context, gravity)

    told = diagnose([area.value for area in areas or ()], cluster, quiet_progress())
    if output.for_people:
        from probe.render.doctor import diagnosis_text

        put(diagnosis_text(told, sys.stdout))
    else:
        from probe.render.machines import machine

        match output:
            case Format.YAML:
                put(machine.to_yaml(told))
            case Format.JSONL:
                put("\n".join(machine.to_line(check) for check in told.checks))
            case _:
                put(machine.to_json(told))
    raise typer.Exit(told.exit_code)


def _cluster(kubeconfig: Path | None, context: str | None, gravity: Severity) -> Iterable[Check]:
    from probe.doctor import Check

    try:
        from probe.cluster.doctor import cluster_checks
    except ImportError as error:
        yield Check("cluster", "libraries", gravity, str(error), "install client-ip-probe[cluster]")
        return
    yield from cluster_checks(kubeconfig, context, gravity)
