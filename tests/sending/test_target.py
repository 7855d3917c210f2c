"""Which URLs can be asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UsageError
from probe.sending import parse_url


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("http://192.0.2.10", "192.0.2.10", None, "/", "192.0.2.10"),
        ("http://balancer/debug/ip", "balancer", None, "/debug/ip", "balancer"),
        ("HTTP://Node1:30080/a?b=c#d", "node1", 30080, "/a?b=c", "node1:30080"),
        ("https://[2001:db8::1]:8443/", "2001:db8::1", 8443, "/", "[2001:db8::1]:8443"),
        ("http://example.com/ü?q=ü", "example.com", None, "/%C3%BC?q=%C3%BC", "example.com"),
        ("http://bücher.example/", "xn--bcher-kva.example", None, "/", "xn--bcher-kva.example"),
        ("http://a/%20%2f", "a", None, "/%20%2f", "a"),
    ],
)
def test_a_url_is_taken_apart(url: str, host: str, port: int | None, path: str, authority: str) -> None:
    target = parse_url(url)
    assert (target.host, target.port, target.path, target.authority) == (host, port, path, authority)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "balancer",
        "192.0.2.10:80",
        "ftp://192.0.2.10/",
        "http://",
        "http:///debug/ip",
        "http://a:0/",
        "http://a:99999/",
        "http://a:b/",
        "http://[::1",
        "http://a b/",
        "http://a/\r\nHost: evil",
        "http://a/\tb",
        "http://user:secret@a/",
        "http://a/" + "x" * 5000,
        "http://" + "ü" * 100 + "/",
        "http://a/\udcff",
    ],
)
def test_what_is_no_url_is_refused_in_one_safe_line(url: str) -> None:
    with pytest.raises(UsageError, match="--send") as refused:
        parse_url(url)
    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1200


@given(st.text() | st.text().map("http://{}".format) | st.text().map("http://a/{}".format))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        target = parse_url(text)
    except UsageError:
        return
    line = f"GET {target.path} HTTP/1.1"
    assert line.isascii()
    assert len(line.split()) == 3, "a URL must not become more than one part of the request line"
    assert target.authority.isascii()
    assert len(target.authority.split()) == 1
