"""What this machine allows, and what of it a lab might leave behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65534

TOOLS = ("ip", "nft", "iptables-restore", "nginx", "haproxy", "bridge")


@cache
def why_not() -> str:
    """Why no lab can run here; "" where it can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "-Urmnpf", "--mount-proc", "mount", "-t", "tmpfs", "lab", "/run"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"needs user namespaces: {tried.stderr.strip()}"


@cache
def python_for_nobody() -> list[str] | None:
    """The start of a command line that runs our Python as an unprivileged user; None where none can.

    The environment's own interpreter may lie in a home that others cannot enter; then the system's interpreter
    of the same version serves, with the environment's packages.
    """
    if os.geteuid() != 0:
        return [sys.executable]
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    packages = Path(os.__file__).parent if sys.prefix == sys.base_prefix else Path(sys.prefix, "lib")
    site = [str(path) for path in packages.glob("python3*/site-packages")]
    name = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        command = [*drop, "env", f"PYTHONPATH={os.pathsep.join([str(REPOSITORY), *site])}"]
        command += ["PYTHONDONTWRITEBYTECODE=1", "HOME=/", python]
        try:
            tried = subprocess.run(
                [*command, "-c", "import probe.lab"], capture_output=True, cwd="/", check=False
            )
        except OSError:
            continue
        if tried.returncode == 0:
            return command
    return None


def footprint() -> dict[str, set[str]]:
    """What the host has that a lab could leave: interfaces, mounts, network namespaces with processes in them."""
    spaces = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            spaces.add(str((process / "ns/net").readlink()))
        except OSError:
            continue  # it has just ended, or is not ours to look at
    return {
        "interfaces": {path.name for path in Path("/sys/class/net").iterdir()},
        "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "names": {path.name for path in Path("/run/netns").glob("*")},
        "spaces": spaces,
    }


def descendants(pid: int) -> set[int]:
    """Every process below a process, as the kernel lists them."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        for task in _tasks(current):
            try:
                children = {int(word) for word in (task / "children").read_text().split()}
            except OSError:
                continue
            found |= children
            waiting += children
    return found


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").glob("*"))
    except OSError:  # it ends just now
        return []


def identity(pid: int) -> str:
    """A process that cannot be mistaken for a later one with the same number; "" where there is none.

    One that has ended but was not yet collected by its parent holds nothing any more, and counts as none.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # proc_pid_stat(5), from field 3 on
    return "" if fields[0] in {"Z", "X"} else f"{pid}@{fields[19]}"
