"""`probe export`: recorded sessions in a form that other programs ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probe.commands.options import KeyOption, key_option
from probe.errors import UsageError
from probe.output import note, put


def export(
    sessions: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="Folders of recorded sessions.", show_default=False),
    ],
    parquet: Annotated[
        bool,
        typer.Option(
            "--parquet", help="Write packets, NAT records, taps, heads, rules and facts as Parquet."
        ),
    ] = False,
    anonymize: Annotated[
        Path | None,
        typer.Option(
            "--anonymize",
            metavar="NEWDIR",
            help="Write the session anew, with other addresses, hosts, paths and ids, and the same verdicts: to be "
            "shown to strangers. Names of nodes, pods and Services stay.",
        ),
    ] = None,
    key: KeyOption = None,
) -> None:
    """Write recorded sessions as tables, into their own folders, for DuckDB and other engines; or anonymized.

    probe export session/ --parquet

    probe export session/ --anonymize for-the-ticket/

    duckdb -c "select node, count(*) from read_parquet('*/packets.parquet') group by node"
    """
    if parquet == (anonymize is not None):
        raise UsageError("it is not said in which form to export; give --parquet or --anonymize NEWDIR")
    secret = key_option(anonymize is not None, key)
    if anonymize is not None and secret is not None:
        _anonymized(sessions, anonymize, secret)
        return
    from probe.sessions.parquet import export as write

    for path in sessions:
        rows = write(path)
        for name, count in rows.items():
            put(f"{path / name}.parquet: {count} rows")
    if len(sessions) > 1:
        note(f"· {len(sessions)} sessions; the column `session` tells them apart")


def _anonymized(sessions: list[Path], target: Path, key: bytes) -> None:
    """Write one session for strangers. Raises UsageError."""
    from probe.anonymous.session import anonymize

    if len(sessions) > 1:
        raise UsageError(
            "--anonymize writes one session into a new folder; give one, and the same --key each time"
        )
    anonymize(sessions[0], target, key)
    put(
        f"{target}: {sessions[0].name} with other addresses and words; `probe analyze {target}` judges it as before"
    )
