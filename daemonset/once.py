"""One agent that somebody starts by hand, on a node, without a session: what it sees goes into a folder.

The folder is a session's of one place. `probe analyze` reads it alone, or together with those of other nodes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from daemonset.capture import Capture, Options
from daemonset.keeping import Keeping

#: How long, in seconds, and how much, in bytes, where nothing else is said.
DURATION = 30.0
LIMIT = 1 << 30

_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last: the terminal or ssh went away


def keep(options: Options, folder: Path, say: Callable[[str], None], kept_rights: str) -> None:
    """Watch this node until the time is over or a signal comes, with the capabilities that are named.

    Raises PermissionError where packet sockets are not allowed, and then leaves no folder; OSError where the folder
    cannot be written, which then stays marked as cut off; OccupiedError.
    """
    with Keeping(folder, options.node) as kept:
        try:
            capture = Capture(options, kept.descriptor)
        except OSError:
            kept.discard()
            raise
        with capture:
            capture.heed(*_ENDS)
            capture.confine(kept_rights, writes=True)
            say(f"watching as {options.node} for {options.duration or DURATION:g} s; Ctrl-C ends that")
            capture.run()
        size = kept.finish()
    if capture.reason == Capture.FULL:
        say(f"ended early: {options.limit >> 20} MiB are reached, and no more are kept")
    say(
        f"kept in {folder}: {capture.packets} packets, {size} bytes; `probe analyze {folder}` judges them, "
        "best with the folders of the other nodes beside it"
    )
