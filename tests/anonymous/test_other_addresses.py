"""Other addresses keep what an analysis goes by: prefixes, ranges, one for one; and nothing else."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.anonymous.addresses import SPECIAL, Addresses
from probe.anonymous.words import Words

KEY = Addresses(b"a key of some length")

ADDRESS = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6),
    *(st.ip_addresses(network=network) for network in SPECIAL),
)  # fmt: skip
IPAddress = IPv4Address | IPv6Address


def shared(one: IPAddress, other: IPAddress) -> int:
    """How many of the first bits two addresses share."""
    return one.max_prefixlen - (int(one) ^ int(other)).bit_length()


def ranges(address: IPAddress) -> set[str]:
    return {str(network) for network in SPECIAL if network.version == address.version and address in network}


@given(ADDRESS, ADDRESS)
def test_prefixes_are_kept(one: IPAddress, other: IPAddress) -> None:
    if one.version == other.version:
        assert shared(KEY.of(one), KEY.of(other)) == shared(one, other)


@given(ADDRESS)
def test_a_range_with_a_meaning_keeps_it(address: IPAddress) -> None:
    made = KEY.of(address)
    assert made.version == address.version
    assert ranges(made) == ranges(address)
    assert (made.is_loopback, made.is_multicast) == (address.is_loopback, address.is_multicast)


def test_another_key_makes_another_address() -> None:
    public = ip_address("8.8.8.8")
    made = {Addresses(bytes([number]) * 16).of(public) for number in range(50)}
    assert len(made) == 50
    assert KEY.of(public) == Addresses(b"a key of some length").of(public)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("172.30.0.11:30080 → 10.244.2.2:8080", ":30080 → "),
        ("[fd00:30::11]:80", "]:80"),
        ('for="[2001:db8::7]:44";by=_proxy, for=203.0.113.9', ";by=_proxy, for="),
        ("fe80::1%eth0 dev eth0", "%eth0 dev eth0"),
        ("names 203.0.113.9. And", ". And"),
        ("ip-172-30-0-11.eu-west-1.compute.internal", ".eu-west-1.compute.internal"),
    ],
)
def test_addresses_are_found_wherever_they_stand(text: str, kept: str) -> None:
    made = KEY.text(text)
    assert kept in made
    for word in (
        "172-30-0-11",
        "172.30.0.11",
        "10.244.2.2",
        "fd00:30::11",
        "2001:db8::7",
        "203.0.113.9",
        "fe80::1%",
    ):
        assert word not in made


@pytest.mark.parametrize(
    "text",
    [
        "12:34:56",
        "0a:58:0a:f4:02:02",
        "v1.36.0",
        "999.1.2.3",
        "KUBE-SVC-ABC",
        "1.2.3",
        "ip-999-1-1-1",
        "ip-1-2-3",
        "skip-1-2-3-4",
    ],
)
def test_what_is_no_address_stays(text: str) -> None:
    assert KEY.text(text) == text


@pytest.mark.parametrize(
    ("network", "inside"), [("10.244.0.0/16", "10.244.3.7"), ("fd00:10:244::/56", "fd00:10:244:1::7")]
)
def test_a_network_holds_what_it_held(network: str, inside: str) -> None:
    made = ip_network(KEY.text(network))
    assert made.prefixlen == ip_network(network).prefixlen
    assert ip_address(KEY.text(inside)) in made
    assert KEY.text(f"{inside}/24") == f"{KEY.text(inside)}/24", "an interface's own address keeps its bits"


@given(ADDRESS)
def test_rows_and_texts_are_given_the_same(address: IPAddress) -> None:
    value = int(address) | (0xFFFF << 32 if address.version == 4 else 0)
    high, low = KEY.word(value >> 64, value & (1 << 64) - 1)
    made = IPv6Address(high << 64 | low)
    assert (made.ipv4_mapped or made) == (
        KEY.of(address) if address.version == 4 else _plain(KEY.of(address))
    )


def _plain(address: IPAddress) -> IPAddress:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


@given(st.text(max_size=40))
def test_words_are_other_words(text: str) -> None:
    words = Words(b"a key of some length")
    for made in (words.token(text), words.host(text)):
        assert made.isascii()
        assert (made == "") == (text == "")
    assert words.start_line(f"GET /secret/{text.replace(' ', '')}?id=7 HTTP/1.1").startswith("GET /")
    assert "secret" not in words.start_line("GET /secret/x?id=7 HTTP/1.1")
