"""The answer of `probe health` for people: the worst first, then what was watched, then what to do."""

from __future__ import annotations

from typing import TextIO

from analysis.report import Severity, Verdict
from probe.health.report import HealthReport
from probe.render.health import print_health
from probe.render.health_asking import print_asking
from probe.render.style import Paper
from probe.render.terminal import print_capture, print_findings


def to_text(report: HealthReport, stream: TextIO, *, wide: bool = False, width: int | None = None) -> str:
    """The answer of `probe health` as `stream` can show it."""
    paper = Paper(stream, wide=wide, width=width)
    _headline(paper, report)
    if report.asking is not None:
        print_asking(paper, report.asking)
    if report.health is not None:
        print_health(paper, report.health, timeline=True)
    if report.findings:
        print_findings(paper, report.findings)
    if report.capture is not None:
        print_capture(paper, report.capture)
    return paper.written


def _headline(paper: Paper, report: HealthReport) -> None:
    """The worst that was found, or that nothing could be said."""
    worst = next((each for each in report.findings if each.code.startswith("SIP6")), None)
    service = f"{report.service}: " if report.service else ""
    if worst is None and report.asking is not None and report.exit_code:
        glyph, style = paper.glyph(Verdict.INCONCLUSIVE)
        text = f"{service}nothing wrong is certain, and not of every node enough is known to say that all is well"
    elif worst is None and report.health is None:
        glyph, style = paper.glyph(Verdict.INCONCLUSIVE)
        text = f"{service}no health check was seen of one Service alone; nothing can be said"
    elif worst is None:
        glyph, style = paper.glyph(Severity.INFO)
        text = f"{service}nothing is wrong with what was seen, and too little was to say that all is well"
    else:
        glyph, style = paper.glyph(Verdict.PRESERVED if worst.severity is Severity.INFO else worst.severity)
        text = f"{service}{worst.title[0].lower()}{worst.title[1:]}"
    paper.paragraph(glyph, text, indent=0, style=style, label_style=style)
