"""What a command was given to judge → the same of other people, so that whatever is written of it names nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from probe.anonymous.anonymizer import Anonymizer

if TYPE_CHECKING:
    from probe.agents.captures import TapFile
    from probe.commands.inputs import Recorded


def anonymous(
    given: Recorded, key: bytes, *, captures: Sequence[TapFile] = (), files: Sequence[Path] = ()
) -> Recorded:
    """The same with other addresses and words. Captures are called by their taps, other files by their digests."""
    mask = Anonymizer(key)
    for capture in captures:
        tap = capture.tap
        mask.file(str(capture.path), f"the capture of {tap.kind}:{tap.node}/{tap.interface}")
    for path in files:
        mask.file(str(path))
    ingress = mask.ingress(given.ingress)  # first: it names files
    return replace(
        given,
        recording=mask.recording(given.recording),
        facts=mask.facts(given.facts),
        asked=mask.asked(given.asked),
        ingress=ingress,
        title=mask.title(given.title),
        clients=mask.searched(given.clients),
        changes=mask.searched(given.changes),
        own=mask.own(given.own),
    )
