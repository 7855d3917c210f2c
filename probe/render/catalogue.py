"""The catalogue of findings for people: one line each, or one of them whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from analysis.findings import Definition
from probe.render.style import Paper


def list_text(definitions: Mapping[str, Definition], stream: TextIO) -> str:
    """Every finding on a line: sign, code, title."""
    paper = Paper(stream)
    for definition in definitions.values():
        glyph, style = paper.glyph(definition.severity)
        paper.paragraph(f"{glyph} {definition.code}", definition.title, indent=0, label_style=style)
    return paper.written


def definition_text(definition: Definition, stream: TextIO) -> str:
    """One finding: what it means, how to mend it, where to read on."""
    paper = Paper(stream)
    glyph, style = paper.glyph(definition.severity)
    paper.paragraph(f"{glyph} {definition.code}", definition.title, indent=0, style=style)
    paper.print(f"  severity: {definition.severity}")
    paper.print()
    paper.paragraph("", definition.explanation)
    paper.print()
    paper.paragraph("Fix", definition.fix)
    paper.paragraph("More", definition.docs)
    return paper.written
