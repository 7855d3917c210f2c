"""Processes of the lab, as its pid 1 makes and buries them.

Only for that single-threaded process: programs are started by fork and exec from within their network namespace.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from probe.lab.errors import LabError
from probe.lab.namespaces import enter_network, set_name

#: Debian's package of each program that the lab runs.
PACKAGES = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "nft": "nftables",
    "iptables-restore": "iptables",
    "ip6tables-restore": "iptables",
    "iptables-legacy-restore": "iptables",
    "ip6tables-legacy-restore": "iptables",
    "ip": "iproute2",
    "bridge": "iproute2",
    "openssl": "openssl",
}

#: System tools live here even where a user's PATH does not say so.
SYSTEM_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")

_EXEC_FAILED = 127

#: Signals that pid 1 ignores or handles, and its children must not. Python itself ignores SIGPIPE.
_HANDLED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGPIPE,
    signal.SIGTTOU,
    signal.SIGCHLD,
)


def find(program: str) -> str:
    """The path of a program. Raises LabError that names the package to install."""
    if "/" in program:
        return program
    for folder in (*os.environ.get("PATH", "").split(":"), *SYSTEM_PATH):
        path = Path(folder or ".") / program
        if os.access(path, os.X_OK) and path.is_file():
            return str(path)
    package = PACKAGES.get(program, program)
    raise LabError(f"{program} is not installed; install it: apt-get install {package}")


class Job:
    """A program under way whose end is awaited here."""

    def __init__(self, pid: int, argv: Sequence[str], log: Path) -> None:
        self.pid = pid
        self.argv = argv
        self.log = log

    def finish(self) -> None:
        """Wait for it. Raises LabError with its own last words where it failed."""
        _, status = os.waitpid(self.pid, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            raise LabError(f"{Path(self.argv[0]).name} failed in the lab: {last_words(self.log)}")


def last_words(log: Path) -> str:
    """The last line of a log that says anything, bounded."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


class Program(msgspec.Struct, frozen=True):
    """What to run: a command line, where, with which stdin, stdout and stderr, and what to add to the environment.

    `foreground` makes it the foreground process group of the terminal that is its stdin.
    """

    argv: Sequence[str]
    namespace: str
    descriptors: Sequence[int]
    env: dict[str, str] = {}
    foreground: bool = False


def spawn(program: Program) -> int:
    """Start a program; its pid. Raises LabError where it is not there or cannot be run, OSError."""
    path = find(program.argv[0])
    ours, theirs = os.pipe()  # carries an errno where exec fails, and closes where it succeeds
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _become(program, path, theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as failure:
        number = failure.read()
    if number:
        os.waitpid(pid, 0)
        raise LabError(f"{path} cannot be run: {os.strerror(int(number))}; check that it may be executed")
    return pid


def _become(program: Program, path: str, failure: int) -> NoReturn:
    try:
        enter_network(program.namespace)
        os.setpgid(0, 0)
        if program.foreground:
            # Taking the terminal from the background would stop us otherwise (tcsetpgrp(3)).
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(program.descriptors[0], os.getpgrp())
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        for target, source in enumerate(program.descriptors):
            os.dup2(source, target)
        os.execve(path, list(program.argv), {**os.environ, **program.env})  # noqa: S606 - a shell is not wanted
    except OSError as error:
        os.write(failure, str(error.errno or 0).encode())
    finally:
        os._exit(_EXEC_FAILED)


def fork(name: str, namespace: str, body: Callable[[], None], log: Path) -> int:
    """Run a function in a process of its own within a namespace; the pid. What it prints goes to `log`."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        set_name(name)
        enter_network(namespace)
        os.setpgid(0, 0)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        body()
        status = 0
    except Exception:  # the last frame of a process: its log is where a defect can be told
        traceback.print_exc(file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def pause() -> None:
    """Hold a pod's namespace, as Kubernetes' pause container does."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            signal.pause()


def start(
    argv: Sequence[str],
    namespace: str,
    log: Path,
    stdin: Path | None = None,
    env: dict[str, str] | None = None,
) -> Job:
    """Start a program that reads `stdin` and whose output goes to `log`. Raises LabError."""
    source = os.open(stdin or os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        return Job(spawn(Program(argv, namespace, (source, sink, sink), env or {})), argv, log)
    finally:
        os.close(source)
        os.close(sink)
