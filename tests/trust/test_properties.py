"""What holds of all settings and whatever arrives."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.trust.evaluate import resolve
from analysis.trust.inspection import lists
from analysis.trust.model import (
    UNIX_PEER,
    Arrival,
    Claim,
    EnvoyCustomHeader,
    EnvoyTrust,
    EnvoyXff,
    Gunicorn,
    HaproxyRule,
    HaproxyTrust,
    Hypercorn,
    IngressNginx,
    NginxRealIp,
    Relay,
    Settings,
    TraefikTrust,
    TrustError,
    Uvicorn,
)
from analysis.trust.overtrust import FORGED, overtrust
from analysis.trust.products import RULES, resolved
from analysis.trust.ranges import Ranges, address, plain
from tests.trust.grid import refusal

LISTS = st.sampled_from(
    [
        (),
        ("10.0.0.0/8",),
        ("10.0.0.1", "192.0.2.0/24", "2001:db8:1::/48"),
        ("0.0.0.0/0",),
        ("::/0",),
        ("0.0.0.0/1", "128.0.0.0/1"),
        ("0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"),
        ("198.51.100.0/24", "203.0.113.0/24"),
        ("10.0.0.0/8", "0.0.0.0/0"),
    ]
)
NAMES = st.sampled_from(["X-Forwarded-For", "X-Real-IP", "CF-Connecting-IP", "Forwarded"])
FLAG = st.booleans()
HOPS = st.integers(0, 3)
ALLOW = st.sampled_from(
    [
        None,
        "",
        "*",
        "10.0.0.1",
        "10.0.0.0/8,::1",
        "0.0.0.0/0",
        "::/0",
        "'*'",
        "*,10.0.0.1",
        "0.0.0.0/1,128.0.0.0/1",
    ]
)
GUNICORN_ALLOW = st.sampled_from([None, "*", "10.0.0.1", "*,10.0.0.1", "10.0.0.1,::1"])
VALUES = st.sampled_from(["%[src]", "%[req.hdr(X-Real-IP)]", "%[fc_src]", "10.0.0.1", "%[rand]"])
RULE = st.builds(
    HaproxyRule,
    st.sampled_from(["set-src", "set-header", "add-header", "del-header"]),
    NAMES,
    VALUES,
    st.sampled_from([1, 2, -1, -2]),
    st.none() | LISTS,
    st.sampled_from([False, False, False, True]),
)
DETECTION = (
    st.builds(EnvoyXff, HOPS)
    | st.builds(EnvoyXff, st.just(0), LISTS)
    | st.builds(EnvoyCustomHeader, NAMES, FLAG)
)
SETTINGS: st.SearchStrategy[Settings] = st.one_of(
    st.builds(NginxRealIp, LISTS, NAMES | st.just("proxy_protocol"), FLAG, FLAG),
    st.builds(NginxRealIp, LISTS, proxy_protocol=FLAG, stream=st.just(True), sends_proxy=FLAG),
    st.builds(IngressNginx, FLAG, FLAG, FLAG, FLAG, LISTS, NAMES, FLAG),
    st.builds(
        HaproxyTrust,
        st.sampled_from(["http", "http", "tcp"]),
        FLAG,
        LISTS,
        FLAG,
        LISTS,
        NAMES,
        FLAG,
        st.lists(RULE, max_size=4).map(tuple),
    ),
    st.builds(EnvoyTrust, FLAG, HOPS, FLAG, FLAG, FLAG),
    st.builds(EnvoyTrust, proxy_protocol=FLAG, detection=st.lists(DETECTION, max_size=2).map(tuple)),
    st.builds(TraefikTrust, FLAG, LISTS, FLAG, LISTS, FLAG, FLAG),
    st.builds(Uvicorn, FLAG, ALLOW, st.sampled_from([(0, 30), (0, 31), (0, 45), (0, 48), (0, 54)])),
    st.builds(Gunicorn, st.sampled_from(["wsgi", "uvicorn"]), GUNICORN_ALLOW, FLAG, GUNICORN_ALLOW),
    st.builds(Hypercorn, st.sampled_from([None, "legacy", "modern"]), HOPS),
    st.builds(Relay, st.sampled_from(["append", "overwrite", "pass", "remove"]), FLAG, FLAG, FLAG),
)

PIECE = st.sampled_from(
    [
        "10.0.0.1",
        "203.0.113.99",
        "2001:db8:f::99",
        "for=203.0.113.99",
        ",",
        ", ",
        " ",
        ":80",
        "[",
        "]",
        '"',
        ";",
        "\\",
    ]
)
TEXT = st.lists(PIECE | st.text(max_size=4), max_size=8).map("".join) | st.text(max_size=20)
FIELDS = st.lists(st.tuples(NAMES | st.text(max_size=12), TEXT), max_size=4).map(tuple)
PEERS = st.sampled_from(
    ["10.0.0.1", "198.51.100.66", "2001:db8:5::66", "::ffff:10.0.0.1", "::1", UNIX_PEER, "fe80::1%x"]
)
ARRIVALS = st.builds(Arrival, PEERS | st.text(max_size=8), st.none() | PEERS | TEXT, FIELDS)

KEYS = {rule.key for rule in RULES}


@given(SETTINGS, ARRIVALS)
def test_whatever_arrives_is_resolved(settings: Settings, arrival: Arrival) -> None:
    error = refusal(lambda: resolve(settings, arrival))
    if error:
        assert "\n" not in error
        # The settings are at fault, never what arrives.
        assert refusal(lambda: resolve(settings, Arrival("10.0.0.1")))
        return
    found = resolve(settings, arrival)
    assert found.rule_key in KEYS
    assert (found.client is None) == (found.by is Claim.NOBODY)
    assert not (found.refused and found.client is not None)
    assert found.by is not Claim.FIELD or found.field
    assert found.by is not Claim.PEER or not found.forgeable


@given(st.text(max_size=12), st.sampled_from(["nginx", "haproxy", "envoy", "traefik", "uvicorn", "gunicorn"]))
def test_lists_of_any_text_are_understood_or_refused(text: str, product: str) -> None:
    made: dict[str, Settings] = {
        "nginx": NginxRealIp((text,), "X-Forwarded-For", recursive=True),
        "haproxy": HaproxyTrust(expect_proxy_from=(text,)),
        "envoy": EnvoyTrust(detection=(EnvoyXff(trusted_cidrs=(text,)),)),
        "traefik": TraefikTrust(forwarded_trusted=(text,)),
        "uvicorn": Uvicorn(allow=text),
        "gunicorn": Gunicorn("uvicorn", text),
    }
    arrival = Arrival("10.0.0.1", None, (("X-Forwarded-For", text),))
    assert "\n" not in refusal(lambda: resolve(made[product], arrival))


def test_a_list_of_forty_thousand_entries_is_read() -> None:
    """Quadratic work on it would not end: 360 kB are more than any server takes in a header."""
    fields = (("X-Forwarded-For", "10.0.0.1," * 40_000),)
    for settings in (
        NginxRealIp(("10.0.0.0/8",), "X-Forwarded-For", recursive=True),
        HaproxyTrust(rules=(HaproxyRule("set-src", "X-Forwarded-For"),)),
        EnvoyTrust(detection=(EnvoyXff(trusted_cidrs=("10.0.0.0/8",)),)),
        Uvicorn(allow="10.0.0.0/8"),
    ):
        assert resolve(settings, Arrival("10.0.0.1", None, fields)).rule_key in KEYS


def is_stranger(peer: str, held: tuple[Ranges, ...]) -> bool:
    """Whether no list holds the peer, lists of everybody left aside."""
    found = address(peer)
    assert found is not None
    return not any(one.holds(plain(found)) for one in held if not one.whole(found.version))


@given(SETTINGS)
def test_every_opening_is_proved_by_the_request_it_carries(settings: Settings) -> None:
    try:
        openings = overtrust(settings)
    except TrustError:
        return
    for opening in openings:
        found = resolve(settings, opening.forged)
        assert found.client in FORGED.values()
        assert found.client != opening.forged.peer
        assert found.forgeable
        assert is_stranger(opening.forged.peer, lists(settings))
        assert opening.reason
        assert "\n" not in opening.reason


FORGERY = st.lists(
    st.sampled_from(["203.0.113.99", "2001:db8:f::99", "10.0.0.1", "198.51.100.7", "junk", ""]), max_size=5
).map(", ".join)
FORGED_FORWARDED = st.lists(st.sampled_from(["for=203.0.113.99", "for=10.0.0.1", "by=1"]), max_size=4).map(
    ", ".join
)
FORGED_FIELDS = st.lists(
    st.tuples(NAMES, FORGERY) | st.tuples(st.just("Forwarded"), FORGED_FORWARDED), min_size=1, max_size=4
).map(tuple)
STRANGERS = st.sampled_from(["198.51.100.66", "203.0.114.1", "9.9.9.9", "2001:db8:5::66", "2620:fe::9"])
FORGED_SOURCES = st.sampled_from(
    [None, "", "203.0.113.99", "2001:db8:f::99", "10.0.0.1", "192.0.2.1", "198.51.100.7"]
)


@given(
    SETTINGS, st.lists(st.builds(Arrival, STRANGERS, FORGED_SOURCES, FORGED_FIELDS), min_size=20, max_size=20)
)
def test_without_an_opening_no_stranger_decides_the_client(settings: Settings, tried: list[Arrival]) -> None:
    try:
        openings = {(opening.claim, opening.field.lower()) for opening in overtrust(settings)}
    except TrustError:
        return
    for arrival in tried:
        if not is_stranger(arrival.peer, lists(settings)):
            continue
        found = resolved(settings, arrival)
        if found.client in FORGED.values():
            assert (found.by, found.field.lower()) in openings, arrival


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (NginxRealIp(("0.0.0.0/0",), "X-Forwarded-For"), "set_real_ip_from 0.0.0.0/0 admits every address"),
        (NginxRealIp(("::/0",), "proxy_protocol", proxy_protocol=True), "set_real_ip_from ::/0"),
        (IngressNginx(use_forwarded_headers=True), "proxy-real-ip-cidr 0.0.0.0/0 admits every address"),
        (IngressNginx(use_proxy_protocol=True), "proxy-real-ip-cidr 0.0.0.0/0 admits every address"),
        (HaproxyTrust(accept_proxy=True), "accept-proxy takes the header of whoever connects"),
        (HaproxyTrust(rules=(HaproxyRule("set-src", "X-Forwarded-For"),)), "set-src"),
        (EnvoyTrust(), "use_remote_address is off"),
        (EnvoyTrust(use_remote_address=True, trusted_hops=1), "xff_num_trusted_hops is 1, and 0 proxies"),
        (EnvoyTrust(use_remote_address=True, proxy_protocol=True), "listener filter"),
        (EnvoyTrust(detection=(EnvoyCustomHeader("X-Real-IP"),)), "original-IP detection"),
        (TraefikTrust(forwarded_insecure=True), "forwardedHeaders.insecure is true"),
        (TraefikTrust(proxy=True, proxy_insecure=True), "proxyProtocol.insecure is true"),
        (TraefikTrust(forwarded_trusted=("0.0.0.0/0",)), "forwardedHeaders.trustedIPs 0.0.0.0/0"),
        (Uvicorn(allow="*"), "--forwarded-allow-ips * admits every address"),
        (Uvicorn(allow="0.0.0.0/1,128.0.0.0/1"), "admits every address"),
        (Gunicorn("uvicorn", "*"), "forwarded_allow_ips * admits every address"),
        (Gunicorn(proxy_protocol=True, proxy_allow="*"), "proxy_allow_ips * admits every address"),
        (Hypercorn("legacy"), "counts 1 trusted hops whoever connects"),
        (Relay(accepts_proxy=True), "whoever connects"),
    ],
)
def test_the_reason_names_the_setting(settings: Settings, reason: str) -> None:
    assert any(reason in opening.reason for opening in overtrust(settings))


@pytest.mark.parametrize(
    "settings",
    [
        NginxRealIp(("10.0.0.0/8",), "X-Forwarded-For", recursive=True),
        NginxRealIp(("0.0.0.0/0",), "proxy_protocol"),  # no listener takes a PROXY header
        IngressNginx(),
        IngressNginx(use_proxy_protocol=True, proxy_real_ip_cidr=("10.0.0.0/8",)),
        IngressNginx(True, True, proxy_real_ip_cidr=("10.0.0.0/8",)),
        HaproxyTrust(forward_for=True),
        HaproxyTrust(
            rules=(HaproxyRule("del-header", "X-Forwarded-For"), HaproxyRule("set-src", "X-Forwarded-For"))
        ),
        EnvoyTrust(use_remote_address=True),
        EnvoyTrust(detection=(EnvoyXff(trusted_cidrs=("10.0.0.0/8",)),)),
        TraefikTrust(proxy=True, proxy_trusted=("10.0.0.0/8",), forwarded_trusted=("10.0.0.0/8",)),
        Uvicorn(),
        Uvicorn(allow="*,10.0.0.1"),  # since 0.31 a star in a list is nobody's name
        Uvicorn(allow="'*'"),
        Uvicorn(proxy_headers=False, allow="*"),
        Gunicorn(allow="*"),  # a WSGI application is told of the peer
        Hypercorn(),
        Relay("append"),
    ],
)
def test_careful_settings_have_no_opening(settings: Settings) -> None:
    assert overtrust(settings) == ()


@pytest.mark.parametrize(
    ("settings", "enough"),
    [
        (EnvoyTrust(use_remote_address=True, trusted_hops=2), 2),
        (EnvoyTrust(trusted_hops=1), 2),
        (EnvoyTrust(detection=(EnvoyXff(1),)), 2),
        (Hypercorn("legacy", 2), 2),
        (Hypercorn("modern", 1), 1),
    ],
)
def test_trusted_hops_are_too_many_where_fewer_proxies_stand_in_front(
    settings: Settings, enough: int
) -> None:
    assert [bool(overtrust(settings, in_front)) for in_front in range(enough + 2)] == [
        in_front < enough for in_front in range(enough + 2)
    ]


def test_a_list_of_everybody_stays_open_behind_proxies_that_append() -> None:
    assert overtrust(Uvicorn(allow="*"), in_front=2)
    assert not overtrust(Uvicorn(allow="10.0.0.0/8"), in_front=2)


def test_a_proxy_header_can_open_what_a_list_of_its_own_closes() -> None:
    """The list holds src, and whoever connects may say what src is."""
    closed = HaproxyTrust(rules=(HaproxyRule("set-src", "X-Forwarded-For", sources=("10.0.0.0/8",)),))
    claims = {opening.claim for opening in overtrust(dataclasses.replace(closed, accept_proxy=True))}

    assert overtrust(closed) == ()
    assert claims == {Claim.PROXY, Claim.FIELD}


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Uvicorn().allow = "*"  # type: ignore[misc]
