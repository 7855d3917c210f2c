"""haproxy.cfg as this project reads it, with HAProxy itself as the judge of what is well formed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.ingress import Ingress, Kind, Listener
from analysis.trust.model import HaproxyRule, HaproxyTrust
from probe.ingress.errors import ConfigError
from probe.ingress.haproxy_config import haproxy_ingress
from probe.ingress.haproxy_grammar import split_words
from tests.ingress.running import need

DEFAULTS = "defaults\n mode http\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n"


def valid(text: str, folder: Path) -> bool:
    """Whether HAProxy takes it."""
    file = folder / "haproxy.cfg"
    file.write_text(text)
    found = subprocess.run([need("haproxy"), "-c", "-f", file], capture_output=True, text=True, check=False)
    return found.returncode == 0


def refusal(text: str) -> ConfigError | None:
    """Why a text cannot be read, None where it can."""
    try:
        haproxy_ingress(text, "haproxy.cfg")
    except ConfigError as error:
        return error
    return None


def at(ingress: Ingress, port: int) -> Listener:
    (found,) = [each for each in ingress.listeners if each.port == port]
    return found


def trust(listener: Listener) -> HaproxyTrust:
    assert listener.haproxy is not None
    return listener.haproxy


@pytest.mark.parametrize(
    "line",
    [
        "bind :1", "bind *:1,127.0.0.1:2", "bind 127.0.0.1:3-5", "bind ipv4@127.0.0.1:6", "bind :::7 v4v6",
        "bind :8 name 'a b' accept-proxy", 'bind ":9"', "bind :10 # :11", r"bind :12 name a\ b",
        "bind nothing", "bind", "bind :13 name 'a", 'bind :14 name "a', "bind :x", "bind :0x50",
    ],
)  # fmt: skip
def test_haproxy_and_we_agree_on_what_is_well_formed(line: str, tmp_path: Path) -> None:
    text = f"{DEFAULTS}frontend f\n {line}\n default_backend b\nbackend b\n server s 127.0.0.1:1\n"
    error = refusal(text)
    if valid(text, tmp_path):
        assert error is None, "HAProxy takes it"
    else:
        assert error is not None, "HAProxy refuses it"
        assert error.line == 7


def test_frontends_backends_and_defaults_together(tmp_path: Path) -> None:
    text = f"""{DEFAULTS}
 option forwardfor except 127.0.0.0/8
frontend web
 bind 127.0.0.1:8080 accept-proxy
 acl balancer src 10.0.0.0/8 192.168.0.1
 http-request set-src req.hdr(X-Forwarded-For,-1) if balancer
 http-request del-header X-Forwarded-For if {{ src 192.0.2.0/24 }}
 http-request set-header X-Real-IP %[src]
 http-request set-header X-Other %[src]
 default_backend app
frontend picky
 bind 127.0.0.1:8081
 tcp-request connection expect-proxy layer4 if {{ src 10.1.0.0/16 }}
 default_backend app
frontend strict
 bind 127.0.0.1:8082
 tcp-request connection expect-proxy layer4
 default_backend app
backend app
 default-server send-proxy-v2
 server one 10.2.0.1:80
 server two 10.2.0.2:80 no-send-proxy-v2 send-proxy check port 81
listen tcp
 mode tcp
 bind [::1]:8083 ssl crt x.pem
 server three 10.2.0.3:80
"""
    ingress = haproxy_ingress(text, "haproxy.cfg")
    assert ingress.kind is Kind.HAPROXY
    web = at(ingress, 8080)
    assert (web.proxy_protocol, web.addresses, web.mode, web.name) == (True, ("127.0.0.1",), "http", "web")
    assert trust(web) == HaproxyTrust(
        accept_proxy=True,
        forward_for=True,
        forward_for_except=("127.0.0.0/8",),
        rules=(
            HaproxyRule("set-src", "X-Forwarded-For", occurrence=-1, sources=("10.0.0.0/8", "192.168.0.1")),
            HaproxyRule("del-header", "X-Forwarded-For", sources=("192.0.2.0/24",)),
            HaproxyRule("set-header", "X-Real-IP", "%[src]"),
        ),
        sends_proxy=True,
    )
    assert [(each.address, each.sends, each.check) for each in web.upstreams] == [
        ("10.2.0.1:80", 2, 0),
        ("10.2.0.2:80", 1, 81),
    ]
    picky = at(ingress, 8081)
    assert (picky.proxy_protocol, trust(picky).expect_proxy_from) == (None, ("10.1.0.0/16",))
    assert "line 18" in picky.notes[0]
    assert at(ingress, 8082).proxy_protocol is True
    tcp = at(ingress, 8083)
    assert (tcp.addresses, tcp.tls, tcp.mode, tcp.proxy_protocol) == (("::1",), True, "tcp", False)
    assert valid(text.replace(" ssl crt x.pem", ""), tmp_path)


def test_rules_that_depend_on_something_else_are_no_claim() -> None:
    text = f"""{DEFAULTS}frontend f
 bind :80
 http-request set-src hdr(x-real-ip) if {{ ssl_fc }}
 http-request set-src src,ipmask(24)
 http-request replace-header X-Forwarded-For (.*) \\1
 tcp-request connection set-src src
 default_backend b
backend b
 server s 10.0.0.1:80
"""
    rules = trust(at(haproxy_ingress(text, "f"), 80)).rules
    assert [each.conditional for each in rules] == [True] * 4


def test_backends_that_differ_leave_the_trust_open() -> None:
    text = f"""{DEFAULTS}frontend f
 bind :80
 use_backend a if {{ path /a }}
 default_backend b
backend a
 option forwardfor
 server s 10.0.0.1:80
backend b
 server s 10.0.0.2:80
"""
    listener = at(haproxy_ingress(text, "f"), 80)
    assert listener.trust is None
    assert "differ" in listener.notes[0]
    assert [each.address for each in listener.upstreams] == ["10.0.0.1:80", "10.0.0.2:80"]


def test_what_stands_between_if_and_endif_is_admitted() -> None:
    text = (
        f"{DEFAULTS}listen f\n bind :80\n.if defined(X)\n option forwardfor\n.endif\n server s 10.0.0.1:80\n"
    )
    assert ".if" in at(haproxy_ingress(text, "f"), 80).notes[0]


def test_a_place_that_only_the_environment_knows() -> None:
    ingress = haproxy_ingress("listen f\n bind ${ADDRESS}:80\n bind unix@/run/x\n", "f")
    assert ingress.listeners == ()
    assert len(ingress.notes) == 2


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("mode http\n", 1, "before any section"),
        ("listen f\n bind :80 name 'x\n", 2, "not closed"),
        ("listen f\n bind :99999\n", 2, "has no port"),
        ("global\n daemon\n", 0, 'no "bind"'),
    ],
)
def test_errors_name_the_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        haproxy_ingress(text, "f")
    assert caught.value.line == line


@given(st.text(max_size=80))
def test_any_line_is_split_or_refused(text: str) -> None:
    try:
        words = split_words(text)
    except ConfigError:
        return
    assert all(isinstance(word, str) for word in words)


@given(st.text(alphabet="ab :/,-$@[]{}'\"\\\n#0918", max_size=80))
def test_any_configuration_is_read_or_refused(text: str) -> None:
    error = refusal(f"listen f\n bind :80\n{text}")
    assert error is None or 0 < error.line <= 2 + text.count("\n") + 1


def test_ports_of_wide_ranges_are_not_told_one_by_one() -> None:
    ingress = haproxy_ingress("listen f\n bind :80,:9000-9002,:1-65535\n", "f")
    assert [each.port for each in ingress.listeners] == [80, 9000, 9001, 9002]
    assert any("more than 1000 ports in ranges" in note for note in ingress.notes)
