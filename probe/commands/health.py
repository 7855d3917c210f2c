"""`probe health`: whether health checks keep clients from nodes that cannot serve them, and how fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probe.commands.options import BalancerOption, Format, OutputOption
from probe.errors import UsageError
from probe.output import put

if TYPE_CHECKING:
    from probe.health_report import HealthReport


def health(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[DIR]", help="The folder of a recorded session.", show_default=False),
    ] = None,
    tap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:NODE/INTERFACE=FILE",
            help="A pcap or pcapng file and where it was captured, as for `probe analyze`. May be given many times.",
        ),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The cluster, from: kubectl get nodes,pods,services,endpointslices -A -o json",
        ),
    ] = None,
    watched: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Events of a watch of EndpointSlices meanwhile, as JSON lines with the time of each as `t`.",
        ),
    ] = None,
    service: Annotated[
        str | None, typer.Option(metavar="NAMESPACE/NAME", help="The Service whose health checks are judged.")
    ] = None,
    balancer: BalancerOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say whether health checks keep clients from nodes that cannot serve them, and how long that took.

    probe health session/

    probe health --tap lb:lb/eth0=lb.pcap --tap nic:node1/eth0=node1.pcap --objects objects.json --service default/web
    """
    if target is None and not tap:
        raise UsageError(
            "nothing to judge; give the DIR of a recorded session, or captures as "
            "--tap KIND:NODE/INTERFACE=FILE; see 'probe health --help'"
        )
    from analysis.analyze import analyze as judge
    from probe.commands import inputs
    from probe.health_report import about_health

    recorded = inputs.recorded([Path(target)] if target else [], tap or [], objects, [])
    if watched is not None:
        from probe.endpoint_changes import read_changes

        changes = read_changes(watched)
    else:
        changes = recorded.changes
    wanted = inputs.known_service(service or recorded.service, recorded.facts)
    facts = inputs.with_balancers(recorded.facts, balancer or [])
    report = judge(recorded.recording, facts, asked=recorded.asked, service=wanted, changes=changes)
    end_with(about_health(report), output)


def end_with(report: HealthReport, output: Format) -> None:
    """Print the answer and exit with its code."""
    if output.for_people:
        from probe.render.health_answer import to_text

        put(to_text(report, sys.stdout, wide=output is Format.WIDE))
    else:
        from probe.render import machine

        write = {Format.JSON: machine.to_json, Format.JSONL: machine.to_line, Format.YAML: machine.to_yaml}
        put(write[output](report))
    raise typer.Exit(report.exit_code)
