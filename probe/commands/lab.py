"""`probe lab`: the cluster of network namespaces by itself."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from probe.commands.options import ProxyMode, ProxyModeOption
from probe.errors import ExitCode, UsageError
from probe.output import note, progress, put

app = typer.Typer(
    help="A small cluster in network namespaces: the real kernel's NAT, real servers, no Kubernetes needed.",
    no_args_is_help=True,
)


def complete_scenario(incomplete: str) -> list[str]:
    """Names of scenarios for the shell's completion."""
    from probe.lab import list_scenarios

    return [name for name in list_scenarios() if name.startswith(incomplete)]


ScenarioArgument = Annotated[
    str,
    typer.Argument(
        metavar="SCENARIO",
        autocompletion=complete_scenario,
        help="A name that `probe lab list` shows, or the path of a .toml file.",
    ),
]


@app.command("list")
def list_() -> None:
    """List the scenarios."""
    from probe.lab import list_scenarios, load_scenario
    from probe.render.scenarios import list_text

    scenarios = [load_scenario(name) for name in list_scenarios()]
    put(list_text(scenarios, sys.stdout))


@app.command(short_help="Play a scenario, and say what is not as expected.")
def run(
    scenario: ScenarioArgument,
    proxy_mode: ProxyModeOption = ProxyMode.IPTABLES,
) -> None:
    """Play a scenario and hold what is seen against what must come of it; exit 0 when all is as expected."""
    from probe.lab import load_scenario
    from probe.playing.play import differences, play
    from probe.render.scenarios import outcome_text

    played = play(load_scenario(scenario), proxy_mode.value, progress=progress)
    wrong = differences(played)
    put(outcome_text(played, wrong, sys.stdout))
    raise typer.Exit(ExitCode.DEFECT if wrong else ExitCode.OK)


@app.command()
def shell(
    scenario: ScenarioArgument,
    place: Annotated[
        str, typer.Argument(metavar="PLACE", help="A node, client, balancer or pod of the scenario.")
    ] = "node1",
    proxy_mode: ProxyModeOption = ProxyMode.IPTABLES,
) -> None:
    """Build a scenario's cluster and open a shell in one of its places."""
    from probe.lab import Lab, load_scenario
    from probe.lab.plan import make_plan

    built = load_scenario(scenario)
    plan = make_plan(built, proxy_mode.value)
    known = [host.name for host in plan.hosts] + [pod.pod.name for pod in plan.pods]
    if place not in known:
        raise UsageError(f"scenario {built.name} has no {place}; it has {', '.join(known)}")
    with Lab.start(built, proxy_mode.value, progress) as lab:
        note(f"· a shell in {place}; the lab goes away when it ends")
        code = lab.shell(place)
    raise typer.Exit(code)
