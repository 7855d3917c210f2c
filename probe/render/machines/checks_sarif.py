"""The checks as SARIF 2.1.0, as code scanning reads it: findings are results, suppressed ones marked as such."""

from __future__ import annotations

from typing import Any

from analysis.checks.catalogue import BY_CODE
from analysis.checks.result import CheckReport, Result, Status
from probe.render.machines.sarif import LEVELS, log, notification, rule


def to_sarif(report: CheckReport) -> dict[str, Any]:
    """The report as a SARIF log with one run."""
    codes = sorted({result.code for result in report.results if result.code})
    order = {code: at for at, code in enumerate(codes)}
    return log(
        "probe check",
        [rule(BY_CODE[code]) for code in codes],
        [_result(each, order) for each in report.results if each.code],
        report.exit_code,
        [
            notification(
                "warning" if each.essential else "note", f"{each.check}: not checked, because {each.detail}"
            )
            for each in report.results
            if each.status is Status.NOT_CHECKED
        ],
    )


def _result(result: Result, order: dict[str, int]) -> dict[str, Any]:
    assert result.code is not None
    assert result.severity is not None
    fix = "\n".join([result.fix, *result.commands, *(f"helm: {value}" for value in result.helm)])
    entry: dict[str, Any] = {
        "ruleId": result.code,
        "ruleIndex": order[result.code],
        "level": LEVELS[result.severity],
        "message": {"text": f"{result.title}: {result.detail}\n{fix}"},
        "locations": [{"logicalLocations": [{"fullyQualifiedName": result.subject, "kind": "resource"}]}],
        "partialFingerprints": {"codeAndSubject/v1": f"{result.code}:{result.subject}"},
    }
    if result.suppressed:
        entry["suppressions"] = [{"kind": "external", "justification": "--ignore"}]
    return entry
