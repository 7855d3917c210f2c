"""What is known so far as JSON lines, for programs that look on while a capture goes on (`--events FILE`).

One object a line, each time that what has come was judged, and one at the end:

    {"type":"so-far","time":…,"elapsed":…,"connections":…,"verdicts":{…},"blame":…,"findings":[…],"places":[…]}
    {"type":"end","time":…,"exitCode":…,"verdicts":{…}}

They are no report: connections whose packets are still on their way are not in them, and a later line may say
otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from analysis.report import Report, Verdict
from probe.errors import os_error
from probe.output import note
from probe.render.live import State
from probe.render.machines.machine import to_line


class Events:
    """Writes lines to a file, a pipe or a device. A reader that leaves, or a disk that is full, ends that alone."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def so_far(self, state: State) -> None:
        """What is known now."""
        self._write({
            "type": "so-far",
            "time": time.time(),
            "elapsed": round(state.elapsed, 3),
            "connections": state.connections,
            "verdicts": _counts(dict(state.verdicts or ())),
            "blame": state.blame,
            "findings": [
                {"code": each.code, "severity": each.severity, "connections": each.connections}
                for each in state.findings
            ],
            "places": [
                {
                    "name": each.name,
                    "taps": each.taps,
                    "packets": each.packets,
                    "connections": each.connections,
                    "dropped": each.dropped,
                    "trouble": each.trouble or None,
                }
                for each in state.places
            ],
        })  # fmt: skip

    def end(self, report: Report) -> None:
        """The capture is over and judged."""
        counts = {verdict: getattr(report.summary, verdict.value) for verdict in Verdict}
        told = {"type": "end", "time": time.time(), "exitCode": report.exit_code, "verdicts": _counts(counts)}
        self._write(told)

    def _write(self, told: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(to_line(told) + "\n")
            self._file.flush()
        except OSError as error:
            self._file = None
            if not isinstance(error, BrokenPipeError):
                note(f"· --events ends here: {error.strerror or error}; the capture goes on")


@contextmanager
def events_to(path: Path | None) -> Iterator[Events]:
    """The file, open for as long as it takes. Raises ProbeError where it cannot be written."""
    if path is None:
        yield Events(None)
        return
    try:
        file = path.open("w", encoding="ascii")
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        fault = error if isinstance(error, OSError) else OSError(2, str(error))
        raise os_error(fault, f"write {path}") from error
    try:
        yield Events(file)
    finally:
        with suppress(OSError):  # it has been said, or nobody reads it any more
            file.close()


def _counts(counts: dict[Verdict, int]) -> dict[str, int]:
    """Every verdict, at 0 too."""
    return {verdict.value: counts.get(verdict, 0) for verdict in Verdict}
