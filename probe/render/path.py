"""One journey's path, hop by hop, under the names of the nodes it crosses, each change marked.

A change is told by a line of carets under the address that changed, so that it can be read without colour.
Where two addresses do not fit side by side they stand one below the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.report import Hop, Journey, Snat, Verdict
from probe.render.style import Paper

INDENT = 4
ARROW = " → "
POINT_STYLE = "cyan"
#: Points that are no place on the way: what is said there, not what was seen.
SAID = {"proxy-header": "PROXY header", "http-header": "HTTP header", "app": "answer", "log": "log"}
CHANGE_STYLES = {"source": "bold red", "destination": "yellow"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Widths that all paths of a report share, in cells."""

    where: int
    source: int
    destination: int
    beside: bool  # source and destination on one line


def columns(paper: Paper, journeys: Sequence[Journey]) -> Columns:
    """The widths for these journeys on this paper."""
    hops = [hop for journey in journeys for hop in journey.hops if hop.point not in SAID]
    where = max((len(paper.safe(_where(hop))) for hop in hops), default=0)
    source = max((len(hop.source) for hop in hops), default=0)
    destination = max((len(hop.destination) for hop in hops), default=0)
    where = min(where, 24)
    needed = INDENT + where + 2 + source + len(paper.safe(ARROW)) + destination
    return Columns(where, source, destination, beside=needed <= paper.columns)


def print_path(paper: Paper, journey: Journey, widths: Columns) -> None:
    """Print every hop of a journey, and how it ended."""
    node: str | None = None
    leg = 0
    start = min((hop.time for hop in journey.hops), default=0.0)
    for position, hop in enumerate(journey.hops):
        if hop.point in SAID:
            continue
        if position and hop.leg != leg:
            node = None
            paper.print(("    · a new connection takes it from here ·", "dim"))
        if (hop.node or "?") != node:
            node = hop.node or "?"
            paper.print("  ", (node, "bold"))
        leg = hop.leg
        _print_hop(paper, hop, journey.snat, widths, start)
    for hop in journey.hops:
        if hop.point in SAID:
            _print_said(paper, hop)
    _print_end(paper, journey)


def _where(hop: Hop) -> str:
    """Where a hop was seen, as people call it; that the address is one after DNAT, its marks show."""
    if hop.evidence == "conntrack":
        return "kernel NAT"
    kind = hop.tap or hop.point
    return kind if hop.interface in {None, "", kind} else f"{kind} {hop.interface}"


def _print_said(paper: Paper, hop: Hop) -> None:
    """An address that no packet has as its source, but something inside of one names."""
    paper.print("  ", (SAID[hop.point], "bold"), f" ({hop.note})" if hop.note else "")
    paper.print(" " * INDENT, ("names the client ", POINT_STYLE), hop.source)


def _print_hop(paper: Paper, hop: Hop, replacements: Sequence[Snat], widths: Columns, start: float) -> None:
    stories = {change: _story(hop, change, replacements) for change in hop.changed}
    styles = {change: CHANGE_STYLES.get(change, "bold") for change in hop.changed}
    source = (hop.source, styles.get("source", ""))
    destination = (hop.destination, styles.get("destination", ""))
    where = (paper.pad(_where(hop), widths.where) + "  ", POINT_STYLE)
    lead = " " * INDENT
    at = INDENT + widths.where + 2
    if widths.beside:
        parts: list[str | tuple[str, str]] = [
            lead,
            where,
            source,
            " " * (widths.source - len(hop.source)),
            ARROW,
            destination,
        ]
        if paper.wide:
            parts.append(" " * (widths.destination - len(hop.destination)))
            parts.append((f"  {(hop.time - start) * 1e3:+9.3f} ms  {hop.evidence}", "dim"))
        paper.print(*parts)
        _print_mark(paper, stories.get("source"), hop.source, at, "source")
        _print_mark(
            paper,
            stories.get("destination"),
            hop.destination,
            at + widths.source + len(paper.safe(ARROW)),
            "destination",
        )
    else:
        paper.print(lead, where)
        paper.print(lead, "  ", source)
        _print_mark(paper, stories.get("source"), hop.source, INDENT + 2, "source")
        arrow = paper.safe(ARROW).lstrip()
        paper.print(" " * (INDENT + 2 - len(arrow)), arrow, destination)
        _print_mark(paper, stories.get("destination"), hop.destination, INDENT + 2, "destination")
    if hop.note and not hop.changed:
        paper.paragraph("", hop.note, indent=INDENT + 2, style="dim")


def _story(hop: Hop, change: str, replacements: Sequence[Snat]) -> str:
    if hop.note:
        return hop.note
    if change == "destination":
        return "destination replaced"
    for snat in replacements:
        if snat.to == hop.source:
            return f"source replaced: {snat.mechanism}" if snat.mechanism else "source replaced"
    return "source replaced"


def _print_mark(paper: Paper, story: str | None, marked: str, start: int, change: str) -> None:
    """The marks under what changed, and as much of what changed it as there is room for beside them."""
    if story is None:
        return
    marks = "^" * len(marked)
    room = paper.columns - start - len(marks) - 1
    # The whole is told below the path as well, so the shorter forms lose nothing.
    forms = (story, story.partition(" (")[0], story.partition(":")[0], "")
    told = next(form for form in forms if len(form) <= room or not form)
    paper.print(" " * start, (f"{marks} {told}", CHANGE_STYLES[change]))


def _print_end(paper: Paper, journey: Journey) -> None:
    seen = journey.seen_by_app
    client = journey.client.address if journey.client else None
    if seen is not None:
        paper.print("  ", ("application", "bold"), f" ({journey.endpoint})" if journey.endpoint else "")
        same = client is not None and seen == client
        verdict = ("the client's own address", "green") if same else ("not the client's address", "bold red")
        if client is None:
            verdict = ("the client's address is not known", "yellow")
        paper.print(" " * INDENT, ("sees ", POINT_STYLE), seen, ": ", verdict)
    if journey.verdict is Verdict.BLACKHOLED:
        paper.print(" " * INDENT, ("× ends here: nothing further on, and no answer", "bold red"))
