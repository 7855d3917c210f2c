"""The kernel's side of namespaces: unshare, setns, mount and prctl, which Python 3.11 does not have itself.

Constants are those of linux/sched.h, linux/mount.h and linux/prctl.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

_MS_NOSUID = 2
_MS_NODEV = 4
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

NAMED = Path("/run/netns")  # where iproute2 looks for network namespaces by name

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, doing: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), doing)


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """setns(2). Raises OSError."""
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def die_with_parent(signal: int) -> None:
    """Have the kernel send `signal` to this process when its parent dies (PR_SET_PDEATHSIG)."""
    _check(_libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal), 0, 0, 0), "prctl")


def set_name(name: str) -> None:
    """The name under which `ps` shows this process, at most 15 bytes of it (PR_SET_NAME)."""
    _check(_libc.prctl(ctypes.c_int(_PR_SET_NAME), ctypes.c_char_p(name.encode()), 0, 0, 0), "prctl")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()),
        f"mount {target}",
    )


def become_root_of_own_namespaces(flags: int) -> None:
    """Enter new namespaces, among them a user namespace in which this user is root (user_namespaces(7)).

    Raises OSError where the kernel does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | flags)
    # An unprivileged process may map one group only after giving up setgroups(2).
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")


def private_mounts() -> None:
    """Cut this mount namespace off from the host's, with a /proc and an empty /run of its own. Raises OSError."""
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV)
    _mount("lab", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    NAMED.mkdir()


def name_network(name: str) -> None:
    """Give the current network namespace a name that `ip`, `nsenter` and `inside` know it by."""
    path = NAMED / name
    path.touch()
    _mount("/proc/self/ns/net", str(path), "none", _MS_BIND)


def new_network(name: str) -> None:
    """Make a network namespace of that name, and enter it."""
    unshare(CLONE_NEWNET)
    name_network(name)


def enter_network(name: str) -> None:
    """Enter a network namespace by name, for good. Raises OSError."""
    descriptor = os.open(NAMED / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(descriptor, CLONE_NEWNET)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Be in a named network namespace for a while. Only the calling thread moves."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_network(name)
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


def not_allowed(error: OSError) -> bool:
    """Whether an error means that this system forbids namespaces, rather than something else."""
    return error.errno in {errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EINVAL, errno.ENOSYS, errno.EUSERS}
