"""The paths of a report as a Mermaid flowchart, for Markdown that draws it (GitHub, GitLab, many wikis).

Every text is a quoted label in which all but letters, digits and a few signs are numeric entities, which Mermaid shows
and never obeys.
"""

from __future__ import annotations

from analysis.report import Report, Verdict
from probe.render.escape import escape
from probe.render.machines.ways import GROUPS, Step, Way, ways_of
from probe.render.style import count

_COLOURS = {
    Verdict.LOST: "#b3261e",
    Verdict.BLACKHOLED: "#b3261e",
    Verdict.INCONCLUSIVE: "#8a5a00",
    Verdict.PRESERVED: "#1a7f37",
}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .:-_/,()≠×·")

_LABEL = 80  # characters


def to_mermaid(report: Report) -> str:
    """One flowchart; each arrow says the source address that the packets carried there."""
    graph = ways_of(report)
    lines = ["flowchart LR"]
    for group, name in enumerate(GROUPS):
        if members := list(graph.of_group(group)):
            lines.append(f'  subgraph g{group}["{name}"]')
            lines += [f'    p{at}["{_text(place.name)}"]' for at, place in members]
            lines.append("  end")
    ways = {way.number: way for way in graph.ways}
    lines += [_arrow(step, ways[step.path]) for step in graph.steps]
    lines += [
        f"  linkStyle {at} stroke:{_COLOURS[ways[step.path].verdict]},stroke-width:2px"
        for at, step in enumerate(graph.steps)
    ]
    if not graph.steps:
        lines.append('  nothing["no packet showed a path"]')
    if graph.omitted:
        lines.append(f'  more["{count(graph.omitted, "more path")} in the JSON report"]')
    return "\n".join(lines) + "\n"


def _arrow(step: Step, way: Way) -> str:
    said = f"≠ {step.source}, was {step.was}" if step.was else step.source
    label = f"{way.number}: {way.verdict} ×{way.count} · {said}"
    line = "-->" if way.verdict is Verdict.PRESERVED else "-.->"
    return f'  p{step.begin} {line}|"{_text(label)}"| p{step.end}'


def _text(text: str) -> str:
    return "".join(each if each in _PLAIN else f"#{ord(each)};" for each in escape(text, limit=_LABEL))
