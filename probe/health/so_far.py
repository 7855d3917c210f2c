"""What became of clients while health checks are watched, in one line."""

from __future__ import annotations

from analysis.report import Report
from probe.render.health import sums


def health_words(report: Report) -> str:
    """The sums so far, and who is still sent clients although it says no; "" where nothing was sent yet."""
    health = report.health
    if health is None or not any(node.connections for node in health.nodes):
        return ""
    words = [f"so far: {line}" for line in sums(health)]
    for node in health.nodes:
        if node.outages and node.outages[-1].until is None and node.outages[-1].connections:
            sent = node.outages[-1]
            words.append(
                f"{node.node} was sent {sent.connections} after it said no, {sent.lost} of them lost"
            )
    return "; ".join(words)
