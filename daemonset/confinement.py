"""What the agent's own process may not do any more once its taps are open: a seccomp filter that it puts on itself.

Nothing that it does after that starts a program, signals a process, connects, listens, mounts, loads a module or, where
it keeps no folder, writes a file; with far-reaching capabilities and the node's process table in view it could.
Whatever is not needed for new pods, rules, NAT records and health is refused with EPERM, for all threads and for ever.

It is a list of what is refused, not of what is allowed: which calls Python and the C library make changes from version
to version, and one that is missing from a list of allowed ones would be a hole in a capture. The runtime's own profile
stays in force besides. Calls that would start a thread or open a namespace, a socket or a file are refused by their
arguments; those whose arguments cannot be seen (clone3, openat2) are said not to exist, and libraries fall back.

The filter is classic BPF over `struct seccomp_data` (linux/seccomp.h, Documentation/userspace-api/seccomp_filter.rst).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple

from daemonset.confined_calls import ABSENT, FILES, LOOKED_AT, REFUSED, SECCOMP, Numbers
from daemonset.taps import bpf
from daemonset.taps.bpf import Op

_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000  # SECCOMP_RET_
_SET_MODE_FILTER, _TSYNC = 1, 1
_NO_NEW_PRIVS = 38  # PR_SET_NO_NEW_PRIVS
# In struct seccomp_data; the lower half of an argument comes first.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x4000_0000  # numbers from here on are another way to make the same calls

_NEW_NET = 0x4000_0000  # CLONE_NEWNET
_THREAD, _NEW_ANY = 0x1_0000, 0x7E02_0000  # CLONE_THREAD; CLONE_NEW of every kind
_WRITES = 0o3 | 0o100 | 0o1000  # O_ACCMODE, O_CREAT, O_TRUNC
_LOAD_PROGRAM = 5  # BPF_PROG_LOAD
_FAMILIES = (1, 2, 10, 16, 17)  # AF_UNIX, INET, INET6, NETLINK, PACKET
_TYPE_FOR_OTHERS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX


class _Machine(NamedTuple):
    """How a machine names itself in a filter (linux/audit.h), and which of a call's two numbers is its own."""

    architecture: int
    column: int


_MACHINES = {"x86_64": _Machine(0xC000_003E, 0), "aarch64": _Machine(0xC000_00B7, 1)}


class ConfinementError(Exception):
    """The kernel, or whoever started us, does not let us; in a few words."""


def confine(*, writes: bool, loads: bool) -> int:
    """Refuse from now on; answers with how many instructions the filter has. Raises ConfinementError.

    `writes`: files may be written, because that is what was asked for. `loads`: eBPF programs may be loaded, for the
    sockets of new pods.
    """
    program = listing(platform.machine(), os.getpid(), writes=writes, loads=loads)
    libc = ctypes.CDLL(None, use_errno=True)
    # Without it, who lacks SYS_ADMIN may not confine itself. Nothing is started any more that could lose by it.
    if libc.prctl(_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))):
        raise ConfinementError(os.strerror(ctypes.get_errno()))
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    argument = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(buffer)))
    number = SECCOMP[_MACHINES[platform.machine()].column]
    result = libc.syscall(
        ctypes.c_long(number), ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_TSYNC), argument
    )
    if result < 0:
        raise ConfinementError(os.strerror(ctypes.get_errno()))
    if result > 0:
        raise ConfinementError("a part of the process has a filter of its own")
    return len(program)


def listing(machine: str, process: int, *, writes: bool, loads: bool) -> bpf.Program:
    """The filter for a machine and a process. Raises ConfinementError where calls of the machine are not known."""
    if machine not in _MACHINES:
        raise ConfinementError(f"calls on {machine} are not known")
    architecture, column = _MACHINES[machine]

    def numbers(calls: Numbers) -> dict[str, int]:
        return {call: number for call, both in calls.items() if (number := both[column]) is not None}

    refused = {**numbers(REFUSED), **({} if writes else numbers(FILES))}
    looks = _looks(process, writes=writes, loads=loads)
    looked_at = {call: number for call, number in numbers(LOOKED_AT).items() if call in looks}
    ops = [
        Op(bpf.LD_W, _ARCHITECTURE),
        Op(bpf.JEQ, architecture, "", "refuse"),
        Op(bpf.LD_W, _NUMBER),
        Op(bpf.JGE, _X32, "refuse"),
        *(Op(bpf.JEQ, number, "refuse") for number in refused.values()),
        *(Op(bpf.JEQ, number, "absent") for number in numbers(ABSENT).values()),
        *(Op(bpf.JEQ, number, call) for call, number in looked_at.items()),
        Op(bpf.JA, yes="allow"),
    ]
    for call in looked_at:
        first, *rest = looks[call]
        ops += [first._replace(label=call), *rest]
    return bpf.assemble(
        [
            *ops,
            Op(bpf.RET, _ALLOW, label="allow"),
            Op(bpf.RET, _ERRNO | errno.ENOSYS, label="absent"),
            Op(bpf.RET, _ERRNO | errno.EPERM, label="refuse"),
        ]
    )


def _looks(process: int, *, writes: bool, loads: bool) -> dict[str, list[Op]]:
    """What decides of calls of which the arguments do."""
    writing = {} if writes else {"open": _opened(1), "openat": _opened(2)}
    families = [Op(bpf.JEQ, family, "allow") for family in _FAMILIES]
    typing = [Op(bpf.JEQ, command, "refuse") for command in _TYPE_FOR_OTHERS]
    return {
        "setns": [_argument(1), Op(bpf.JEQ, _NEW_NET, "allow", "refuse")],
        "clone": [_argument(0), Op(bpf.JSET, _NEW_ANY, "refuse"), Op(bpf.JSET, _THREAD, "allow", "refuse")],
        "tgkill": [_argument(0), Op(bpf.JEQ, process, "allow", "refuse")],
        "bpf": [_argument(0), Op(bpf.JEQ, _LOAD_PROGRAM, "allow" if loads else "refuse", "refuse")],
        "socket": [_argument(0), *families, Op(bpf.JA, yes="refuse")],
        "ioctl": [_argument(1), *typing, Op(bpf.JA, yes="allow")],
        **writing,
    }


def _opened(flags: int) -> list[Op]:
    return [_argument(flags), Op(bpf.JSET, _WRITES, "refuse", "allow")]


def _argument(which: int) -> Op:
    """A = the lower half of an argument, which is all that the kernel looks at in an int."""
    return Op(bpf.LD_W, _ARGUMENTS + 8 * which)
