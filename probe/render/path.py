"""One journey's path, line by line, under the names of the nodes it crosses, each change marked.

A change is told by a line of carets under the address that changed, so that it can be read without colour. Where two
addresses do not fit side by side they stand one below the other. Each connection of a journey of several has a line of
its own: who opened it to whom, and by what evidence it was tied to the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.report import Hop, Journey, Snat, Verdict
from probe.render.rows import (
    SAID,
    Row,
    application_of,
    bare,
    endpoint_of,
    ends,
    last_word,
    legs,
    note,
    rows_of,
    same_address,
    tie,
)
from probe.render.style import Paper

INDENT = 4
ARROW = " → "
POINT_STYLE = "cyan"
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
    rows = [row for journey in journeys for row in rows_of(journey, paper.wide)]
    hops = [row.first for row in rows if row.first.point not in SAID]
    where = max((len(paper.safe(row.where)) for row in rows), default=0)
    source = max((len(hop.source) for hop in hops), default=0)
    destination = max((len(hop.destination) for hop in hops), default=0)
    where = min(where, 24)
    needed = INDENT + where + 2 + source + len(paper.safe(ARROW)) + destination
    return Columns(where, source, destination, beside=needed <= paper.columns)


def print_path(paper: Paper, journey: Journey, widths: Columns) -> None:
    """Print every line of a journey's path, and how it ended."""
    numbers = legs(journey)
    node: str | None = None
    leg: int | None = None
    start = min((hop.time for hop in journey.hops), default=0.0)
    for row in rows_of(journey, paper.wide):
        hop = row.first
        if hop.point in SAID:
            _print_said(paper, hop, journey, widths)
            continue
        if hop.leg != leg:
            node, leg = None, hop.leg
            if len(numbers) > 1:
                _print_connection(paper, journey, hop, numbers.index(leg) + 1)
        if (hop.node or "?") != node:
            node = hop.node or "?"
            paper.print("  ", (node, "bold"))
        _print_row(paper, row, journey.snat, widths, start)
    _print_end(paper, journey)


def _print_connection(paper: Paper, journey: Journey, first: Hop, number: int) -> None:
    """Where one connection ends and the next begins."""
    opener, receiver = ends(journey, first.leg)
    tied = f", tied by {by}" if (by := tie(first)) else ""
    paper.sentence(f"─ connection {number}", f"{opener}{ARROW}{receiver}{tied}", label_style="bold")


def _print_said(paper: Paper, hop: Hop, journey: Journey, widths: Columns) -> None:
    """An address that no packet has as its source, but something inside of one names."""
    if hop is last_word(journey) and hop.point != "http-header":
        return  # what was said last is told at the end
    said = f"names {bare(hop.source)}{_compared(journey, hop.source)}"
    by = note(hop)
    if by and (paper.wide or hop.point in {"proxy-header", "log"} or application_of(journey) is None):
        said += f" ({by})"
    label = paper.pad(SAID[hop.point], widths.where)
    paper.sentence(label, said, indent=INDENT, label_style=POINT_STYLE)


def _compared(journey: Journey, named: str) -> str:
    if journey.client is None:
        return ""
    return ", the client" if same_address(named, journey.client.address) else ", not the client"


def _print_row(paper: Paper, row: Row, replacements: Sequence[Snat], widths: Columns, start: float) -> None:
    hop = row.first
    stories = {change: _story(hop, change, replacements) for change in hop.changed}
    styles = {change: CHANGE_STYLES.get(change, "bold") for change in hop.changed}
    source = (hop.source, styles.get("source", ""))
    destination = (hop.destination, styles.get("destination", ""))
    where = (paper.pad(row.where, widths.where) + "  ", POINT_STYLE)
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
    if said := note(hop):
        paper.sentence("", said, indent=INDENT + 2, style="dim")


def _story(hop: Hop, change: str, replacements: Sequence[Snat]) -> str:
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
    if (seen := _arrived(journey)) is not None:
        name, place, said = _view(journey, seen)
        held, style = _held(journey, seen)
        paper.print("  ", (name, "bold"), f" ({place})" if place else "")
        paper.sentence("", f"{said}: {held}", indent=INDENT, style=style)
    if journey.verdict is Verdict.BLACKHOLED:
        paper.print(" " * INDENT, ("× ends here: nothing further on, and no answer", "bold red"))


def _arrived(journey: Journey) -> str | None:
    """The address that the server furthest on has for its client, or is told; None where neither is known."""
    word = last_word(journey)
    told = word is not None and word.point == "http-header" and journey.verdict is not Verdict.INCONCLUSIVE
    return journey.seen_by_app or (bare(word.source) if word is not None and told else None)


def _view(journey: Journey, seen: str) -> tuple[str, str | None, str]:
    """The server whose view of the client is told at the end, where it is, and the view with how it is known."""
    word, behind = last_word(journey), application_of(journey)
    if word is None:
        header = journey.proxy_protocol.source if journey.proxy_protocol else None
        if header is not None and same_address(header, seen):
            return "application", journey.endpoint, f"is told {seen} by the PROXY header"
        # What reaches it is not yet what it makes of that.
        verb = "is asked by" if journey.verdict is Verdict.INCONCLUSIVE else "sees"
        return "application", journey.endpoint, f"{verb} {seen}"
    if word.point == "http-header":
        return "application", behind or f"behind {endpoint_of(journey)}", f"is told {seen}"
    if word.point == "log":
        name = "application" if behind else "server"
        return name, behind or journey.endpoint, f"sees {seen}, {word.note or 'by its log'}"
    return "application", behind or journey.endpoint, f"answers that it sees {seen}"


def _held(journey: Journey, seen: str) -> tuple[str, str]:
    """The address that arrived, held against the client's."""
    if journey.client is None:
        return "the client's address is not known", "yellow"
    if same_address(seen, journey.client.address):
        return "the client's own address", "green"
    return "not the client's address", "bold red"
