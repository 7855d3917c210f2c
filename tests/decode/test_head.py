"""What the first bytes of a payload say: PROXY headers, HTTP heads, TLS hellos, or nothing."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonset.decode import http, tls
from daemonset.decode.head import RAW_LIMIT, read_payload
from daemonset.observation import VALUE_LIMIT, Head, HttpHead, Payload
from tests.decode.encode import SIGNATURE, tcp4, tlv, v1

LINE = v1("TCP4", "192.0.2.1", "198.51.100.2", 56324, 443)
REQUEST = (
    b"GET /debug/ip HTTP/1.1\r\nHost: app\r\nX-Forwarded-For: 192.0.2.1\r\nCookie: secret\r\n\r\nbody: x\r\n"
)


def client_hello(name: str | None = "app.example") -> bytes:
    """A hello as OpenSSL writes it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same handshake message in records of at most `size` bytes."""
    message = hello[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def said(payload: bytes, kind: Payload) -> Head:
    found, head = read_payload(payload)
    assert found is kind
    assert head is not None
    return head


class TestPayload:
    def test_a_header_and_the_request_behind_it_are_read_together(self) -> None:
        head = said(LINE + REQUEST, Payload.PROXY_V1)
        assert [each.source for each in head.proxy] == ["192.0.2.1:56324"]
        assert head.http == HttpHead(
            "GET /debug/ip HTTP/1.1", (("host", "app"), ("x-forwarded-for", "192.0.2.1"))
        )
        assert (head.raw, head.proxy_error, head.proxy_complete, head.tls) == (LINE, None, True, None)

    def test_two_headers_in_a_row_and_a_tls_hello(self) -> None:
        head = said(tcp4() + LINE + client_hello(), Payload.PROXY_V2)
        assert [each.version for each in head.proxy] == [2, 1]
        assert head.tls is not None
        assert head.tls.server_name == "app.example"
        assert head.raw == tcp4() + LINE

    @pytest.mark.parametrize("cut", [4, 5, 12, 20, len(LINE) - 1])
    def test_a_header_that_the_segment_cuts_is_not_complete(self, cut: int) -> None:
        head = said(LINE[:cut], Payload.PROXY_V1)
        assert (head.proxy, head.proxy_error, head.proxy_complete) == ((), None, False)
        assert head.raw == LINE[:cut]

    def test_a_broken_header_is_kept_with_what_is_wrong(self) -> None:
        head = said(b"PROXY TCP4 192.0.2.1\n", Payload.PROXY_V1)
        assert "byte 20" in (head.proxy_error or "")
        assert said(SIGNATURE + b"\x11", Payload.PROXY_V2).proxy_error

    @pytest.mark.parametrize(
        "header",
        [
            b"PROXY TCP4 nonsense\r\n",
            b"PROXY TCP4 192.0.2.1\n",
            LINE + b"PROXY TCP5 a b 1 2\r\n",
            SIGNATURE + b"\x2f\x11\x00\x02ab",
            tcp4() + SIGNATURE + b"\x51\x11\x00\x00",
        ],
    )
    def test_of_what_is_behind_a_broken_header_nothing_is_kept(self, header: bytes) -> None:
        kind, head = read_payload(header + b"GET / HTTP/1.1\r\nCookie: hunter2\r\n\r\n")
        assert head is not None
        assert head.proxy_error
        assert head.raw == header, kind

    def test_the_kept_bytes_are_bounded(self) -> None:
        head = said(tcp4(tlv(4, bytes(5000))) + REQUEST, Payload.PROXY_V2)
        assert len(head.raw) == RAW_LIMIT
        assert head.http is not None

    @pytest.mark.parametrize(
        ("payload", "kind"),
        [
            (b"", Payload.NONE),
            (b"\x00\x01\x02", Payload.DATA),
            (b"Hello", Payload.DATA),
            (b"PRO", Payload.DATA),
            (b"PROXIMITY", Payload.DATA),
            (b"\r\n\r\n", Payload.DATA),
            (b"\r\n\r\n\x00\r\nQUIT\r", Payload.DATA),
            (b"EHLO mail.example\r\n", Payload.DATA),
            (b"MAIL FROM:<a@example.com>\r\n", Payload.DATA),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Payload.H2_PREFACE),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", Payload.HTTP_RESPONSE),
            (b"HTTP/1.0 200\r\n", Payload.HTTP_RESPONSE),
            (b"POST / HTTP/1.0\r\n", Payload.HTTP_REQUEST),
            (b"M-SEARCH * HTTP/1.1\r\n", Payload.DATA),
            (b"GET /" + b"a" * 3000, Payload.HTTP_REQUEST),
            (b"GET / HTT", Payload.HTTP_REQUEST),
            (b"GETTING THERE", Payload.DATA),
            (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", Payload.TLS_CLIENT_HELLO),
            (b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", Payload.TLS_OTHER),
            (b"\x15\x03\x03\x00\x02\x02\x46", Payload.TLS_OTHER),
            (b"\x17\x03\x03\x40\x00data", Payload.TLS_OTHER),
            (b"\x17\x03\x03\xff\xffdata", Payload.DATA),
            (b"\x16\x02\x00\x00\x05\x01", Payload.DATA),
        ],
    )
    def test_first_bytes_name_the_kind(self, payload: bytes, kind: Payload) -> None:
        assert read_payload(payload)[0] is kind
        assert read_payload(memoryview(payload))[0] is kind

    @given(st.binary(max_size=300) | st.builds(bytes.__add__, st.sampled_from(
        [LINE, LINE[:20], SIGNATURE, tcp4(), REQUEST[:60], b"HTTP/1.1 200 OK\r\n", b"\x16\x03\x01\x02\x00\x01"]
    ), st.binary(max_size=200)))  # fmt: skip
    def test_nothing_raises(self, payload: bytes) -> None:
        kind, head = read_payload(payload)
        assert (kind is Payload.NONE) == (not payload)
        assert head is None or isinstance(head, Head)


class TestHttp:
    def fields(self, *lines: str) -> dict[str, str]:
        head = http.read_head("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode("latin-1"))
        assert head is not None
        return dict(head.fields)

    def test_only_fields_about_identity_are_kept(self) -> None:
        assert self.fields(
            "Forwarded: for=192.0.2.1", "X-Forwarded-Proto: https", "x-REAL-ip:192.0.2.1", "X-Probe-Token:  t ",
            "Authorization: Basic x", "Cookie: x", "Content-Type: text/plain", "Proxy-Connection: close",
        ) == {
            "forwarded": "for=192.0.2.1", "x-forwarded-proto": "https", "x-real-ip": "192.0.2.1", "x-probe-token": "t",
        }  # fmt: skip

    @pytest.mark.parametrize(
        "line",
        [
            "X-Forwarded-Access-Token: eyJhbGciOiJIUzI1NiJ9.e30.x",
            "X-Forwarded-Email: alice@example.com",
            "X-Forwarded-User: alice",
            "X-Forwarded-Uri: /reset?token=hunter2",
            'X-Forwarded-Client-Cert: Hash=ab;Subject="CN=alice"',
            "X-Forwarded-Access-Token : deadbeef",
            "X-Forwarded-Key: 192.0.2.1, hunter2",
        ],
    )
    def test_what_a_proxy_says_of_a_person_is_not_kept(self, line: str) -> None:
        assert self.fields(line, "Host: a") == {"host": "a"}

    @pytest.mark.parametrize("value", ["192.0.2.1", "192.0.2.1:80, [2001:db8::1]:81", "2001:db8::1"])
    def test_a_field_of_the_family_that_names_addresses_is_kept_whatever_its_name(self, value: str) -> None:
        assert self.fields(f"X-Forwarded-Client-Ip: {value}") == {"x-forwarded-client-ip": value}

    def test_ids_of_a_request_are_kept(self) -> None:
        ids = {
            "x-request-id": "r",
            "traceparent": "00-1-2-00",
            "x-correlation-id": "c",
            "x-amzn-trace-id": "a",
        }
        assert self.fields(*(f"{name.title()}: {value}" for name, value in ids.items())) == ids

    def test_repeated_fields_stay_apart_and_in_order(self) -> None:
        head = http.read_head(b"GET / HTTP/1.1\r\nX-Forwarded-For: a\r\nVia: v\r\nX-Forwarded-For: b\r\n\r\n")
        assert head is not None
        assert head.fields == (("x-forwarded-for", "a"), ("via", "v"), ("x-forwarded-for", "b"))

    def test_a_folded_field_is_joined_and_the_fold_of_another_is_not(self) -> None:
        assert self.fields("Cookie: a", " Host: b", "X-Forwarded-For: 192.0.2.1,", "\t192.0.2.2") == {
            "x-forwarded-for": "192.0.2.1, 192.0.2.2"
        }

    def test_a_space_before_the_colon_makes_another_name(self) -> None:
        assert self.fields("X-Real-IP : 192.0.2.9") == {}

    def test_a_field_that_is_cut_is_dropped_because_half_an_address_is_another_address(self) -> None:
        head = http.read_head(b"GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 10.0.0.1")
        assert head is not None
        assert head.fields == (("host", "a"),)

    def test_nothing_behind_the_empty_line_is_a_field(self) -> None:
        assert http.read_head(REQUEST) == HttpHead(
            "GET /debug/ip HTTP/1.1", (("host", "app"), ("x-forwarded-for", "192.0.2.1"))
        )

    def test_everything_is_bounded(self) -> None:
        head = http.read_head(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: " + b"b" * 5000 + b"\r\n\r\n")
        assert head is not None
        assert len(head.start) == VALUE_LIMIT
        assert [len(value) for _, value in head.fields] == [VALUE_LIMIT]
        many = http.read_head(b"GET / HTTP/1.1\r\n" + b"Via: v\r\n" * 1000)
        assert many is not None
        assert len(many.fields) <= 128

    def test_bytes_beyond_ascii_are_latin_1(self) -> None:
        assert self.fields("Host: b\xfccher") == {"host": "b\xfccher"}

    def test_a_response_is_read_too(self) -> None:
        assert http.read_head(b"HTTP/1.1 400 Bad Request\r\nVia: 1.1 lb\r\n\r\n") == HttpHead(
            "HTTP/1.1 400 Bad Request", (("via", "1.1 lb"),)
        )


class TestTls:
    def test_random_and_name_of_a_real_hello(self) -> None:
        hello = client_hello()
        found = tls.read_client_hello(hello)
        assert found is not None
        assert (found.random, found.server_name) == (hello[11:43], "app.example")

    def test_a_hello_without_a_name(self) -> None:
        found = tls.read_client_hello(client_hello(None))
        assert found is not None
        assert found.server_name is None

    @pytest.mark.parametrize("size", [1, 7, 100])
    def test_a_hello_in_many_records_is_the_same_hello(self, size: int) -> None:
        hello = client_hello()
        assert tls.read_client_hello(in_records(hello, size)) == tls.read_client_hello(hello)

    def test_a_hello_that_is_cut_anywhere_says_nothing_that_is_not_there(self) -> None:
        hello = client_hello()
        whole = tls.read_client_hello(hello)
        assert whole is not None
        for end in range(len(hello)):
            found = tls.read_client_hello(hello[:end])
            assert (found is None) == (end < 43)
            if found:
                assert found.random == whole.random
                assert found.server_name in {None, whole.server_name}

    @given(st.data())
    def test_a_damaged_hello_raises_nothing(self, data: st.DataObject) -> None:
        hello = bytearray(tls_hello_bytes)
        for _ in range(3):
            hello[data.draw(st.integers(5, len(hello) - 1))] = data.draw(st.integers(0, 255))
        found = tls.read_client_hello(bytes(hello))
        assert found is None or len(found.random) == 32


tls_hello_bytes = client_hello()
