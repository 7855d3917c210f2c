"""What a check says: all well, a finding, or that it could not look, and why. And the report of all of them."""

from __future__ import annotations

import enum

import msgspec

from analysis.checks.catalogue import BY_CODE
from analysis.report import Severity

SCHEMA_VERSION = "1"


class Status(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    FINDING = "finding"
    NOT_CHECKED = "not checked"
    NOT_NEEDED = "not needed"


class Result(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One statement of one check.

    `subject` is the object that it is about, as kubectl names it. `detail` is one sentence: what was found, or because
    of what nothing could be. `commands` are ready to be run, one of them is enough; `helm` are values of the chart.
    `essential` marks what the whole verdict hangs on: not having checked it is an end of its own.
    """

    check: str
    status: Status
    detail: str
    subject: str = ""
    code: str | None = None
    severity: Severity | None = None
    title: str = ""
    fix: str = ""
    commands: tuple[str, ...] = ()
    helm: tuple[str, ...] = ()
    docs: str = ""
    essential: bool = False
    suppressed: bool = False


class Share(msgspec.Struct, frozen=True, rename="camel"):
    """The part of all connections that one pod gets where the balancer treats nodes alike, between 0 and 1."""

    pod: str
    node: str
    share: float


class Sight(msgspec.Struct, frozen=True, rename="camel"):
    """What should be seen of one kind of client that comes in by one node (a row of the expectation)."""

    node: str
    client: str
    outcome: str
    seen: str
    by: str = ""
    to: tuple[str, ...] = ()
    header: str = ""
    because: str = ""


class CheckSummary(msgspec.Struct, frozen=True, rename="camel"):
    """Counts of results by what they are; suppressed findings count as `suppressed` alone."""

    errors: int = 0
    warnings: int = 0
    infos: int = 0
    ok: int = 0
    not_checked: int = 0
    suppressed: int = 0


class CheckReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """All that `probe check` says. `exit_code` follows from the results and from the threshold that was asked for."""

    schema_version: str = SCHEMA_VERSION
    service: str
    way: str
    summary: CheckSummary
    results: tuple[Result, ...]
    shares: tuple[Share, ...] = ()
    imbalance: float | None = None
    expectation: tuple[Sight, ...] = ()
    remarks: tuple[str, ...] = ()
    fail_on: str = "error"
    exit_code: int = 0


def fine(check: str, detail: str, subject: str = "") -> Result:
    """Looked at, and as it should be."""
    return Result(check=check, status=Status.OK, detail=detail, subject=subject)


def not_checked(check: str, because: str, subject: str = "", *, essential: bool = False) -> Result:
    """Could not be looked at; `because` goes on after "not checked, because"."""
    return Result(
        check=check, status=Status.NOT_CHECKED, detail=because, subject=subject, essential=essential
    )


def not_needed(check: str, detail: str, subject: str = "") -> Result:
    """There is nothing to look at here, for the reason given."""
    return Result(check=check, status=Status.NOT_NEEDED, detail=detail, subject=subject)


def found(
    check: str,
    code: str,
    subject: str,
    detail: str,
    *,
    fix: str = "",
    commands: tuple[str, ...] = (),
    helm: tuple[str, ...] = (),
) -> Result:
    """A finding of the catalogue. `fix` takes the place of the catalogue's where the case tells more."""
    definition = BY_CODE[code]
    return Result(
        check=check,
        status=Status.FINDING,
        detail=detail,
        subject=subject,
        code=code,
        severity=definition.severity,
        title=definition.title,
        fix=fix or definition.fix,
        commands=commands,
        helm=helm,
        docs=definition.docs,
    )
