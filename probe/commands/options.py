"""Options that several commands share, and the two things that most of them end with."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probe.errors import UsageError
from probe.output import progress, put

if TYPE_CHECKING:
    from analysis.report import Report
    from probe.commands.files import Prepared
    from probe.render.packets import Seen


class Format(enum.StrEnum):
    """kubectl's names of output formats."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    JSONL = "jsonl"
    YAML = "yaml"

    @property
    def for_people(self) -> bool:
        """Whether a person reads it."""
        return self in {Format.TABLE, Format.WIDE}


class ProxyMode(enum.StrEnum):
    """How the lab's nodes forward Services."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"


OutputOption = Annotated[
    Format,
    typer.Option("-o", "--output", help="For people: table, wide. For programs: json, jsonl, yaml."),
]

ProxyModeOption = Annotated[
    ProxyMode, typer.Option("--proxy-mode", help="How the lab's nodes forward, as kube-proxy would.")
]

IngressConfigOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--ingress-config",
        metavar="FILE",
        help="What an ingress or balancer is told: nginx.conf, the output of `nginx -T`, haproxy.cfg, or the "
        "ConfigMap of ingress-nginx as YAML or JSON. May be given many times.",
    ),
]

IngressLogOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--ingress-log",
        metavar="FILE",
        help="What a server wrote: logs of nginx, ingress-nginx, HAProxy, Envoy or uvicorn, best as "
        "`kubectl logs --timestamps` prints them. May be given many times.",
    ),
]


FromIpOption = Annotated[
    list[str] | None,
    typer.Option(
        "--from-ip",
        metavar="ADDRESS|PREFIX",
        help="Report only connections of these clients. Everything is watched all the same: after SNAT no packet shows "
        "whose it is. May be given many times.",
    ),
]

AppServerOption = Annotated[
    str | None,
    typer.Option(
        "--app-server",
        metavar="COMMAND",
        help="How the application's server is started, to know whom it believes: "
        "'uvicorn app:main --forwarded-allow-ips 10.244.0.0/16', with environment variables in front. "
        "uvicorn and gunicorn are known.",
    ),
]


def clients_option(texts: list[str] | None) -> tuple[str, ...]:
    """What --from-ip names, as it is written in a report. Raises UsageError."""
    if not texts:
        return ()
    from ipaddress import ip_network

    for text in texts:
        try:
            ip_network(text, strict=False)
        except ValueError as error:
            raise UsageError(f"--from-ip {text!a}: {error}; give an address or a prefix") from error
    from analysis.clients import Clients

    return Clients.of(dict.fromkeys(texts)).texts


def print_report(report: Report, output: Format) -> None:
    """The report on stdout in the asked format."""
    if output.for_people:
        from probe.render.terminal import to_text

        put(to_text(report, sys.stdout, wide=output is Format.WIDE))
        return
    from probe.render import machine

    match output:
        case Format.JSONL:
            put("\n".join(machine.to_jsonl(report)))
        case Format.YAML:
            put(machine.to_yaml(report))
        case _:
            put(machine.to_json(report))


def end_with(report: Report, output: Format, files: Prepared | None = None, seen: Seen | None = None) -> None:
    """Print the report, write the files that were asked for, and exit with its code."""
    print_report(report, output)
    if files is not None and seen is not None:
        files.write(report, seen)
    raise typer.Exit(report.exit_code)


def quiet_progress() -> Callable[[str], None]:
    """Progress for work that is mostly done at once: told to a terminal only."""
    return progress if sys.stderr.isatty() else lambda _: None
