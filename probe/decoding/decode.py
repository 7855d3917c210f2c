"""`probe decode`: what PROXY protocol headers say, from hex, from lines of hex, or from a capture.

run ─ HEX ────▶ decode_all ─┐
    ├ - ──────▶ line by line ┼─▶ Answer ─▶ JSON lines, YAML, or render.headers
    └ FILE ───▶ decode_capture ┘
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from daemonset.decode.head import read_payload
from daemonset.decode.proxy_protocol import HEADER_LIMIT, HEADER_MAX, decode_all
from daemonset.taps.pcap import CaptureFileError
from probe.decoding.answer import KINDS, Answer, answer_failed, decode_bytes, exit_code, with_receivers
from probe.decoding.capture import HeaderFinder
from probe.errors import ExitCode, UsageError, os_error
from probe.output import note, put
from probe.render.escape import escape
from probe.render.machines import machine

#: Longest line of hex that is read, in bytes: as many of the longest headers as are decoded, with separators.
LINE_LIMIT = 4 * HEADER_MAX * HEADER_LIMIT

#: What people have between the digits, or before them.
_SEPARATORS = re.compile(rb"0[xX]|\\x|[\s:,_-]")
_NOT_HEX = re.compile(rb"[^0-9A-Fa-f]")


def run(
    source: str,
    output: str = "table",
    *,
    receivers: bool = False,
    lines: Iterable[bytes] | None = None,
    write: Callable[[str], None] = put,
) -> int:
    """Decode `source` (hex, the path of a capture, or "-" for `lines`, stdin's by default) and print answers.

    `output` is table, wide, json, jsonl or yaml; with `receivers` each answer says who would take the header.
    Returns the exit code: LOST where a header was in error, INCONCLUSIVE where one was cut or a capture holds
    none. Raises UsageError.
    """
    render = _renderer(output)
    if source == "-":
        return _run_lines(lines if lines is not None else _stdin_lines(), render, write, receivers)
    if _exists(source):
        return _run_capture(source, render, write, receivers)
    data = _parse_argument(source)
    answers = decode_bytes(data)
    if receivers:
        answers = with_receivers(answers, data)
    for answer in answers:
        write(render(answer, ""))
    if output in {"table", "wide"} and (payload := describe_payload(data)):
        write(payload)
    return exit_code(answers)


def describe_payload(data: bytes) -> str | None:
    """One line about what follows the headers, where there is anything."""
    decoded = decode_all(data)
    rest = data[decoded.rest :]
    if not decoded.headers or not rest or decoded.error or not decoded.complete:
        return None
    kind, head = read_payload(rest)
    what = KINDS.get(kind, "payload")
    start = f": {head.http.start}" if head and head.http else ""
    return escape(f"then {len(rest)} bytes of payload, {what}{start}")


def _run_lines(
    lines: Iterable[bytes],
    render: Callable[[Answer, str], str],
    write: Callable[[str], None],
    receivers: bool,
) -> int:
    worst = ExitCode.OK
    for number, line in enumerate(lines, 1):
        answer = _answer_line(line, receivers)
        write(render(answer, f"line {number}"))
        worst = _worse(worst, exit_code([answer]))
    return worst


def _answer_line(line: bytes, receivers: bool) -> Answer:
    data, fault = parse_hex(line)
    if fault:
        return answer_failed(None, fault, complete=True)
    answers = decode_bytes(data)
    if receivers and data:
        answers = with_receivers(answers, data)
    first, *others = answers
    return msgspec.structs.replace(first, next=tuple(others)) if others else first


def _run_capture(
    path: str, render: Callable[[Answer, str], str], write: Callable[[str], None], receivers: bool
) -> int:
    finder = HeaderFinder(receivers=receivers)
    worst, found = ExitCode.OK, 0
    try:
        for answer in finder.read(path):
            found += 1
            write(render(answer, ""))
            worst = _worse(worst, exit_code([answer]))
    except CaptureFileError as error:
        raise UsageError(f"{error}; give a file that tcpdump or Wireshark has written") from error
    for remark in finder.remarks:
        note(f"probe: {path}: {remark}")
    if not found:
        note(f"probe: {path}: none of the {finder.flows} flows in it begins with a PROXY header")
    return worst if found and not finder.remarks else _worse(worst, ExitCode.INCONCLUSIVE)


def _worse(one: int, other: int) -> ExitCode:
    order = (ExitCode.OK, ExitCode.INCONCLUSIVE, ExitCode.LOST)
    return max(ExitCode(one), ExitCode(other), key=order.index)


def parse_hex(text: bytes) -> tuple[bytes, str | None]:
    """The bytes that `text` spells, or what keeps it from being hex."""
    digits = _SEPARATORS.sub(b"", text)
    if found := _NOT_HEX.search(digits):
        return b"", f"not hex: {chr(found[0][0])!a} is no hexadecimal digit"
    if len(digits) % 2:
        return b"", f"not hex: {len(digits)} digits do not make whole bytes"
    return bytes.fromhex(digits.decode("ascii")), None


def _parse_argument(source: str) -> bytes:
    data, fault = parse_hex(os.fsencode(source))
    if fault and re.search(r"/|\.\w+$", source):
        raise UsageError(f"{source} is neither a file nor hex; check the path, or give a header in hex")
    if fault:
        raise UsageError(
            f"{fault}; give a header in hex, the path of a capture, or - for lines of hex on stdin"
        )
    if not data:
        raise UsageError("there are no bytes to decode; give a header in hex, a capture, or - for stdin")
    return data


def _exists(source: str) -> bool:
    """Whether `source` is the path of something to read. A folder named like hex does not stand in hex's way."""
    try:
        path = Path(source)
        if not path.is_dir():
            return path.exists()
    except (OSError, ValueError):  # a long string of hex is no file name
        return False
    if source and parse_hex(os.fsencode(source))[1]:
        raise UsageError(f"{source} is a folder; give a capture, a header in hex, or -")
    return False


def _stdin_lines() -> Iterator[bytes]:
    """Lines of stdin without their ends. One that is too long is answered once and skipped to its end."""
    read = sys.stdin.buffer.readline
    try:
        while line := read(LINE_LIMIT):
            whole = line
            while not line.endswith(b"\n") and (line := read(LINE_LIMIT)):
                whole = b"(a line that is too long)"
            yield whole.rstrip(b"\r\n")
    except OSError as error:
        raise os_error(error, "read stdin") from error


def _renderer(output: str) -> Callable[[Answer, str], str]:
    """How an answer is written; the second argument says where it stands, for people."""
    if output in {"table", "wide"}:
        from probe.render.headers import to_text  # noqa: PLC0415 - programs need no terminal's library

        return lambda answer, where: to_text(answer, sys.stdout, where)
    if output == "yaml":
        return lambda answer, _: "---\n" + machine.to_yaml(answer)
    return lambda answer, _: machine.to_line(answer)
