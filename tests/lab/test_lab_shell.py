"""A shell in the lab, on a terminal: it has the terminal to itself while it runs, and gives it back."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from probe.lab import Lab, load_scenario
from tests.lab.here import REPOSITORY

pytestmark = pytest.mark.lab

SHELL = """
import os
from probe.lab import Lab, load_scenario
with Lab.start(load_scenario("cluster-remote")) as lab:
    code = lab.shell("node2")
print("ended", code, os.tcgetpgrp(0) == os.getpgrp())
"""


def read_until(terminal: int, marker: bytes) -> bytes:
    """What the terminal shows, up to a marker. Fails where it ends before."""
    text = b""
    while marker not in text:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # how a terminal without a program reads
            chunk = b""
        assert chunk, f"the terminal ended without {marker!r}: {text!r}"
        text += chunk
    return text


def test_an_interactive_shell_owns_the_terminal_and_gives_it_back() -> None:
    terminal, theirs = pty.openpty()
    user = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-c", SHELL],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=REPOSITORY,
        env={**os.environ, "SHELL": "/bin/bash"},
    )
    os.close(theirs)
    read_until(terminal, b"node2# ")
    os.write(terminal, b"ip -br addr show eth0; sed -u s/here/there/\n")
    os.write(terminal, b"here\n")
    assert b"172.30.0.12/24" in read_until(terminal, b"\nthere")
    os.write(terminal, b"\x03")  # Ctrl-C ends the program in the foreground, not the shell and not the lab
    read_until(terminal, b"node2# ")
    os.write(terminal, b"exit 3\n")
    assert b"ended 3 True" in read_until(terminal, b"True")
    user.wait(30)
    os.close(terminal)


def test_a_command_instead_of_a_shell_returns_its_code() -> None:
    with Lab.start(load_scenario("cluster-remote")) as lab:
        assert lab.shell("client1", ["sh", "-c", "exit 4"]) == 4
