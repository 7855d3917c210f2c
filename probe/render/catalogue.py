"""The catalogue of findings for people: one line each, or one of them whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO

from analysis.catalogue.findings import Definition
from analysis.catalogue.pictures import rows
from probe.render.style import Paper

#: Between the columns of a picture, and before its first.
_GAP = 2
_INDENT = 4


def list_text(definitions: Mapping[str, Definition], stream: TextIO) -> str:
    """Every finding on a line: sign, code, title."""
    paper = Paper(stream)
    for definition in definitions.values():
        glyph, style = paper.glyph(definition.severity)
        paper.paragraph(f"{glyph} {definition.code}", definition.title, indent=0, label_style=style)
    return paper.written


def definition_text(definition: Definition, stream: TextIO) -> str:
    """One finding: what it means, the path of the case, how it is found, how to mend it, where to read on."""
    paper = Paper(stream)
    glyph, style = paper.glyph(definition.severity)
    paper.paragraph(f"{glyph} {definition.code}", definition.title, indent=0, style=style)
    paper.print(f"  severity: {definition.severity}")
    paper.print()
    paper.paragraph("", definition.explanation)
    paper.print()
    _print_picture(paper, rows(definition.code))
    paper.paragraph("Seen", definition.seen)
    paper.paragraph("Fix", definition.fix)
    paper.paragraph("More", definition.docs)
    return paper.written


def _print_picture(paper: Paper, told: Sequence[tuple[str, str, str]]) -> None:
    """The path of the case; what happens at a place stands below it where there is no room beside it."""
    if not told:
        return
    place, way = (max(len(paper.safe(row[column])) for row in told) for column in (0, 1))
    beside = max(len(paper.safe(row[2])) for row in told)
    fits = _INDENT + place + way + 2 * _GAP + beside <= paper.columns
    for row in told:
        line = " " * _INDENT + paper.pad(row[0], place + _GAP)
        style = "bold red" if row[2].startswith("×") else "green" if row[2].startswith("✓") else ""
        if fits or not row[2]:
            paper.print(line, paper.pad(row[1], way + _GAP), (row[2], style))
        else:
            paper.print(line, row[1])
            paper.paragraph("", row[2], indent=_INDENT + place + _GAP, style=style)
    paper.print()
