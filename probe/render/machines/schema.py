"""The JSON Schema of the report, made from the values that the report is made of, so that it cannot say otherwise.

Every field is always written. A field that came later than the first report has a default, and is not required: an
older report stays valid. Fields that are added later are allowed, because none is ever renamed (docs/report.md).
"""

from __future__ import annotations

from typing import Any

import msgspec

from analysis.report import SCHEMA_VERSION, Report
from probe.health.report import HealthReport

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def report_schema() -> dict[str, Any]:
    """The schema of what `-o json` prints."""
    return _schema(Report, f"The report of probe, schema version {SCHEMA_VERSION}")


def health_schema() -> dict[str, Any]:
    """The schema of what `probe health -o json` prints."""
    return _schema(HealthReport, f"The answer of probe health, schema version {SCHEMA_VERSION}")


def _schema(kind: type[msgspec.Struct], title: str) -> dict[str, Any]:
    (schema,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    return {
        "$schema": DIALECT,
        "title": title,
        **schema,
        "$defs": dict(sorted(components.items())),
    }
