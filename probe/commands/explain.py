"""`probe explain CODE`: what a finding means and what to do about it."""

from __future__ import annotations

import difflib
import sys
from typing import Annotated

import typer

from probe.errors import UsageError
from probe.output import put


def explain(
    code: Annotated[
        str | None,
        typer.Argument(metavar="CODE", help="The code of a finding, such as SIP101. Without one: list all."),
    ] = None,
) -> None:
    """Explain a finding: what it means, and how to mend it."""
    from analysis.catalogue.findings import CATALOGUE
    from probe.render.catalogue import definition_text, list_text

    if code is None:
        put(list_text(CATALOGUE, sys.stdout))
        return
    found = CATALOGUE.get(code.strip().upper())
    if found is None:
        near = difflib.get_close_matches(code.upper(), CATALOGUE, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"there is no finding {code or 'of that name'}; {hint}`probe explain` lists all of them"
        )
    put(definition_text(found, sys.stdout))
