"""Private network namespaces for tests: made as root or as nobody, gone when their holder is gone.

As root they are plain ones; anybody else makes a user namespace first, in which they are root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
_HOLD = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"


class Scene:
    """A network namespace with children: `run` and `start` do things inside.

    `python` is an interpreter that its user may execute.
    """

    def __init__(self, holder: subprocess.Popen[str], prefix: Sequence[str], python: str) -> None:
        assert holder.stdout is not None
        self._holder = holder
        self.prefix = list(prefix)
        self.python = python
        self.pid = int(holder.stdout.readline())
        self._others: dict[str, subprocess.Popen[str]] = {}

    def add(self, name: str) -> int:
        """Another network namespace, held by a process; answers with its id. Veths can be moved there."""
        other = subprocess.Popen(
            [*self.inside(), "unshare", "-n", self.python, "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None
        self._others[name] = other
        return int(other.stdout.readline())

    def remove(self, name: str) -> None:
        end(self._others.pop(name))

    def inside(self, name: str = "") -> list[str]:
        """What to put before a command for it to run in here, or in the namespace `name`."""
        pid = self._others[name].pid if name else self.pid
        if as_root() and not self.prefix:
            return ["nsenter", "-n", "-t", str(pid)]
        return [*self.prefix, "nsenter", "--preserve-credentials", "-U", "-n", "-t", str(pid)]

    def run(self, *command: str, name: str = "") -> str:
        done = subprocess.run([*self.inside(name), *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def ip(self, *lines: str, name: str = "") -> None:
        for line in lines:
            self.run("ip", *line.split(), name=name)

    def start(self, *command: str, name: str = "", **how: Any) -> subprocess.Popen[bytes]:
        variables = {**how.pop("environment", os.environ), **python_path()}
        return subprocess.Popen([*self.inside(name), *command], cwd=ROOT, env=variables, **how)

    def module(self, module: str, *arguments: str, name: str = "", **how: Any) -> subprocess.Popen[bytes]:
        """Start a Python module of this project inside."""
        return self.start(self.python, "-m", module, *arguments, name=name, **how)

    def close(self) -> None:
        for other in self._others.values():
            end(other)
        end(self._holder)


def end(process: subprocess.Popen[Any]) -> None:
    """Let a holder go: it ends when its standard input does."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait(10)
    if process.stdout is not None:
        process.stdout.close()


def as_root() -> bool:
    """Whether no user namespace is needed."""
    return os.geteuid() == 0


def python_path() -> dict[str, str]:
    """Another interpreter of the same version finds the same libraries; it leaves no bytecode behind."""
    return {"PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)]), "PYTHONDONTWRITEBYTECODE": "1"}


def python_for(prefix: Sequence[str]) -> str | None:
    """An interpreter of our version that whoever `prefix` makes us may execute, also after another execve."""
    version = f"python3.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        tried = subprocess.run([*prefix, "env", candidate, "-c", ""], capture_output=True, check=False)
        if tried.returncode == 0:
            return candidate
    return None


@contextmanager
def scene(*, as_nobody: bool = False) -> Iterator[Scene]:
    prefix = NOBODY if as_nobody and as_root() else []
    python = python_for(prefix)
    if python is None:
        pytest.skip("no Python that nobody may execute")
    holder = subprocess.Popen(
        [*prefix, "unshare", "-n" if as_root() and not as_nobody else "-Urn", python, "-c", _HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    made = Scene(holder, prefix, python)
    try:
        yield made
    finally:
        made.close()


def why_not() -> str:
    """Why no scene can be made here; empty when it can."""
    for tool in ("unshare", "nsenter", "setpriv", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    tried = subprocess.run(["unshare", "-Urn", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no user namespaces here: {tried.stderr.strip()}"
