"""A terminal for tests: commands on a pseudo-terminal of their own, and what stands on it afterwards."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

_PIECE = re.compile(r"\x1b\[(?P<number>[0-9;?]*)(?P<end>[A-Za-z])|(?P<control>[\r\n])|(?P<text>[^\x1b\r\n]+)")


class Grid:
    """As much of a terminal as our output uses: line ends, colours, the cursor upwards, and erasing a line.

    What it does not know is an error: a test that passes has seen all that was written.
    """

    def __init__(self) -> None:
        self.lines = [""]
        self._row = self._column = 0

    def feed(self, written: str) -> Grid:
        at = 0
        while at < len(written):
            found = _PIECE.match(written, at)
            assert found is not None, f"this terminal does not know {written[at : at + 20]!r}"
            at = found.end()
            self._apply(found)
        return self

    def _apply(self, found: re.Match[str]) -> None:
        match found["end"], found["control"]:
            case "m", _:
                return
            case "A", _:
                self._row = max(self._row - int(found["number"] or 1), 0)
            case "K", _:
                assert found["number"] == "2"
                self.lines[self._row] = ""
            case _, "\r":
                self._column = 0
            case _, "\n":
                self._row, self._column = self._row + 1, 0  # the kernel's terminal adds the return
                self.lines += [""] * (self._row + 1 - len(self.lines))
            case None, None:
                text, line = found["text"], self.lines[self._row].ljust(self._column)
                self.lines[self._row] = line[: self._column] + text + line[self._column + len(text) :]
                self._column += len(text)
            case _:
                raise AssertionError(f"this terminal does not know {found.group()!r}")

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)


class OnTerminal:
    """`probe ARGUMENTS…` under way on a terminal of its own."""

    def __init__(self, *arguments: str | Path, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        left_out = {"NO_COLOR", "COLUMNS", "LINES"}
        inherited = {key: value for key, value in os.environ.items() if key not in left_out}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from probe.cli import main; main()", *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**inherited, "TERM": "xterm-256color", **environment},
            start_new_session=True,
        )
        os.close(theirs)
        self.written = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def until(self, words: str) -> None:
        """Read until these words have been written, whatever became of them."""
        while words not in self.written:
            assert self._read(), f"it ended and never wrote {words!r}; it wrote {self.written!r}"

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def ending(self) -> tuple[int, str]:
        """Read to the end; exit code and everything written."""
        while self._read():
            pass
        os.close(self._ours)
        return self.process.wait(timeout=60), self.written

    def _read(self) -> bool:
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # EIO: the other side is closed, which is how a terminal ends
            return False
        self.written += self._decode(chunk)
        return bool(chunk)
