"""A server's log from a file: line by line, of whatever server, as far as lines are of a form that is known.

Lines that are not understood are counted and the first of them is named; a file of which nothing is understood is no
log. What servers told in several lines is put together, then what configurations and other lines add (`settle`).
"""

from __future__ import annotations

from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import msgspec

from analysis.ingress import LogEntry
from probe.errors import UsageError, os_error
from probe.ingress import log_haproxy, log_json, log_nginx, log_others
from probe.ingress.entries import Said
from probe.ingress.lines import Line, TooLong, read_lines
from probe.render.escape import file_text

#: Bytes of a log that are read, and entries of it that are kept: the latest ones.
SIZE_LIMIT = 1 << 30
ENTRIES_LIMIT = 200_000

_COMPRESSED = {
    b"\x1f\x8b": "gzip -dc",
    b"BZh": "bzip2 -dc",
    b"\xfd7zXZ": "xz -dc",
    b"\x28\xb5\x2f\xfd": "zstd -dc",
}

_FORMS = "the forms that are known are those of nginx, ingress-nginx, HAProxy, uvicorn and Envoy"


class Log(NamedTuple):
    """What a log says, and what could not be read of it, for people."""

    entries: list[LogEntry]
    remarks: list[str]


def read_log(path: Path) -> Log:
    """Read a log. Raises ProbeError where it cannot be read, or nothing of it is understood."""
    try:
        with path.open("rb") as file:
            return parse_log(file, file_text(path))
    except OSError as error:
        raise os_error(error, f"read {path}") from error


def parse_log(file: BufferedReader, name: str) -> Log:
    """What an open log says; `name` is what it is called. Raises UsageError as `read_log`, and OSError."""
    reader = _Reader(name)
    magic = file.peek(6)[:6]
    for beginning, command in _COMPRESSED.items():
        if magic.startswith(beginning):
            raise UsageError(f"--ingress-log {name} is compressed; give what `{command} {name}` prints")
    for line in read_lines(file, SIZE_LIMIT):
        if isinstance(line, TooLong):
            reader.skip(line.number)
        else:
            reader.take(line)
    return reader.log(complete=not file.read(1))


def check_log(path: Path) -> None:
    """Raise ProbeError where a log that is still being written cannot be opened."""
    try:
        if not path.is_fifo():  # opening one would wait for its writer
            path.open("rb").close()
    except OSError as error:
        raise os_error(error, f"read {path}") from error


class _Reader:
    def __init__(self, file: str) -> None:
        self._file = file
        self._errors = log_nginx.NginxErrors()
        # What a line begins with decides most; the order is from the narrowest form to the widest.
        self._forms: tuple[Callable[..., Said | None], ...] = (
            self._errors.read,
            log_json.access,
            log_nginx.access,
            log_others.uvicorn,
            log_others.envoy,
            log_haproxy.read,
        )
        self._entries: dict[int, LogEntry] = {}  # by line
        self._understood = 0
        self._unknown = 0
        self._first_unknown = 0
        self._dropped = 0

    def take(self, line: Line) -> None:
        """Read a line."""
        said = next((said for form in self._forms if (said := form(line)) is not None), None)
        if said is None:
            if line.text.strip():
                self.skip(line.number)
            return
        self._understood += 1
        for number in said.instead_of:
            self._entries.pop(number, None)
        if said.entry is not None:
            self._entries[said.entry.line] = msgspec.structs.replace(said.entry, file=self._file)
            if len(self._entries) > ENTRIES_LIMIT:
                del self._entries[next(iter(self._entries))]
                self._dropped += 1

    def skip(self, number: int) -> None:
        """Count a line that was not understood."""
        self._unknown += 1
        self._first_unknown = self._first_unknown or number

    def log(self, complete: bool) -> Log:
        """All of it. Raises UsageError where nothing was understood."""
        for number in self._errors.unfinished():
            self.skip(number)
        if self._unknown and not self._understood:
            raise UsageError(
                f"--ingress-log {self._file}: none of its {_lines(self._unknown)} is understood; {_FORMS}"
            )
        remarks = []
        if self._unknown:
            were = "were" if self._unknown > 1 else "was"
            remarks.append(
                f"{_lines(self._unknown)} of {self._file} {were} not understood, "
                f"the first is line {self._first_unknown}"
            )
        elif not self._understood:
            remarks.append(f"{self._file} is empty")
        if self._dropped:
            remarks.append(f"{self._file} is long: only its last {ENTRIES_LIMIT} entries are used")
        if not complete:
            remarks.append(f"{self._file} is longer than {SIZE_LIMIT >> 20} MiB: the rest of it was not read")
        entries = [self._entries[number] for number in sorted(self._entries)]
        if any(not each.zoned for each in entries):
            remarks.append(
                f"times in {self._file} name no time zone: they are compared as if it were any; "
                "`kubectl logs --timestamps` adds exact ones"
            )
        return Log(entries, remarks)


def _lines(number: int) -> str:
    return f"{number} line{'s' if number != 1 else ''}"
