"""However a command ends: a reader that leaves, a full disk, Ctrl-C, a defect of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from probe import cli
from tests.cli.helpers import Probe, ended, pcap, start, syn


@pytest.mark.parametrize("command", [["explain"], ["--help"], ["explain", "SIP101"], ["lab", "list"]])
def test_a_reader_that_leaves_is_no_error(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # nobody will ever read
    process = start(*command, stdout=writer)
    os.close(writer)
    ending = ended(process)
    assert ending.err == ""
    assert ending.code in {0, 1}
    assert ending.code == 0 or command == ["--help"], "only what the libraries print may end otherwise"


def test_a_reader_that_leaves_does_not_change_the_verdict(tmp_path: Path) -> None:
    capture = pcap(tmp_path / "a.pcap", syn())
    reader, writer = os.pipe()
    os.close(reader)
    process = start("analyze", "--tap", f"nic:node1/eth0={capture}", "-o", "json", stdout=writer)
    os.close(writer)
    assert (ended(process).code, ended(process).err) == (4, "")


@pytest.mark.parametrize("command", [["explain"], ["--help"], ["version"]])
def test_a_full_disk_under_stdout(command: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        ending = ended(start(*command, stdout=full))
    assert ending.code == 5
    assert "No space left on device" in ending.err
    assert len(ending.err.splitlines()) == 1
    assert "Traceback" not in ending.err


@pytest.mark.parametrize(("closed", "says"), [("1>&-", "standard output is closed"), ("1>&- 2>&-", "")])
def test_no_output_at_all(closed: str, says: str) -> None:
    command = f"exec {sys.executable} -c 'from probe.cli import main; main()' explain {closed}"
    result = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == 5


def test_a_defect_of_ours_asks_to_be_reported(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the catalogue burnt\ndown \x1b[31m")

    monkeypatch.setattr("probe.render.catalogue.definition_text", broken)
    ending = probe("explain", "SIP101")
    assert ending.code == 1
    assert len(ending.err.splitlines()) == 1
    assert "this is a defect of probe: RuntimeError: the catalogue burnt down" in ending.err
    assert "please report" in ending.err
    assert "\x1b" not in ending.err


def test_too_many_observations_for_this_machine(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError("Out of Memory Error: could not offload block of 256.0 KiB")

    monkeypatch.setattr("probe.render.catalogue.definition_text", full)
    ending = probe("explain", "SIP101")
    assert ending.code == 5
    assert ending.err == (
        "probe: there is not enough room for so many observations (Out of Memory Error: could not offload block of "
        "256.0 KiB); capture for a shorter time, or free memory and space for temporary files\n"
    )


def test_debug_shows_where_a_defect_is(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the catalogue burnt down")

    monkeypatch.setattr("probe.render.catalogue.definition_text", broken)
    monkeypatch.setenv("PROBE_DEBUG", "0")
    assert "Traceback" not in probe("explain", "SIP101").err
    ending = probe("--debug", "explain", "SIP101")
    assert ending.code == 1
    assert "Traceback (most recent call last):" in ending.err
    assert "test_endings.py" in ending.err


def test_an_interrupt_is_130(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("probe.render.catalogue.definition_text", interrupted)
    ending = probe("explain", "SIP101")
    assert (ending.code, ending.out, ending.err) == (130, "", "")


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_the_version(probe: Probe, arguments: list[str]) -> None:
    from probe import __version__

    ending = probe(*arguments)
    assert (ending.code, ending.out.splitlines()[0], ending.err) == (0, f"probe {__version__}", "")


def test_every_command_has_help(probe: Probe) -> None:
    commands = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    commands = [name for name in commands if name != "agent"]  # its arguments are the ground floor's
    assert {"demo", "capture", "analyze", "decode", "explain", "version"} <= set(commands)
    for command in [*commands, "lab", "lab list", "lab run", "lab shell"]:
        ending = probe(*command.split(), "--help")
        assert ending.code == 0
        assert ending.out.split()[:2] == ["Usage:", "probe"]


def test_the_help_tells_the_exit_codes(probe: Probe) -> None:
    words = " ".join(probe("--help").out.split())
    for code in (
        "0 preserved",
        "1 a defect",
        "2 usage",
        "3 a client",
        "4 inconclusive",
        "5 the",
        "130 interrupted",
    ):
        assert code in words.replace("│ ", "")


def test_explain_lists_and_explains_every_finding(probe: Probe) -> None:
    from analysis.catalogue.findings import CATALOGUE

    listed = probe("explain")
    assert listed.code == 0
    for code, definition in CATALOGUE.items():
        assert code in listed.out
        ending = probe("explain", code.lower())
        assert ending.code == 0
        assert ending.out.startswith(("× ", "‼ ", "· "))
        words = " ".join(ending.out.split())
        assert definition.docs in words
        assert " ".join(definition.fix.split()) in words


def test_capturing_nothing_says_what_can_be_captured(probe: Probe) -> None:
    probe("capture").complains(2, "svc/NAME", "--lab SCENARIO")


def test_an_unknown_scenario_says_where_they_are_listed(probe: Probe) -> None:
    for arguments in (["demo", "--scenario", "nope"], ["lab", "run", "nope"], ["capture", "--lab", "nope"]):
        ending = probe(*arguments)
        ending.complains(2, "no scenario 'nope'", "`probe lab list`")


def test_an_unknown_place_names_the_known_ones(probe: Probe) -> None:
    probe("lab", "shell", "cluster-remote", "nodeX").complains(2, "no nodeX", "client1", "node1", "web-1")


def test_a_scenario_file_with_an_unknown_key_names_file_and_key(probe: Probe, tmp_path: Path) -> None:
    scenario = tmp_path / "mine.toml"
    scenario.write_text('title = "t"\nstory = "s"\nreqests = []\n')
    probe("lab", "run", scenario).complains(2, str(scenario), "reqests")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["probe", "ana"], "analyze"),
        (["probe", "demo", "--scenario", "overlay"], "overlay-vxlan"),
        (["probe", "lab", "run", "cluster-r"], "cluster-remote"),
        (["probe", "demo", "-o", "ya"], "yaml"),
    ],
)
def test_the_shell_completes(monkeypatch: pytest.MonkeyPatch, words: list[str], offered: str) -> None:
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setenv("_PROBE_COMPLETE", "complete_bash")
    ending = ended(start())
    assert (ending.code, ending.out.split()) == (0, [offered])
