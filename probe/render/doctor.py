"""What `probe doctor` found, for people: an area at a time, what is wrong with what to do below it."""

from __future__ import annotations

from typing import TextIO

from analysis.report import Severity
from probe.doctor import AREAS, Diagnosis
from probe.render.style import Paper, count

_TITLES = {
    "program": "This program",
    "cluster": "Captures on a cluster",
    "lab": "The lab, and the demo",
    "packets": "Looking at packets",
}


def diagnosis_text(told: Diagnosis, stream: TextIO) -> str:
    """All checks, the summary last."""
    paper = Paper(stream)
    for area in AREAS:
        checks = [check for check in told.checks if check.area == area]
        if not checks:
            continue
        paper.print((_TITLES[area], "bold"))
        for check in checks:
            glyph, style = ("✓", "green") if check.severity is None else paper.glyph(check.severity)
            paper.sentence(f"{glyph} {check.name}", check.detail, label_style=style)
            if check.fix:
                paper.sentence("Fix", check.fix, indent=4)
        paper.print()
    wrong, less = (
        sum(check.severity is severity for check in told.checks)
        for severity in (Severity.ERROR, Severity.WARNING)
    )
    glyph, style = ("✓", "green") if not wrong else paper.glyph(Severity.ERROR)
    parts = [f"{count(wrong, 'thing')} to be mended"] if wrong else ["nothing stands in the way"]
    if less:
        parts.append(f"{count(less, 'thing')} not there that some uses need")
    paper.print((f"{glyph} ", style), " · ".join(parts))
    return paper.written
