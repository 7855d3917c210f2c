"""The answer of an echo: the application's own idea of its client, and nothing that a client could have put there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonset.decode.echo import read_echo
from daemonset.decode.head import read_payload
from daemonset.observation import Payload

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "saw"),
    [
        (b'{"client_host":"203.0.113.9","client_port":1}', "203.0.113.9"),
        (b'{"a": 1, "client_host": "2001:DB8::9"}', "2001:db8::9"),
        (b'2b\r\n{"client_host":"203.0.113.9","client_port":1}\r\n0\r\n\r\n', "203.0.113.9"),
        (b'{"headers":{"client_host":"203.0.113.9"}}', None),
        (b'{"note":"\\"client_host\\":\\"203.0.113.9\\""}', None),
        (b'["client_host","203.0.113.9"]', None),
        (b'{"client_host":null}', None),
        (b'{"client_host":"unknown"}', "unknown"),
        (b'{"client_host":"' + b"x" * 100 + b'"}', "x" * 64),
        (b'{"client_host":""}', None),
        (b'{"client_host":"203.0.113.9"', None),
        (b'before {"client_host":"203.0.113.9"}', None),
        (b'{"client_host":' + b"[" * 5000, None),
        (b"", None),
    ],
)
def test_only_the_applications_own_key_counts(body: bytes, saw: str | None) -> None:
    assert read_echo(HEAD + body) == saw


def test_a_head_carries_the_echo_of_its_response() -> None:
    kind, head = read_payload(HEAD + b'{"client_host":"203.0.113.9"}')
    assert kind is Payload.HTTP_RESPONSE
    assert head is not None
    assert head.echo == "203.0.113.9"


def test_a_body_without_the_end_of_its_head_is_none() -> None:
    assert read_echo(b'HTTP/1.1 200 OK\r\nx: {"client_host":"203.0.113.9"}') is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_not(tail: bytes) -> None:
    read_echo(HEAD + b'{"client_host"' + tail)
    read_echo(tail + b'"client_host"')
