"""Request lines keep the path, and can be told from each other; what only the server needs to know is not in them."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonset.decode.http import read_head, read_requests
from daemonset.decode.request_line import discreet
from daemonset.observation import VALUE_LIMIT

DIGEST = "#[0-9a-f]{12}"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("GET / HTTP/1.1", "GET / HTTP/1.1"),
        ("GET /debug/ip HTTP/1.1", "GET /debug/ip HTTP/1.1"),
        ("OPTIONS * HTTP/1.1", "OPTIONS [*] HTTP/1.1"),
        ("GET /reset?token=hunter2 HTTP/1.1", rf"GET /reset\?{DIGEST} HTTP/1.1"),
        ("GET /reset? HTTP/1.1", rf"GET /reset\?{DIGEST} HTTP/1.1"),
        ("GET /app;jsessionid=hunter2/x?y HTTP/1.1", rf"GET /app;{DIGEST} HTTP/1.1"),
        ("GET /app#access_token=hunter2 HTTP/1.1", rf"GET /app#{DIGEST} HTTP/1.1"),
        ("GET http://alice:hunter2@app.example:80/x HTTP/1.1", "GET http://app.example:80/x HTTP/1.1"),
        ("GET http://a@b:hunter2@app.example?x HTTP/1.1", rf"GET http://app.example\?{DIGEST} HTTP/1.1"),
        ("GET http://app.example HTTP/1.1", "GET http://app.example HTTP/1.1"),
        ("CONNECT alice:hunter2@app.example:443 HTTP/1.1", "CONNECT app.example:443 HTTP/1.1"),
        ("GET /@alice/x HTTP/1.1", "GET /@alice/x HTTP/1.1"),
        ("GET /reset?tok", rf"GET /reset\?{DIGEST}"),
        ("GET /rese", "GET /rese"),
        ("GET http://alice:hunt", "GET http://"),
        ("GET http://alice:hunter2@app.example/re", "GET http://app.example/re"),
        ("GET http://alice:hunter2@app.example/ H", "GET http://app.example/ H"),
    ],
)  # fmt: skip
def test_only_the_path_is_told(line: str, told: str) -> None:
    assert re.fullmatch(told.replace(".", r"\."), discreet(line)), discreet(line)


targets = st.text(string.ascii_letters + string.digits + "/?#;=&@:.%", max_size=60)


@given(targets)
def test_what_was_treated_stays_as_it_is(target: str) -> None:
    once = discreet(f"GET /{target} HTTP/1.1")
    assert discreet(once) == once


@given(targets, targets)
def test_two_requests_are_the_same_before_and_after(first: str, second: str) -> None:
    lines = [f"GET /{target} HTTP/1.1" for target in (first, second)]
    assert (lines[0] == lines[1]) == (discreet(lines[0]) == discreet(lines[1]))


@given(st.text(string.ascii_letters, min_size=8, max_size=40), st.sampled_from("?#;"))
def test_no_token_is_in_it(token: str, mark: str) -> None:
    assert token not in discreet(f"GET /a{mark}t={token} HTTP/1.1")


def test_every_request_of_a_segment_is_told_so() -> None:
    data = b"GET /a?token=hunter2 HTTP/1.1\r\nHost: h\r\n\r\n" * 3
    first = read_head(data)
    assert first is not None
    heads = [first, *read_requests(data)]
    assert len(heads) == 3
    assert len({head.start for head in heads}) == 1
    assert "hunter2" not in str(heads)


@pytest.mark.parametrize("behind", ["?", "?x", "?token=hunter2", "#", ";"])
@pytest.mark.parametrize("short", range(6))
def test_a_line_that_is_cut_is_no_longer_for_its_digest(behind: str, short: int) -> None:
    path = "a" * (VALUE_LIMIT - len("GET /") - short)
    head = read_head(f"GET /{path}{behind} HTTP/1.1\r\n\r\n".encode())
    assert head is not None
    assert len(head.start) <= VALUE_LIMIT
    assert "hunter2" not in head.start


def test_a_status_line_is_as_it_was() -> None:
    head = read_head(b"HTTP/1.1 404 Not; Found? #1\r\n\r\n")
    assert head is not None
    assert head.start == "HTTP/1.1 404 Not; Found? #1"
