"""Files that a report is written to beside what is printed: options that several commands share.

What cannot be written is found before anything is captured, as far as that can be known then. A file appears whole or
not at all; what is no regular file (a pipe, a device) is written to as it is.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from probe.errors import UsageError, os_error
from probe.output import give_stdout, note
from probe.whole import write_whole

if TYPE_CHECKING:
    from analysis.report import Report
    from probe.render.wireshark.packets import Seen

WriteOption = Annotated[
    str | None,
    typer.Option(
        "-w",
        "--write",
        metavar="FILE",
        help="Write the packets of all taps to one pcapng file, with verdicts as comments; - is stdout, and the report "
        "then goes to stderr.",
    ),
]

HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write the report as one HTML file with a map of the paths."),
]

MarkdownOption = Annotated[
    Path | None,
    typer.Option(
        "--markdown", metavar="FILE", help="Write the report as Markdown, for a ticket or a pull request."
    ),
]

JunitOption = Annotated[
    Path | None,
    typer.Option(
        "--junit", metavar="FILE", help="Write the report as JUnit XML, for CI: a test case for each path."
    ),
]

MermaidOption = Annotated[
    Path | None,
    typer.Option("--mermaid", metavar="FILE", help="Write the paths as a Mermaid flowchart, for Markdown."),
]

DotOption = Annotated[
    Path | None, typer.Option("--dot", metavar="FILE", help="Write the paths in Graphviz's language.")
]

SarifOption = Annotated[
    Path | None,
    typer.Option("--sarif", metavar="FILE", help="Write the findings as SARIF, for code scanning."),
]

MetricsOption = Annotated[
    Path | None,
    typer.Option(
        "--metrics",
        metavar="FILE",
        help="Write counts of verdicts and findings in Prometheus's text format, for a textfile collector.",
    ),
]

EventsOption = Annotated[
    Path | None,
    typer.Option(
        "--events",
        metavar="FILE",
        help="Write what is known so far as a line of JSON, every few seconds while the capture goes on; FILE may be a "
        "pipe, as /dev/fd/3.",
    ),
]

TuiOption = Annotated[
    bool,
    typer.Option(
        "--tui",
        help="Look on in a view that takes the keyboard: places, findings and what they mean; q ends the capture.",
    ),
]

OpenOption = Annotated[bool, typer.Option("--open", help="Show the packets in Wireshark.")]


def _markdown(report: Report, _: Seen) -> str:
    from probe.render.markdown import to_markdown

    return to_markdown(report)


def _junit(report: Report, _: Seen) -> str:
    from probe.render.machines.junit import to_junit

    return to_junit(report)


def _html(report: Report, seen: Seen) -> str:
    from probe.render.html.evidence import Evidence
    from probe.render.html.page import to_html

    return to_html(report, Evidence(seen.recording))


def _mermaid(report: Report, _: Seen) -> str:
    from probe.render.machines.mermaid import to_mermaid

    return to_mermaid(report)


def _dot(report: Report, _: Seen) -> str:
    from probe.render.machines.dot import to_dot

    return to_dot(report)


def _sarif(report: Report, _: Seen) -> str:
    from probe.render.machines.machine import to_json
    from probe.render.machines.sarif import to_sarif

    return to_json(to_sarif(report)) + "\n"


def _metrics(report: Report, _: Seen) -> str:
    from probe.render.machines.metrics import to_metrics

    return to_metrics(report, time.time())


#: How each file of text is made, by the name of its field of `Files`.
_TEXTS: dict[str, Callable[[Report, Seen], str]] = {
    "markdown": _markdown,
    "junit": _junit,
    "html": _html,
    "mermaid": _mermaid,
    "dot": _dot,
    "sarif": _sarif,
    "metrics": _metrics,
}


@dataclass(frozen=True)
class Files:
    """What is to be written."""

    packets: str | None = None
    show: bool = False
    markdown: Path | None = None
    junit: Path | None = None
    html: Path | None = None
    mermaid: Path | None = None
    dot: Path | None = None
    sarif: Path | None = None
    metrics: Path | None = None

    @property
    def any(self) -> bool:
        """Whether anything is."""
        return self != Files()

    def prepare(self, sources: Sequence[Path] = ()) -> Prepared:
        """Check all names before the work begins. `sources` are files that are read. Raises ProbeError."""
        if self.packets == "-" and self.show:
            raise UsageError("--open shows a file; name one with -w FILE, or leave -w out")
        taken = dict.fromkeys((path.resolve() for path in sources), "it is read as well")
        for path in self._paths():
            if why := taken.get(path.resolve()):
                raise UsageError(f"cannot write {path}: {why}; name another file")
            taken[path.resolve()] = "two options name it"
            _check(path)
        return Prepared(self, give_stdout() if self.packets == "-" else None)

    def _paths(self) -> list[Path]:
        packets = Path(self.packets) if self.packets is not None and self.packets != "-" else None
        texts = (getattr(self, name) for name in _TEXTS)
        return [path for path in (packets, *texts) if path is not None]


@dataclass(frozen=True)
class Prepared:
    """The files, checked; `stdout` where packets go there."""

    files: Files
    stdout: BinaryIO | None = None

    def write(self, report: Report, seen: Seen) -> None:
        """Write all of them. Raises ProbeError."""
        if self.stdout is not None or self.files.packets is not None or self.files.show:
            self._packets(report, seen)
        for name, render in _TEXTS.items():
            path: Path | None = getattr(self.files, name)
            if path is not None:
                _save_text(path, render(report, seen))

    def _packets(self, report: Report, seen: Seen) -> None:
        from daemonset.taps.pcap import CaptureFileError
        from probe.agents.captures import capture_error
        from probe.render.wireshark.packets import write_packets

        def write(file: BinaryIO) -> None:
            try:
                write_packets(file, report, seen)
            except CaptureFileError as error:
                raise capture_error(error) from error

        if self.stdout is not None:
            _stream(self.stdout, write)
            return
        if self.files.packets is not None:
            path = Path(self.files.packets)
            _save(path, write)
        else:
            path = _temporary()
            _save(path, write, 0o600)
        note(f"· the packets are in {path}")
        if self.files.show:
            _show(path)


def _check(path: Path) -> None:
    """Refuse what could not be written in the end."""
    try:
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder; name a file")
        if not path.parent.is_dir():
            raise UsageError(
                f"cannot write {path}: there is no folder {path.parent}; make it, or name another file"
            )
        if not os.access(path.parent, os.W_OK) and not (path.exists() and os.access(path, os.W_OK)):
            raise os_error(PermissionError(13, "Permission denied"), f"write {path}")
    except OSError as error:
        raise os_error(error, f"write {path}") from error
    except ValueError as error:
        raise UsageError(f"cannot write {path!a}: no file can have that name; name another") from error


def _save(path: Path, write: Callable[[BinaryIO], object], mode: int = 0o666) -> None:
    """Write a file whole, in place of what was there. Raises ProbeError."""
    try:
        if path.exists() and not path.is_file():  # a pipe, a device
            with path.open("wb") as file:
                write(file)
            return
        write_whole(path, write, mode)
    except BrokenPipeError:
        return  # a pipe's reader had enough
    except OSError as error:
        raise os_error(error, f"write {path}") from error


def _save_text(path: Path, text: str) -> None:
    _save(path, lambda file: file.write(text.encode()))


def _stream(stdout: BinaryIO, write: Callable[[BinaryIO], object]) -> None:
    try:
        write(stdout)
        stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
    except OSError as error:
        raise os_error(error, "write the packets to stdout") from error


def _temporary() -> Path:
    """The name of a file that is not there yet, in the folder for those that are temporary. Raises ProbeError."""
    try:
        return Path(tempfile.gettempdir(), f"probe-{secrets.token_hex(8)}.pcapng")
    except OSError as error:
        raise os_error(error, "make a temporary file") from error


def _show(path: Path) -> None:
    """Start Wireshark and leave it to itself; where there is none, the file is there."""
    if (program := shutil.which("wireshark")) is None:
        note("· there is no Wireshark on this machine's PATH; open the file where there is one")
        return
    try:
        subprocess.Popen(
            [program, "-r", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        note(f"· Wireshark did not start: {error.strerror}; the file is there all the same")
