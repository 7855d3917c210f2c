"""Commands of `pods/exec`, run for real: in the lab's namespaces, or by a script of the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from probe.lab import PIPE, Lab

_CHUNK = 1 << 15  # what the kubelet copies at once


class Command(Protocol):
    """A command that runs."""

    async def read(self) -> bytes:
        """The next of standard output; empty at its end."""
        ...

    async def complaints(self) -> bytes:
        """All of standard error, once it has ended."""
        ...

    async def write(self, data: bytes) -> None:
        """Pass on standard input."""
        ...

    async def close_input(self) -> None:
        """End standard input."""
        ...

    async def wait(self) -> int:
        """The exit code."""
        ...

    async def kill(self) -> None:
        """End it."""
        ...


class Executor(Protocol):
    """Where commands run."""

    async def start(self, node: str, command: Sequence[str]) -> Command: ...


class LabExecutor:
    """Commands run at the lab's nodes."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def start(self, node: str, command: Sequence[str]) -> Command:
        argv = [sys.executable, *command[1:]] if command[0] == "python3" else list(command)
        return await asyncio.to_thread(_LabCommand, self._lab, node, argv)


class _LabCommand:
    def __init__(self, lab: Lab, node: str, argv: Sequence[str]) -> None:
        self._process = lab.spawn(node, argv, stdin=PIPE, stdout=PIPE, stderr=PIPE)

    async def read(self) -> bytes:
        stream = self._process.stdout
        assert stream is not None
        return await asyncio.to_thread(os.read, stream.fileno(), _CHUNK)

    async def complaints(self) -> bytes:
        stream = self._process.stderr
        assert stream is not None
        return await asyncio.to_thread(stream.read)

    async def write(self, data: bytes) -> None:
        stream = self._process.stdin
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):
            os.write(stream.fileno(), data)

    async def close_input(self) -> None:
        stream = self._process.stdin
        if stream is not None and not stream.closed:
            stream.close()

    async def wait(self) -> int:
        code = await asyncio.to_thread(self._process.wait)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
        return code if code >= 0 else 128 - code  # as shells and runtimes count signals

    async def kill(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.kill()


Script = Callable[[str, "ScriptedCommand"], Awaitable[int]]


class ScriptExecutor:
    """Commands are played by a script of the test: it is given the node and the command's ends."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.started: list[tuple[str, tuple[str, ...]]] = []

    async def start(self, node: str, command: Sequence[str]) -> Command:
        self.started.append((node, tuple(command)))
        return ScriptedCommand(node, self._script)


class ScriptedCommand:
    """A command that is played. `input` yields what was written to it, b"" at the end."""

    def __init__(self, node: str, script: Script) -> None:
        self.input: asyncio.Queue[bytes] = asyncio.Queue()
        self.errors = b""
        self._output: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.create_task(self._play(node, script))

    async def _play(self, node: str, script: Script) -> int:
        try:
            return await script(node, self)
        finally:
            self._output.put_nowait(b"")

    def put(self, data: bytes) -> None:
        """Write to standard output."""
        if data:
            self._output.put_nowait(data)

    async def read(self) -> bytes:
        return await self._output.get()

    async def complaints(self) -> bytes:
        return self.errors

    async def write(self, data: bytes) -> None:
        self.input.put_nowait(data)

    async def close_input(self) -> None:
        self.input.put_nowait(b"")

    async def wait(self) -> int:
        return await self._task

    async def kill(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
