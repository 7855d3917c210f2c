"""The text header: which byte is the first that no valid line can have, and by which rule."""

from __future__ import annotations

import pytest

from daemonset.decode.proxy_protocol import NotProxyProtocolError, ProxyProtocolError, decode
from daemonset.observation import ProxyHeader
from tests.decode.encode import v1


def header(data: bytes) -> ProxyHeader:
    found = decode(data)
    assert found is not None
    return found


def refused(data: bytes) -> ProxyProtocolError:
    with pytest.raises(ProxyProtocolError) as caught:
        decode(data)
    return caught.value


def test_a_tcp4_line_gives_both_ends_and_leaves_the_payload() -> None:
    line = v1("TCP4", "192.0.2.1", "198.51.100.2", 56324, 443)
    assert header(line + b"GET / HTTP/1.1\r\n") == ProxyHeader(
        1, "PROXY", "inet", "stream", "192.0.2.1:56324", "198.51.100.2:443", (), len(line)
    )


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("2001:db8::1", "2001:db8::1"),
        ("2001:0DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("::", "::"),
        ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
        ("::1:2", "::1:2"),
        ("64:ff9b::c000:201", "64:ff9b::c000:201"),
        ("::ffff:c000:201", "::ffff:192.0.2.1"),
    ],
)
def test_an_ipv6_address_is_shown_in_its_canonical_form(written: str, shown: str) -> None:
    found = header(v1("TCP6", written, "::1", 1, 2))
    assert (found.source, found.destination, found.warnings) == (f"[{shown}]:1", "[::1]:2", ())


def test_a_dotted_tail_is_taken_with_a_warning_because_the_grammar_does_not_have_it() -> None:
    found = header(v1("TCP6", "::ffff:192.0.2.1", "::1", 1, 2))
    assert found.source == "[::ffff:192.0.2.1]:1"
    assert "2.1" in found.warnings[0]


@pytest.mark.parametrize("ignored", [b"", b" ", b" 192.0.2.1 198.51.100.2 1 2", b" \x00\xff\x7f anything"])
def test_unknown_is_accepted_and_what_follows_is_ignored(ignored: bytes) -> None:
    line = b"PROXY UNKNOWN" + ignored + b"\r\n"
    assert header(line) == ProxyHeader(1, "PROXY", "unspec", "unspec", None, None, (), len(line))


def test_the_longest_lines_are_taken_and_one_byte_more_is_not() -> None:
    longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    assert header(v1("TCP4", "255.255.255.255", "255.255.255.255", 65535, 65535)).length == 56
    assert header(v1("TCP6", longest, longest, 65535, 65535)).length == 104
    assert header(b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n").length == 107
    assert refused(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n").offset == 105


def test_a_tcp6_line_with_dotted_tails_may_not_be_longer_than_one_without() -> None:
    mixed = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255"
    line = v1("TCP6", mixed, mixed, 65535, 65535)
    assert len(line) > 104
    assert refused(line).offset == 102


@pytest.mark.parametrize(
    ("line", "offset", "word"),
    [
        (b"PROXYTCP4 ", 5, "one space"),
        (b"PROXY\r\n", 5, "one space"),
        (b"PROXY  TCP4", 6, "TCP4, TCP6 or UNKNOWN"),
        (b"PROXY tcp4", 6, "TCP4, TCP6 or UNKNOWN"),
        (b"PROXY UDP4", 7, "TCP4, TCP6 or UNKNOWN"),
        (b"PROXY TCP5", 9, "TCP4, TCP6 or UNKNOWN"),
        (b"PROXY TCP4\r\n", 10, "TCP4, TCP6 or UNKNOWN"),
        (b"PROXY UNKNOWN\n", 13, "TCP4, TCP6 or UNKNOWN"),
        (b"PROXY UNKNOWNX", 13, "TCP4, TCP6 or UNKNOWN"),
        (b"PROXY UNKNOWN\rX", 14, "single CR"),
        (b"PROXY UNKNOWN a\nb", 15, "single LF"),
        (b"PROXY TCP4 192.0.02", 18, "source address"),
        (b"PROXY TCP4 192.256", 17, "source address"),
        (b"PROXY TCP4 1.2.3 ", 16, "source address"),
        (b"PROXY TCP4 1.2.3.4.", 18, "source address"),
        (b"PROXY TCP4 1.2.3.4  5", 19, "destination address"),
        (b"PROXY TCP4 1.2.3.4\t", 18, "exactly one space"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 65536", 31, "source port"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 00", 28, "source port"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 +1", 27, "source port"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n", 29, "destination port"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 ", 30, "CRLF"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", 30, "CRLF"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r", 31, "single CR"),
        (b"PROXY TCP6 1::2::", 16, "source address"),
        (b"PROXY TCP6 12345", 15, "source address"),
        (b"PROXY TCP6 1:2:3:4:5:6:7:8:", 26, "source address"),
        (b"PROXY TCP6 1:2:3:4:5:6:7 ", 24, "source address"),
        (b"PROXY TCP6 fe80::1%", 18, "source address"),
        (b"PROXY TCP6 [", 11, "source address"),
        (b"PROXY TCP6 ::1\x00", 14, "source address"),
        (b"PROXY TCP6 \xc2\xb2", 11, "source address"),
    ],
)
def test_the_first_byte_that_cannot_be_is_named_as_soon_as_it_is_there(
    line: bytes, offset: int, word: str
) -> None:
    for cut in range(offset + 1):
        assert decode(line[:cut]) is None, "told too early"
    for data in (line[: offset + 1], line, line + b" and more of anything\r\n"):
        error = refused(data)
        assert (error.rule, error.offset) == ("2.1", offset)
        assert word in str(error)


def test_other_protocols_are_told_apart_from_broken_headers() -> None:
    for data, offset in [(b"GET / HTTP/1.1\r\n", 0), (b"PROPFIND / HTTP/1.1", 3), (b"proxy TCP4", 0)]:
        with pytest.raises(NotProxyProtocolError) as caught:
            decode(data)
        assert caught.value.offset == offset


def test_the_message_shows_hostile_bytes_escaped() -> None:
    assert str(refused(b"PROXY TCP4 \x1b[2J")).isprintable()
    assert str(refused(b"PROXY TCP4 1.2.3.4\x1b")).isprintable()
    assert str(refused(b"\x1b[2J")).isprintable()
