"""What `--spoof` may be given, and the bytes that come of it."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.judging.forgery import claimed_addresses
from daemonset.decode.proxy_protocol import decode
from probe.errors import UsageError
from probe.sending import CLAIMS, Claim, claims_of
from probe.sending.claims import proxy_header

DOCUMENTATION = {4: ip_network("203.0.113.0/24"), 6: ip_network("2001:db8::/32")}


def claims(*wishes: str, ipv6: bool = False, seed: int = 1) -> tuple[Claim, ...]:
    return claims_of(wishes, ipv6=ipv6, chance=random.Random(seed))


@pytest.mark.parametrize("ipv6", [False, True])
def test_all_is_every_claim_with_an_address_that_nobody_has(ipv6: bool) -> None:
    made = claims("all", ipv6=ipv6)
    assert [claim.name for claim in made] == list(CLAIMS)
    addresses = [ip_address(claimed_addresses(claim.name, claim.value)[0]) for claim in made]
    assert len(set(addresses)) == len(addresses), "a match must tell which claim was believed"
    assert all(address in DOCUMENTATION[6 if ipv6 else 4] for address in addresses)


def test_another_run_draws_other_addresses() -> None:
    assert len({claims("x-forwarded-for", seed=seed)[0].value for seed in range(20)}) > 10


def test_forms_are_those_of_the_fields() -> None:
    [four] = claims("forwarded")
    [six] = claims("forwarded", ipv6=True)
    assert four.value.startswith("for=203.0.113.")
    assert six.value.startswith('for="[2001:db8:')
    assert six.value.endswith(']"')
    [proxy] = claims("proxy-v2", ipv6=True)
    assert proxy.value.startswith("[2001:db8:")
    assert proxy.value.endswith("]:40404")


def test_a_value_of_ones_own_is_taken_as_it_is() -> None:
    made = claims(
        "X-Forwarded-For=192.0.2.7, 10.0.0.1", "x-anything=<script>", "x-empty=", "proxy=192.0.2.7:9"
    )
    assert [(claim.name, claim.value) for claim in made] == [
        ("x-forwarded-for", "192.0.2.7, 10.0.0.1"),
        ("x-anything", "<script>"),
        ("x-empty", ""),
        ("proxy", "192.0.2.7:9"),
    ]


def test_all_leaves_out_what_has_a_value_of_its_own() -> None:
    made = claims("all", "forwarded=for=unknown")
    assert sorted(claim.name for claim in made) == sorted(CLAIMS)
    assert Claim("forwarded", "for=unknown") in made


@pytest.mark.parametrize(
    ("wish", "word"),
    [
        ("x-forwarded-for=1.2.3.4\r\nHost: evil", "would end the field"),
        ("x-forwarded-for=1.2.3.4\nx: y", "would end the field"),
        ("x-forwarded-for=1.2.3.4\0", "would end the field"),
        ("x forwarded=1", "no name of a header field"),
        ("x-é=1", "no name of a header field"),
        ("", "no name of a header field"),
        ("=1.2.3.4", "no name of a header field"),
        ("x\r\ny=1", "no name of a header field"),
        ("host=example.com", "the exchange itself rests on that field"),
        ("transfer-encoding=chunked", "the exchange itself rests on that field"),
        ("x-probe-token=1", "the exchange itself rests on that field"),
        ("all=1.2.3.4", "takes no value"),
        ("proxy=nobody", "names an address"),
        ("proxy=1.2.3.4:99999", "names an address"),
        ("proxy-v2=2001:db8::1:", "names an address"),
        ("proxy=1.2.3.4\r\n", "names an address"),
        ("x-a=" + "1" * 20_000, "longer than"),
        ("x-a=\udcff", "not valid UTF-8"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_one_safe_line(wish: str, word: str) -> None:
    with pytest.raises(UsageError, match=word) as refused:
        claims(wish)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@given(st.text())
def test_any_wish_is_made_or_refused(wish: str) -> None:
    try:
        made = claims(wish)
    except UsageError:
        return
    for claim in made:
        assert claim.name.isascii()
        assert not set(claim.value) & set("\r\n\0")


@pytest.mark.parametrize("name", ["proxy", "proxy-v2"])
@pytest.mark.parametrize("source", ["203.0.113.9:40404", "[2001:db8::9]:1"])
@pytest.mark.parametrize("destination", ["192.0.2.1:80", "[2001:db8::80]:443"])
def test_a_proxy_header_says_what_it_claims(name: str, source: str, destination: str) -> None:
    data = proxy_header(Claim(name, source), destination)
    header = decode(data)
    assert header is not None
    assert (header.version, header.command, header.source) == (1 if name == "proxy" else 2, "PROXY", source)
    assert header.length == len(data)
    same_family = source.startswith("[") == destination.startswith("[")
    assert (header.destination == destination) == same_family
