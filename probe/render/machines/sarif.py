"""SARIF 2.1.0 (OASIS), as code scanning reads it: what every log of ours has in common, and that of a report.

Findings are results. What could not be verified is a notification of the run, because it is no fault of what was
looked at: reasons why the capture is incomplete, and connections of which nothing certain is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from analysis.catalogue.definition import Definition
from analysis.catalogue.findings import CATALOGUE
from analysis.report import Finding, Report, Severity
from probe import __version__
from probe.render.style import count

LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def to_sarif(report: Report) -> dict[str, Any]:
    """The report as a log with one run."""
    codes = sorted({finding.code for finding in report.findings} & CATALOGUE.keys())
    return log(
        "probe",
        [rule(CATALOGUE[code]) for code in codes],
        [_result(finding, codes, report.service) for finding in report.findings],
        report.exit_code,
        [*_unverified(report), *(notification("warning", reason) for reason in report.capture.reasons)],
    )


def log(
    name: str,
    rules: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    exit_code: int,
    notifications: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """A SARIF log with one run of the tool that is called so."""
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": name, "version": __version__, "rules": list(rules)}},
                "results": list(results),
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "exitCode": exit_code,
                        "toolExecutionNotifications": list(notifications),
                    }
                ],
            }
        ],
    }


def rule(definition: Definition) -> dict[str, Any]:
    """What a code stands for (§3.49)."""
    return {
        "id": definition.code,
        "shortDescription": {"text": definition.title},
        "fullDescription": {"text": definition.explanation},
        "help": {"text": f"{definition.fix} See {definition.docs}."},
        "defaultConfiguration": {"level": LEVELS[definition.severity]},
    }


def notification(level: str, text: str) -> dict[str, Any]:
    """Something about the run itself (§3.58)."""
    return {"level": level, "message": {"text": text}}


def _result(finding: Finding, codes: Sequence[str], service: str | None) -> dict[str, Any]:
    subject = service or "the captured connections"
    about = f" ({count(finding.journeys, 'connection')})" if finding.journeys else ""
    doubt = "\nConfidence is medium: other faults look the same." if finding.confidence != "high" else ""
    entry: dict[str, Any] = {
        "ruleId": finding.code,
        "level": LEVELS[finding.severity],
        "message": {"text": f"{finding.title}{about}: {finding.detail}\n{finding.fix}{doubt}"},
        "locations": [{"logicalLocations": [{"fullyQualifiedName": subject, "kind": "resource"}]}],
        "partialFingerprints": {"codeAndSubject/v1": f"{finding.code}:{subject}"},
        "properties": {"evidence": list(finding.evidence), "connections": finding.journeys},
    }
    if finding.code in codes:
        entry["ruleIndex"] = codes.index(finding.code)
    return entry


def _unverified(report: Report) -> Iterable[dict[str, Any]]:
    if not report.summary.journeys:
        yield notification("error", "no connection was seen; nothing was verified")
    elif report.summary.inconclusive:
        number = count(report.summary.inconclusive, "connection")
        yield notification("error", f"nothing certain can be said of {number}")
