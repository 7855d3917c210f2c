"""Versions for people: ours first, then what it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from probe.render.style import Paper
from probe.versions import Library, Tool, Versions


def versions_text(told: Versions, stream: TextIO) -> str:
    """One line for each kind of thing; what is absent says so."""
    paper = Paper(stream)
    paper.print((f"probe {told.probe}", "bold"))
    rows = [
        (
            "schemas",
            f"report {told.report_schema}, observations {told.observation_schema}, session {told.session_format}",
        ),
        ("Python", told.python),
        ("system", f"{told.system}{f', {told.distribution}' if told.distribution else ''}"),
    ]
    extras = list(dict.fromkeys(each.extra for each in told.libraries))
    for extra in extras:
        members = [each for each in told.libraries if each.extra == extra]
        rows.append((f"for {extra}" if extra else "libraries", _libraries(members, extra)))
    rows.append(("tools", _tools(told.tools)))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        paper.paragraph(name.ljust(width), text, indent=2)
    return paper.written


def _libraries(members: Sequence[Library], extra: str | None) -> str:
    if extra and not any(each.version for each in members):
        return f"not installed; client-ip-probe[{extra}] brings {', '.join(each.name for each in members)}"
    return ", ".join(f"{each.name} {each.version or 'absent'}" for each in members)


def _tools(tools: Sequence[Tool]) -> str:
    there = [f"{each.name} {each.version or 'of an unknown version'}" for each in tools if each.path]
    absent = [each.name for each in tools if each.path is None]
    said = ", ".join(there) or "none of those that are used"
    return f"{said}; absent: {', '.join(absent)}" if absent and there else said
