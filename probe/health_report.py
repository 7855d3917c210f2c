"""What `probe health` answers: what was watched and what was asked, with the findings about health checks alone."""

from __future__ import annotations

import msgspec

from analysis.health.result import Health
from analysis.report import Capture, Finding, Report, Severity


class HealthReport(msgspec.Struct, frozen=True, rename="camel"):
    """One answer. `health` is what was watched, None where nothing was."""

    service: str | None
    capture: Capture | None
    health: Health | None
    findings: tuple[Finding, ...]
    schema_version: str = "1"

    @property
    def exit_code(self) -> int:
        """3 an error-level finding · 4 nothing could be said · 0 else."""
        if any(finding.severity is Severity.ERROR for finding in self.findings):
            return 3
        return 0 if self.health is not None and self.health.nodes else 4


def about_health(report: Report) -> HealthReport:
    """The part of a report that is about health checks, and about how much was seen."""
    kept = tuple(finding for finding in report.findings if finding.code[:4] in {"SIP6", "SIP9"})
    service = report.health.service if report.health is not None else report.service
    return HealthReport(service, report.capture, report.health, kept)
