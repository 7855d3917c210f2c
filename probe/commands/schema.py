"""`probe schema`: what programs may rely on in a report."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from probe.output import put


class Kind(enum.StrEnum):
    """What is printed as JSON."""

    REPORT = "report"
    HEALTH = "health"


def schema(
    kind: Annotated[
        Kind,
        typer.Argument(
            metavar="KIND",
            help="Whose: report is what capture and analyze print, health what `probe health` does.",
        ),
    ] = Kind.REPORT,
) -> None:
    """Print the JSON Schema of the report that `-o json` prints."""
    from probe.render.machines.machine import to_json
    from probe.render.machines.schema import health_schema, report_schema

    put(to_json(report_schema() if kind is Kind.REPORT else health_schema()))
