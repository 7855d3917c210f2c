"""The checks as JUnit XML, as CI servers read it: a check is a test case, a finding from the threshold up a failure."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from analysis.checks.result import CheckReport, Result, Status
from analysis.report import Severity

_GRAVE = {"info": 0, "warning": 1, "error": 2}


def to_junit(report: CheckReport) -> str:
    """The report as one test suite. Characters that XML 1.0 does not know are written as their escapes."""
    cases = [_case(report, result) for result in report.results]
    failures = sum("<failure" in case for case in cases)
    skipped = sum("<skipped" in case for case in cases)
    head = (
        f'<testsuite name={_quoted("probe check " + report.service)} tests="{len(cases)}" '
        f'failures="{failures}" errors="0" skipped="{skipped}">'
    )
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *cases, "</testsuite>"]) + "\n"


def _case(report: CheckReport, result: Result) -> str:
    name = f"{result.check}: {result.code} {result.title}" if result.code else result.check
    if result.subject:
        name += f" ({result.subject})"
    inside = _inside(report, result)
    return f'  <testcase classname="probe.check.{result.check}" name={_quoted(name)}>{inside}</testcase>'


def _inside(report: CheckReport, result: Result) -> str:
    if result.suppressed:
        return f"<skipped message={_quoted('suppressed: ' + result.detail)}/>"
    if result.status is Status.NOT_CHECKED:
        return f"<skipped message={_quoted('not checked, because ' + result.detail)}/>"
    if result.severity is None:
        return f"<system-out>{_safe(result.detail)}</system-out>"
    text = "\n".join([result.detail, f"Fix: {result.fix}", *result.commands, *result.helm, result.docs])
    if _GRAVE[(result.severity or Severity.INFO).value] >= _GRAVE[report.fail_on]:
        return f"<failure type={_quoted(result.code or '')} message={_quoted(result.detail)}>{_safe(text)}</failure>"
    return f"<system-out>{_safe(text)}</system-out>"


def _known(text: str) -> str:
    return "".join(char if char in "\t\n" or char.isprintable() else ascii(char)[1:-1] for char in text)


def _safe(text: str) -> str:
    return escape(_known(text))


def _quoted(text: str) -> str:
    return quoteattr(_known(text).replace("\n", " "))
