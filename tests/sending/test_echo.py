"""Whom the application saw, from the bodies that echoes really send; and never a header of our own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.sending.echo import understand

FORGED = "203.0.113.9"

WHOAMI = """Hostname: whoami-5f7
IP: 127.0.0.1
IP: 10.244.1.7
RemoteAddr: 10.244.1.1:43210
GET / HTTP/1.1
Host: 172.30.0.11
X-Forwarded-For: 203.0.113.9
RemoteAddr: 203.0.113.9:1
"""

ECHOSERVER = """

Hostname: echo-7d

Pod Information:
\tnode name:\tnode1

Server values:
\tserver_version=nginx: 1.14.2 - lua: 10015

Request Information:
\tclient_address=10.244.1.1
\tmethod=GET
\treal path=/
\trequest_version=1.1

Request Headers:
\taccept=*/*
\tclient_address=203.0.113.9
\tx-forwarded-for=203.0.113.9
"""

OLD_ECHOSERVER = """CLIENT VALUES:
client_address=('10.32.0.1', 51384) (10.32.0.1)
command=GET
"""


@pytest.mark.parametrize(
    ("body", "saw"),
    [
        ('{"client_host": "192.0.2.7", "client_port": 4711, "headers": {"ip": "203.0.113.9"}}', "192.0.2.7"),
        ('{"client": "192.0.2.7:4711"}', "192.0.2.7"),
        ('{"client": ["192.0.2.7", 4711]}', "192.0.2.7"),
        ('{"client": {"host": "192.0.2.7", "port": 4711}}', "192.0.2.7"),
        ('{"ip": "::ffff:192.0.2.7"}', "192.0.2.7"),
        ('{"ip": ["10.0.0.1", "::1"], "remoteAddr": "192.0.2.7:1"}', "192.0.2.7"),
        ('{"address": "[2001:DB8::7]:4711"}', "2001:db8::7"),
        ('{"remote_addr": "10.0.0.1", "client_ip": "192.0.2.7"}', "192.0.2.7"),
        ('{"args": {}, "headers": {"X-Forwarded-For": "203.0.113.9"}, "origin": "192.0.2.7"}', "192.0.2.7"),
        ("192.0.2.7\n", "192.0.2.7"),
        ('"2001:db8::7"', "2001:db8::7"),
        ("client_address=192.0.2.7", "192.0.2.7"),
        ("RemoteAddr: 192.0.2.7:567\n", "192.0.2.7"),
        (WHOAMI, "10.244.1.1"),
        (ECHOSERVER, "10.244.1.1"),
        (OLD_ECHOSERVER, "10.32.0.1"),
    ],
)
def test_an_echo_says_whom_the_application_saw(body: str, saw: str) -> None:
    assert understand(body.encode(), ("x-forwarded-for",)).saw == saw


def test_the_first_of_a_whole_forwarded_chain_is_the_origin_and_that_is_said() -> None:
    echo = understand(b'{"origin": "203.0.113.9, 192.0.2.7"}')
    assert echo.saw == FORGED
    assert "203.0.113.9, 192.0.2.7" in echo.detail


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("", "no body"),
        ("<html>hello</html>", "does not say"),
        ('{"headers": {"x-forwarded-for": "203.0.113.9"}}', "does not say"),
        ('{"x_forwarded_for": "203.0.113.9", "x-real-ip": "203.0.113.9"}', "does not say"),
        ('{"client_host": null}', "does not say"),
        ('{"client_host": "testclient"}', "is no address"),
        ('{"client_host": ', "looks like JSON"),
        ("[" * 60_000, "looks like JSON"),
        ('["192.0.2.7"]', "without fields"),
        ("client_address=192.0.2.7\nclient_address=203.0.113.9\n", "more than one"),
        ("GET / HTTP/1.1\r\nRemoteAddr: 203.0.113.9\r\n", "does not say"),
        ("Request Headers:\nclient_address=203.0.113.9\n", "does not say"),
        ("999.1.1.1", "does not say"),
    ],
)
def test_what_is_not_known_stays_so_with_a_reason(body: str, why: str) -> None:
    echo = understand(body.encode())
    assert echo.saw is None
    assert why in echo.detail


def test_a_field_with_the_name_of_the_forged_header_proves_nothing() -> None:
    body = b'{"client-ip": "203.0.113.9", "host": "x"}'
    echo = understand(body, ("client_ip",))
    assert echo.saw is None
    assert "may be the header that was forged" in echo.detail
    assert understand(body, ("x-forwarded-for",)).saw == FORGED


def test_another_field_is_believed_when_one_is_suspect() -> None:
    body = json.dumps({"client_ip": FORGED, "remote_addr": "192.0.2.7"}).encode()
    assert understand(body, ("client-ip",)).saw == "192.0.2.7"


@given(st.binary(max_size=2000) | st.text(max_size=500).map(str.encode))
def test_any_body_is_understood_or_not(body: bytes) -> None:
    echo = understand(body, ("x-forwarded-for",))
    assert echo.detail.isprintable()
    assert (echo.saw is None) <= bool(echo.detail)
