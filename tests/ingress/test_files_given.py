"""--ingress-config and --ingress-log on the command line: what is wrong with a file is told in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from probe.ingress import read_afterwards, read_ingress
from probe.sessions.folder import Meta, SessionFolder, read_meta
from tests.cli.helpers import Probe, pcap, syn

LINE = 'INFO:     192.0.2.7:0 - "GET /x HTTP/1.1" 200 OK\n'

READ = "import sys, pathlib; from probe.ingress import read_ingress; read_ingress([pathlib.Path(sys.argv[1])], [])"


@pytest.fixture
def captured(tmp_path: Path) -> list[str | Path]:
    return ["analyze", "--tap", f"nic:node1/eth0={pcap(tmp_path / 'nic.pcap', syn())}"]


@pytest.mark.parametrize(
    ("option", "content", "code", "words"),
    [
        ("--ingress-config", None, 2, ["cannot read", "No such file"]),
        ("--ingress-config", "", 2, ["is empty", "nginx.conf"]),
        ("--ingress-config", "\0\1\2", 2, ["is not text"]),
        ("--ingress-config", "just words\n", 2, ["none of the kinds", "haproxy.cfg"]),
        (
            "--ingress-config",
            "http {\n server {\n listen 80\n }\n}\n",
            2,
            ["given line 3:", '"listen" is not ended by ";"'],
        ),
        ("--ingress-config", "events { }\n", 2, ["no server that listens", "nginx -T"]),
        ("--ingress-config", "frontend f\n bind 'a\n", 2, ["given line 2:", "not closed"]),
        ("--ingress-config", '{"kind": "Pod"}', 2, ["no ConfigMap"]),
        ("--ingress-config", "http {\n\x1b[31m }", 2, [r"\x1b[31m"]),
        ("--ingress-log", None, 2, ["cannot read", "No such file"]),
        ("--ingress-log", "what is this\n\0\n", 2, ["none of its 2 lines is understood", "nginx", "HAProxy"]),
        ("--ingress-log", "\x1f\x8b", 2, ["compressed", "gzip -dc"]),
    ],
)
def test_a_file_that_cannot_be_used(
    probe: Probe,
    captured: list[str | Path],
    tmp_path: Path,
    option: str,
    content: str | None,
    code: int,
    words: list[str],
) -> None:
    file = tmp_path / "given"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    probe(*captured, option, file).complains(code, *words)


@pytest.mark.parametrize("option", ["--ingress-config", "--ingress-log"])
def test_a_folder_and_a_file_given_twice(
    probe: Probe, captured: list[str | Path], tmp_path: Path, option: str
) -> None:
    probe(*captured, option, tmp_path).complains(2, "Is a directory")
    probe(*captured, option, "x", option, "x").complains(2, "given twice", option)


def test_what_was_not_understood_is_told_and_the_rest_is_used(
    probe: Probe,
    captured: list[str | Path],
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    log.write_text(LINE + "what is \x1b[31mthis\n")
    ending = probe(*captured, "--ingress-log", log)
    assert f"1 line of {log} was not understood, the first is line 2" in ending.err
    assert "\x1b" not in ending.err
    assert ending.out


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to become somebody else")
    file = tmp_path / "conf"
    file.write_text("http { server { listen 80; } }\n")
    file.chmod(0)
    command = [
        "setpriv",
        "--bounding-set",
        "-dac_override,-dac_read_search",
        sys.executable,
        "-c",
        READ,
        file,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "UnavailableError" in ended.stderr
    assert "Permission denied; run as a user who may" in ended.stderr


def test_a_log_is_read_when_the_capture_is_over(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    read = read_afterwards([], [log], lambda _: None)
    log.write_text(LINE)
    assert [each.client for each in read().entries] == ["192.0.2.7"]
    log.write_text("now something else\n")
    remarks: list[str] = []
    record = read_afterwards([], [log], remarks.append)()
    assert record.entries == ()
    assert "none of its 1 line is understood" in remarks[0], "a log that went bad must not cost the capture"


def test_a_recorded_session_keeps_what_was_given(tmp_path: Path) -> None:
    log, config = tmp_path / "log", tmp_path / "conf"
    log.write_text(LINE)
    config.write_text("http { server { listen 80 proxy_protocol; set_real_ip_from 10.0.0.0/8; } }\n")
    record = read_ingress([config], [log])
    SessionFolder(tmp_path / "session", Meta()).finish(ingress=record)
    assert read_meta(tmp_path / "session").ingress == record


def test_no_yaml_is_loaded_for_a_file_that_is_none(tmp_path: Path) -> None:
    config = tmp_path / "conf"
    config.write_text("http { server { listen 80; } }\n")
    code = f"{READ}; print('yaml' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
