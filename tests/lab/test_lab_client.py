"""The lab's own client, without a network: what it sends, and what it reads however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.lab import http1, http2
from probe.lab.errands import Errand
from probe.lab.proxy_headers import Ends, proxy_header

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Lab-Pod: a\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
EMPTY = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data cut at these places, as far as it reaches."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.sampled_from([PLAIN, CHUNKED, EMPTY]), max_size=4), st.lists(st.integers(min_value=0)))
def test_answers_on_one_connection_are_told_apart_at_any_cutting(sent: list[bytes], cuts: list[int]) -> None:
    reader, found = http1.Reader(), []
    for piece in pieces(b"".join(sent), cuts):
        reader.feed(piece)
        while answer := reader.take():
            found.append((answer.status, answer.body))
    whole = {PLAIN: (200, b"hello"), CHUNKED: (200, b"hello"), EMPTY: (400, b"")}
    assert found == [whole[each] for each in sent]
    assert reader.take(ended=True) is None


def test_an_answer_without_a_length_lasts_until_the_end() -> None:
    reader = http1.Reader()
    reader.feed(b"HTTP/1.1 400 Bad Request\r\nX-Lab-Peer: 1.2.3.4 5\r\n\r\nhalf")
    assert reader.take() is None
    answer = reader.take(ended=True)
    assert answer
    assert (answer.status, answer.fields, answer.body) == (400, {"x-lab-peer": "1.2.3.4 5"}, b"half")


def test_an_endless_answer_is_not_kept() -> None:
    reader = http1.Reader()
    reader.feed(b"x" * (1 << 20))
    with pytest.raises(ValueError, match="more than"):
        reader.feed(b"x")


def test_only_the_last_request_asks_to_close() -> None:
    first = http1.get("host:80", "/", {"X-A": "b"}, last=False)
    last = http1.get("host:80", "/", {"X-A": "b"}, last=True)
    assert b"\r\nX-A: b\r\n" in first
    assert b"Connection" not in first
    assert last.endswith(b"\r\nConnection: close\r\n\r\n")


def test_http2_sends_the_preface_and_reads_a_small_answer() -> None:
    sent = http2.get("host:80", "/" + "p" * 300, {"User-Agent": "x"})
    assert sent.startswith(http2.PREFACE)
    assert b"user-agent\x01x" in sent
    assert b"\x04\x7f\xae\x01/ppp" in sent, "RFC 7541 §5.1: 301 is 127 and 174, in seven bits each"
    settings, headers = bytes.fromhex("000000040000000000"), bytes.fromhex("00000101040000000188")
    body = bytes.fromhex("000007000900000001") + b"\x02body\0\0"  # END_STREAM, PADDED
    for size in (1, 7, 1000):
        reader, data = http2.Reader(), settings + headers + body
        for start in range(0, len(data), size):
            reader.feed(data[start : start + size])
        assert (reader.complete, reader.status, reader.body) == (True, 200, b"body")
        assert reader.reply == bytes.fromhex("000000040100000000"), "the settings are acknowledged"


def test_proxy_headers_are_the_specifications() -> None:
    four = Ends("192.0.2.1", 1234, "192.0.2.2", 80)
    six = Ends("2001:db8::1", 1234, "2001:db8::2", 80)
    assert proxy_header(1, four) == b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n"
    assert proxy_header(1, six) == b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 80\r\n"
    assert proxy_header(1, None) == b"PROXY UNKNOWN\r\n"
    signature = bytes.fromhex("0d0a0d0a000d0a515549540a")
    assert proxy_header(2, four) == signature + bytes.fromhex("2111000cc0000201c000020204d20050")
    assert proxy_header(2, six)[12:16] == bytes.fromhex("21210024")
    assert proxy_header(2, None) == signature + bytes.fromhex("20000000")
    with pytest.raises(ValueError, match="families"):
        proxy_header(1, four._replace(destination="::1"))


def test_each_request_of_a_connection_has_a_token_of_its_own() -> None:
    plain = Errand(0, 3, "tcp", "192.0.2.1", "192.0.2.2", 80, "/", 1.0, headers={"X-A": "b"})
    assert plain.fields(3) == {"X-A": "b"}
    marked = msgspec.structs.replace(plain, token="feed")
    assert [marked.fields(number)["x-probe-token"] for number in (3, 4)] == ["feed-3", "feed-4"]
