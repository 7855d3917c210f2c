"""`probe check`: what a cluster's objects, or files of them, say about clients' addresses before any packet."""

from __future__ import annotations

import enum
import sys
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probe.commands.cluster import (
    ContextOption,
    KubeconfigOption,
    NamespaceOption,
    connected,
    duration_option,
)
from probe.errors import UnavailableError, UsageError, os_error
from probe.output import put

if TYPE_CHECKING:
    from analysis.checks.result import CheckReport
    from probe.checking.gathering import Given
    from probe.cluster.lister import Lister
    from probe.cluster.selection import Selection


class CheckFormat(enum.StrEnum):
    """Forms of the answer."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    JSONL = "jsonl"
    JUNIT = "junit"
    SARIF = "sarif"


class Threshold(enum.StrEnum):
    """From which severity on findings decide the exit code."""

    ERROR = "error"
    WARNING = "warning"


def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="svc/NAME",
            help="What to check: svc/NAME, ingress/NAME or gateway/NAME.",
            show_default=False,
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "-f",
            "--filename",
            metavar="FILE",
            help="Manifests instead of a cluster: YAML or JSON, a folder of them, or - for standard input, as "
            "`helm template` prints it. May be given many times.",
        ),
    ] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    balancer: Annotated[
        list[str] | None,
        typer.Option(
            "--balancer",
            metavar="CIDR",
            help="Addresses from which the load balancer speaks. May be given many times.",
        ),
    ] = None,
    pod_cidr: Annotated[
        list[str] | None,
        typer.Option("--pod-cidr", metavar="CIDR", help="The pods' network, where the objects do not say."),
    ] = None,
    balancer_lag: Annotated[
        str | None,
        typer.Option(
            "--balancer-lag",
            metavar="TIME",
            help="How long the balancer takes to leave a node alone whose check fails: interval times threshold.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore", metavar="CODE", help="Show this finding as suppressed. May be given many times."
        ),
    ] = None,
    fail_on: Annotated[
        Threshold, typer.Option("--fail-on", help="From which severity on a finding ends with exit code 3.")
    ] = Threshold.ERROR,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML to a file as well.")
    ] = None,
    output: Annotated[
        CheckFormat,
        typer.Option(
            "-o", "--output", help="For people: table, wide. For programs: json, yaml, jsonl, junit, sarif."
        ),
    ] = CheckFormat.TABLE,
) -> None:
    """Check a Service's path for what loses clients' addresses, by its objects alone; takes seconds and no capture.

    Exit codes: 0 all well · 3 a finding from --fail-on up · 4 nothing wrong, but something that the answer hangs on
    could not be checked.

    probe check -n ingress-nginx svc/ingress-nginx-controller

    helm template … | probe check -f - -n NAMESPACE svc/NAME
    """
    from probe.checking.gathering import Given
    from probe.cluster.selection import parse

    codes = frozenset(_code(each) for each in ignore or [])
    given = Given(
        balancers=tuple(_network(each, "--balancer") for each in balancer or []),
        pod_ranges=tuple(_network(each, "--pod-cidr") for each in pod_cidr or []),
        balancer_lag=duration_option(balancer_lag, "--balancer-lag"),
        live=files is None,
    )
    selection = parse(target, namespace or "default")
    if files is not None:
        if context is not None or kubeconfig is not None:
            raise UsageError("-f reads files and asks no cluster; leave --context and --kubeconfig out")
        report = _of_files(files, selection, given, codes, fail_on)
    else:
        with connected(kubeconfig, context) as api:
            if namespace is None:
                selection = replace(selection, namespace=api.namespace)
            report = _report(api, selection, given, codes, fail_on)
    _finish(report, output, junit)


def _of_files(
    files: list[Path], selection: Selection, given: Given, codes: frozenset[str], fail_on: Threshold
) -> CheckReport:
    from probe.checking.documents import read_documents
    from probe.checking.files import FileLister

    documents = read_documents(files)
    lister = FileLister(documents.items, selection.namespace)
    unread = (*documents.problems, *lister.problems)
    try:
        return _report(lister, selection, given, codes, fail_on, unread)
    except UnavailableError as error:
        if not unread:
            raise
        raise UnavailableError(f"{error}; not all that was given could be read: {unread[0]}") from error


def _report(
    lister: Lister,
    selection: Selection,
    given: Given,
    codes: frozenset[str],
    fail_on: Threshold,
    unread: tuple[str, ...] = (),
) -> CheckReport:
    from analysis.checks.run import run
    from analysis.report import Severity
    from probe.checking.gathering import gather_case

    case, way, remarks = gather_case(lister, selection, given)
    severity = Severity(fail_on.value)
    return run(case, way=way, ignore=codes, fail_on=severity, remarks=remarks, unread=unread)


def _finish(report: CheckReport, output: CheckFormat, junit: Path | None) -> None:
    """Write the answer and end with its exit code."""
    from probe.render.machines.checks_junit import to_junit

    if junit is not None:
        try:
            junit.write_text(to_junit(report), encoding="utf-8")
        except OSError as error:
            raise os_error(error, f"write {junit}") from error
    put(_written(report, output))
    raise typer.Exit(report.exit_code)


def _written(report: CheckReport, output: CheckFormat) -> str:
    from probe.render.checks import checks_text
    from probe.render.machines import machine
    from probe.render.machines.checks_junit import to_junit
    from probe.render.machines.checks_sarif import to_sarif

    match output:
        case CheckFormat.JSON:
            return machine.to_json(report)
        case CheckFormat.YAML:
            return machine.to_yaml(report)
        case CheckFormat.JSONL:
            return "\n".join(machine.to_line(each) for each in report.results)
        case CheckFormat.JUNIT:
            return to_junit(report)
        case CheckFormat.SARIF:
            return machine.to_json(to_sarif(report))
        case _:
            return checks_text(report, sys.stdout, wide=output is CheckFormat.WIDE)


def _code(written: str) -> str:
    """The code of a finding of the checks. Raises UsageError."""
    from analysis.checks.catalogue import BY_CODE

    code = written.strip().upper()
    if code not in BY_CODE:
        raise UsageError(
            f"--ignore {written[:40]!a} is no finding of `probe check`; `probe explain` lists them"
        )
    return code


def _network(written: str, option: str) -> str:
    """A range of addresses, or one. Raises UsageError."""
    try:
        return str(ip_network(written.strip(), strict=False))
    except ValueError as error:
        raise UsageError(
            f"{option} {written[:60]!a} is no range of addresses; give ADDRESS/LENGTH"
        ) from error
