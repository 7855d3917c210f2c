"""What can go wrong for a user, split by whose hands it is in: theirs, the environment's, or ours.

Every text is one line: what happened, and what to do next. `probe.cli` prints it and exits with the code.
The codes are a contract (`probe --help` shows them).
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a script may rely on."""

    OK = 0  # preserved, or all well
    DEFECT = 1  # a defect of ours
    USAGE = 2  # the command line, or a file that was given on it
    LOST = 3  # a client address lost, or a finding of level error
    INCONCLUSIVE = 4
    ENVIRONMENT = 5  # no privilege, no tool, no space, no cluster, no such Service
    INTERRUPTED = 130


class ProbeError(Exception):
    """Base of all errors that end a command in order; never raised itself."""

    exit_code: ClassVar[ExitCode] = ExitCode.DEFECT


class UsageError(ProbeError):
    """The command line, or a file named on it, is not what it should be."""

    exit_code = ExitCode.USAGE


class UnavailableError(ProbeError):
    """The environment does not allow it: a privilege, a tool, space on the disk, a Service."""

    exit_code = ExitCode.ENVIRONMENT


#: What to do where a name on the command line is the reason.
_NAMED_WRONG = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file",
    errno.EEXIST: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "check the path",
}

#: The same where it is the machine.
_REMEDIES = {
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some space or choose another place",
    errno.EROFS: "choose another place",
    errno.EACCES: "run as a user who may",
    errno.EPERM: "run as a user who may",
    errno.EMFILE: "let the shell open more files (ulimit -n)",
    errno.ENFILE: "end programs that hold many files open",
    errno.EFBIG: "choose another place",
}


def os_error(error: OSError, doing: str) -> ProbeError:
    """The error to raise for an OSError met while `doing` something ("read FILE", "write FILE").

    A file that is not there or not of the right kind is the command line's fault; the rest is the machine's.
    """
    said = f"cannot {doing}: {error.strerror or error}"
    if (remedy := _NAMED_WRONG.get(error.errno or 0)) is not None:
        return UsageError(f"{said}; {remedy}")
    return UnavailableError(f"{said}; {_REMEDIES.get(error.errno or 0, 'look at that place, and try again')}")
