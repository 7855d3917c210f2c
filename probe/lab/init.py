"""The lab's own processes: a launcher outside of its namespaces, and pid 1 inside, which builds and serves it.

Run as `python -m probe.lab.init FD`, where FD is the lab's end of the control socket. Nothing outlives the caller,
however it ends:

1. the launcher kills pid 1 as soon as the other end of the control socket is closed;
2. the kernel kills pid 1 when the launcher dies (PR_SET_PDEATHSIG);
3. the kernel kills every process of the PID namespace when its pid 1 dies (pid_namespaces(7));
4. network namespaces, their interfaces and the mounts go with the last process that holds them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import traceback
from typing import NoReturn

from probe.errors import ProbeError
from probe.lab import control, namespaces, processes
from probe.lab.cluster import Cluster
from probe.lab.errors import LabError
from probe.lab.namespaces import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID
from probe.lab.plan import make_plan

_FLAGS = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC

NO_NAMESPACES = (
    "this system does not allow the namespaces that the lab lives in ({reason}); run as root, or allow them: "
    "sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1 "
    "kernel.apparmor_restrict_unprivileged_userns=0 (those that exist); in a container: --privileged"
)


def main() -> None:
    """Launch pid 1 and see to it that it does not outlive the caller."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the caller decides when the lab ends, by closing the socket
    try:
        # Read before anything can fail: closing a socket with unread messages would destroy our own last words.
        start = control.receive_from_caller(connection)[0]
    except (EOFError, OSError):
        return  # the caller has gone already
    if not isinstance(start, control.Start):
        raise TypeError(f"expected start, got {start}")
    try:
        _enter_namespaces()
    except OSError as error:
        _tell_failure(connection, NO_NAMESPACES.format(reason=error.strerror))
        return
    alive, held = os.pipe()  # `held` closes when the launcher dies, however early
    child = os.fork()
    if child == 0:
        os.close(held)
        _first_process(connection, alive, start)
    os.close(alive)
    _watch(connection, child)


def _enter_namespaces() -> None:
    """A user namespace too where that is possible; as root without one where it is not. Raises OSError."""
    try:
        namespaces.become_root_of_own_namespaces(_FLAGS)
    except OSError as error:
        if os.geteuid() != 0 or not namespaces.not_allowed(error):
            raise
        namespaces.unshare(_FLAGS)


def _watch(connection: socket.socket, child: int) -> None:
    """Wait until pid 1 ends or the caller has gone; then nothing of the lab is left."""
    poll = select.poll()
    child_handle = os.pidfd_open(child)
    poll.register(child_handle, select.POLLIN)
    poll.register(connection, 0)  # POLLHUP alone, which is always reported
    for descriptor, _ in poll.poll():
        if descriptor != child_handle:
            os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _tell_failure(connection: socket.socket, message: str) -> None:
    with contextlib.suppress(OSError):  # the caller has gone, so nobody asks
        control.send(connection, control.Failed(message))


def _first_process(connection: socket.socket, alive: int, start: control.Start) -> NoReturn:
    """Be pid 1: never return, or its Python would run the launcher's code a second time."""
    status = 1
    try:
        namespaces.die_with_parent(signal.SIGKILL)
        if not select.select([alive], [], [], 0)[0]:  # else the launcher died before it could be watched
            _serve(connection, start)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        status = 0  # the caller has closed the lab
    except ProbeError as error:
        _tell_failure(connection, str(error))
    except OSError as error:
        _tell_failure(connection, f"the lab could not be set up: {error}; try as root")
    except Exception as error:  # a defect must reach the caller, who alone has a terminal
        traceback.print_exc(file=sys.stderr)
        _tell_failure(connection, f"a defect in the lab: {error!r}")
    finally:
        sys.stderr.flush()
        os._exit(status)


def _serve(connection: socket.socket, start: control.Start) -> None:
    """Build what the caller asked for, then run programs for it until it goes. Raises EOFError at that."""
    try:
        namespaces.private_mounts()
    except OSError as error:
        raise LabError(NO_NAMESPACES.format(reason=f"{error.filename}: {error.strerror}")) from error
    plan = make_plan(start.scenario, start.proxy_mode)
    cluster = Cluster(plan, lambda text: control.send(connection, control.Progress(text)))
    cluster.build()
    control.send(connection, control.Ready())
    _Undertaker(connection, cluster).run()


class _Undertaker:
    """Runs programs for the caller, tells it how they ended, and reaps what is orphaned in this PID namespace."""

    def __init__(self, connection: socket.socket, cluster: Cluster) -> None:
        self.connection = connection
        self.cluster = cluster
        self.status_pipes: dict[int, int] = {}  # pid → where its return code is awaited
        self.wakeup, self.wakeup_sender = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Until the caller goes: EOFError."""
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self.wakeup_sender)
        self._reap()  # what ended before the handler was there
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        poll.register(self.wakeup, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self.wakeup in ready:
                os.read(self.wakeup, 4096)
                self._reap()
            if self.connection.fileno() in ready:
                self._answer()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            pipe = self.status_pipes.pop(pid, None)
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                    os.write(pipe, f"{os.waitstatus_to_exitcode(status)}\n".encode())
                os.close(pipe)

    def _answer(self) -> None:
        message, descriptors = control.receive_from_caller(self.connection)
        if isinstance(message, control.Change):
            self._change(message)
            return
        if not isinstance(message, control.Spawn):
            raise TypeError(f"expected spawn, got {message}")
        try:
            program = processes.Program(
                message.argv, message.namespace, descriptors, message.env, message.foreground
            )
            pid = processes.spawn(program)
        except (LabError, OSError) as error:
            control.send(self.connection, control.Failed(str(error)))
            return
        finally:
            control.close(descriptors)
        self._tell_spawned(pid)

    def _change(self, message: control.Change) -> None:
        try:
            when = self.cluster.change(message.scenario, message.balanced)
        except (LabError, OSError) as error:
            control.send(self.connection, control.Failed(str(error)))
            return
        control.send(self.connection, control.Changed(when))

    def _tell_spawned(self, pid: int) -> None:
        status, status_sender = os.pipe2(os.O_CLOEXEC)
        handle = os.pidfd_open(pid)
        self.status_pipes[pid] = status_sender
        control.send(self.connection, control.Spawned(pid), (handle, status))
        control.close((handle, status))


if __name__ == "__main__":
    main()
