"""The checks as SARIF 2.1.0, as code scanning reads it: findings are results, suppressed ones marked as such."""

from __future__ import annotations

from typing import Any

from analysis.checks.catalogue import BY_CODE
from analysis.checks.result import CheckReport, Result, Status
from analysis.report import Severity
from probe import __version__

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def to_sarif(report: CheckReport) -> dict[str, Any]:
    """The report as a SARIF log with one run."""
    codes = sorted({result.code for result in report.results if result.code})
    order = {code: at for at, code in enumerate(codes)}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "probe check",
                        "version": __version__,
                        "rules": [_rule(code) for code in codes],
                    }
                },
                "results": [_result(each, order) for each in report.results if each.code],
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "exitCode": report.exit_code,
                        "toolExecutionNotifications": [
                            {
                                "level": "warning" if each.essential else "note",
                                "message": {"text": f"{each.check}: not checked, because {each.detail}"},
                            }
                            for each in report.results
                            if each.status is Status.NOT_CHECKED
                        ],
                    }
                ],
            }
        ],
    }


def _rule(code: str) -> dict[str, Any]:
    definition = BY_CODE[code]
    return {
        "id": code,
        "shortDescription": {"text": definition.title},
        "fullDescription": {"text": definition.explanation},
        "help": {"text": f"{definition.fix} See {definition.docs}."},
        "defaultConfiguration": {"level": _LEVELS[definition.severity]},
    }


def _result(result: Result, order: dict[str, int]) -> dict[str, Any]:
    assert result.code is not None
    assert result.severity is not None
    fix = "\n".join([result.fix, *result.commands, *(f"helm: {value}" for value in result.helm)])
    entry: dict[str, Any] = {
        "ruleId": result.code,
        "ruleIndex": order[result.code],
        "level": _LEVELS[result.severity],
        "message": {"text": f"{result.title}: {result.detail}\n{fix}"},
        "locations": [{"logicalLocations": [{"fullyQualifiedName": result.subject, "kind": "resource"}]}],
        "partialFingerprints": {"codeAndSubject/v1": f"{result.code}:{result.subject}"},
    }
    if result.suppressed:
        entry["suppressions"] = [{"kind": "external", "justification": "--ignore"}]
    return entry
