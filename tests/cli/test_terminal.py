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

from analysis.report import (
    Client,
    Finding,
    Forged,
    Forgery,
    Hop,
    Journey,
    Report,
    Resolved,
    Severity,
    Snat,
    Verdict,
)
from probe.render.escape import escape, plain
from probe.render.terminal import PATHS_SHOWN, to_text
from tests.cli.reports import (
    MASQUERADED,
    Walk,
    blackholed_journey,
    chained_journey,
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


# ── journeys of several connections ─────────────────────────────────────────────────────────────────────────


def told(text: str) -> str:
    """A page as one line, for sentences that are wrapped."""
    return " ".join(text.split())


def test_a_chain_on_80_columns() -> None:
    text = to_text(report(chained_journey(), chained_journey("j31", answered=None)), Stream(), width=80)
    compare("chain-80", text)
    assert max(map(len, text.splitlines())) <= 80


def test_a_chain_wide_shows_every_hop() -> None:
    text = to_text(report(chained_journey()), Stream(), width=80, wide=True)
    compare("chain-wide", text)
    seen = [hop for hop in chained_journey().hops if hop.point not in {"proxy-header", "http-header", "app"}]
    assert sum(line.rstrip().endswith(" packet") for line in text.splitlines()) == len(seen)


def test_connections_are_told_apart_and_by_what_they_were_tied() -> None:
    text = told(to_text(report(chained_journey()), Stream(), width=200))
    assert "─ connection 1 client1 → lb " in text
    assert "─ connection 2 lb → default/ingress-1, tied by PROXY header " in text
    assert "─ connection 3 default/ingress-1 → 10.244.3.9:8000, tied by the same request id " in text


def test_a_journey_of_one_connection_needs_no_numbers() -> None:
    assert "connection 1" not in to_text(report(lost_journey()), Stream(), width=80)


def test_what_a_header_says_stands_where_it_arrived() -> None:
    text = to_text(report(chained_journey()), Stream(), width=80)
    order = ["bridge", "PROXY header  names", "─ connection 3", "HTTP header   names", "  application"]
    assert sorted(order, key=text.index) == order


def test_an_address_of_a_field_has_no_port() -> None:
    text = to_text(report(chained_journey()), Stream(), width=100, wide=True)
    assert "names 192.0.2.10, the client" in told(text)
    assert not re.search(r":0\b", text)


def test_the_same_address_on_several_interfaces_of_a_node_is_one_line() -> None:
    lines = to_text(report(lost_journey()), Stream(), width=80).splitlines()
    assert [line.split()[:3] for line in lines if "bridge" in line] == [["bridge,", "veth,", "pod"]]
    assert sum("nic eth0" in line for line in lines) == 3, "where it enters and leaves nodes stays"


def test_a_change_is_never_folded_away() -> None:
    walk = (
        Walk("192.0.2.10:50112", "172.30.0.12:30081")
        .at("node2", "bridge", "cni0")
        .at("node2", "veth", "veth1", source="10.244.2.1:1024")
        .at("node2", "pod", "eth0")
    )
    lines = to_text(
        report(msgspec.structs.replace(lost_journey(), hops=walk.hops)), Stream(), width=80
    ).splitlines()
    marks = next(number for number, line in enumerate(lines) if "^" in line)
    assert lines[marks - 1].split()[:2] == ["veth", "veth1"]


@pytest.mark.parametrize(
    ("code", "answered", "who"),
    [
        (
            "SIP501",
            "10.244.2.3",
            "the application at 10.244.3.9:8000: default/ingress-1 told it 192.0.2.10, and it takes 10.244.2.3",
        ),
        (
            "SIP501",
            None,
            "the application at 10.244.3.9:8000: by its configuration it does not believe what",
        ),
        ("SIP502", None, "default/ingress-1: a field of the request names 192.0.2.10, and it takes its peer"),
        ("SIP503", None, "default/ingress-1: a field of the request named 192.0.2.10, and it wrote"),
        ("SIP504", "203.0.113.7", "the application at 10.244.3.9:8000: it believed 203.0.113.7"),
        ("SIP504", "192.0.2.10", "default/ingress-1: it believed 192.0.2.10"),
        ("SIP305", None, "default/ingress-1: it took the client's own PROXY header"),
        ("SIP306", None, "default/ingress-1: it took the PROXY header, and names 192.0.2.10 all the same"),
        ("SIP302", None, "default/ingress-1: it refused the PROXY header"),
        ("SIP307", None, "default/ingress-1: it closed the connection without a byte"),
        ("SIP311", None, "default/ingress-1: it was sent more than one PROXY header"),
    ],
)
def test_the_server_that_did_it_is_named(code: str, answered: str | None, who: str) -> None:
    journey = msgspec.structs.replace(chained_journey(answered=answered), findings=(code,))
    assert f"Who {who}" in told(to_text(report(journey), Stream(), width=120))


def test_what_the_application_makes_of_what_it_is_told_is_left_open() -> None:
    text = to_text(report(chained_journey(answered=None)), Stream(), width=120)
    assert "is told 192.0.2.10: the client's own address" in text
    assert "confidence is medium: what the application makes of what it is told was not heard" in text
    assert "sees 192.0.2.10" not in text


def test_an_inconclusive_journey_is_not_said_to_be_seen() -> None:
    journey = msgspec.structs.replace(
        preserved_journey(), verdict=Verdict.INCONCLUSIVE, reason="a field of the request names another"
    )
    text = to_text(report(journey), Stream(), width=80)
    assert "is asked by 192.0.2.10: the client's own address" in text
    assert "sees 192.0.2.10" not in text


def test_a_word_out_of_a_log_says_which() -> None:
    *others, answer = chained_journey().hops
    logged = Hop(*msgspec.structs.astuple(answer)[:1], "log", *msgspec.structs.astuple(answer)[2:])
    logged = msgspec.structs.replace(logged, note="by the log of uvicorn (app.log:7)")
    text = told(
        to_text(
            report(msgspec.structs.replace(chained_journey(), hops=(*others, logged))), Stream(), width=120
        )
    )
    assert "sees 10.244.2.3, by the log of uvicorn (app.log:7): not the client's address" in text


def test_what_configuration_and_log_say_is_shown() -> None:
    text = told(to_text(report(chained_journey(told="192.0.2.80")), Stream(), width=80))
    assert "Also SIP501: the log of nginx says peer not trusted (ingress.log:3)" in text
    assert (
        "Conf default/ingress-1, port 8081, would take 192.0.2.10 for the client, which is not what was seen: "
        "the peer is in set_real_ip_from; whoever reaches it directly may claim any address"
    ) in text


def test_a_finding_that_other_faults_look_like_says_so() -> None:
    doubtful = msgspec.structs.replace(MASQUERADED, confidence="medium")
    text = told(to_text(report(lost_journey(), findings=(doubtful,)), Stream(), width=80))
    assert "Sure confidence is medium: other faults look the same; --ingress-log or --ingress-config" in text
    assert "Sure" not in to_text(report(lost_journey(), findings=(MASQUERADED,)), Stream(), width=80)


def test_requests_of_one_connection_are_counted() -> None:
    text = to_text(report(chained_journey(), chained_journey("j31")), Stream(), width=80)
    assert "shown is the first of them, with 2 requests" in text
    assert "· 2 requests" in told(to_text(report(chained_journey()), Stream(), width=80))


def test_a_path_names_its_findings() -> None:
    text = told(to_text(mixed(), Stream(), width=80))
    assert "See SIP101" in text
    assert "See SIP201" in text


def test_why_nothing_is_known_of_a_forged_claim_is_shown() -> None:
    unknown = [
        Forgery(claim, "203.0.113.7", Forged.UNKNOWN, 1, 0, (f"192.0.2.10:4 → 192.0.2.80:443: {why}",))
        for claim, why in (("forwarded", "status 404"), ("x-real-ip", "timeout"))
    ]
    made = msgspec.structs.replace(report(preserved_journey()), forgeries=tuple(unknown))
    text = told(to_text(made, Stream(), width=80))
    assert "not known forwarded, x-real-ip Seen 192.0.2.10:4 → 192.0.2.80:443: status 404" in text


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
    hops += (msgspec.structs.replace(hops[0], leg=1, note=f"tied by {text}"),)
    hops += tuple(
        msgspec.structs.replace(hops[0], point=point, leg=leg)
        for point, leg in (("proxy-header", 0), ("http-header", 1), ("app", 1), ("log", 1), ("log", 1))
    )
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
        findings=(text, "SIP501", "SIP502", "SIP503", "SIP504", "SIP305", "SIP306", "SIP302"),
        service=text,
        reason=text,
        endpoint=text,
        shape=text,
        support=(text,),
        resolved=(Resolved(text, text, text, text, True, False),),
    )
    finding = Finding(text, Severity.ERROR, text, text, text, text, (text,), confidence=text)
    made = report(journey, findings=(finding,), reasons=(text,))
    forgeries = tuple(Forgery(text, text, outcome, 2, 1, (text,)) for outcome in Forged)
    return msgspec.structs.replace(made, title=text, service=text, forgeries=forgeries)


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
