"""`probe capture`: watch everywhere at once while something happens, then judge it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probe.commands.lab import complete_scenario
from probe.commands.options import (
    AppServerOption,
    Format,
    IngressConfigOption,
    IngressLogOption,
    OutputOption,
    ProxyMode,
    ProxyModeOption,
    end_with,
)
from probe.errors import UnavailableError, UsageError
from probe.output import note, progress

if TYPE_CHECKING:
    from analysis.ingress import IngressRecord
    from probe.ask import Question

#: Requests of each kind that one capture may send.
MAX_COUNT = 500


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
    send: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask this URL from the operator's side, each time with a token and from a known socket; in the lab "
            "instead of the scenario's requests, and from client1. The host is an address, or a place of the lab: "
            "http://balancer/debug/ip, http://node1/",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="How many requests --send sends, of each kind.")
    ] = 1,
    spoof: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEADER[=VALUE]",
            help="Then ask again with this forged claim about the client, to see whether the application takes it "
            "for true: x-forwarded-for, forwarded, x-real-ip or any other field; proxy or proxy-v2, a PROXY header "
            "of our own; all: each known one alone. Without VALUE an address for documentation. May be given many "
            "times.",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the session in a new folder, for `probe analyze DIR`."),
    ] = None,
    ingress_config: IngressConfigOption = None,
    ingress_log: IngressLogOption = None,
    app_server: AppServerOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Watch connections at every point on every node at once, and judge them.

    Ctrl-C ends the capture and reports; a second one gives up.

    probe capture --lab proxy-v2-ok --send http://balancer/debug/ip --spoof all
    """
    question = _question(send, count, spoof or [])
    ingress = _ingress(ingress_config or [], ingress_log or [], app_server)
    if lab is None:
        raise UnavailableError(
            "this version captures in the lab only; use --lab SCENARIO (see `probe lab list`), or capture "
            "with tcpdump on the cluster and give the files to `probe analyze --tap …`"
        )
    from probe.lab import load_scenario
    from probe.play import play

    scenario = load_scenario(lab)
    if question is not None and question.target.scheme == "https":
        progress("the server's certificate is not verified: only the way to it is asked about")
    played = play(
        scenario,
        proxy_mode.value,
        question=question,
        ingress=ingress,
        record=record,
        linger=duration or 0.0,
        progress=progress,
    )
    if record is not None:
        note(f"· kept in {record}")
    end_with(played.report, output)


def _question(send: str | None, count: int, spoof: list[str]) -> Question | None:
    """What --send, --count and --spoof ask for together. Raises UsageError."""
    if send is None:
        for name, given in (("--spoof", bool(spoof)), ("--count", count != 1)):
            if given:
                raise UsageError(f"{name} says what --send is to send; give --send URL too")
        return None
    from probe.ask import Question
    from probe.sending import check_spoof, parse_url

    check_spoof(spoof)
    return Question(parse_url(send), count, tuple(spoof))


def _ingress(configs: list[Path], logs: list[Path], app_server: str | None) -> Callable[[], IngressRecord]:
    """How to read what was given of ingresses once the capture is over. Raises UsageError where that cannot work."""
    from probe.ingress import read_afterwards

    return read_afterwards(configs, logs, note, app_server)
