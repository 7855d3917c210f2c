"""What an analysis may take of this machine: a folder on the disk, and memory as far as nobody has set a limit."""

from __future__ import annotations

from analysis.engine.legs import Room
from probe.errors import UnavailableError
from probe.memory import Left, memory_left
from probe.sessions.spill import spill_folder

#: Bytes that the rest of an analysis takes, its report most of all, and the least that joins can work with.
_REST, _LEAST = 256 << 20, 96 << 20

#: Bytes of addresses that libraries and their threads reserve beside that, and hardly use.
_RESERVED = 512 << 20


def room() -> Room:
    """That. Raises UnavailableError where a limit leaves too little: a library that is refused memory may end us."""
    found = memory_left()
    for left in found:
        if left.size < (least := _taken(left) + _LEAST):
            raise UnavailableError(
                f"there is too little memory to judge what was seen: {left}, and it takes {least >> 20} MiB at least; "
                "raise the limit, or analyze the session (--record) where there is more"
            )
    return Room(spill_folder, min((left.size - _taken(left) for left in found), default=None))


def _taken(left: Left) -> int:
    """Bytes of a limit that are not for joins."""
    return _REST + (_RESERVED if left.addresses else 0)
