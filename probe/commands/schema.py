"""`probe schema`: what programs may rely on in a report."""

from __future__ import annotations

from probe.output import put


def schema() -> None:
    """Print the JSON Schema of the report that `-o json` prints."""
    from probe.render.machine import to_json
    from probe.render.schema import report_schema

    put(to_json(report_schema()))
