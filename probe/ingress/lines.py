"""A line of a log without what collectors put in front of it: kubectl, the container runtime, syslog, timestamps.

Every byte may be hostile: lines are bounded, decoded with replacements, and each prefix is taken off at most once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from probe.ingress.times import RFC3339, Moment, moment

#: Longest line that is looked at, in bytes; nginx' own limit is 2 KiB for errors and 64 KiB for what JSON makes longer.
LINE_LIMIT = 1 << 16

_KUBECTL = re.compile(r"\[(?:pod/)?(?P<server>[A-Za-z0-9._-]{1,253}/[A-Za-z0-9._-]{1,253})\] ")
_STAMP = re.compile(rf"(?P<time>{RFC3339}) (?:(?:stdout|stderr) [FP] )?", re.ASCII)
_SECONDS = re.compile(r"(?P<time>\d{9,10}\.\d{3,9}) ", re.ASCII)
_SYSLOG = re.compile(
    r"(?:<\d{1,3}>)?[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d (?:(?P<server>[\w.:-]{1,253}) )?[\w./-]{1,64}(?:\[\d+\])?: ",
    re.ASCII,
)
_SYSLOG5424 = re.compile(
    rf"<\d{{1,3}}>1 (?P<time>{RFC3339}) (?P<server>\S{{1,253}}) \S{{1,64}} \S{{1,64}} \S{{1,64}} (?:-|\[[^\]]*\]) ",
    re.ASCII,
)
_COMPOSE = re.compile(r"(?P<server>[A-Za-z0-9][\w.-]{0,60}) +\| ", re.ASCII)


class Line(NamedTuple):
    """One line: its number in the file, its text without prefixes, what the prefixes said, and how it stood there."""

    number: int
    text: str
    written: Moment | None = None
    server: str = ""
    whole: str = ""


class TooLong(NamedTuple):
    """A line that was not looked at for its length."""

    number: int


def read_lines(file: BinaryIO, limit: int) -> Iterator[Line | TooLong]:
    """The lines of at most the first `limit` bytes."""
    number, taken = 0, 0
    while taken < limit and (data := file.readline(LINE_LIMIT)):
        number += 1
        taken += len(data)
        if len(data) < LINE_LIMIT or data.endswith(b"\n"):
            yield _bare(number, data.rstrip(b"\r\n").decode("utf-8", "replace"))
            continue
        while taken < limit and (data := file.readline(LINE_LIMIT)):  # the rest of it
            taken += len(data)
            if data.endswith(b"\n"):
                break
        yield TooLong(number)


def _bare(number: int, whole: str) -> Line:
    """Take the prefixes off, each kind at most once and in whatever order they stand."""
    text, written, server = whole, None, ""
    if text.startswith('{"log":'):
        text, written = _docker(text)
    prefixes = [_KUBECTL, _STAMP, _SECONDS, _SYSLOG5424, _SYSLOG, _COMPOSE]
    while prefixes:
        for form in prefixes:
            if found := form.match(text):
                break
        else:
            break
        prefixes.remove(form)
        named = found.groupdict()
        server = server or (named.get("server") or "").partition("/")[0]
        stamp = moment(named["time"]) if named.get("time") else None
        if stamp is not None and (written is None or (stamp.zoned and not written.zoned)):
            written = stamp
        text = text[found.end() :]
    return Line(number, text, written, server, whole)


class _DockerLine(msgspec.Struct):
    log: str
    time: str = ""


def _docker(text: str) -> tuple[str, Moment | None]:
    """A line of Docker's json-file driver."""
    try:
        line = msgspec.json.decode(text, type=_DockerLine)
    except (msgspec.DecodeError, RecursionError):
        return text, None
    return line.log.rstrip("\r\n"), moment(line.time)
