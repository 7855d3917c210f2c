"""The paths of a report in Graphviz's language, to be drawn by `dot -Tsvg`.

Every text is a quoted string in which backslashes and quotes are escaped, so that nothing in it ends the string or is
one of Graphviz's own escapes (graphviz.org, "escString").
"""

from __future__ import annotations

from analysis.report import Report, Verdict
from probe.render.escape import escape
from probe.render.machines.ways import GROUPS, Step, Way, ways_of
from probe.render.style import count

_STYLES = {
    Verdict.LOST: 'color="#b3261e", style=dashed',
    Verdict.BLACKHOLED: 'color="#b3261e", style=dashed',
    Verdict.INCONCLUSIVE: 'color="#8a5a00", style=dotted',
    Verdict.PRESERVED: 'color="#1a7f37"',
}

_LABEL = 80  # characters


def to_dot(report: Report) -> str:
    """One directed graph; each edge says the source address that the packets carried there."""
    graph = ways_of(report)
    lines = ["digraph paths {", '  graph [rankdir=LR, charset="UTF-8"];', "  node [shape=box];"]
    for group, name in enumerate(GROUPS):
        if members := list(graph.of_group(group)):
            lines += [f"  subgraph cluster_{group} {{", f"    label={_text(name)};"]
            lines += [f"    p{at} [label={_text(place.name)}];" for at, place in members]
            lines.append("  }")
    ways = {way.number: way for way in graph.ways}
    lines += [_edge(step, ways[step.path]) for step in graph.steps]
    if not graph.steps:
        lines.append('  nothing [label="no packet showed a path"];')
    if graph.omitted:
        lines.append(f'  more [label="{count(graph.omitted, "more path")} in the JSON report"];')
    return "\n".join([*lines, "}"]) + "\n"


def _edge(step: Step, way: Way) -> str:
    said = f"≠ {step.source}, was {step.was}" if step.was else step.source
    label = _text(f"{way.number}: {way.verdict} ×{way.count}", said)
    return f"  p{step.begin} -> p{step.end} [label={label}, {_STYLES[way.verdict]}];"


def _text(*lines: str) -> str:
    shown = (escape(line, limit=_LABEL).replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(shown) + '"'
