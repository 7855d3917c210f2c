"""Cases that projects publish of themselves, and every rule met at least once."""

from __future__ import annotations

import pytest

from analysis.trust.evaluate import resolve
from analysis.trust.model import (
    UNIX_PEER,
    Arrival,
    Claim,
    EnvoyCustomHeader,
    EnvoyTrust,
    EnvoyXff,
    Fields,
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
from analysis.trust.products import RULES
from analysis.trust.readers import ingress_nginx


def xff(*values: str) -> Fields:
    return tuple(("X-Forwarded-For", value) for value in values)


# Pull request 12768 of ingress-nginx. The client 100.64.0.1 reaches the TCP balancer, which writes a PROXY header; the
# node 10.2.1.1 is the peer. HTTP proxies of 198.18.0.0/24 may stand in front of the balancer.
CLIENT, NODE, HTTP_PROXY, SPOOFED = "100.64.0.1", "10.2.1.1", "198.18.0.1", "1.1.1.1"
PROXIES, ALL = "198.18.0.0/24", "10.0.0.0/8,198.18.0.0/24"


@pytest.mark.parametrize(
    ("number", "forwarded", "cidr", "fields", "client"),
    [
        (2, False, PROXIES, (), NODE),
        (3, False, ALL, (), CLIENT),
        (4, True, None, (), NODE),
        (5, True, None, xff(SPOOFED), SPOOFED),
        (6, True, PROXIES, (), NODE),
        (7, True, ALL, (), CLIENT),
        (8, True, ALL, xff(SPOOFED), CLIENT),
    ],
)
def test_the_cases_of_pull_request_12768_without_an_http_proxy(
    number: int, forwarded: bool, cidr: str | None, fields: Fields, client: str
) -> None:
    data = {"use-proxy-protocol": "true", "use-forwarded-headers": str(forwarded).lower()}
    data |= {"proxy-real-ip-cidr": cidr} if cidr else {}
    found = resolve(ingress_nginx(data, (1, 13)), Arrival(NODE, CLIENT, fields))

    assert found.client == client
    assert dict(found.onward or ())["X-Real-IP"] == client


@pytest.mark.parametrize(
    ("forwarded", "cidr", "sent", "client"),
    [
        # The algorithm of the same pull request: the PROXY header names the HTTP proxy, which appends the client.
        (False, ALL, CLIENT, HTTP_PROXY),
        (True, ALL, CLIENT, CLIENT),
        (True, ALL, f"{SPOOFED}, {CLIENT}", CLIENT),
        (True, None, f"{SPOOFED}, {CLIENT}", SPOOFED),
        (True, PROXIES, CLIENT, NODE),
        (True, "10.0.0.0/8", CLIENT, HTTP_PROXY),
    ],
)
def test_the_algorithm_of_pull_request_12768_behind_an_http_proxy(
    forwarded: bool, cidr: str | None, sent: str, client: str
) -> None:
    data = {"use-proxy-protocol": "true", "use-forwarded-headers": str(forwarded).lower()}
    data |= {"proxy-real-ip-cidr": cidr} if cidr else {}

    assert resolve(ingress_nginx(data), Arrival(NODE, HTTP_PROXY, xff(sent))).client == client


def test_before_1_13_the_proxy_header_alone_decided() -> None:
    """Issue 13666 of ingress-nginx: what an upgrade to 1.13 changes for the very same ConfigMap."""
    data = {"use-proxy-protocol": "true", "use-forwarded-headers": "true", "proxy-real-ip-cidr": "0.0.0.0/0"}
    arrival = Arrival(NODE, HTTP_PROXY, xff(CLIENT))

    assert resolve(ingress_nginx(data, (1, 12)), arrival).client == HTTP_PROXY
    assert resolve(ingress_nginx(data, (1, 13)), arrival).client == CLIENT


@pytest.mark.parametrize(
    ("keys", "client", "forwarded_for"),
    [
        # Issue 11994 of ingress-nginx: the proxy 10.20.30.40 sends X-Forwarded-For: 192.168.1.1.
        ({}, "10.20.30.40", "10.20.30.40"),
        ({"use-forwarded-headers": "true"}, "192.168.1.1", "192.168.1.1"),
        (
            {"use-forwarded-headers": "true", "compute-full-forwarded-for": "true"},
            "192.168.1.1",
            "192.168.1.1, 10.20.30.40",
        ),
        ({"enable-real-ip": "true"}, "192.168.1.1", "192.168.1.1"),
        ({"enable-real-ip": "true", "compute-full-forwarded-for": "true"}, "192.168.1.1", "192.168.1.1"),
    ],
)
def test_what_ingress_nginx_sends_to_the_application(
    keys: dict[str, str], client: str, forwarded_for: str
) -> None:
    one = ingress_nginx({"proxy-real-ip-cidr": "10.20.30.40", **keys})
    sent = dict(resolve(one, Arrival("10.20.30.40", None, xff("192.168.1.1"))).onward or ())

    assert sent == {
        "X-Real-IP": client,
        "X-Forwarded-For": forwarded_for,
        "X-Original-Forwarded-For": "192.168.1.1",
    }


def test_the_full_list_of_ingress_nginx_ends_in_the_address_of_the_proxy_header() -> None:
    """Pull request 1618 of ingress-nginx: TCP proxies do not appear in the list."""
    one = IngressNginx(
        use_forwarded_headers=True,
        use_proxy_protocol=True,
        compute_full_forwarded_for=True,
        header_wins=False,
    )
    found = resolve(one, Arrival("10.0.0.1", "1.2.3.4", xff("5.6.7.8")))

    assert dict(found.onward or ())["X-Forwarded-For"] == "5.6.7.8, 1.2.3.4"


DOCUMENTED = "203.0.113.128, 203.0.113.10, 203.0.113.1"
ENVOYS = [
    # The examples of Envoy's documents about X-Forwarded-For, by their numbers.
    (1, True, 0, "192.0.2.5", DOCUMENTED, "192.0.2.5", f"{DOCUMENTED},192.0.2.5"),
    (2, False, 0, "10.11.12.13", f"{DOCUMENTED}, 192.0.2.5", "192.0.2.5", None),
    (3, True, 2, "192.0.2.5", DOCUMENTED, "203.0.113.10", f"{DOCUMENTED},192.0.2.5"),
    (4, False, 2, "10.11.12.13", f"{DOCUMENTED}, 192.0.2.5", "203.0.113.10", None),
    (5, False, 0, "10.20.30.40", None, "10.20.30.40", None),
    (6, False, 0, "10.20.30.50", "10.20.30.40", "10.20.30.40", None),
]


@pytest.mark.parametrize(("number", "remote", "hops", "peer", "came", "client", "appended"), ENVOYS)
def test_the_examples_of_envoys_documents(
    number: int, remote: bool, hops: int, peer: str, came: str | None, client: str, appended: str | None
) -> None:
    one = EnvoyTrust(use_remote_address=remote, trusted_hops=hops)
    found = resolve(one, Arrival(peer, None, xff(came) if came else ()))
    sent = dict(found.onward or ())

    assert found.client == client
    assert sent.get("X-Forwarded-For") == (appended or came)
    assert sent.get("X-Envoy-External-Address") == (client if remote else None)


@pytest.mark.parametrize(
    ("peer", "came", "client"),
    [
        ("10.0.0.1", "6.6.6.6, 203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.5, 10.0.0.9", "203.0.113.5"),
        ("10.0.0.1", "10.0.0.7, 10.0.0.9", "10.0.0.7"),
        ("10.0.0.1", "203.0.113.5, nonsense", "10.0.0.1"),
        ("192.0.2.5", "203.0.113.5", "192.0.2.5"),
    ],
)
def test_envoy_with_trusted_ranges(peer: str, came: str, client: str) -> None:
    one = EnvoyTrust(detection=(EnvoyXff(trusted_cidrs=("10.0.0.0/8",)),))
    assert resolve(one, Arrival(peer, None, xff(came))).client == client


def test_what_envoy_appends_for_a_peer_on_loopback_nobody_can_tell() -> None:
    assert resolve(EnvoyTrust(use_remote_address=True), Arrival("127.0.0.1")).onward is None


def test_traefik_by_its_own_tests() -> None:
    """pkg/middlewares/forwardedheaders/forwarded_header_test.go and pkg/proxy/httputil/proxy_test.go."""
    came = (*xff("1.2.3.4"), ("X-Real-Ip", "9.9.9.9"), ("X_Forwarded_For", "8.8.8.8"))
    stranger = resolve(TraefikTrust(forwarded_trusted=("10.0.1.100",)), Arrival("10.0.1.101", None, came))
    trusted = resolve(TraefikTrust(forwarded_trusted=("1.2.3.4/24",)), Arrival("1.2.3.156", None, came[:2]))
    kept = resolve(
        TraefikTrust(forwarded_insecure=True, not_append=True), Arrival("10.0.1.101", None, came[:1])
    )

    assert stranger.onward == (("X-Real-IP", "10.0.1.101"), ("X-Forwarded-For", "10.0.1.101"))
    assert (trusted.client, dict(trusted.onward or ())["X-Forwarded-For"]) == (
        "9.9.9.9",
        "1.2.3.4, 1.2.3.156",
    )
    assert dict(kept.onward or ())["X-Forwarded-For"] == "1.2.3.4"


FROM_LB, FROM_STRANGER = "10.0.0.1", "198.51.100.66"
ONE = xff("203.0.113.5")
SET_SRC = HaproxyRule("set-src", "X-Forwarded-For", sources=("10.0.0.0/8",))

#: For each rule one case: settings, what arrives, and whom the server believes.
EACH: dict[str, tuple[Settings, Arrival, str | None]] = {
    "nginx-stranger": (NginxRealIp(("10.0.0.1",)), Arrival(FROM_STRANGER, None, ONE), FROM_STRANGER),
    "nginx-last": (NginxRealIp(("10.0.0.1",), "X-Forwarded-For"), Arrival(FROM_LB, None, ONE), "203.0.113.5"),
    "nginx-recursive": (
        NginxRealIp(("10.0.0.0/8",), "X-Forwarded-For", recursive=True),
        Arrival(FROM_LB, None, xff("203.0.113.5, 10.9.9.9")),
        "203.0.113.5",
    ),
    "nginx-nothing": (NginxRealIp(("10.0.0.1",)), Arrival(FROM_LB, None, ONE), FROM_LB),
    "nginx-proxy": (
        NginxRealIp(("10.0.0.1",), "proxy_protocol", proxy_protocol=True),
        Arrival(FROM_LB, "203.0.113.5"),
        "203.0.113.5",
    ),
    "nginx-off": (NginxRealIp(), Arrival(FROM_LB, None, ONE), FROM_LB),
    "nginx-expected": (NginxRealIp(proxy_protocol=True), Arrival(FROM_LB), None),
    "nginx-unexpected": (NginxRealIp(), Arrival(FROM_LB, ""), None),
    "nginx-name": (NginxRealIp(("lb.example",)), Arrival(FROM_LB, None, ONE), None),
    "ingress-both-field": (
        IngressNginx(True, True, proxy_real_ip_cidr=("10.0.0.0/8",)),
        Arrival(FROM_LB, "10.7.7.7", ONE),
        "203.0.113.5",
    ),
    "ingress-both-proxy": (
        IngressNginx(True, True, proxy_real_ip_cidr=("10.0.0.0/8",)),
        Arrival(FROM_LB, "198.51.100.7", ONE),
        "198.51.100.7",
    ),
    "ingress-both-nothing": (IngressNginx(True, True), Arrival(FROM_LB, "198.51.100.7"), FROM_LB),
    "haproxy-peer": (HaproxyTrust(), Arrival(FROM_LB, None, ONE), FROM_LB),
    "haproxy-proxy": (HaproxyTrust(accept_proxy=True), Arrival(FROM_LB, "203.0.113.5"), "203.0.113.5"),
    "haproxy-proxy-nobody": (HaproxyTrust(accept_proxy=True), Arrival(FROM_LB, ""), FROM_LB),
    "haproxy-expected": (HaproxyTrust(expect_proxy_from=("10.0.0.1",)), Arrival(FROM_LB), None),
    "haproxy-unexpected": (
        HaproxyTrust(expect_proxy_from=("10.0.0.1",)),
        Arrival(FROM_STRANGER, "1.1.1.1"),
        None,
    ),
    "haproxy-as-data": (HaproxyTrust(mode="tcp"), Arrival(FROM_LB, "203.0.113.5"), FROM_LB),
    "haproxy-set-src": (HaproxyTrust(rules=(SET_SRC,)), Arrival(FROM_LB, None, ONE), "203.0.113.5"),
    "haproxy-condition": (
        HaproxyTrust(rules=(HaproxyRule("set-src", "X-Forwarded-For", conditional=True),)),
        Arrival(FROM_LB, None, ONE),
        None,
    ),
    "envoy-remote": (EnvoyTrust(use_remote_address=True), Arrival(FROM_LB, None, ONE), FROM_LB),
    "envoy-remote-hops": (
        EnvoyTrust(use_remote_address=True, trusted_hops=1),
        Arrival(FROM_LB, None, ONE),
        "203.0.113.5",
    ),
    "envoy-last": (EnvoyTrust(), Arrival(FROM_LB, None, ONE), "203.0.113.5"),
    "envoy-too-few": (EnvoyTrust(trusted_hops=1), Arrival(FROM_LB, None, ONE), FROM_LB),
    "envoy-ranges": (
        EnvoyTrust(detection=(EnvoyXff(trusted_cidrs=("10.0.0.0/8",)),)),
        Arrival(FROM_LB, None, ONE),
        "203.0.113.5",
    ),
    "envoy-stranger": (
        EnvoyTrust(detection=(EnvoyXff(trusted_cidrs=("10.0.0.0/8",)),)),
        Arrival(FROM_STRANGER, None, ONE),
        FROM_STRANGER,
    ),
    "envoy-custom": (
        EnvoyTrust(detection=(EnvoyCustomHeader("X-Real-IP"),)),
        Arrival(FROM_LB, None, (("x-real-ip", "203.0.113.5"),)),
        "203.0.113.5",
    ),
    "envoy-rejected": (
        EnvoyTrust(detection=(EnvoyCustomHeader("X-Real-IP", rejects=True),)),
        Arrival(FROM_LB, None, ONE),
        None,
    ),
    "envoy-expected": (EnvoyTrust(proxy_protocol=True), Arrival(FROM_LB), None),
    "envoy-unexpected": (EnvoyTrust(), Arrival(FROM_LB, "203.0.113.5"), None),
    "traefik-peer": (TraefikTrust(), Arrival(FROM_LB, None, ONE), FROM_LB),
    "traefik-absent": (TraefikTrust(forwarded_insecure=True), Arrival(FROM_LB, None, ONE), FROM_LB),
    "traefik-field": (
        TraefikTrust(forwarded_trusted=("10.0.0.0/8",)),
        Arrival(FROM_LB, None, (("X-Real-Ip", "203.0.113.5"),)),
        "203.0.113.5",
    ),
    "traefik-unexpected": (TraefikTrust(), Arrival(FROM_LB, "203.0.113.5"), None),
    "traefik-ignored": (
        TraefikTrust(proxy=True, proxy_trusted=("10.0.0.0/8",)),
        Arrival(FROM_STRANGER, "203.0.113.5"),
        FROM_STRANGER,
    ),
    "traefik-proxy": (
        TraefikTrust(proxy=True, proxy_trusted=("10.0.0.0/8",)),
        Arrival(FROM_LB, "203.0.113.5"),
        "203.0.113.5",
    ),
    "uvicorn-off": (Uvicorn(proxy_headers=False, allow="*"), Arrival(FROM_LB, None, ONE), FROM_LB),
    "uvicorn-stranger": (Uvicorn(), Arrival(FROM_LB, None, ONE), FROM_LB),
    "uvicorn-absent": (Uvicorn(), Arrival("::1"), "::1"),
    "uvicorn-always": (Uvicorn(allow="*"), Arrival(UNIX_PEER, None, xff("6.6.6.6, 203.0.113.5")), "6.6.6.6"),
    "uvicorn-last-stranger": (Uvicorn(allow="10.0.0.0/8"), Arrival(FROM_LB, None, ONE), "203.0.113.5"),
    "uvicorn-all-trusted": (
        Uvicorn(allow="10.0.0.0/8"),
        Arrival(FROM_LB, None, xff("10.3.3.3, 10.4.4.4")),
        "10.3.3.3",
    ),
    "uvicorn-nobody": (
        Uvicorn(allow="10.0.0.1", version=(0, 30)),
        Arrival(FROM_LB, None, xff("10.0.0.1")),
        None,
    ),
    "uvicorn-proxy": (Uvicorn(allow="*"), Arrival(FROM_LB, "203.0.113.5"), None),
    "gunicorn-peer": (Gunicorn(allow="*"), Arrival(FROM_LB, None, ONE), FROM_LB),
    "gunicorn-proxy": (
        Gunicorn(proxy_protocol=True, proxy_allow="10.0.0.1"),
        Arrival(FROM_LB, "203.0.113.5"),
        "203.0.113.5",
    ),
    "gunicorn-forbidden": (Gunicorn(proxy_protocol=True), Arrival(FROM_LB, "203.0.113.5"), None),
    "gunicorn-nobody": (Gunicorn(proxy_protocol=True, proxy_allow="*"), Arrival(FROM_LB, ""), None),
    "gunicorn-later": (
        Gunicorn(proxy_protocol=True, proxy_allow="10.0.0.0/8", version=(24, 0)),
        Arrival(FROM_LB, ""),
        None,
    ),
    "gunicorn-unexpected": (Gunicorn(), Arrival(FROM_LB, "203.0.113.5"), None),
    "hypercorn-peer": (Hypercorn(), Arrival(FROM_LB, None, ONE), FROM_LB),
    "hypercorn-hops": (Hypercorn("legacy"), Arrival(FROM_STRANGER, None, ONE), "203.0.113.5"),
    "hypercorn-forwarded": (
        Hypercorn("modern"),
        Arrival(FROM_LB, None, (("Forwarded", "for=203.0.113.5;proto=https"),)),
        "203.0.113.5",
    ),
    "hypercorn-few": (Hypercorn("legacy", 2), Arrival(FROM_LB, None, ONE), FROM_LB),
    "hypercorn-proxy": (Hypercorn(), Arrival(FROM_LB, "203.0.113.5"), None),
    "relay-peer": (Relay("append"), Arrival(FROM_LB, None, ONE), FROM_LB),
    "relay-proxy": (Relay(accepts_proxy=True), Arrival(FROM_LB, "203.0.113.5"), "203.0.113.5"),
    "relay-expected": (Relay(accepts_proxy=True), Arrival(FROM_LB), None),
    "relay-as-data": (Relay("pass"), Arrival(FROM_LB, "203.0.113.5"), FROM_LB),
    "relay-unexpected": (Relay("append"), Arrival(FROM_LB, "203.0.113.5"), None),
}


@pytest.mark.parametrize("key", [rule.key for rule in RULES])
def test_each_rule_decides_its_case_and_names_its_source(key: str) -> None:
    one, arrival, client = EACH[key]
    found = resolve(one, arrival)

    assert (found.rule_key, found.client) == (key, client)
    assert found.rule
    assert found.source.startswith(("https://", "RFC ")) or "/" in found.source
    assert (found.by is Claim.NOBODY) == (client is None)


def test_rules_have_names_of_their_own() -> None:
    keys = [rule.key for rule in RULES]
    assert len(keys) == len(set(keys))
    assert set(keys) == set(EACH)


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (NginxRealIp(("10.0.0.0/33",)), "set_real_ip_from"),
        (NginxRealIp(("300.1.1.1",)), "set_real_ip_from"),
        (HaproxyTrust(expect_proxy_from=("lb.example",)), "expect-proxy"),
        (EnvoyTrust(use_remote_address=True, detection=(EnvoyXff(),)), "original_ip_detection_extensions"),
        (EnvoyTrust(detection=(EnvoyXff(1, ("10.0.0.0/8",)),)), "xff_trusted_cidrs"),
        (TraefikTrust(forwarded_trusted=("*",)), "forwardedHeaders.trustedIPs"),
        (Gunicorn(allow="10.0.0.0/8"), "forwarded_allow_ips"),
        (Hypercorn("legacy", -1), "trusted_hops"),
    ],
)
def test_settings_that_no_server_would_start_with_are_an_error(one: Settings, told: str) -> None:
    with pytest.raises(TrustError, match=told) as caught:
        resolve(one, Arrival(FROM_LB, None, ONE))
    assert "\n" not in str(caught.value)
