"""A folder for what an analysis has no memory for, which nothing of ours outlives.

The engine wants to name its files, so they cannot be without names as those of `spool` are. A process that does nothing
else keeps the folder (`keeper`): in a session of its own, so that Ctrl-C and a kill of our group do not meet it, with
a pipe from us that ends when we do. What ends both at once leaves the folder to the keeper of the next run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from probe.errors import UnavailableError, os_error
from probe.sessions import keeper


@contextmanager
def spill_folder() -> Iterator[str]:
    """A new folder in that for temporary files, for our user alone. Raises ProbeError where there can be none."""
    command = [sys.executable, "-I", "-S", keeper.__file__]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise os_error(error, "start a process that keeps a folder for temporary files") from error
    held = -1
    try:
        with process:
            assert process.stdout is not None, "it is a pipe"
            if not (folder := os.fsdecode(process.stdout.read())):
                raise UnavailableError(
                    "there is no folder for temporary files that can be written; set TMPDIR to one, with space in it"
                )
            try:
                held = keeper.hold(folder)  # as well: somebody may end the keeper alone
            except OSError as error:
                raise os_error(error, "use the folder for temporary files") from error
            yield folder
        keeper.remove(folder, held)  # there only where somebody ended the keeper
    finally:
        if held >= 0:
            os.close(held)
