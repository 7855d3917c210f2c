"""`probe version`: what is installed here, for a bug report or before a capture."""

from __future__ import annotations

import sys

from probe.commands.options import Format, OutputOption
from probe.output import put


def version(output: OutputOption = Format.TABLE) -> None:
    """Print the versions of everything relevant: probe, its schemas, Python, libraries, kernel and tools."""
    from probe.versions import versions

    told = versions()
    if output.for_people:
        from probe.render.versions import versions_text

        put(versions_text(told, sys.stdout))
        return
    from probe.render.machines import machine

    match output:
        case Format.YAML:
            put(machine.to_yaml(told))
        case Format.JSONL:
            put(machine.to_line(told))
        case _:
            put(machine.to_json(told))
