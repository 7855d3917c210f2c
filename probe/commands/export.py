"""`probe export`: recorded sessions in a form that other programs ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probe.errors import UsageError
from probe.output import note, put


def export(
    sessions: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders of recorded sessions.", show_default=False),
    ],
    parquet: Annotated[
        bool,
        typer.Option(
            "--parquet", help="Write packets, NAT records, taps, heads, rules and facts as Parquet."
        ),
    ] = False,
) -> None:
    """Write recorded sessions as tables, into their own folders, for DuckDB and any other engine.

    probe export session/ --parquet

    duckdb -c "select node, count(*) from read_parquet('*/packets.parquet') group by node"
    """
    if not parquet:
        raise UsageError("nothing to export; say in which form with --parquet")
    from probe.parquet import export as write

    for path in sessions:
        rows = write(path)
        for name, count in rows.items():
            put(f"{path / name}.parquet: {count} rows")
    if len(sessions) > 1:
        note(f"· {len(sessions)} sessions; the column `session` tells them apart")
