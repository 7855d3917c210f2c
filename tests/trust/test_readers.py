"""Small configurations, as people write them, and as they should not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.trust import readers
from analysis.trust.model import (
    EnvoyCustomHeader,
    EnvoyTrust,
    EnvoyXff,
    Gunicorn,
    Hypercorn,
    IngressNginx,
    TraefikTrust,
    TrustError,
    Uvicorn,
)
from tests.trust.grid import refusal


def test_a_configmap() -> None:
    data = {
        "use-forwarded-headers": "true",
        "use-proxy-protocol": "True",
        "compute-full-forwarded-for": "false",
        "proxy-real-ip-cidr": "10.0.0.0/8, 192.0.2.0/24",
        "forwarded-for-header": "CF-Connecting-IP",
        "keep-alive": "10",
    }
    assert readers.ingress_nginx(data, (1, 12)) == IngressNginx(
        use_forwarded_headers=True,
        use_proxy_protocol=True,
        proxy_real_ip_cidr=("10.0.0.0/8", "192.0.2.0/24"),
        forwarded_for_header="CF-Connecting-IP",
        header_wins=False,
    )
    assert readers.ingress_nginx({}) == IngressNginx()


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        (["app:app"], {}, Uvicorn()),
        (["app:app", "--no-proxy-headers"], {"FORWARDED_ALLOW_IPS": "*"}, Uvicorn(False, "*")),
        (
            ["--forwarded-allow-ips", "'*'", "app:app"],
            {"FORWARDED_ALLOW_IPS": "10.0.0.1"},
            Uvicorn(True, "'*'"),
        ),
        (["--forwarded-allow-ips=10.0.0.0/8,::1"], {}, Uvicorn(True, "10.0.0.0/8,::1")),
        (
            [],
            {"UVICORN_FORWARDED_ALLOW_IPS": "10.0.0.1", "FORWARDED_ALLOW_IPS": "*"},
            Uvicorn(True, "10.0.0.1"),
        ),
        ([], {"UVICORN_PROXY_HEADERS": "0"}, Uvicorn(False, None)),
    ],
)
def test_a_command_line_of_uvicorn(arguments: list[str], environ: dict[str, str], expected: Uvicorn) -> None:
    assert readers.uvicorn(arguments, environ) == expected


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        (["app:app"], {"FORWARDED_ALLOW_IPS": "*"}, Gunicorn(allow="*")),
        (["-kuvicorn.workers.UvicornWorker"], {}, Gunicorn("uvicorn")),
        (["-k", "uvicorn_worker.UvicornWorker", "--forwarded-allow-ips", "*"], {}, Gunicorn("uvicorn", "*")),
        (
            ["--proxy-protocol", "--proxy-allow-from=10.0.0.1"],
            {"GUNICORN_CMD_ARGS": "-k gthread --forwarded-allow-ips='10.0.0.2'"},
            Gunicorn(allow="10.0.0.2", proxy_protocol=True, proxy_allow="10.0.0.1"),
        ),
    ],
)
def test_a_command_line_of_gunicorn(
    arguments: list[str], environ: dict[str, str], expected: Gunicorn
) -> None:
    assert readers.gunicorn(arguments, environ) == expected


def test_the_middleware_of_hypercorn() -> None:
    assert readers.hypercorn(None) == Hypercorn()
    assert readers.hypercorn({"mode": "modern", "trusted_hops": 2}) == Hypercorn("modern", 2)
    assert readers.hypercorn({}) == Hypercorn("legacy", 1)


def test_an_entry_point_of_traefik() -> None:
    entry = {
        "address": ":443",
        "proxyProtocol": {"trustedIPs": ["10.0.0.0/8"]},
        "forwardedHeaders": {"insecure": True},
    }
    assert readers.traefik(entry) == TraefikTrust(True, ("10.0.0.0/8",), forwarded_insecure=True)
    assert readers.traefik({}) == TraefikTrust()


def test_a_connection_manager_of_envoy() -> None:
    xff = {
        "name": "envoy.extensions.http.original_ip_detection.xff",
        "typed_config": {
            "xff_trusted_cidrs": {"cidrs": [{"address_prefix": "10.0.0.0", "prefix_len": {"value": 8}}]},
            "skip_xff_append": {"value": False},
        },
    }
    custom = {
        "name": "ip",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3"
            ".CustomHeaderConfig",
            "header_name": "X-Real-IP",
            "reject_with_status": {"code": "Forbidden"},
        },
    }
    filters = [{"name": "envoy.filters.listener.proxy_protocol", "typed_config": {}}]

    assert readers.envoy({"original_ip_detection_extensions": [xff, custom]}, filters) == EnvoyTrust(
        proxy_protocol=True,
        detection=(
            EnvoyXff(trusted_cidrs=("10.0.0.0/8",), skip_append=False),
            EnvoyCustomHeader("X-Real-IP", rejects=True),
        ),
    )
    assert readers.envoy({"use_remote_address": True, "xff_num_trusted_hops": 1}) == EnvoyTrust(True, 1)


def test_a_client_traffic_policy_of_envoy_gateway() -> None:
    hops = readers.client_traffic_policy({"clientIPDetection": {"xForwardedFor": {"numTrustedHops": 2}}})
    cidrs = readers.client_traffic_policy(
        {
            "clientIPDetection": {"xForwardedFor": {"trustedCIDRs": ["10.0.0.0/8"]}},
            "enableProxyProtocol": True,
        }
    )
    custom = readers.client_traffic_policy(
        {"clientIPDetection": {"customHeader": {"name": "X-Real-IP", "failClosed": True}}}
    )

    assert hops == EnvoyTrust(detection=(EnvoyXff(1, skip_append=False),))
    assert cidrs == EnvoyTrust(
        proxy_protocol=True, detection=(EnvoyXff(trusted_cidrs=("10.0.0.0/8",), skip_append=False),)
    )
    assert custom == EnvoyTrust(detection=(EnvoyCustomHeader("X-Real-IP", rejects=True),))
    assert readers.client_traffic_policy({}) == EnvoyTrust(use_remote_address=True)


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (lambda: readers.ingress_nginx({"use-proxy-protocol": True}), "use-proxy-protocol"),
        (lambda: readers.ingress_nginx({"use-proxy-protocol": "yes"}), "use-proxy-protocol"),
        (lambda: readers.uvicorn(["--forwarded-allow-ips"]), "--forwarded-allow-ips"),
        (lambda: readers.gunicorn([], {"GUNICORN_CMD_ARGS": "-k 'x"}), "GUNICORN_CMD_ARGS"),
        (lambda: readers.hypercorn({"mode": "future"}), "mode"),
        (lambda: readers.hypercorn({"trusted_hops": "2"}), "trusted_hops"),
        (lambda: readers.traefik({"forwardedHeaders": {"trustedIPs": "10.0.0.1"}}), "trustedIPs"),
        (lambda: readers.traefik({"proxyProtocol": {"insecure": "true"}}), "insecure"),
        (lambda: readers.envoy({"xff_num_trusted_hops": -1}), "xff_num_trusted_hops"),
        (lambda: readers.envoy({"original_ip_detection_extensions": [{"name": "own"}]}), "own"),
        (
            lambda: readers.client_traffic_policy(
                {"clientIPDetection": {"xForwardedFor": {"numTrustedHops": 1, "trustedCIDRs": []}}}
            ),
            "only one of",
        ),
    ],
)
def test_what_cannot_be_meant_is_an_error_of_one_line(read: Callable[[], object], told: str) -> None:
    with pytest.raises(TrustError, match=told) as caught:
        read()
    assert "\n" not in str(caught.value)


KEYS = st.sampled_from(
    [
        "proxyProtocol",
        "forwardedHeaders",
        "trustedIPs",
        "insecure",
        "clientIPDetection",
        "xForwardedFor",
        "customHeader",
        "name",
        "numTrustedHops",
        "trustedCIDRs",
        "failClosed",
        "enableProxyProtocol",
        "optional",
        "original_ip_detection_extensions",
        "typed_config",
        "xff_trusted_cidrs",
        "cidrs",
        "address_prefix",
        "prefix_len",
        "use_remote_address",
        "xff_num_trusted_hops",
        "use-proxy-protocol",
        "proxy-real-ip-cidr",
        "forwarded-for-header",
        "mode",
        "trusted_hops",
        "value",
    ]
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, ANYTHING, max_size=5), st.lists(ANYTHING, max_size=2))
def test_objects_of_any_shape_are_read_or_refused(written: dict[str, Any], filters: list[Any]) -> None:
    for read in (
        readers.ingress_nginx,
        readers.traefik,
        readers.client_traffic_policy,
        readers.hypercorn,
        lambda one: readers.envoy(one, filters),
    ):
        assert "\n" not in refusal(functools.partial(read, written))


WORDS = st.sampled_from(
    [
        "--forwarded-allow-ips",
        "--forwarded-allow-ips=",
        "-k",
        "-kx",
        "--proxy-protocol",
        "--",
        "-",
        "",
        "'",
        "*",
    ]
)


@given(
    st.lists(WORDS | st.text(max_size=6), max_size=5),
    st.dictionaries(
        st.sampled_from(["FORWARDED_ALLOW_IPS", "GUNICORN_CMD_ARGS", "UVICORN_PROXY_HEADERS"]),
        st.text(max_size=8),
    ),
)
def test_command_lines_of_any_words_are_read_or_refused(
    arguments: list[str], environ: dict[str, str]
) -> None:
    for read in (readers.uvicorn, readers.gunicorn):
        assert "\n" not in refusal(functools.partial(read, arguments, environ))
