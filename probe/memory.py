"""How much memory this process may still take, where somebody has set a limit: the shell's, or that of a container."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_PROC, _CGROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")


class Left(NamedTuple):
    """Bytes that may still be taken, and who says so."""

    size: int
    limit: str
    addresses: bool = False  # what is only reserved counts too

    def __str__(self) -> str:
        return f"{max(self.size, 0) >> 20} MiB are left of {self.limit}"


def memory_left(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> list[Left]:
    """What each limit leaves. `proc`, `cgroups`: where the kernel tells of us."""
    try:
        pages = [int(word) for word in (proc / "statm").read_text().split()[:2]]
    except (OSError, ValueError):
        return []  # not Linux
    mapped, resident = (pages * os.sysconf("SC_PAGE_SIZE") for pages in pages)
    found = [Left(limit - resident, "the container's limit") for limit in _limits(proc, cgroups)]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found.append(Left(soft - mapped, "ulimit -v", addresses=True))
    return found


def _limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """What the kernel allows our group and those that it is part of (cgroups(7), version 2 and 1)."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        path = PurePosixPath(group.lstrip("/"))
        if ".." in path.parts:  # of a group outside of what we are shown
            path = PurePosixPath()
        for each in (path, *path.parents):
            try:
                yield int((root / each / name).read_text())
            except (OSError, ValueError):
                continue  # not there, or "max"
