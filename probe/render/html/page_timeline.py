"""Health checks over time, drawn in SVG: a row for each node, a bar while it said that nothing serves there.

The table below it says the same in words, step by step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.health.result import Event, Health, NodeHealth
from probe.render.html.markup import Markup, element

#: Nodes that are drawn, those with outages first, and marks on a row; the table and the JSON report have more.
_NODES, _MARKS = 20, 100

_LEFT, _WIDTH, _ROW, _TOP = 190, 760, 30, 24

#: How each kind of event is drawn: a class of the style sheet, and the height of its mark.
_KINDS = {"endpoints": ("change", 7), "answer": ("change", 5), "failing": ("lost", 9), "last": ("lost", 6),
          "resumed": ("preserved", 6)}  # fmt: skip


def draw_timeline(health: Health) -> Markup | None:
    """The picture; None where nothing has a time."""
    times = [event.time for event in health.timeline]
    times += [
        moment
        for node in health.nodes
        for each in node.outages
        for moment in (each.first, each.until)
        if moment
    ]
    if not times:
        return None
    start, end = min(times), max(times)
    rows = sorted(health.nodes, key=lambda node: (not node.outages, node.node))[:_NODES]
    axis = _Axis(start, end)
    bottom = _TOP + _ROW * len(rows)
    return element(
        "svg",
        element("title", "Health checks over time"),
        element("desc", "; ".join(_told(node, start) for node in rows)),
        [_row(number, node, health.timeline, axis) for number, node in enumerate(rows)],
        element("text", "0 s", x=_LEFT, y=bottom + 18),
        element("text", f"{end - start:.1f} s", x=_LEFT + _WIDTH, y=bottom + 18, text_anchor="end"),
        role="img",
        aria_label="Health checks over time",
        viewBox=f"0 0 {_LEFT + _WIDTH + 20} {bottom + 28}",
        width=_LEFT + _WIDTH + 20,
        height=bottom + 28,
        xmlns="http://www.w3.org/2000/svg",
        class_="timeline",
    )


class _Axis:
    """From times to places."""

    def __init__(self, start: float, end: float) -> None:
        self.end = end
        self._start = start
        self._scale = _WIDTH / (end - start) if end > start else 0.0

    def at(self, time: float) -> float:
        return round(_LEFT + (time - self._start) * self._scale, 1)


def _row(number: int, node: NodeHealth, timeline: Sequence[Event], axis: _Axis) -> Markup:
    y = _TOP + _ROW * number + _ROW // 2
    own = [event for event in timeline if event.node == node.node][:_MARKS]
    return element(
        "g",
        element("text", _short(node.node), x=10, y=y + 4, class_="name"),
        element("path", d=f"M{_LEFT} {y} H{_LEFT + _WIDTH}", class_="axis"),
        list(_bars(node, y, axis)),
        [_mark(event, y, axis) for event in own],
    )


def _bars(node: NodeHealth, y: int, axis: _Axis) -> Iterator[Markup]:
    for outage in node.outages:
        begin = axis.at(outage.first)
        width = max(axis.at(axis.end if outage.until is None else outage.until) - begin, 2)
        said = f"{node.node}: no endpoint, {outage.connections} clients were sent there, {outage.lost} lost"
        bar = element(
            "rect", element("title", said), x=begin, y=y - 7, width=width, height=14, class_="outage"
        )
        yield bar


def _mark(event: Event, y: int, axis: _Axis) -> Markup:
    kind, size = _KINDS.get(event.kind, ("change", 5))
    x = axis.at(event.time)
    return element(
        "path", element("title", event.text), d=f"M{x} {y - size} V{y + size}", class_=f"mark {kind}"
    )


def _told(node: NodeHealth, start: float) -> str:
    """A row in words."""
    parts = [
        f"no endpoint from {outage.first - start:.1f} s"
        + (f" to {outage.until - start:.1f} s" if outage.until is not None else " on")
        for outage in node.outages
    ]
    return f"{node.node}: {', '.join(parts) or 'no outage'}"


def _short(text: str) -> str:
    return text if len(text) <= 22 else f"{text[:11]}…{text[-10:]}"
