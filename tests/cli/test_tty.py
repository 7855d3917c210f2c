"""On a real terminal: colour unless it is not wanted, its width, and progress that leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.cells import cell_len

from tests.cli.helpers import pcap, syn
from tests.cli.test_pcapng import given


def on_terminal(*arguments: str | Path, columns: int = 80, **environment: str) -> tuple[int, str]:
    """Run `probe ARGUMENTS…` on a terminal of its own; exit code and everything written to it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {
        key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS", "LINES"}
    }
    process = subprocess.Popen(
        [sys.executable, "-c", "from probe.cli import main; main()", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **environment},
        start_new_session=True,
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:
        pass  # EIO: the other side is closed, which is how a terminal ends
    os.close(ours)
    return process.wait(timeout=60), written.decode()


def screen(written: str) -> str:
    """What stands on the terminal afterwards: erased lines are gone, colours are only colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", written)
    lines = [line.rpartition("\x1b[2K")[2].replace("\r", "") for line in text.split("\n")]
    return "\n".join(lines)


def test_colour_on_a_terminal_and_none_where_it_is_not_wanted() -> None:
    assert "\x1b[1;31m" in on_terminal("explain", "SIP101")[1]
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", on_terminal("explain", "SIP101", NO_COLOR="1")[1])
    assert "\x1b" not in on_terminal("explain", "SIP101", TERM="dumb")[1]


def test_the_width_is_the_terminals() -> None:
    for columns in (40, 80, 132):
        lines = screen(on_terminal("explain", columns=columns)[1]).splitlines()
        assert max(map(len, lines)) <= columns
    assert len(screen(on_terminal("explain", columns=40)[1]).splitlines()) > len(lines)


def test_progress_is_overwritten_and_leaves_nothing_behind(tmp_path: Path) -> None:
    capture = pcap(tmp_path / "a.pcap", syn())
    code, written = on_terminal("analyze", "--tap", f"nic:node1/eth0={capture}", columns=60)
    assert code == 4
    assert "· reading" in written
    assert "reading" not in screen(written)
    assert screen(written).startswith("‼ INCONCLUSIVE")


def test_a_complaint_after_progress_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    good, bad = pcap(tmp_path / "a.pcap", syn()), tmp_path / "b.pcap"
    bad.write_text("no capture")
    taps = ["--tap", f"nic:node1/eth0={good}", "--tap", f"nic:node1/eth1={bad}"]
    code, written = on_terminal("analyze", *taps)
    assert code == 2
    assert screen(written).startswith(f"probe: {bad}")


def test_a_report_fits_80_columns_and_uses_more_where_there_are_more() -> None:
    widest = {}
    for columns in (80, 200):
        for form in ("table", "wide"):
            code, written = on_terminal("analyze", *given(), "-o", form, columns=columns)
            assert code == 3
            lines = screen(written).splitlines()
            widest[columns, form] = max(map(cell_len, lines))
            assert len(lines) > 20
    assert widest[80, "table"] <= 80
    assert 100 < widest[200, "table"] <= 200
    assert 100 < widest[200, "wide"] <= 200
    assert widest[80, "wide"] <= 200, "wide is made for a pager that scrolls sideways"


def test_a_terminal_without_unicode_gets_ascii_and_loses_nothing() -> None:
    poor = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    rich = screen(on_terminal("analyze", *given())[1])
    plain = screen(on_terminal("analyze", *given(), **poor)[1])
    assert plain.isascii()
    assert not rich.isascii()
    for address in set(re.findall(r"\d+\.\d+\.\d+\.\d+:\d+", rich)):
        assert address in plain
    assert "x LOST" in plain
