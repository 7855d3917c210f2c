"""The report for people: golden pages, narrow and wide, plain and coloured, and never what a wire says."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.report import Client, Finding, Journey, Report, Severity, Snat, Verdict
from probe.render.escape import escape, plain
from probe.render.terminal import PATHS_SHOWN, to_text
from tests.cli.reports import (
    MASQUERADED,
    Walk,
    blackholed_journey,
    lost_journey,
    preserved_journey,
    report,
)

GOLDEN = Path(__file__).parent / "golden"


class Stream(io.StringIO):
    """A stand-in for stdout."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = False) -> None:
        super().__init__()
        self._encoding = encoding
        self._terminal = terminal

    @property
    def encoding(self) -> str:  # type: ignore[override] - StringIO's is None, and cannot be set
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def mixed() -> Report:
    journeys = [lost_journey(f"j{number}") for number in range(1, 4)]
    lost = report(*journeys, preserved_journey(), blackholed_journey(), findings=(MASQUERADED,))
    return msgspec.structs.replace(lost, title="cluster-remote, iptables mode")


def compare(name: str, text: str) -> None:
    """Hold a page against the golden one; UPDATE_GOLDEN=1 writes it anew, to be read in the diff."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_mixed_report_on_80_columns() -> None:
    text = to_text(mixed(), Stream(), width=80)
    compare("mixed-80", text)
    assert max(map(len, text.splitlines())) <= 80


def test_a_mixed_report_wide() -> None:
    text = to_text(mixed(), Stream(), width=80, wide=True)
    compare("mixed-wide", text)
    assert 80 < max(map(len, text.splitlines())) <= 200


def test_a_narrow_terminal_puts_addresses_below_each_other() -> None:
    text = to_text(mixed(), Stream(), width=40)
    compare("mixed-40", text)
    assert max(map(len, text.splitlines())) <= 40


def test_ascii_where_the_stream_takes_no_more() -> None:
    text = to_text(mixed(), Stream(encoding="ISO-8859-1"), width=80)
    compare("mixed-ascii", text)
    assert text.isascii()


def test_a_preserved_report_says_so_first() -> None:
    text = to_text(report(preserved_journey()), Stream(), width=80)
    assert text.startswith("✓ PRESERVED  1 connection to default/web kept the client's address\n")


def test_nothing_seen_is_inconclusive_and_tells_why() -> None:
    text = to_text(report(reasons=("none of the given captures holds a packet",)), Stream(), width=80)
    assert text.startswith("‼ INCONCLUSIVE  no client's connection to default/web was seen\n")
    assert "incomplete" in text
    assert "‼  none of the given captures holds a packet" in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [30, 80])
def test_the_changed_address_is_marked_where_it_changed(encoding: str, width: int) -> None:
    lines = to_text(report(lost_journey()), Stream(encoding), width=width).splitlines()
    marked = [
        lines[number - 1][marks.start() : marks.end()]
        for number, line in enumerate(lines)
        if (marks := re.search(r"\^+", line))
    ]
    assert marked == ["10.244.3.3:8080", "172.30.0.11:26962"]


def test_long_ipv6_addresses_fit_without_being_cut() -> None:
    source = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
    walk = (
        Walk(source, "[fd00:30:1111:2222:3333:4444:5555:11]:30080")
        .at("ip-10-11-12-13.eu-central-1.compute.internal", "nic", "enp39s0")
        .at(None, "pod", "eth0", destination="[fd00:10:244:1:2222:3333:4444:5555]:8080")
    )
    journey = msgspec.structs.replace(preserved_journey(), hops=walk.hops)
    text = to_text(report(journey), Stream(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert source in text
    assert "[fd00:10:244:1:2222:3333:4444:5555]:8080" in text


def test_many_paths_are_counted_not_shown() -> None:
    journeys = [
        msgspec.structs.replace(preserved_journey(f"j{number}"), shape=f"shape-{number}")
        for number in range(PATHS_SHOWN + 5)
    ]
    text = to_text(report(*journeys), Stream(), width=80)
    assert f"Path {PATHS_SHOWN} " in text
    assert f"Path {PATHS_SHOWN + 1} " not in text
    assert "and 5 more paths of 5 connections" in text


# ── colour ────────────────────────────────────────────────────────────────────────────────────────────────


def test_colour_only_on_a_terminal() -> None:
    assert "\x1b[" not in to_text(mixed(), Stream(terminal=False), width=80)
    coloured = to_text(mixed(), Stream(terminal=True), width=80)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == to_text(mixed(), Stream(), width=80)


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = to_text(mixed(), Stream(terminal=True), width=80)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", text), "a colour was set"


def test_a_dumb_terminal_gets_no_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in to_text(mixed(), Stream(terminal=True), width=80)


# ── hostile text ──────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e\u2066[bold red]:boom:\r\nFAKE ✓ PRESERVED\x9b31m\ud800\x00"


def poisoned(text: str) -> Report:
    """A report in which everything that can come from a wire, a file or a cluster is `text`."""
    walk = (
        Walk(text, text).at(text, text, text).at(text, text, text, source=text + "x", destination=text + "y")
    )
    hops = tuple(msgspec.structs.replace(hop, note=text) for hop in walk.hops)
    journey = Journey(
        id=text,
        protocol=text,
        client=Client(text, 1),
        verdict=Verdict.LOST,
        confidence=text,
        seen_by_app=text,
        hops=hops,
        snat=(Snat(text, text, text, text, text),),
        cross_node=None,
        proxy_protocol=None,
        findings=(text,),
        service=text,
        reason=text,
        endpoint=text,
        shape=text,
    )
    finding = Finding(text, Severity.ERROR, text, text, text, text, (text,))
    made = report(journey, findings=(finding,), reasons=(text,))
    return msgspec.structs.replace(made, title=text, service=text)


@pytest.mark.parametrize("width", [24, 80, 200])
def test_hostile_text_never_speaks_to_the_terminal(width: int) -> None:
    text = to_text(poisoned(HOSTILE), Stream(), width=width, wide=width == 200)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert not re.search("[\ud800-\udfff]", text)
    assert "FAKE" in text, "it is shown, but escaped"
    assert not any(line.startswith("FAKE") for line in text.splitlines())
    assert "[bold red]" in re.sub(r"\s", "", text).replace("[boldred]", "[bold red]"), "markup is text here"
    assert ":boom:" in text, "emoji codes are text here"


@given(st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_renders_safely(text: str) -> None:
    shown = to_text(poisoned(text), Stream(encoding="ascii"), width=80)
    assert re.fullmatch("[\n -~]*", shown)


@given(st.text())
def test_escaped_text_is_one_safe_line(text: str) -> None:
    shown = escape(text)
    assert shown.isprintable()
    assert plain(shown).isascii()


def test_what_is_cut_says_so() -> None:
    assert escape("a" * 2000, limit=10) == "a" * 10 + "… (1990 more)"
