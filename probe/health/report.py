"""What `probe health` answers: what was watched and what was asked, with the findings about health checks alone."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from analysis.health.asking import judge_kept
from analysis.health.judge import Codes
from analysis.health.replies import Asking, Standing
from analysis.health.result import Health
from analysis.health.rounds import AskedRounds
from analysis.report import Capture, Finding, Report, Severity
from analysis.telling import told_finding


class HealthReport(msgspec.Struct, frozen=True, rename="camel"):
    """One answer. `health` is what was watched, `asking` what was asked; each None where nothing was."""

    service: str | None
    capture: Capture | None
    health: Health | None
    findings: tuple[Finding, ...]
    schema_version: str = "1"
    asking: Asking | None = None

    @property
    def exit_code(self) -> int:
        """3 an error-level finding · 4 nothing could be said, or of a node that was asked not enough · 0 else."""
        if any(finding.severity is Severity.ERROR for finding in self.findings):
            return 3
        if self.asking is not None and any(
            node.standing not in {Standing.RIGHT, Standing.WRONG} for node in self.asking.nodes
        ):
            return 4
        watched = self.health is not None and bool(self.health.nodes)
        return 0 if watched or (self.asking is not None and self.asking.judged) else 4


def about_health(report: Report) -> HealthReport:
    """The part of a report that is about health checks, and about how much was seen."""
    kept = tuple(finding for finding in report.findings if finding.code[:4] in {"SIP6", "SIP9"})
    service = report.health.service if report.health is not None else report.service
    return HealthReport(service, report.capture, report.health, kept)


def with_kept(report: Report, asked: AskedRounds | None) -> HealthReport:
    """The answer from a session: what was watched, if anything was, and what was asked about its Service."""
    if asked is None or report.service not in {None, asked.service}:
        return about_health(report)
    return with_asking(*judge_kept(asked), about_health(report) if report.capture.nodes else None)


def with_asking(asking: Asking, codes: Codes, watched: HealthReport | None = None) -> HealthReport:
    """What was asked, beside what was watched. A finding that both lead to has the evidence of both."""
    base = watched or HealthReport(asking.service, None, None, ())
    found = {finding.code: finding for finding in base.findings}
    for code, lines in codes.items():
        before = found.get(code)
        more = before.evidence if before is not None else ()  # a report may hold what was asked already
        found[code] = told_finding(code, [*lines, *(line for line in more if line not in lines)])
    if base.health is not None and "SIP618" in found and any(_is_bad(each) for each in found.values()):
        del found["SIP618"]  # a rollout that lost clients, or packets that tell otherwise, is not "all well"
    return msgspec.structs.replace(
        base, service=base.service or asking.service, asking=asking, findings=_gravest_first(found.values())
    )


def _is_bad(finding: Finding) -> bool:
    return finding.code.startswith("SIP6") and finding.severity is not Severity.INFO


def _gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    order = list(Severity)
    return tuple(sorted(findings, key=lambda finding: (order.index(finding.severity), finding.code)))
