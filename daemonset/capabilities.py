"""Which capabilities the agent goes on with: those that it needs, whatever it was started with (capabilities(7)).

Capabilities belong to threads. What is given up before any thread is started is given up by all that come; what a
thread gives up itself, others keep. None comes back: nothing is inherited, and no program is started any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Collection

#: By number (linux/capability.h): what an agent needs (docs/security.md), and what writing into others' folders takes.
NEEDED = {12: "net_admin", 13: "net_raw", 19: "sys_ptrace", 21: "sys_admin"}
DAC_OVERRIDE = 1

_VERSION = 0x2008_0522  # _LINUX_CAPABILITY_VERSION_3
# PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL
_BOUNDING_DROP, _AMBIENT, _AMBIENT_CLEAR = 24, 47, 4
_MOST = 63


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct; pid 0: the calling thread."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    """struct __user_cap_data_struct; the first has capabilities 0 to 31, the second the others."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def keep(wanted: Collection[int]) -> frozenset[int]:
    """Give up all others, in the calling thread; answers with those that it has left. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = _Header(_VERSION, 0), (_Data * 2)()
    _check(libc.capget(ctypes.byref(header), data))
    for number in range(_MOST):
        if number not in wanted:  # refused without SETPCAP, and beyond the last one that there is
            libc.prctl(_BOUNDING_DROP, ctypes.c_ulong(number), *[ctypes.c_ulong(0)] * 3)
    libc.prctl(_AMBIENT, ctypes.c_ulong(_AMBIENT_CLEAR), *[ctypes.c_ulong(0)] * 3)
    left = {number for number in wanted if data[number // 32].permitted >> number % 32 & 1}
    for half in range(2):
        mask = sum(1 << number % 32 for number in left if number // 32 == half)
        data[half].effective = data[half].permitted = mask
        data[half].inheritable = 0
    _check(libc.capset(ctypes.byref(header), data))
    return frozenset(left)


def keep_none() -> None:
    """Give up all, in the calling thread; what is refused stays as it is."""
    with contextlib.suppress(OSError):
        keep(())


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
