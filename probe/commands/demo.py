"""`probe demo`: the problem and its remedy, shown with real packets in a minute."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from probe.commands.files import (
    DotOption,
    Files,
    HtmlOption,
    JunitOption,
    MarkdownOption,
    MermaidOption,
    MetricsOption,
    OpenOption,
    Prepared,
    SarifOption,
    WriteOption,
)
from probe.commands.lab import complete_scenario
from probe.commands.options import (
    Format,
    OutputOption,
    ProxyMode,
    ProxyModeOption,
    end_with,
    print_report,
)
from probe.errors import ExitCode, UsageError
from probe.output import progress, put

#: The tour: the client's address is lost; then the same Service with the one setting that keeps it.
TOUR = ("cluster-remote", "local-preserved")


def demo(
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_scenario,
            help="Play this one instead of the tour; `probe lab list` shows all.",
        ),
    ] = None,
    proxy_mode: ProxyModeOption = ProxyMode.IPTABLES,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the recorded sessions, one folder a scenario.")
    ] = None,
    write: WriteOption = None,
    show: OpenOption = False,
    markdown: MarkdownOption = None,
    junit: JunitOption = None,
    html: HtmlOption = None,
    mermaid: MermaidOption = None,
    dot: DotOption = None,
    sarif: SarifOption = None,
    metrics: MetricsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Lose a client's address and keep it, with real packets through the real kernel's NAT.

    Needs no cluster. The tour (no --scenario) plays the loss and then the remedy, and exits with 0 when both
    came out as told. With --scenario, or with -o json, jsonl or yaml, one scenario is played and the exit
    code is that of its report.
    """
    files = Files(write, show, markdown, junit, html, mermaid, dot, sarif, metrics)
    if scenario is not None or not output.for_people:
        _single(scenario or TOUR[0], proxy_mode, keep, output, files.prepare())
    if files.any:
        raise UsageError("the tour makes two reports; choose one with --scenario NAME to write files of it")
    _tour(proxy_mode, keep, output)


def _single(name: str, proxy_mode: ProxyMode, keep: Path | None, output: Format, files: Prepared) -> None:
    from probe.lab import load_scenario
    from probe.playing.play import play
    from probe.render.scenarios import answers_text, story_text
    from probe.render.wireshark.packets import Seen

    scenario = load_scenario(name)
    if output.for_people:
        put(story_text(scenario, sys.stdout))
    played = play(scenario, proxy_mode.value, record=keep, progress=progress)
    if output.for_people:
        put(answers_text(played, sys.stdout))
    end_with(played.report, output, files, Seen(played.session.recording, played.session.facts))


def _tour(proxy_mode: ProxyMode, keep: Path | None, output: Format) -> None:
    from probe.lab import load_scenario
    from probe.playing.play import differences, play
    from probe.render.scenarios import answers_text, outcome_text, story_text, tour_end, tour_start

    put(tour_start(sys.stdout))
    code = ExitCode.OK
    for number, name in enumerate(TOUR, start=1):
        scenario = load_scenario(name)
        put(story_text(scenario, sys.stdout, f"{number} of {len(TOUR)}: "))
        record = keep / name if keep else None
        played = play(scenario, proxy_mode.value, record=record, progress=progress)
        put(answers_text(played, sys.stdout))
        print_report(played.report, output)
        if wrong := differences(played):
            put(outcome_text(played, wrong, sys.stdout))
            code = ExitCode.INCONCLUSIVE if played.report.summary.inconclusive else ExitCode.DEFECT
    put(tour_end(sys.stdout))
    raise typer.Exit(code)
