"""`probe capture --send`: one request followed from the client's own socket to the application's own words."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from analysis.asked import Asked
from analysis.report import Forged, Forgery
from daemonset.keeping import INDEX
from probe.errors import UsageError
from probe.lab import load_scenario
from probe.lab.plan import make_plan
from probe.playing.ask import Question, lab_address, lab_orders
from probe.render.terminal import to_text
from probe.sending import CLAIMS, parse_url
from probe.sessions.folder import Meta, SessionFolder, read_meta
from tests.cli.helpers import Ending, Probe, ended, start
from tests.cli.reports import preserved_journey, report
from tests.lab.here import why_not

Test = TypeVar("Test", bound=Callable[..., None])


def live(test: Test) -> Test:
    """A test that plays in the lab."""
    return pytest.mark.lab(pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")(test))


CLIENT = "172.30.0.101"


def capture(scenario: str | Path, *arguments: str | Path) -> Ending:
    return ended(start("capture", "--lab", scenario, *arguments))


# ── what may be asked ──


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--send", "node1"], ["--send 'node1'", "http://"]),
        (["--send", "http://nowhere/"], ["no 'nowhere'", "node1"]),
        (["--send", "http://vip/"], ["no 'vip'", "node1"]),
        (["--send", "http://[fd00:30::11]/"], ["no IPv6"]),
        (["--send", "http://node1/", "--spoof", "x-a=1\r\nHost: b"], ["--spoof x-a", "would end the field"]),
        (["--send", "http://node1/", "--spoof", "x a"], ["no name of a header field"]),
        (["--send", "http://node1/", "--spoof", "proxy=me"], ["names an address"]),
        (["--send", "http://node1/", "--count", "0"], ["--count"]),
        (["--spoof", "all"], ["--send URL"]),
        (["--count", "2"], ["--send URL"]),
    ],
)
def test_what_cannot_be_asked_is_one_line(probe: Probe, arguments: list[str], words: list[str]) -> None:
    probe("capture", "--lab", "cluster-remote", *arguments).complains(2, *words)


def test_without_a_lab_something_of_a_cluster_must_be_named(probe: Probe) -> None:
    probe("capture", "--send", "http://192.0.2.1/").complains(2, "nothing is said to be watched", "svc/NAME")


def test_a_udp_service_cannot_be_asked(probe: Probe) -> None:
    probe("capture", "--lab", "udp-dns", "--send", "http://node1/").complains(2, "UDP", "another scenario")


@pytest.mark.parametrize(
    ("scenario", "url", "address", "port"),
    [
        ("cluster-remote", "http://node1/", "172.30.0.11", 30080),
        ("cluster-remote", "http://NODE2/x", "172.30.0.12", 30080),
        ("cluster-remote", "http://172.30.0.13/", "172.30.0.13", 30080),
        ("cluster-remote", "http://[::ffff:172.30.0.13]/", "172.30.0.13", 30080),
        ("cluster-remote", "http://192.0.2.1/", "192.0.2.1", 80),
        ("cluster-remote", "https://192.0.2.1/", "192.0.2.1", 443),
        ("cluster-remote", "http://node1:8080/", "172.30.0.11", 8080),
        ("cluster-remote", "http://web-1/", "10.244.2.2", 8080),
        ("cluster-remote", "http://cluster-ip/", "10.96.0.80", 80),
        ("proxy-v2-ok", "http://balancer/", "172.30.0.150", 80),
        ("proxy-v2-ok", "http://lb/", "172.30.0.150", 80),
        ("lb-vip-dsr", "http://vip/", "172.30.0.200", 80),
        ("ipv6", "http://node1/", "fd00:30::11", 30080),
        ("dual-stack", "http://[fd00:30::11]/", "fd00:30::11", 30080),
    ],
)
def test_a_place_is_asked_where_the_scenario_asks_it(
    scenario: str, url: str, address: str, port: int
) -> None:
    plan = make_plan(load_scenario(scenario), "iptables")
    assert lab_address(parse_url(url), plan) == (address, port)


def test_honest_requests_come_first_then_each_claim_alone() -> None:
    plan = make_plan(load_scenario("dual-stack"), "iptables")
    question = Question(parse_url("http://[fd00:30::11]/debug/ip"), 2, ("all",))
    orders = lab_orders(question, plan)
    assert [order.claim.name if order.claim else None for order in orders] == [
        name for name in (None, *CLAIMS) for _ in range(2)
    ]
    assert len({order.token for order in orders}) == len(orders)
    assert {order.source for order in orders} == {"fd00:30::101"}
    assert all("2001:db8:" in order.claim.value for order in orders if order.claim)
    values = [order.claim.value for order in orders if order.claim]
    assert len(set(values)) == len(CLAIMS), "each claim has one value in a run"


def test_a_scenario_without_that_family_cannot_be_asked() -> None:
    plan = make_plan(load_scenario("ipv6"), "iptables")
    with pytest.raises(UsageError, match="no IPv4"):
        lab_orders(Question(parse_url("http://192.0.2.1/")), plan)


# ── live ──


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@live
def test_a_preserved_address_is_followed_from_socket_to_answer(mode: str) -> None:
    ending = capture(
        "local-preserved",
        "--proxy-mode",
        mode,
        "--send",
        "http://node1/debug/ip",
        "--count",
        "2",
        "-o",
        "json",
    )
    assert ending.code == 0, ending.err
    sources = re.findall(
        rf"request \d of 2 from ({CLIENT}:\d+): 200, the application saw {CLIENT}", ending.err
    )
    journeys = ending.json["journeys"]
    assert len(sources) == 2, ending.err
    assert [f"{each['client']['address']}:{each['client']['port']}" for each in journeys] == sources
    assert [each["verdict"] for each in journeys] == ["preserved"] * 2
    assert ending.json["forgeries"] == []


@live
def test_a_lost_address_is_judged_the_same_from_the_recorded_session(tmp_path: Path) -> None:
    now = capture("cluster-remote", "--send", "http://node1/", "--record", tmp_path / "s", "-o", "json")
    assert now.code == 3
    assert "request 1 of 1" in now.err
    assert "the application saw 172.30.0.11" in now.err
    assert now.json["summary"]["lost"] == 1
    later = ended(start("analyze", tmp_path / "s", "-o", "json"))
    assert (later.code, later.json) == (3, now.json)
    meta = read_meta(tmp_path / "s")
    assert meta.answers == (), "the scenario's own requests are not played"
    [asked] = meta.asked
    assert asked.source.startswith(f"{CLIENT}:")
    assert (asked.destination, asked.status, asked.saw) == ("172.30.0.11:30080", 200, "172.30.0.11")
    assert asked.token


@live
def test_a_forged_header_that_the_application_believes_is_proved() -> None:
    ending = capture("xff-overtrusted", "--send", "http://node2/debug/ip", "--spoof", "all", "-o", "json")
    assert ending.code == 3, ending.err
    told = {each["claim"]: each for each in ending.json["forgeries"]}
    assert list(told) == list(CLAIMS)
    assert [claim for claim, each in told.items() if each["outcome"] == "reached"] == ["x-forwarded-for"]
    forged = told["x-forwarded-for"]["value"]
    assert forged.startswith("203.0.113.")
    assert f"with x-forwarded-for: {forged}: 200, the application saw {forged}" in ending.err
    assert "SIP504" in [finding["code"] for finding in ending.json["findings"]]
    believed = [each for each in ending.json["journeys"] if "SIP504" in each["findings"]]
    assert [each["seenByApp"] for each in believed] == [forged]


@live
def test_a_proxy_header_of_ones_own_that_the_ingress_believes_is_proved() -> None:
    ending = capture(
        "proxy-spoof",
        "--send",
        "http://node2/debug/ip",
        "--spoof",
        "proxy",
        "--spoof",
        "proxy-v2=203.0.113.77:99",
    )
    assert ending.code == 3, ending.err
    section = " ".join(ending.out.partition("What a client can forge")[2].split())
    assert "proxy-v2 203.0.113.77:99: reached the application as the client's address" in section
    assert "the application saw 203.0.113.77" in section
    assert "SIP305" in ending.out


@live
def test_forged_headers_that_nobody_believes_are_told_as_such() -> None:
    ending = capture(
        "local-preserved", "--send", "http://node1/", "--spoof", "x-forwarded-for", "--spoof", "x-real-ip"
    )
    assert ending.code == 0, ending.err
    assert "not believed  x-forwarded-for, x-real-ip" in ending.out


@live
def test_no_answer_is_an_outcome_and_the_path_is_still_told() -> None:
    ending = capture("local-no-endpoint", "--send", "http://node1/", "-o", "json")
    assert ending.code == 3, ending.err
    assert re.search(rf"request 1 of 1 from {CLIENT}:\d+: timeout", ending.err)
    assert ending.json["summary"]["blackholed"] == 1


@live
def test_https_says_that_the_certificate_is_not_verified(tmp_path: Path) -> None:
    scenario = tmp_path / "tls.toml"
    scenario.write_text(
        """
        title = "An endpoint that speaks TLS"
        story = "The endpoint is on the node that is called, under policy Local."
        service = { type = "LoadBalancer", external_policy = "Local", port = 443 }
        pods = [{ name = "web-1", node = "node1", tls = true }]
        [[requests]]
        to = "node1"
        tls = true
        expect = { verdict = "preserved", seen = "client" }
        """
    )
    ending = capture(scenario, "--send", "https://node1/debug/ip", "-o", "json")
    assert ending.code == 0, ending.err
    assert "certificate is not verified" in ending.err
    assert f"200, the application saw {CLIENT}" in ending.err


@live
def test_ctrl_c_between_requests_reports_those_that_were_sent() -> None:
    process = start(
        "capture", "--lab", "local-no-endpoint", "--send", "http://node1/", "--count", "100", "-o", "json"
    )
    assert process.stderr is not None
    for line in process.stderr:
        if b"request 1 of 100" in line:
            break
    process.send_signal(signal.SIGINT)
    ending = ended(process)
    assert ending.code == 3, ending.err
    assert ending.json["summary"]["blackholed"] in {1, 2}  # the one that was interrupted was sent as well
    assert "Traceback" not in ending.err


# ── what is kept ──


OURS = Asked("192.0.2.10:40112", "172.30.0.11:30080", 1.0, 2.0, "answered", saw="192.0.2.10")


def recorded(folder: Path, *asked: Asked) -> dict[str, object]:
    session = SessionFolder(folder, Meta(title="a test"))
    session.finish(asked=asked)
    read: dict[str, object] = json.loads((folder / INDEX).read_text())
    return read


def test_a_session_of_before_requests_of_our_own_is_still_read(tmp_path: Path) -> None:
    index = recorded(tmp_path / "s", OURS)
    assert read_meta(tmp_path / "s").asked == (OURS,)
    del index["asked"]
    (tmp_path / "s" / INDEX).write_text(json.dumps(index))
    assert read_meta(tmp_path / "s").asked == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "nowhere"),
        ("source", "192.0.2.10"),
        ("destination", "1.2.3.4:x"),
        ("saw", "<b>"),
        ("outcome", "?"),
    ],
)
def test_a_damaged_account_of_them_is_refused(probe: Probe, tmp_path: Path, field: str, value: str) -> None:
    index = recorded(tmp_path / "s", OURS)
    index["asked"] = [{**msgspec.to_builtins(OURS), field: value}]
    (tmp_path / "s" / INDEX).write_text(json.dumps(index))
    probe("analyze", tmp_path / "s").complains(2, "is damaged")


# ── what is shown ──


def shown(*forgeries: Forgery, wide: bool = False) -> str:
    told = msgspec.structs.replace(report(preserved_journey()), forgeries=forgeries)
    return to_text(told, io.StringIO(), width=80, wide=wide)


def forgery(
    outcome: Forged, claim: str = "x-forwarded-for", value: str = "203.0.113.9", **more: int
) -> Forgery:
    evidence = ("192.0.2.10:1 → 172.30.0.11:80: the application saw 203.0.113.9",)
    return Forgery(claim, value, outcome, more.get("requests", 1), more.get("reached", 0), evidence)


def test_believed_claims_come_first_and_with_their_proof() -> None:
    text = shown(
        forgery(Forged.NOT_REACHED, "forwarded"),
        forgery(Forged.NOT_REACHED, "x-real-ip"),
        forgery(Forged.REACHED, requests=3, reached=2),
    )
    section = text.partition("What a client can forge")[2]
    assert section.index("x-forwarded-for  203.0.113.9: reached the application") < section.index(
        "not believed"
    )
    assert "(2 of 3 requests believed)" in " ".join(section.split())
    assert "the application saw 203.0.113.9" in " ".join(section.split())
    assert "not believed forwarded, x-real-ip" in " ".join(section.split())


def test_no_section_where_nothing_was_forged() -> None:
    assert "forge" not in shown()


@pytest.mark.parametrize("outcome", Forged)
@pytest.mark.parametrize("wide", [False, True])
def test_a_hostile_value_reaches_no_terminal(outcome: Forged, wide: bool) -> None:
    text = shown(forgery(outcome, value="\x1b]0;owned\x07\u202e<script>"), wide=wide)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
