"""`probe cleanup`: take away what sessions left on a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from probe.commands.cluster import ContextOption, KubeconfigOption, connected
from probe.errors import UnavailableError
from probe.output import note, progress, put


def cleanup(
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="ID", help="Only what this session left. [every session's]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove from the cluster whatever captures left there: after a crash, or with --keep.

    It also ends captures that are still running. A standing installation (`probe manifests`) stays.
    """
    with connected(kubeconfig, context) as api:
        from probe.cluster.capturing import describe
        from probe.cluster.cleanup import find, remove

        progress(f"looking for what sessions left in the context {api.context}")
        found = find(api, session=session)
        if not found:
            put("nothing is left on the cluster" + (f" of session {session}" if session is not None else ""))
            return
        for left in found:
            note(f"· {describe(left)}")
        items = [item for left in found for item in left.items]
        if dry_run:
            put("\n".join(f"would remove {item}" for item in items))
            return
        troubles = remove(api, items, progress)
        kept = {item for trouble in troubles for item in trouble.items}
        gone = [item for item in items if item not in kept]
        if gone:
            put("\n".join(f"removed {item}" for item in gone))
        if troubles:
            more = f" (and {len(troubles) - 1} more)" if len(troubles) > 1 else ""
            raise UnavailableError(f"not everything could be removed: {troubles[0]}{more}; try again")
