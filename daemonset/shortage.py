"""Whether something failed for want of memory, in whatever words libraries and the system say so."""

from __future__ import annotations

import errno

#: What the loader of libraries says, and Python of a thread that was not to be had.
_WORDS = ("failed to map segment", "cannot allocate memory", "can't start new thread", "cannot create thread")


def is_shortage(error: BaseException) -> bool:
    """Whether there was too little memory, or a limit on it: also behind an import that failed."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, ImportError | RuntimeError):
        return False
    if any(word in str(error).lower() for word in _WORDS):
        return True
    return error.__cause__ is not None and is_shortage(error.__cause__)
