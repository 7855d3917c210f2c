"""`probe agent`: what runs on a node. It hands its arguments to the ground floor."""

from __future__ import annotations

import typer


def agent(context: typer.Context) -> None:
    """Watch this machine and write what is seen to stdout, framed (started by `probe capture`)."""
    from daemonset.agent import main

    raise typer.Exit(main(context.args))
