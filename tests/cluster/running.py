"""Captures as a person starts them: the command as a process of its own, against a double."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path
from queue import Empty, Queue

from tests.cli.helpers import Ending, start

PATIENCE = 60.0


class Running:
    """A command under way, whose words on stderr can be awaited."""

    def __init__(self, kubeconfig: Path, *arguments: str | Path) -> None:
        self.process: subprocess.Popen[bytes] = start(*arguments, "--kubeconfig", kubeconfig)
        self.said: list[str] = []
        self._lines: Queue[str | None] = Queue()
        self.over = False
        self._out: list[bytes] = []
        self._readers = [
            threading.Thread(target=self._read_err, daemon=True),
            threading.Thread(target=self._read_out, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line.decode().rstrip("\n"))
        self._lines.put(None)

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        self._out.append(self.process.stdout.read())

    def until(self, *words: str) -> str:
        """Wait until it says a line with these words."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except Empty:
                self.process.kill()
                raise AssertionError(f"it never said {words}; it said: {self.said}") from None
            assert line is not None, f"it ended and never said {words}; it said: {self.said}"
            self.said.append(line)
            if all(word in line for word in words):
                return line

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal, as Ctrl-C does."""
        self.process.send_signal(number)

    def ending(self) -> Ending:
        """Wait for its end."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.over = True
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        while (line := self._lines.get()) is not None:
            self.said.append(line)
        return Ending(code, b"".join(self._out).decode(), "\n".join(self.said) + "\n")
