"""Several requests in one segment, as a proxy that keeps connections sends them for several clients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonset.decode.head import read_payload
from daemonset.decode.http import REQUEST_MAX, read_requests
from daemonset.decode.http_body import message_end
from daemonset.observation import Payload
from tests.decode.encode import tcp4, v1

LINE = v1("TCP4", "192.0.2.1", "198.51.100.2", 56324, 443)


def get(client: str) -> bytes:
    return f"GET /of/{client} HTTP/1.1\r\nHost: app\r\nX-Forwarded-For: {client}\r\n\r\n".encode()


def post(body: bytes, *lines: str) -> bytes:
    return "\r\n".join(["POST /upload HTTP/1.1", "Host: app", *lines, "", ""]).encode("latin-1") + body


def clients(payload: bytes) -> list[str]:
    """The clients that the requests behind the first one name."""
    return [dict(head.fields)["x-forwarded-for"] for head in read_requests(payload)]


class TestRequestsInARow:
    def test_each_one_is_told_with_its_client(self) -> None:
        kind, head = read_payload(get("192.0.2.1") + get("192.0.2.2") + get("192.0.2.3"))
        assert kind is Payload.HTTP_REQUEST
        assert head is not None
        assert head.http is not None
        assert [each.start for each in (head.http, *head.more)] == [
            f"GET /of/192.0.2.{number} HTTP/1.1" for number in (1, 2, 3)
        ]
        assert dict(head.more[1].fields)["x-forwarded-for"] == "192.0.2.3"

    def test_behind_a_proxy_header_too(self) -> None:
        _, head = read_payload(LINE + get("192.0.2.1") + get("192.0.2.2"))
        assert head is not None
        assert [dict(each.fields)["x-forwarded-for"] for each in head.more] == ["192.0.2.2"]

    def test_the_last_one_may_be_cut(self) -> None:
        _, head = read_payload(get("192.0.2.1") + get("192.0.2.2")[:-30])
        assert head is not None
        assert [each.start for each in head.more] == ["GET /of/192.0.2.2 HTTP/1.1"]
        assert "x-forwarded-for" not in dict(head.more[0].fields)

    def test_an_empty_line_between_two_is_passed_over(self) -> None:
        assert clients(get("192.0.2.1") + b"\r\n" + get("192.0.2.2")) == ["192.0.2.2"]
        assert clients(get("192.0.2.1") + b"\r\n\r\n" + get("192.0.2.2")) == []

    def test_their_number_is_bounded(self) -> None:
        assert len(read_requests(get("192.0.2.1") * 200)) == REQUEST_MAX

    def test_one_request_alone_has_none_behind_it(self) -> None:
        assert read_requests(get("192.0.2.1")) == ()
        assert read_requests(get("192.0.2.1") + b"\x16\x03\x01") == ()


#: A body that reads like a request of somebody else.
TRAP = get("203.0.113.66")
CHUNKED = "Transfer-Encoding: chunked"


def chunks(*parts: bytes, trailer: bytes = b"", extension: bytes = b"") -> bytes:
    listed = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    return listed + b"0\r\n" + trailer + b"\r\n"


class TestBodies:
    @pytest.mark.parametrize(
        "request_with_body",
        [
            post(TRAP, f"Content-Length: {len(TRAP)}"),
            post(TRAP, f"content-length:{len(TRAP)}", f"Content-Length: {len(TRAP)} "),
            post(chunks(TRAP), CHUNKED),
            post(chunks(TRAP, b"x" * 300, TRAP), "transfer-encoding:\tCHUNKED"),
            post(chunks(TRAP, extension=b';name="value"'), CHUNKED),
            post(chunks(TRAP, trailer=b"Digest: x\r\nX-Forwarded-For: 203.0.113.66\r\n"), CHUNKED),
            post(chunks(), CHUNKED),
            post(b"", "Content-Length: 0"),
        ],
    )
    def test_are_passed_over_whatever_they_read_like(self, request_with_body: bytes) -> None:
        assert clients(request_with_body + get("192.0.2.2")) == ["192.0.2.2"]

    @pytest.mark.parametrize(
        "request_with_body",
        [
            post(TRAP, "Content-Length: 1000"),  # cut
            post(chunks(TRAP)[:-2], CHUNKED),
            post(b"fff\r\n" + TRAP, CHUNKED),
            post(b"5\r\nhello\r\n", CHUNKED),
        ],
    )
    def test_that_are_cut_end_the_search(self, request_with_body: bytes) -> None:
        assert clients(request_with_body) == []

    @pytest.mark.parametrize(
        "uncertain",
        [
            post(TRAP, "Content-Length: 5", CHUNKED),
            post(TRAP, CHUNKED, "Content-Length: 0"),
            post(TRAP, "Content-Length: 0", f"Content-Length: {len(TRAP)}"),
            post(TRAP, "Content-Length: 0, 0"),
            post(TRAP, "Content-Length: +0"),
            post(TRAP, "Content-Length: 0x0"),
            post(TRAP, "Content-Length: -1"),
            post(TRAP, "Content-Length:"),
            post(TRAP, "Content-Length: 99999999999999999999"),
            post(TRAP, "Content-Length : 0"),
            post(TRAP, "Content-Length: 0", " 0"),
            post(TRAP, "Content-Length: 0", "X: a\rContent-Length: 9"),
            post(TRAP, "X: a\nContent-Length: 9"),
            post(TRAP, "X: \0"),
            post(chunks() + TRAP, "Transfer-Encoding: gzip"),
            post(chunks() + TRAP, "Transfer-Encoding: gzip, chunked"),
            post(chunks() + TRAP, "Transfer-Encoding: identity"),
            post(chunks() + TRAP, CHUNKED, "Transfer-Encoding: chunked"),
            post(b"0\n\n" + TRAP, CHUNKED),
            post(b"-0\r\n\r\n" + TRAP, CHUNKED),
            post(b"0x0\r\n\r\n" + TRAP, CHUNKED),
            post(b"000000000\r\n\r\n" + TRAP, CHUNKED),
            post(b"1\r\nab\r\n0\r\n\r\n" + TRAP, CHUNKED),
            post(b"0\r\nno trailer\r\n\r\n" + TRAP, CHUNKED),
            post(chunks() + TRAP, CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
            post(TRAP, "Connection: Upgrade", "Upgrade: websocket"),
            b"CONNECT app:443 HTTP/1.1\r\nHost: app\r\n\r\n" + TRAP,
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + TRAP,
        ],
    )
    def test_whose_end_servers_may_see_elsewhere_end_the_search(self, uncertain: bytes) -> None:
        assert clients(uncertain) == []

    @given(st.lists(st.binary(max_size=40), max_size=5), st.booleans())
    def test_any_body_ends_where_it_ends(self, parts: list[bytes], counted: bool) -> None:
        body = b"".join(parts)
        if counted:
            message = post(body, f"Content-Length: {len(body)}")
        else:
            message = post(chunks(*(part for part in parts if part)), CHUNKED)
        assert message_end(message + TRAP, 0) == len(message)
        head = message.index(b"\r\n\r\n") + 4
        for end in range(head + 1, len(message)):
            assert message_end(message[:end], 0) is None

    @given(st.binary(max_size=400))
    def test_nothing_raises_and_no_end_lies_outside(self, data: bytes) -> None:
        for start in (b"", b"POST / HTTP/1.1\r\n", post(b"", CHUNKED), post(b"", "Content-Length: 9")):
            end = message_end(start + data, 0)
            assert end is None or 0 < end <= len(start + data)


class TestHttp2:
    def test_a_preface_behind_a_proxy_header_is_told(self) -> None:
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        for header in (LINE, tcp4()):
            _, head = read_payload(header + preface)
            assert head is not None
            assert (head.h2, head.http, head.more) == (True, None, ())
        assert read_payload(preface)[0] is Payload.H2_PREFACE

    def test_a_request_behind_a_header_is_no_preface(self) -> None:
        _, head = read_payload(LINE + get("192.0.2.1"))
        assert head is not None
        assert not head.h2
