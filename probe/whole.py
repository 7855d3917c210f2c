"""A file that is there whole or not at all, whatever ends us while it is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

#: Descriptors as names, by which a file without one is given its name (open(2), O_TMPFILE).
_DESCRIPTORS = Path("/proc/self/fd")


def write_whole(path: Path, write: Callable[[BinaryIO], object], mode: int = 0o666) -> None:
    """Write a file in place of what was there; `mode` as for open(2). Raises OSError, and what `write` raises.

    It has no name until it is whole. Where the file system or the kernel has no such files, it is a hidden one beside
    `path` meanwhile, which a kill leaves there.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    nameless = _nameless(path.parent, mode)
    named = nameless is None
    if nameless is None:
        nameless = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(nameless, "wb") as file:
            write(file)
            file.flush()
            if not named:
                draft.unlink(missing_ok=True)  # of a process that had our number
                _link(file, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _nameless(folder: Path, mode: int) -> int | None:
    if not hasattr(os, "O_TMPFILE") or not _DESCRIPTORS.is_dir():
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
    except OSError:  # not by this file system; if by none, the named one says why
        return None


def _link(file: BinaryIO, draft: Path) -> None:
    descriptors = os.open(_DESCRIPTORS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Only with a folder does Python make the call that follows the symbolic link to the file.
        os.link(str(file.fileno()), draft, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)
