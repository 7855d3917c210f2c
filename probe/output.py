"""The two streams: results on stdout, progress and complaints on stderr.

A reader of stdout that leaves early (`| head`) had enough: that changes no exit code and is not worth a word.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol, TextIO

from probe.errors import UnavailableError, UsageError, os_error
from probe.render.escape import escape, plain


class Screen(Protocol):
    """Has the terminal under stderr to itself for a while, and takes what would be written there: safe lines."""

    def note(self, line: str) -> None:
        """A line that stays."""
        ...

    def progress(self, line: str) -> None:
        """A line that takes the place of the one before."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was, but for the lines that stay. Harmless when it is left already."""
        ...


#: Who has the terminal now; never more than one.
_screens: list[Screen] = []


@contextmanager
def screen(taker: Screen) -> Iterator[None]:
    """Let a screen take what is told, until the end or until a result is printed."""
    _screens.append(taker)
    try:
        yield
    finally:
        end_progress()


def ascii_only(stream: TextIO) -> bool:
    """Whether a stream cannot take all of Unicode."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("_", "-")
    return not encoding.startswith("utf")


def put(text: str) -> None:
    """Write a result, whole and with its line end, to stdout. Raises ProbeError where that cannot be."""
    if not text.endswith("\n"):
        text += "\n"
    end_progress()
    _write(plain_lines(text) if ascii_only(sys.stdout) else text)


def give_stdout() -> BinaryIO:
    """Reserve stdout for a result of bytes; all text goes to stderr from now on. Raises ProbeError."""
    if sys.stdout is None or sys.stderr is None:
        raise UnavailableError("cannot write the result: a standard stream is closed; give the command both")
    if sys.stdout.isatty():
        raise UsageError(
            "packets are not for a terminal; pipe them, as in '… -w - | tshark -r -', or name a file"
        )
    stdout, sys.stdout = sys.stdout, sys.stderr
    return stdout.buffer


def flush() -> None:
    """Send off what was buffered by others (help, completion), with the promises of `put`."""
    _write("")


def _write(text: str) -> None:
    if sys.stdout is None:  # the caller closed it, as `>&-` does
        raise UnavailableError("cannot write the result: standard output is closed; give the command one")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()
    except OSError as error:
        forget_stdout()
        raise os_error(error, "write the result to stdout") from error


def note(text: str) -> None:
    """One safe line on stderr."""
    if _screens:
        _screens[-1].note(_line(text))
        return
    _tell(_line(text) + "\n")


def progress(text: str) -> None:
    """What is going on, on stderr; on a terminal each line takes the place of the one before."""
    if _screens:
        _screens[-1].progress(text)
        return
    line = _line(f"· {text}")
    if not overwrites():
        _tell(line + "\n")
        return
    columns = shutil.get_terminal_size().columns
    _tell(line[: columns - 1])
    _passing.append(line)


def end_progress() -> None:
    """Take the last line of progress off the terminal, or the whole screen."""
    while _screens:
        _screens.pop().close()
    _tell("")


#: Lines of progress that stand on the terminal and are to be overwritten; never more than one.
_passing: list[str] = []


def overwrites() -> bool:
    """Whether what stands on stderr can be taken away again."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _line(text: str) -> str:
    line = escape(text.replace("\n", " "), limit=4000)
    return plain(line) if ascii_only(sys.stderr) else line


def _tell(text: str) -> None:
    """Write to stderr in place of a line of progress. Where that fails, there is nobody to tell."""
    if _passing:
        _passing.clear()
        text = "\r\x1b[2K" + text
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        return


def plain_lines(text: str) -> str:
    """`plain`, line by line."""
    return "\n".join(map(plain, text.split("\n")))


def forget_stdout() -> None:
    """Let what is still buffered, and the interpreter's own flush at its end, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    finally:
        os.close(nowhere)
