"""One line of a table: what was tried, how often, what went wrong, and how to do it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

_HEADS = ("what", "tried", "wrong", "found", "again by")


@dataclass(frozen=True)
class Row:
    """`tried` things of one kind, of which `wrong` went as they never may. `found` is what else was measured."""

    what: str
    tried: int
    wrong: int
    found: str = ""
    again: str = ""
    details: tuple[str, ...] = ()  # of what went wrong, for people
    skipped: str = ""  # why it could not be tried here

    @property
    def cells(self) -> tuple[str, ...]:
        """The row's columns as text."""
        if self.skipped:
            return self.what, "-", "-", f"not tried: {self.skipped}", self.again
        return self.what, f"{self.tried:,}", f"{self.wrong:,}", self.found, self.again


def show(rows: Sequence[Row]) -> None:
    """Print the table, and what went wrong under it."""
    console = Console(soft_wrap=True)
    table = Table(*_HEADS, box=SIMPLE)
    for row in rows:
        table.add_row(*row.cells)
    console.print(table)
    for row in rows:
        for detail in row.details:
            console.print(f"× {row.what}: {detail}", markup=False)


def markdown(rows: Sequence[Row]) -> str:
    """The table for docs/."""
    head = f"| {' | '.join(_HEADS)} |\n|{'---|' * len(_HEADS)}"
    lines = [f"| {' | '.join([*row.cells[:4], f'`{row.again}`' if row.again else ''])} |" for row in rows]
    return "\n".join([head, *lines])
