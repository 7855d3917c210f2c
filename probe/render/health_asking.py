"""Health ports that were asked, for people: who answered whom what, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.health.replies import AskedFrom, Asking, NodeReplies, Reply, Standing
from analysis.report import Severity, Verdict
from probe.render.style import Paper, count

#: Nodes that are shown although all is well with them; the JSON holds all.
NODES_SHOWN = 40

_HEADS = ("NODE", "READY", "PORT", "ITSELF", "PEER", "FROM HERE")
_SIDES = (AskedFrom.ITSELF, AskedFrom.PEER, AskedFrom.OPERATOR)


def print_asking(paper: Paper, asking: Asking) -> None:
    """All of it."""
    paper.print()
    port = f"port {asking.port}" if asking.port else "no health check node port"
    times = f", in {asking.rounds} rounds" if asking.rounds > 1 else ""
    paper.print(("Asked", "bold"), f" {asking.service}: policy {asking.policy}, {port}{times}")
    quiet = [node for node in asking.nodes if node.standing is Standing.RIGHT]
    odd = [node for node in asking.nodes if node.standing is not Standing.RIGHT]
    room = max(NODES_SHOWN - len(odd), 0)
    hidden = len(quiet) - len(quiet[:room])
    shown = {node.node for node in (*odd, *quiet[:room])}
    _table(paper, [node for node in asking.nodes if node.node in shown])
    if hidden:
        paper.print((f"  and {count(hidden, 'node')} more, as they must be; -o json has them", "dim"))
    for node in odd:
        glyph, style = paper.glyph(
            Severity.ERROR if node.standing is Standing.WRONG else Verdict.INCONCLUSIVE
        )
        words = "; ".join(node.words)
        text = words if node.standing is Standing.WRONG else f"{node.standing}{': ' if words else ''}{words}"
        paper.sentence(glyph, f"{node.node}: {text}", style=style)
    for node in quiet:
        for word in node.words:
            paper.sentence("·", f"{node.node}: {word}", style="dim")
    for reason in asking.reasons:
        paper.sentence("‼", reason, style="yellow")


def _table(paper: Paper, nodes: Sequence[NodeReplies]) -> None:
    rows = [_HEADS, *(row for node in nodes for row in _rows(node))]
    used = [number for number in range(len(_HEADS)) if number < 3 or any(row[number] for row in rows[1:])]
    widths = {number: max(len(paper.safe(row[number])) for row in rows) for number in used}
    for row in rows:
        cells = [paper.pad(row[number], widths[number]) for number in used]
        paper.print(("  " + "  ".join(cells), "dim" if row is _HEADS else ""))


def _rows(node: NodeReplies) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for port in dict.fromkeys(reply.port for reply in node.replies):
        here = {reply.asked_from: reply for reply in node.replies if reply.port == port}
        cells = tuple(reply_words(here[side]) if side in here else "" for side in _SIDES)
        found.append(
            (node.node if not found else "", ready_words(node) if not found else "", str(port), *cells)
        )
    return found


def ready_words(node: NodeReplies) -> str:
    """How many endpoints the slices show."""
    if node.ready is None:
        return "?"
    return f"{node.ready}" + (f" (+{node.terminating})" if node.terminating else "")


def reply_words(reply: Reply) -> str:
    """One answer, as short as it can be."""
    if reply.answered:
        claimed = f", {count(reply.claimed, 'endpoint')}" if reply.claimed is not None else ""
        return f"{reply.status}{claimed}"
    if reply.asked_from is AskedFrom.OPERATOR and reply.outcome in {"no answer", "unreachable"}:
        return "not reachable"
    return reply.outcome
