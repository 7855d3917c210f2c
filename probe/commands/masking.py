"""`--anonymize` of a command that captures: others in the place of those that are seen, in whatever is told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from probe.commands.options import key_option
from probe.errors import UsageError
from probe.output import note, progress

if TYPE_CHECKING:
    from probe.anonymous.anonymizer import Anonymizer


class Speech(NamedTuple):
    """Where words go while it is captured."""

    progress: Callable[[str], None]
    note: Callable[[str], None]


def speech_of(mask: Anonymizer | None, context: str = "") -> Speech:
    """Words on stderr; with a mask they name nobody either."""
    if mask is None:
        return Speech(progress, note)
    return Speech(
        lambda text: progress(mask.line(text, context)), lambda text: note(mask.line(text, context))
    )


def called(mask: Anonymizer | None) -> Callable[[str], str]:
    """What names and texts are called in a view, and in lines of --events."""
    return str if mask is None else mask.searched


def mask_option(anonymize: bool, key: Path | None, *, dry_run: bool) -> Anonymizer | None:
    """What puts others in the place of those that are seen, where that is wanted. Raises ProbeError."""
    secret = key_option(anonymize, key)
    if secret is None:
        return None
    if dry_run:
        raise UsageError(
            "--dry-run shows what would be placed, of which nothing is replaced; leave --anonymize out"
        )
    from probe.anonymous.anonymizer import Anonymizer

    return Anonymizer(secret)
