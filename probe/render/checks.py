"""What `probe check` found, for people: one line for each check, findings with their fix, and what remains open."""

from __future__ import annotations

from typing import TextIO

import msgspec

from analysis.checks.result import CheckReport, Result, Share, Sight, Status
from analysis.report import Severity
from probe.render.style import Paper, count

#: Most pods and rows of the expectation that are told one by one.
MOST_ROWS = 40

_SIGNS = {Status.OK: ("✓", "green"), Status.NOT_CHECKED: ("?", "yellow"), Status.NOT_NEEDED: ("·", "dim")}


def checks_text(report: CheckReport, stream: TextIO, *, wide: bool = False) -> str:
    """The report for a terminal."""
    paper = Paper(stream, wide=wide)
    paper.print(
        ("Checked ", "bold"),
        report.service,
        f"  ({report.way})" if report.way not in {"", report.service} else "",
    )
    paper.print()
    for result in report.results:
        if result.status is not Status.NOT_NEEDED or wide:
            _result(paper, result, wide=wide)
    _shares(paper, report)
    _expectation(paper, report.expectation)
    if report.remarks:
        paper.print()
        for remark in report.remarks:
            paper.sentence("note", remark)
    paper.print()
    _summary(paper, report)
    return paper.written


def _sign(paper: Paper, result: Result) -> tuple[str, str]:
    if result.suppressed:
        return "-", "dim"
    if result.severity is not None:
        return paper.glyph(result.severity)
    return _SIGNS[result.status]


def _result(paper: Paper, result: Result, *, wide: bool) -> None:
    sign, style = _sign(paper, result)
    if result.status is Status.FINDING:
        label = f"{sign} {result.code}"
        paper.sentence(label, _titled(result), indent=0, label_style=style)
        paper.sentence("", f"{result.subject}: {result.detail}", indent=4)
        if not result.suppressed:
            _fix(paper, result)
        return
    words = f"not checked, because {result.detail}" if result.status is Status.NOT_CHECKED else result.detail
    subject = f"{result.subject}: " if result.subject and wide else ""
    paper.sentence(f"{sign} {result.check}", subject + words, indent=0, label_style=style)


def _titled(result: Result) -> str:
    return f"{result.title} (suppressed)" if result.suppressed else result.title


def _fix(paper: Paper, result: Result) -> None:
    paper.sentence("Fix", result.fix, indent=4)
    for command in result.commands:
        paper.verbatim("    $ ", command)
    for value in result.helm:
        paper.verbatim("    helm: ", value)
    paper.print("    ", (result.docs, "dim"))


def _shares(paper: Paper, report: CheckReport) -> None:
    if not report.shares or report.imbalance is None:
        return
    paper.print()
    paper.print(("Share of new connections", "bold"), f"  imbalance factor {report.imbalance:g}")
    width = max(len(share.pod) for share in report.shares[:MOST_ROWS])
    for share in report.shares[:MOST_ROWS]:
        paper.print(_share(paper, share, width))
    _more(paper, len(report.shares))


def _share(paper: Paper, share: Share, width: int) -> str:
    return f"  {paper.pad(share.pod, min(width, 48))}  {share.share:6.1%}  on {share.node}"


def _expectation(paper: Paper, rows: tuple[Sight, ...]) -> None:
    if not rows:
        return
    paper.print()
    paper.print(("What should be seen", "bold"), "  by the node that is asked and the kind of client")
    alike: dict[Sight, list[str]] = {}
    for row in rows:
        alike.setdefault(msgspec.structs.replace(row, node=""), []).append(row.node)
    for row, nodes in list(alike.items())[:MOST_ROWS]:
        shown = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
        paper.sentence(shown, f"{row.client}: {_sight(row)}")
    _more(paper, len(alike))


def _sight(row: Sight) -> str:
    """One expectation as a sentence."""
    by = f" by {row.by}" if row.by else ""
    where = f", to {', '.join(row.to[:3])}{' …' if len(row.to) > 3 else ''}" if row.to else ""
    seen = f"; seen is {row.seen}" if row.seen else ""
    header = f"; {row.header}" if row.header else ""
    why = f" ({row.because})" if row.because else ""
    return f"{row.outcome}{by}{where}{seen}{header}{why}"


def _more(paper: Paper, number: int) -> None:
    if number > MOST_ROWS:
        paper.print(f"  and {number - MOST_ROWS} more (-o json has all)")


def _summary(paper: Paper, report: CheckReport) -> None:
    told = report.summary
    parts = [count(told.errors, "error"), count(told.warnings, "warning"), f"{told.ok} as they should be"]
    if told.not_checked:
        parts.append(f"{told.not_checked} not checked")
    if told.suppressed:
        parts.append(f"{told.suppressed} suppressed")
    worst = Severity.ERROR if told.errors else Severity.WARNING if told.warnings else None
    sign, style = (
        paper.glyph(worst) if worst else _SIGNS[Status.NOT_CHECKED if report.exit_code else Status.OK]
    )
    paper.print((f"{sign} ", style), " · ".join(parts))
    if report.exit_code == 4:
        paper.print(
            "  nothing is known to be wrong, but something that the answer hangs on could not be checked"
        )
