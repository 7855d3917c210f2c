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
    from probe.render.wireshark.packets import Seen


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
    IPTABLES_LEGACY = "iptables-legacy"


OutputOption = Annotated[
    Format,
    typer.Option("-o", "--output", help="For people: table, wide. For programs: json, jsonl, yaml."),
]


def complete_output(incomplete: str) -> list[str]:
    """Names of formats that begin so."""
    return [each.value for each in Format if each.value.startswith(incomplete)]


#: As `OutputOption`, and beside it the name of a folder; `split_output` tells them apart.
FormatOrFolderOption = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FORMAT|DIR",
        autocompletion=complete_output,
        help="For people: table, wide. For programs: json, jsonl, yaml. Any other name is a new folder in which the "
        "session is kept, as by --record; ./NAME always is. May be given once for each. [table]",
    ),
]

#: What kubectl knows as formats and probe does not.
_KUBECTLS = ("name", "jsonpath", "go-template", "custom-columns", "templatefile")


def split_output(given: list[str] | None) -> tuple[Format, Path | None]:
    """The format, and the folder that the session is to be kept in. Raises UsageError."""
    from difflib import get_close_matches

    formats = [Format(text) for text in given or [] if text in set(Format)]
    folders = [text for text in given or [] if text not in set(Format)]
    if len(formats) > 1 or len(folders) > 1:
        twice = (formats if len(formats) > 1 else folders)[:2]
        raise UsageError(
            f"--output is given twice, {' and '.join(twice)}; give one format and one folder at most"
        )
    for text in folders:
        named = text.partition("=")[0].lower()
        likely = get_close_matches(named, [*Format, *_KUBECTLS], n=1, cutoff=0.7)
        if "/" not in text and ("=" in text or not text.strip() or likely or named.startswith(_KUBECTLS)):
            raise UsageError(
                f"--output {text!a} is no format; give {', '.join(Format)}, or ./{text} for a folder of that name"
            )
    return formats[0] if formats else Format.TABLE, Path(folders[0]) if folders else None


ProxyModeOption = Annotated[
    ProxyMode, typer.Option("--proxy-mode", help="How the lab's nodes forward, as kube-proxy would.")
]

BalancerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--balancer",
        metavar="ADDRESS|PREFIX",
        help="An address that is a load balancer's, where the objects do not say so. May be given many times.",
    ),
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


AnonymizeOption = Annotated[
    bool,
    typer.Option(
        "--anonymize",
        help="Give the same verdicts with other addresses, hosts, paths and ids in every output: for a public ticket. "
        "Names of nodes, pods and Services stay.",
    ),
]

KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="For --anonymize: a file with secret bytes. Outputs of one key have the same in the place of the same. "
        "[a new key, which nobody keeps]",
    ),
]


def key_option(anonymize: bool, key: Path | None) -> bytes | None:
    """The key to anonymize with, None where nothing is. Raises ProbeError."""
    if not anonymize:
        if key is not None:
            raise UsageError("--key is for --anonymize; leave it out")
        return None
    from probe.anonymous.keys import read_key

    return read_key(key)


def clients_option(texts: list[str] | None) -> tuple[str, ...]:
    """What --from-ip names, as it is written in a report. Raises UsageError."""
    if not texts:
        return ()
    from ipaddress import ip_network

    for text in texts:
        try:
            ip_network(text, strict=False)
        except ValueError as error:
            raise UsageError(f"--from-ip {text!a} is no address; give ADDRESS or ADDRESS/LENGTH") from error
    from analysis.chain.clients import Clients

    return Clients.of(dict.fromkeys(texts)).texts


def print_report(report: Report, output: Format) -> None:
    """The report on stdout in the asked format."""
    if output.for_people:
        from probe.render.terminal import to_text

        put(to_text(report, sys.stdout, wide=output is Format.WIDE))
        return
    from probe.render.machines import machine

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
