"""Which forged claim became the application's truth, told from what requests of ours were answered."""

from __future__ import annotations

import pytest

from analysis.asked import Asked, Outcome
from analysis.judging.forgery import claimed_addresses, forgeries_of, plain_address
from analysis.report import Forged

CLIENT, BALANCER, FORGED = "192.0.2.7", "172.30.0.150", "203.0.113.9"


def asked(
    saw: str | None = None,
    *forged: tuple[str, str],
    outcome: Outcome = "answered",
    status: int | None = 200,
    to: str = "172.30.0.11:30080",
) -> Asked:
    status = status if outcome == "answered" else None
    return Asked(f"{CLIENT}:40112", to, 1.0, 2.0, outcome, status=status, saw=saw, forged=forged)


def outcome_of(*requests: Asked) -> Forged:
    [forgery] = forgeries_of(requests)
    return forgery.outcome


XFF = ("x-forwarded-for", FORGED)
PROXY = ("proxy", f"{FORGED}:40404")
HONEST = asked(CLIENT)


@pytest.mark.parametrize(
    ("requests", "outcome"),
    [
        ([HONEST, asked(FORGED, XFF)], Forged.REACHED),
        ([HONEST, asked(CLIENT, XFF)], Forged.NOT_REACHED),
        ([asked(BALANCER), asked(BALANCER, XFF)], Forged.NOT_REACHED),
        ([asked(FORGED, XFF)], Forged.REACHED),  # nobody else could have brought that address
        ([HONEST, asked(FORGED, ("forwarded", f"for={FORGED}"))], Forged.REACHED),
        (
            [HONEST, asked(FORGED, ("forwarded", f'for=10.0.0.1, for="{FORGED}:8080";proto=http'))],
            Forged.REACHED,
        ),
        ([HONEST, asked(FORGED, ("x-forwarded-for", f"10.0.0.1, {FORGED}"))], Forged.REACHED),
        ([HONEST, asked("2001:db8::9", ("x-real-ip", "2001:DB8:0::9"))], Forged.REACHED),
        ([HONEST, asked(f"::ffff:{FORGED}", XFF)], Forged.REACHED),
        ([HONEST, asked(FORGED, PROXY)], Forged.REACHED),
        ([HONEST, asked(CLIENT, PROXY)], Forged.NOT_REACHED),
    ],
)
def test_the_application_believed_it_or_not(requests: list[Asked], outcome: Forged) -> None:
    assert outcome_of(*requests) is outcome


@pytest.mark.parametrize(
    "requests",
    [
        [HONEST, asked(None, XFF)],  # it did not say
        [HONEST, asked(None, XFF, outcome="timeout")],
        [HONEST, asked(None, XFF, outcome="reset")],  # a header field is no reason for a reset
        [HONEST, asked(None, XFF, status=500)],
        [asked(None, PROXY, outcome="reset")],  # nor is it known what an honest one would have met
        [asked(None, outcome="reset"), asked(None, PROXY, outcome="reset")],
        [asked(None, status=400), asked(None, PROXY, status=400)],
        [HONEST, asked(None, PROXY, outcome="reset", to="172.30.0.12:30080")],  # another place
        [HONEST, asked(CLIENT, ("x-forwarded-for", CLIENT))],  # true, so it proves nothing
        [asked(BALANCER), asked(BALANCER, ("x-forwarded-for", BALANCER))],
        [HONEST, asked("testclient", XFF)],
    ],
)
def test_what_proves_nothing_is_not_known(requests: list[Asked]) -> None:
    assert outcome_of(*requests) is Forged.UNKNOWN


@pytest.mark.parametrize("outcome", ["reset", "empty"])
def test_a_proxy_header_at_which_the_server_hangs_up_was_refused(outcome: Outcome) -> None:
    assert outcome_of(HONEST, asked(None, PROXY, outcome=outcome)) is Forged.NOT_REACHED


def test_a_bad_request_where_an_honest_one_was_good_was_refused() -> None:
    assert outcome_of(HONEST, asked(None, PROXY, status=400)) is Forged.NOT_REACHED
    assert outcome_of(HONEST, asked(None, XFF, status=400)) is Forged.NOT_REACHED


def test_one_that_got_through_is_enough() -> None:
    [forgery] = forgeries_of([HONEST, asked(CLIENT, XFF), asked(FORGED, XFF), asked(None, XFF)])
    assert (forgery.outcome, forgery.requests, forgery.reached) == (Forged.REACHED, 3, 1)
    assert forgery.evidence == (f"{CLIENT}:40112 → 172.30.0.11:30080: the application saw {FORGED}",)


def test_one_that_might_have_is_not_forgotten() -> None:
    assert outcome_of(HONEST, asked(CLIENT, XFF), asked(None, XFF, outcome="timeout")) is Forged.UNKNOWN


def test_claims_are_told_apart_and_in_order() -> None:
    other = ("x-real-ip", "203.0.113.10")
    told = forgeries_of([HONEST, asked(CLIENT, XFF), asked("203.0.113.10", other)])
    assert [(each.claim, each.outcome) for each in told] == [
        ("x-forwarded-for", Forged.NOT_REACHED),
        ("x-real-ip", Forged.REACHED),
    ]


def test_of_two_claims_with_one_address_neither_is_proved() -> None:
    told = forgeries_of([HONEST, asked(FORGED, XFF, ("x-real-ip", FORGED))])
    assert {each.outcome for each in told} == {Forged.UNKNOWN}


def test_honest_requests_make_no_forgery() -> None:
    assert forgeries_of([HONEST]) == ()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (" 192.0.2.7 ", "192.0.2.7"),
        ("192.0.2.7:80", "192.0.2.7"),
        ("[2001:DB8::7]:80", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ('"192.0.2.7"', "192.0.2.7"),
        ("192.0.2.7:x", None),
        ("[::1]x", None),
        ("192.0.2", None),
        ("unknown", None),
        ("", None),
        ("\u0661.1.1.1", None),
    ],
)
def test_an_address_is_recognised_in_its_spellings(text: str, address: str | None) -> None:
    assert plain_address(text) == address


def test_a_claim_without_an_address_names_nobody() -> None:
    assert claimed_addresses("forwarded", "for=unknown;by=10.0.0.1, for=_hidden") == ()
    assert claimed_addresses("x-forwarded-for", "unknown, <b>") == ()
    assert claimed_addresses("proxy-v2", "[2001:db8::9]:1") == ("2001:db8::9",)
