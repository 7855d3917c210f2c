"""The HTML report's part about evidence: below the hops of a path, what was recorded of each, to be unfolded."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.report import Hop, Journey
from probe.render.html.evidence import Evidence, Shown, hexdump
from probe.render.html.markup import Content, Markup, element
from probe.render.rows import SAID, bare
from probe.render.style import count

#: Hops of one path whose evidence is shown.
_HOPS = 60


def evidence_of(journey: Journey, evidence: Evidence) -> Markup | None:
    """All hops with what shows them; None where nothing does."""
    shown = evidence.of(journey)[:_HOPS]
    there = [(hop, each) for hop, each in zip(journey.hops, shown, strict=False) if each is not None]
    if not there:
        return None
    missing = len(shown) - len(there)
    note = None
    if missing:
        words = f"Of {count(missing, 'hop')} more nothing was recorded that could be told apart from others."
        note = element("p", words, class_="soft")
    about = list(dict.fromkeys(each.about for _, each in there if each.about))
    return element(
        "details",
        element("summary", f"What was recorded of {count(len(there), 'hop')} of {journey.id}"),
        [element("p", line, class_="soft") for line in about],
        element("ol", [_hop(hop, each) for hop, each in there], class_="evidence"),
        note,
    )


def _hop(hop: Hop, shown: Shown) -> Markup:
    at = SAID.get(hop.point) or " ".join(filter(None, (hop.tap or hop.point, hop.interface)))
    where = f"{hop.node or 'outside'}, {'kernel NAT' if hop.evidence == 'conntrack' else at}"
    return element(
        "li",
        element("b", where),
        f": {bare(hop.source)} to {bare(hop.destination)}",
        element("p", _lines([element("code", line) for line in shown.lines])),
        element("pre", _lines(hexdump(shown.data)), tabindex=0, role="group", aria_label=f"Bytes at {where}")
        if shown.data
        else None,
    )


def _lines(lines: Sequence[Content]) -> list[Content]:
    """Each on a line of its own; a line end within a text would be shown as an escape."""
    return [
        part for number, line in enumerate(lines) for part in ((element("br"), line) if number else (line,))
    ]
