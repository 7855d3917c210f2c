"""The HTML report's part about health checks: who asks, what nodes answer and were sent, and what happened when."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.health.result import Health
from probe.render.health import COLUMNS, checker_words, clock, node_row, outage_words, sums
from probe.render.html.markup import Markup, element, scrolling
from probe.render.html.page_timeline import draw_timeline

#: Steps of the timeline that are shown; the JSON report has all.
_EVENTS = 500


def health_section(health: Health) -> Markup:
    """All that is known of them, in the words of `probe health`."""
    facts = [("Asks", checker_words(checker)) for checker in health.checkers]
    outages = (each for node in health.nodes for each in node.outages)
    facts += [("Lag", outage_words(each)) for each in outages if each.connections or each.lost]
    facts += [("Sum", line) for line in sums(health)]
    facts += [("Not judged", reason) for reason in health.reasons]
    return element(
        "section",
        element("h2", "Health checks"),
        element("p", f"Of {health.service}, port {health.port}."),
        element("dl", [(element("dt", name), element("dd", said)) for name, said in facts]),
        scrolling("Nodes and their answers", _nodes(health)),
        _drawn(health),
        list(_timeline(health)),
    )


def _drawn(health: Health) -> list[Markup] | None:
    picture = draw_timeline(health)
    if picture is None:
        return None
    words = (
        "Bars: the node said that it has no endpoint. Marks: answers and endpoints that changed, connections that "
        "failed or were served again; the timeline below names each."
    )
    return [element("p", words, class_="soft"), scrolling("Picture of the timeline", picture)]


def _nodes(health: Health) -> Markup:
    rows = [element("tr", [element("td", cell) for cell in node_row(node)]) for node in health.nodes]
    return element("table", element("thead", _heads(*COLUMNS)), element("tbody", rows))


def _timeline(health: Health) -> Iterator[Markup]:
    if not health.timeline:
        return
    start = health.timeline[0].time
    rows = [
        element(
            "tr",
            element("td", f"{event.time - start:+.3f} s"),
            element("td", event.node),
            element("td", event.text),
        )
        for event in health.timeline[:_EVENTS]
    ]
    more = len(health.timeline) - len(rows)
    yield element(
        "details",
        element(
            "summary", f"Timeline from {clock(start)} UTC{f', its first {_EVENTS} steps' if more else ''}"
        ),
        scrolling(
            "Timeline",
            element(
                "table", element("thead", _heads("After", "Node", "What happened")), element("tbody", rows)
            ),
        ),
    )


def _heads(*names: str) -> Markup:
    return element("tr", [element("th", name.capitalize(), scope="col") for name in names])
