"""`probe decode`: PROXY protocol headers, from hex or from a capture."""

from __future__ import annotations

from typing import Annotated

import typer

from probe.commands.options import Format, OutputOption


def decode(
    source: Annotated[
        str,
        typer.Argument(
            metavar="HEX|FILE.pcap|-", help="A header in hex, a capture, or - for one hex string a line."
        ),
    ],
    output: OutputOption = Format.TABLE,
    receivers: Annotated[
        bool,
        typer.Option("--receivers", help="Say which receivers take the header, as far as that was measured."),
    ] = False,
) -> None:
    """Decode PROXY protocol headers and say what is wrong with them."""
    from probe.decoding.decode import run

    raise typer.Exit(run(source, output, receivers=receivers))
