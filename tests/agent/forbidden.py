"""Puts the agent's filter on itself, tries what it must not do any more and what it must, and prints errnos as JSON.

`unconfinable` as argument: run the agent where seccomp(2) is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable

from daemonset import agent, confinement
from daemonset.confined_calls import SECCOMP
from daemonset.taps import bpf
from daemonset.taps.bpf import Op

_NEW_NET, _NEW_USER = 0x4000_0000, 0x1000_0000
_libc = ctypes.CDLL(None, use_errno=True)


def called(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def thread() -> None:
    one = threading.Thread(target=lambda: None)
    one.start()
    one.join()


def enter(kind: int) -> None:
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    called(_libc.setns(descriptor, kind))


TRIED: dict[str, Callable[[], object]] = {
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "fork": fork,
    "signal another process": lambda: os.kill(os.getppid(), 0),
    "look into another process": lambda: called(_libc.ptrace(16, os.getppid(), 0, 0)),
    "connect": lambda: socket.create_connection(("127.0.0.1", 1), 1),
    "listen": lambda: socket.socket().listen(),
    "a socket to the host of a virtual machine": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "mount": lambda: called(_libc.mount(b"none", b"/nowhere", b"tmpfs", 0, None)),
    "a user namespace": lambda: called(_libc.unshare(_NEW_USER)),
    "any namespace": lambda: enter(0),
    "write a file": lambda: os.open("/dev/shm/none", os.O_WRONLY | os.O_CREAT, 0o600),
    "write a device": lambda: os.open(os.devnull, os.O_RDWR),
    "remove a file": lambda: os.unlink("/dev/shm/none"),  # noqa: PTH108 - the call itself
    "change its user": lambda: os.setuid(os.getuid()),
    "load a module": lambda: called(_libc.syscall(ctypes.c_long(_number(175, 105)), 0, 0, 0)),
    "a ring of calls": lambda: called(_libc.syscall(ctypes.c_long(425), 1, 0)),
    "a map of eBPF": lambda: called(_libc.syscall(ctypes.c_long(_number(321, 280)), 0, 0, 0)),
    "read": lambda: os.open("/proc/self/stat", os.O_RDONLY),
    "start a thread": thread,
    "raise a signal": lambda: signal.raise_signal(signal.SIGWINCH),
    "packets": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "a program of eBPF": lambda: called(_libc.syscall(ctypes.c_long(_number(321, 280)), 5, 0, 0)),
}


def _number(intel: int, arm: int) -> int:
    return intel if os.uname().machine == "x86_64" else arm


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def main() -> None:
    asked, answered = threading.Event(), threading.Event()
    late: list[str] = []

    def before() -> None:
        asked.wait()
        late.append(outcome(TRIED["fork"]))
        answered.set()

    threading.Thread(target=before, daemon=True).start()
    size = confinement.confine(writes=False, loads=True)
    said: dict[str, object] = {name: outcome(attempt) for name, attempt in TRIED.items()}
    asked.set()
    answered.wait()
    json.dump({**said, "size": size, "a thread that was there before": late[0]}, sys.stdout)


def unconfinable() -> None:
    """seccomp(2) is refused from now on, as some runtime's profile may."""
    program = bpf.assemble(
        [
            Op(bpf.LD_W, 0),
            Op(bpf.JEQ, _number(*SECCOMP), "", "allow"),
            Op(bpf.RET, 0x5_0000 | errno.EPERM),
            Op(bpf.RET, 0x7FFF_0000, label="allow"),
        ]
    )
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(buffer)))
    called(_libc.prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0))))
    called(_libc.prctl(22, ctypes.c_ulong(2), filter_))


if __name__ == "__main__":
    if sys.argv[1:2] == ["unconfinable"]:
        unconfinable()
        with contextlib.suppress(KeyboardInterrupt):
            sys.exit(agent.main(sys.argv[2:]))
    main()
