"""The keeper of a folder, as a process of its own: makes it, says where it is, and takes it away when stdin ends.

Stdin ends with the process that holds the other end, whatever ended that. Run as a file with the standard library
alone, since this is waited for.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile


def main() -> None:
    """Keep a folder until nobody needs it."""
    # Who ends all processes at once, as a machine does that is shut down, ends ours too, and then stdin ends.
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    with tempfile.TemporaryDirectory(prefix="probe-", ignore_cleanup_errors=True) as folder:
        os.chdir("/")  # so that nobody's folder is held
        try:
            os.write(sys.stdout.fileno(), os.fsencode(folder))
        except BrokenPipeError:
            return
        os.close(sys.stdout.fileno())  # which says that this is all
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
