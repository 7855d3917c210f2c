"""Doing something inside another network namespace.

A thread, not the process, is in a network namespace (setns(2)). So the work is done by a thread that lives
for nothing else: the rest of the process never leaves its own namespace, whatever goes wrong. A socket that
the thread opens stays in the namespace that it was opened in.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from typing import TypeVar

_CLONE_NEWNET = 0x4000_0000  # linux/sched.h

_T = TypeVar("_T")


def call_inside(namespace: int | None, work: Callable[[], _T]) -> _T:
    """Call `work` inside the network namespace of an open file (as /proc/PID/ns/net); None: where we are.

    Raises what `work` raises, and PermissionError where entering needs a capability that we do not have:
    CAP_SYS_ADMIN, both here and in the user namespace that owns the network namespace.
    """
    if namespace is None:
        return work()
    results: list[_T] = []
    errors: list[BaseException] = []

    def inside() -> None:
        try:
            _enter(namespace)
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=inside, name="inside-namespace")
    try:
        thread.start()
    except RuntimeError as error:  # there are no more threads to be had
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")
