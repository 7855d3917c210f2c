"""`probe capture`: watch everywhere at once while something happens, then judge it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probe.commands.lab import complete_scenario
from probe.commands.options import Format, OutputOption, ProxyMode, ProxyModeOption, end_with
from probe.errors import UnavailableError
from probe.output import note, progress


def capture(
    lab: Annotated[
        str | None,
        typer.Option(
            "--lab",
            metavar="SCENARIO",
            autocompletion=complete_scenario,
            help="Capture in the lab, while it plays this scenario's requests.",
        ),
    ] = None,
    proxy_mode: ProxyModeOption = ProxyMode.IPTABLES,
    duration: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Go on watching for so long after the last request."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the session in a new folder, for `probe analyze DIR`."),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Watch connections at every point on every node at once, and judge them.

    Ctrl-C ends the capture and reports; a second one gives up.
    """
    if lab is None:
        raise UnavailableError(
            "this version captures in the lab only; use --lab SCENARIO (see `probe lab list`), or capture "
            "with tcpdump on the cluster and give the files to `probe analyze --tap …`"
        )
    from probe.lab import load_scenario
    from probe.play import play

    scenario = load_scenario(lab)
    played = play(scenario, proxy_mode.value, record=record, linger=duration or 0.0, progress=progress)
    if record is not None:
        note(f"· kept in {record}")
    end_with(played.report, output)
