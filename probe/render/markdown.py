"""The report as Markdown, for a ticket or a pull request: GitHub's dialect, readable as plain text too.

Everything that comes from the report is written as text that Markdown does not obey: one line, its marks escaped, or,
where people will copy it, in a code span or block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.report import Finding, Hop, Journey, Path, Report, Severity, Verdict
from probe.render.escape import escape
from probe.render.rows import SAID, bare
from probe.render.style import count

_MARKS = re.compile(r"([\\`*_\[\]<>#|~&$]|:(?=//)|(?<=[Ww])\.)")
#: What GitHub makes links of after it has read the marks: people and issues.
_MENTIONS = re.compile(r"@|#(?=\d)")
_BACKTICKS = re.compile("`+")

#: Paths and findings' evidence that are written out; a ticket has limits of its own (65,536 characters on GitHub).
_PATHS, _HOPS = 12, 60

_ORDER = (Verdict.LOST, Verdict.BLACKHOLED, Verdict.INCONCLUSIVE, Verdict.PRESERVED)
_SIGNS = {Verdict.LOST: "❌", Verdict.BLACKHOLED: "❌", Verdict.INCONCLUSIVE: "⚠️", Verdict.PRESERVED: "✅"}
_GRAVITY = {Severity.ERROR: "❌", Severity.WARNING: "⚠️", Severity.INFO: "ℹ️"}  # noqa: RUF001 - the sign as it is


def to_markdown(report: Report) -> str:
    """The whole report: verdict first, then each path, then findings with their remedies, then the capture."""
    lines = [f"## Client addresses{f': {_text(report.service)}' if report.service else ''}", ""]
    if report.title:
        lines += [f"Watched: {_text(report.title)}", ""]
    lines += [*_summary(report), "", *_paths(report), *_findings(report.findings), *_capture(report)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _summary(report: Report) -> Iterator[str]:
    yield "| verdict | connections |"
    yield "|---|---:|"
    for verdict in _ORDER:
        number = getattr(report.summary, verdict.value)
        if number:
            yield f"| {_SIGNS[verdict]} **{verdict}** | {number:,} |"
    if not report.summary.journeys:
        yield "| ⚠️ no connection was seen | 0 |"


def _paths(report: Report) -> Iterator[str]:
    journeys = {journey.id: journey for journey in report.journeys}
    known = [path for path in report.paths if path.example in journeys]
    known.sort(key=lambda path: (_ORDER.index(path.verdict), -path.count))
    for number, path in enumerate(known[:_PATHS], start=1):
        yield from _path(number, path, journeys[path.example])
    if (more := len(known) - _PATHS) > 0:
        yield from (f"{count(more, 'more path')} in the JSON report.", "")


def _path(number: int, path: Path, journey: Journey) -> Iterator[str]:
    yield f"### {_SIGNS[path.verdict]} Path {number}: {path.verdict}, {count(path.count, 'connection')}"
    yield ""
    yield "| node | at | source | destination | changed |"
    yield "|---|---|---|---|---|"
    yield from map(_hop, journey.hops[:_HOPS])
    if len(journey.hops) > _HOPS:
        yield f"| | and {len(journey.hops) - _HOPS} more | | | |"
    yield ""
    if journey.reason:
        yield f"- Why: {_text(journey.reason)}"
    for snat in journey.snat:
        rule = f", rule {_code(snat.rule)}" if snat.rule else ""
        became = f"{_code(snat.from_)} became {_code(snat.to)}" if snat.from_ else f"now {_code(snat.to)}"
        yield f"- Who: {_text(snat.node or 'outside the cluster')}, {_text(snat.mechanism)}{rule}: {became}"
    if journey.seen_by_app:
        yield f"- The application sees {_code(journey.seen_by_app)}"
    if journey.confidence in {"medium", "low"}:
        yield f"- Confidence: {journey.confidence}"
    if journey.findings:
        yield f"- Findings: {', '.join(map(_text, journey.findings))}"
    if journey.display_filter:
        yield f"- In Wireshark: {_code(journey.display_filter)}"
    yield ""


def _hop(hop: Hop) -> str:
    at = SAID.get(hop.point) or f"{hop.tap or hop.point} {hop.interface or ''}".strip()
    at = "kernel NAT" if hop.evidence == "conntrack" else at
    changed = ", ".join(f"**{_text(each)}**" for each in hop.changed)
    ends = (_code(bare(each), cell=True) if each else "" for each in (hop.source, hop.destination))
    source, destination = ends
    return f"| {_text(hop.node or '')} | {_text(at)} | {source} | {destination} | {changed} |"


def _findings(findings: tuple[Finding, ...]) -> Iterator[str]:
    if not findings:
        return
    yield from ("### Findings", "")
    for finding in findings:
        about = f" ({count(finding.journeys, 'connection')})" if finding.journeys else ""
        yield f"- {_GRAVITY[finding.severity]} **{_text(finding.code)}** {_text(finding.title)}{about}"
        yield f"  - {_text(finding.detail)}"
        yield f"  - Fix: {_text(finding.fix)}"
        yield from (f"  - Seen: {_code(each)}" for each in finding.evidence)
        if finding.confidence != "high":
            yield f"  - Confidence: {_text(finding.confidence)}"
    yield ""


def _capture(report: Report) -> Iterator[str]:
    capture = report.capture
    state = "complete" if capture.complete else "incomplete"
    nodes = ", ".join(map(_text, capture.nodes)) or "no node"
    drops = f"{capture.kernel_drops:,} dropped by kernels" if capture.kernel_drops else "none dropped"
    yield f"Capture: {state}; {nodes}; {count(capture.observations, 'observation')}, {drops}"
    yield from (f"- {_text(reason)}" for reason in capture.reasons)


def _text(text: str) -> str:
    """One line in which Markdown finds no mark, no link and no mention."""
    return _MENTIONS.sub(r"\g<0><!-- -->", _MARKS.sub(r"\\\1", escape(text)))


def _code(text: str, *, cell: bool = False) -> str:
    """A code span, fenced by more backticks than it holds; in a table a pipe would end the cell even there."""
    safe = escape(text).replace("|", "\\|") if cell else escape(text)
    fence = "`" * (max(map(len, _BACKTICKS.findall(safe)), default=0) + 1)
    pad = " " if safe.startswith("`") or safe.endswith("`") or not safe.strip() else ""
    return f"{fence}{pad}{safe or ' '}{pad}{fence}"
