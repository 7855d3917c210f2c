"""The keeper of a folder, as a process of its own: makes it, says where it is, and takes it away when stdin ends.

Stdin ends with the process that holds the other end, whatever ended that. What ends both at once leaves the folder; it
is marked, and locked by whoever of the two is alive, so the next keeper of the same user takes it away. Run as a file
with the standard library alone, since this is waited for.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import stat
import sys
import tempfile

PREFIX = "probe-"

#: The file in a folder that says whose it is.
MARK = ".kept-by-probe"
MARKED = b"For rows of an analysis (client-ip-probe). Nobody needs this folder while it is not locked.\n"

#: Names that are looked at: anybody may put names into a folder for temporary files.
_MOST = 10_000

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def hold(folder: str) -> int:
    """Lock a folder for as long as what is returned stays open, in whatever process. Raises OSError where it is gone.

    Where the file system knows no locks there is none, and no mark either: then nobody takes the folder away.
    """
    held = os.open(folder, _FOLDER)
    with contextlib.suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_SH)
    return held


def remove(folder: str, held: int) -> None:
    """Take a folder away that is open as `held`, and nothing that has its name by now."""
    place, name = os.path.split(folder)
    with contextlib.suppress(OSError):
        within = os.open(place, _FOLDER & ~os.O_NOFOLLOW)
        try:
            _remove(within, name, held)
        finally:
            os.close(within)


def sweep(place: str) -> None:
    """Take away what keepers of ours left that were ended together with those whom they kept it for."""
    with contextlib.suppress(OSError):
        within = os.open(place, _FOLDER & ~os.O_NOFOLLOW)
        try:
            with os.scandir(within) as found:
                ours = (each.name for each in found if each.name.startswith(PREFIX))
                names = list(itertools.islice(ours, _MOST))
            for name in names:
                with contextlib.suppress(OSError):
                    _sweep(within, name)
        finally:
            os.close(within)


def _sweep(within: int, name: str) -> None:
    """Take one away, where it is ours and nobody needs it. Raises OSError where it is not."""
    folder = os.open(name, _FOLDER, dir_fd=within)
    try:
        if _is_ours(folder):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(within, name, folder)
    finally:
        os.close(folder)


def _is_ours(folder: int) -> bool:
    """Whether a folder was made by a keeper of our user; what is in it can be nobody else's then."""
    about = os.fstat(folder)
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) != stat.S_IRWXU:
        return False
    mark = os.open(MARK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        about = os.fstat(mark)
        mine = stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid() and about.st_nlink == 1
        return mine and os.read(mark, len(MARKED) + 1) == MARKED
    finally:
        os.close(mark)


def _remove(within: int, name: str, folder: int) -> None:
    """Remove everything in a folder, its mark last, so that what is ended amid it leaves one that can be known."""
    for each in os.listdir(folder):
        if each == MARK:
            continue
        if stat.S_ISDIR(os.stat(each, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(each, ignore_errors=True, dir_fd=folder)
        else:
            os.unlink(each, dir_fd=folder)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(MARK, dir_fd=folder)
    if os.path.samestat(os.stat(name, dir_fd=within, follow_symlinks=False), os.fstat(folder)):
        os.rmdir(name, dir_fd=within)


def _mark(held: int) -> None:
    """Say whose the folder is, once it is locked."""
    with contextlib.suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        mark = os.open(MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=held)
        try:
            os.write(mark, MARKED)
        finally:
            os.close(mark)


def main() -> None:
    """Keep a folder until nobody needs it."""
    # Who ends all processes at once, as a machine does that is shut down, ends ours too, and then stdin ends.
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    folder = tempfile.mkdtemp(prefix=PREFIX)
    held = hold(folder)
    try:
        _mark(held)
        os.chdir("/")  # so that nobody's folder is held
        try:
            os.write(sys.stdout.fileno(), os.fsencode(folder))
        except BrokenPipeError:
            return
        os.close(sys.stdout.fileno())  # which says that this is all
        sweep(os.path.split(folder)[0])
        sys.stdin.buffer.read()
    finally:
        remove(folder, held)


if __name__ == "__main__":
    main()
