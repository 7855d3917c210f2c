"""Health checks for people: who asks, what nodes answer, what they were sent nevertheless, and the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from analysis.health.result import Checker, Health, NodeHealth, Outage
from probe.render.style import Paper, count

#: Steps of a timeline beyond these are counted, not shown; the JSON holds all of them.
EVENTS_SHOWN = 60

_SENDERS_SHOWN = 3

#: Heads of the table of nodes.
COLUMNS = ("NODE", "ENDPOINTS", "ANSWERS", "CONNECTIONS", "SERVED", "LOST")


def print_health(paper: Paper, health: Health, *, timeline: bool) -> None:
    """All of it; the timeline only where it is asked for."""
    paper.print()
    paper.print(("Health checks", "bold"), f" of {health.service}, port {health.port}")
    for checker in health.checkers:
        paper.sentence("Asks", checker_words(checker))
    _nodes(paper, health.nodes)
    if timeline:
        print_timeline(paper, health)
    for outage in (each for node in health.nodes for each in node.outages):
        if outage.connections or outage.lost:
            paper.sentence("Lag ", outage_words(outage))
    for line in sums(health):
        paper.sentence("Sum ", line)
    for reason in health.reasons:
        paper.sentence("‼", reason, style="yellow")


def checker_words(checker: Checker) -> str:
    """Who asks for what, and how often."""
    header = ", behind a PROXY header," if checker.proxy_header else ""
    what = checker.request or "opens a connection"
    often = f", every {checker.interval:g} s" if checker.interval is not None else ""
    series = f" in {checker.series} series" if checker.series > 1 else ""
    port = f"port {checker.port} ({checker.target})"
    return f"{checker.address}{header} {what} at {port} of {count(len(checker.nodes), 'node')}{often}{series}"


def _nodes(paper: Paper, nodes: tuple[NodeHealth, ...]) -> None:
    rows = [COLUMNS, *map(node_row, nodes)]
    widths = [max(len(paper.safe(row[n])) for row in rows) for n in range(len(COLUMNS))]
    for row in rows:
        cells = [paper.pad(cell, width) for cell, width in zip(row, widths, strict=True)]
        paper.print(("  " + "  ".join(cells), "dim" if row is rows[0] else ""))


def node_row(node: NodeHealth) -> tuple[str, ...]:
    """What a node answered and what it was sent, under `COLUMNS`."""
    answers = ", ".join(f"{answer} {number}x" for answer, number in node.answers.items())
    return (
        node.node,
        "-" if node.endpoints is None else str(node.endpoints),
        answers or "not asked",
        str(node.connections),
        str(node.served),
        "-" if node.lost is None else str(node.lost),
    )


def print_timeline(paper: Paper, health: Health) -> None:
    """What happened when, from the first thing on."""
    if not health.timeline:
        return
    start = health.timeline[0].time
    paper.print(("  Timeline", "dim"), (f" from {clock(start)} UTC, in seconds", "dim"))
    width = max(len(paper.safe(event.node)) for event in health.timeline)
    for event in health.timeline[:EVENTS_SHOWN]:
        paper.print(f"  {event.time - start:+9.3f}  {paper.pad(event.node, width)}  {event.text}")
    if len(health.timeline) > EVENTS_SHOWN:
        paper.print((f"  and {len(health.timeline) - EVENTS_SHOWN} more; -o json has them", "dim"))


def clock(time: float) -> str:
    """The time of day, UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%H:%M:%S.%f")[:-3]


def outage_words(outage: Outage) -> str:
    """What a node was sent in vain, or in spite of what it said."""
    parts = []
    if outage.endpoints_gone is not None:
        behind = outage.first - outage.endpoints_gone
        parts.append(f"its first refusal came {behind:.1f} s after its last ready endpoint had gone")
    if outage.health_lag is not None:
        parts.append(f"its first refusal came {outage.health_lag:.1f} s after connections began to fail")
    if outage.connections:
        sent = f"{count(outage.connections, 'connection')} in the {outage.balancer_lag:.1f} s after its first refusal"
        parts.append(f"{_sent_it(outage.senders)} {sent}, of which {outage.served} were served")
    else:
        parts.append("nothing was sent there after its first refusal")
    if outage.total_lag is not None:
        parts.append(f"{outage.lost} lost within {outage.total_lag:.1f} s")
    if outage.stopped is False:
        parts.append("the balancer had not stopped when the capture ended")
    if outage.everywhere:
        parts.append("no other node was healthy then")
    return f"{outage.node}: {'; '.join(parts)}"


def _sent_it(senders: Sequence[str]) -> str:
    """Who sent it connections, as far as that can be said in a few words."""
    more = " and others" if len(senders) > _SENDERS_SHOWN else ""
    return f"{', '.join(senders[:_SENDERS_SHOWN])}{more} sent it" if senders else "it was sent"


def sums(health: Health) -> list[str]:
    """The numbers that it comes to."""
    lag = f"; lag {health.lag:.1f} s" if health.lag is not None else ""
    saved = f"; terminating endpoints saved {count(health.saved, 'connection')}" if health.saved else ""
    if health.clients is None and not any(node.connections for node in health.nodes):
        return ["no client came"]
    if health.clients is None:
        failed = sum(node.failed for node in health.nodes)
        return [f"{count(failed, 'attempt')} in vain{lag}{saved}"]
    open_ = f", {health.unsettled} not ended" if health.unsettled else ""
    return [f"{count(health.clients, 'client connection')}, {health.lost} lost{open_}{lag}{saved}"]
