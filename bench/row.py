"""One line of the table: what was measured, against whom, and whether the bar is met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A figure of ours beside a peer's.

    `ratio` is ours over the peer's (or the other way round where `goal` says "faster" or "cheaper"). `met` is
    None where the row could not be measured, or where what came out was not the same as the peer's; `note`
    then says why.
    """

    id: str
    what: str
    ours: str = "-"
    peer: str = "-"
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    note: str = ""


def skipped(id: str, what: str, why: str, goal: str = "") -> Row:  # noqa: A002 - the column's name
    """A row that cannot be measured here."""
    return Row(id, what, goal=goal, note=f"not run: {why}")


def interleaved(rounds: int, runs: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Run each in turn, `rounds` times over; the median of each. Drifts of the machine meet all alike."""
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seen[name].append(run())
    return {name: statistics.median(values) for name, values in seen.items()}


def text_table(rows: Sequence[Row]) -> str:
    """Aligned columns for a terminal."""
    lines = [("row", "what", "ours", "peer", "ratio", "goal", "met", "note"), *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown_table(rows: Sequence[Row]) -> str:
    """The same for docs/."""
    head = "| row | what | ours | peer | ratio | goal | met | note |\n|---|---|---|---|---|---|---|---|"
    return "\n".join([head, *("| " + " | ".join(_cells(row)) + " |" for row in rows)])


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    met = {True: "yes", False: "NO", None: "-"}[row.met]
    return row.id, row.what, row.ours, row.peer, ratio, row.goal, met, row.note
