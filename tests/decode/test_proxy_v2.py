"""The binary header: fields, lengths, TLVs, and the places where the specification leaves a choice."""

from __future__ import annotations

from typing import Any

import pytest

from daemonset.decode.crc32c import crc32c
from daemonset.decode.proxy_protocol import HEADER_LIMIT, ProxyProtocolError, decode
from daemonset.observation import ProxyHeader
from tests.decode.encode import SIGNATURE, bitwise_crc32c, inet, tcp4, tlv, v2, with_checksum

V4 = inet("192.0.2.1", "198.51.100.2", 56324, 443)
V6 = inet("2001:db8::1", "2001:db8::2", 56324, 443)


def header(data: bytes) -> ProxyHeader:
    found = decode(data)
    assert found is not None
    return found


def refused(data: bytes) -> ProxyProtocolError:
    with pytest.raises(ProxyProtocolError) as caught:
        decode(data)
    return caught.value


def decoded(*tlvs: bytes) -> list[tuple[str, Any]]:
    return [(each.name, each.decoded) for each in header(tcp4(*tlvs)).tlvs]


def unix(source: bytes, destination: bytes = b"/run/b.sock") -> bytes:
    return v2(0x31, source.ljust(108, b"\0") + destination.ljust(108, b"\0"))


@pytest.mark.parametrize(("transport", "name"), [(1, "stream"), (2, "dgram")])
def test_addresses_and_ports_of_both_families(transport: int, name: str) -> None:
    found = header(v2(0x10 | transport, V4) + b"payload")
    assert found == ProxyHeader(2, "PROXY", "inet", name, "192.0.2.1:56324", "198.51.100.2:443", (), 28)
    found = header(v2(0x20 | transport, V6) + b"payload")
    assert (found.family, found.transport, found.length) == ("inet6", name, 52)
    assert (found.source, found.destination) == ("[2001:db8::1]:56324", "[2001:db8::2]:443")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (b"/run/a.sock", "/run/a.sock"),
        (b"/run/a.sock\0left over", "/run/a.sock"),
        (b"x" * 108, "x" * 108),
        (b"\0abstract", "@abstract"),
        (b"", None),
        (b"/run/\x1b[2J\xff", "/run/\\x1b[2J\\xff"),
    ],
)
def test_socket_paths_end_at_the_first_nul_and_are_shown_safely(address: bytes, shown: str | None) -> None:
    found = header(unix(address))
    assert (found.family, found.source, found.destination) == ("unix", shown, "/run/b.sock")


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (SIGNATURE + b"\x11\x11\x00\x0c" + V4, 12),
        (SIGNATURE + b"\x31\x11\x00\x0c" + V4, 12),
        (SIGNATURE + b"\x22\x11\x00\x0c" + V4, 12),
        (SIGNATURE + b"\x2f\x00\x00\x00", 12),
        (v2(0x41, V4), 13),
        (v2(0xF0, b""), 13),
        (v2(0x13, V4), 13),
        (v2(0x0F, b""), 13),
        (v2(0x11, V4[:-1]), 14),
        (v2(0x12, b""), 14),
        (v2(0x21, V4), 14),
        (v2(0x31, bytes(215)), 14),
    ],
)
def test_what_is_undefined_or_too_short_is_refused_before_the_addresses_arrive(
    data: bytes, offset: int
) -> None:
    # The length is judged when both of its bytes are there.
    known = offset + 1 if offset < 14 else 16
    for end in (known, len(data)):
        error = refused(data[:end])
        assert (error.rule, error.offset) == ("2.2", offset)
    assert decode(data[: known - 1]) is None


def test_the_longest_header_is_taken() -> None:
    data = v2(0x11, V4 + tlv(4, bytes(0xFFFF - 15)))
    assert len(data) == HEADER_LIMIT
    assert header(data).length == HEADER_LIMIT
    assert decode(data[:-1]) is None


class TestTlvs:
    def test_every_registered_type_has_its_name_and_meaning(self) -> None:
        found = decoded(
            tlv(0x01, b"h2"), tlv(0x02, "bücher.example".encode()), tlv(0x04, bytes(3)),
            tlv(0x05, b"0123-abcd"), tlv(0x30, b"blue"),
        )  # fmt: skip
        assert found == [
            ("ALPN", "h2"), ("AUTHORITY", "bücher.example"), ("NOOP", None),
            ("UNIQUE_ID", "0123-abcd"), ("NETNS", "blue"),
        ]  # fmt: skip

    def test_types_without_meaning_are_named_by_their_range(self) -> None:
        names = [
            name for name, _ in decoded(*(tlv(kind) for kind in (0x00, 0x09, 0xE5, 0xF0, 0xF7, 0xF8, 0xFF)))
        ]
        assert names == [
            "UNASSIGNED_00", "UNASSIGNED_09", "CUSTOM_E5",
            "EXPERIMENT_F0", "EXPERIMENT_F7", "FUTURE_F8", "FUTURE_FF",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("kind", "value", "expected"),
        [
            (0xEA, b"\x01vpce-08d2bf15fac5001c9", ("AWS", "vpce-08d2bf15fac5001c9")),
            (0xEA, b"\x02something", ("CUSTOM_EA", None)),
            (0xEA, b"", ("CUSTOM_EA", None)),
            (0xEE, b"\x01\x78\x56\x34\x12", ("AZURE", 0x12345678)),
            (0xEE, b"\x01\x02", ("CUSTOM_EE", None)),
            (0xE0, b"\0\0\0\0\0\0\0\x2a", ("GCP", 42)),
            (0xE0, b"\x2a", ("CUSTOM_E0", None)),
        ],
    )
    def test_a_vendor_is_named_only_for_what_has_its_shape(
        self, kind: int, value: bytes, expected: tuple[str, Any]
    ) -> None:
        assert decoded(tlv(kind, value)) == [expected]

    @pytest.mark.parametrize("value", [b"\x02h2\x08http/1.1", b"\x00\x0c\x02h2\x08http/1.1"])
    def test_alpn_as_the_list_of_the_tls_extension_is_read_as_a_list(self, value: bytes) -> None:
        assert decoded(tlv(1, value)) == [("ALPN", ["h2", "http/1.1"])]

    def test_a_unique_id_has_up_to_128_bytes(self) -> None:
        assert decoded(tlv(5, bytes(128))) == [("UNIQUE_ID", None)]
        error = refused(tcp4(tlv(4), tlv(5, bytes(129))))
        assert (error.rule, error.offset) == ("2.2.5", 28 + 3 + 1)

    def test_ssl_is_taken_apart(self) -> None:
        parts = {
            0x21: b"TLSv1.3", 0x22: b"client.example", 0x23: b"TLS_AES_128_GCM_SHA256", 0x24: b"SHA256",
            0x25: b"RSA2048", 0x26: b"x25519", 0x27: b"rsa_pss_rsae_sha256", 0x28: b"\x30\x03\x02\x01\x00", 0x29: b"?",
        }  # fmt: skip
        value = b"\x05" + (19).to_bytes(4, "big") + b"".join(tlv(*part) for part in parts.items())
        [(name, ssl)] = decoded(tlv(0x20, value))
        assert name == "SSL"
        assert (ssl["client"], ssl["ssl"], ssl["cert_conn"], ssl["cert_sess"]) == (5, True, False, True)
        assert ssl["verify"] == 19
        assert (ssl["version"], ssl["cn"], ssl["cipher"]) == (
            "TLSv1.3",
            "client.example",
            "TLS_AES_128_GCM_SHA256",
        )
        assert (ssl["sig_alg"], ssl["key_alg"]) == ("SHA256", "RSA2048")
        assert (ssl["group"], ssl["sig_scheme"]) == ("x25519", "rsa_pss_rsae_sha256")
        assert [part["type"] for part in ssl["tlvs"]] == list(parts)
        assert ssl["tlvs"][7] == {
            "type": 0x28, "name": "SSL_CLIENT_CERT", "value": "3003020100", "decoded": None,
        }  # fmt: skip

    @pytest.mark.parametrize("value", [b"\x01\0\0", b"\x01\0\0\0\0\x21\x00\x09TLS", b"\x01\0\0\0\0\x21"])
    def test_a_broken_ssl_tlv_is_a_warning(self, value: bytes) -> None:
        found = header(tcp4(tlv(0x20, value), tlv(1, b"h2")))
        assert len(found.warnings) == 1
        assert [each.name for each in found.tlvs] == ["SSL", "ALPN"]

    @pytest.mark.parametrize("junk", [b"\xff", b"\x01\x00", b"\x01\x00\x09h2"])
    def test_bytes_that_are_no_tlvs_are_a_warning_and_what_came_before_is_kept(self, junk: bytes) -> None:
        found = header(tcp4(tlv(1, b"h2"), junk))
        assert [each.decoded for each in found.tlvs] == ["h2"]
        assert "byte 33" in found.warnings[0]

    def test_text_that_is_not_utf8_is_kept_with_a_warning(self) -> None:
        found = header(tcp4(tlv(2, b"a\xff")))
        assert found.tlvs[0].decoded == "a\\xff"
        assert len(found.warnings) == 1

    def test_thousands_of_odd_tlvs_do_not_make_thousands_of_warnings(self) -> None:
        found = header(tcp4(*[tlv(2, b"\xff")] * 10_000))
        assert len(found.tlvs) == 10_000
        assert len(found.warnings) < 20
        assert "9984 more" in found.warnings[-1]


class TestChecksum:
    def test_the_algorithm_agrees_with_its_check_value_and_with_the_polynomial(self) -> None:
        assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C in every catalogue
        for size in range(70):
            data = bytes(range(size))
            assert crc32c(data) == bitwise_crc32c(data)
            assert crc32c(data[5:], crc32c(data[:5])) == crc32c(data)

    def test_it_covers_the_whole_header_with_its_own_value_zeroed(self) -> None:
        data = with_checksum(tcp4(tlv(1, b"h2"), tlv(3, bytes(4)), tlv(2, b"example.com")))
        assert header(data).warnings == ()
        for at in range(16, len(data)):
            broken = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            if at in range(28, 36) or at in range(40, 44):
                continue  # types and lengths: those break more than the checksum
            error = refused(broken)
            assert (error.rule, error.offset) == ("2.2.3", 28 + 5 + 3)

    def test_a_value_of_another_length_is_an_error(self) -> None:
        for size in (0, 2, 3, 5, 8):
            error = refused(tcp4(tlv(3, bytes(size))))
            assert (error.rule, error.offset) == ("2.2.3", 29)

    def test_the_byte_order_of_sctp_is_refused_and_named(self) -> None:
        error = refused(with_checksum(tcp4(tlv(3, bytes(4))), "little"))
        assert (error.rule, error.offset) == ("2.2.3", 31)
        assert "reverse order" in error.what

    @pytest.mark.parametrize(
        ("source", "checksum", "endpoint"),
        [
            ("ac1f0771ac1f0a1fc8f20050", "e8d6892d", b"vpce-08d2bf15fac5001c9"),
            ("c0a82c0ac0a82c07cc3e241b", "b9286fa6", b"vpce-00eafc458ec97b833"),
        ],
    )
    def test_headers_that_aws_balancers_sent_verify(
        self, source: str, checksum: str, endpoint: bytes
    ) -> None:
        """As published: the first by AWS (elastic-load-balancing-tools), the second by a user of go-proxyproto."""
        tlvs = tlv(3, bytes.fromhex(checksum)) + tlv(0xEA, b"\x01" + endpoint) + tlv(4, bytes(36))
        found = header(v2(0x11, bytes.fromhex(source) + tlvs))
        assert [each.name for each in found.tlvs] == ["CRC32C", "AWS", "NOOP"]
        assert (found.tlvs[1].decoded, found.warnings) == (endpoint.decode(), ())

    def test_it_is_checked_even_when_the_tlvs_break_off_behind_it(self) -> None:
        good = with_checksum(tcp4(tlv(3, bytes(4)), b"\xff"))
        assert len(header(good).warnings) == 1
        assert refused(good[:-1] + b"\xfe").rule == "2.2.3"

    def test_a_header_full_of_checksums_is_judged_in_one_pass(self) -> None:
        assert refused(tcp4(*[tlv(3, b"\1\2\3\4")] * 9_000)).rule == "2.2.3"


class TestLocal:
    """LOCAL: the sender speaks for itself (health checks), and gives no addresses, whatever is in the block."""

    @pytest.mark.parametrize(
        ("family_transport", "body"),
        [
            (0x00, b""),
            (0x11, b""),
            (0x11, V4),
            (0x21, V6),
            (0x00, b"\1\2\3\4\5"),
            (0x11, b"\1\2\3"),
            (0x21, V4),
        ],
    )
    def test_it_is_accepted_without_addresses(self, family_transport: int, body: bytes) -> None:
        found = header(v2(family_transport, body, command=0))
        assert found == ProxyHeader(2, "LOCAL", "unspec", "unspec", None, None, (), 16 + len(body))

    def test_an_undefined_family_is_taken_with_a_warning(self) -> None:
        for family_transport in (0x41, 0x13):
            assert len(header(v2(family_transport, V4, command=0)).warnings) == 1

    def test_tlvs_stand_behind_the_address_block_if_there_is_one(self) -> None:
        assert header(v2(0x11, V4 + tlv(1, b"h2"), command=0)).tlvs[0].decoded == "h2"
        assert header(v2(0x00, tlv(1, b"h2"), command=0)).tlvs[0].decoded == "h2"

    def test_aws_health_checks_say_tcp4_and_have_tlvs_where_the_addresses_should_be(self) -> None:
        body = tlv(3, bytes(4)) + tlv(0xEA, b"\x01vpce-08d2bf15fac5001c9") + tlv(4, bytes(0x54 - 7 - 26 - 3))
        found = header(with_checksum(v2(0x11, body, command=0)))
        assert (found.length, found.source, found.warnings) == (16 + 0x54, None, ())
        assert [each.name for each in found.tlvs] == ["CRC32C", "AWS", "NOOP"]

    def test_without_a_vpc_endpoint_both_readings_divide_and_the_checksum_decides(self) -> None:
        # Read behind a block, the padding is 24 empty TLVs of type 0: a valid reading, but not the sender's.
        body = tlv(3, bytes(4)) + tlv(4, bytes(0x54 - 7 - 3))
        found = header(with_checksum(v2(0x11, body, command=0)))
        assert [each.name for each in found.tlvs] == ["CRC32C", "NOOP"]

    def test_tlvs_at_byte_16_are_read_where_only_that_reading_divides(self) -> None:
        found = header(v2(0x11, tlv(0xE1, b"some words, longer than a block"), command=0))
        assert [each.name for each in found.tlvs] == ["CUSTOM_E1"]

    def test_a_wrong_checksum_is_an_error_here_too(self) -> None:
        assert refused(v2(0x00, tlv(3, b"\1\2\3\4"), command=0)).rule == "2.2.3"
        assert refused(v2(0x11, V4 + tlv(3, b"\1\2\3\4"), command=0)).rule == "2.2.3"


class TestUnspec:
    """PROXY with an UNSPEC family or transport: receivers are free to accept it or not."""

    @pytest.mark.parametrize(
        ("family_transport", "body", "family", "transport"),
        [
            (0x00, b"", "unspec", "unspec"),
            (0x00, V4, "unspec", "unspec"),
            (0x01, b"", "unspec", "stream"),
            (0x10, V4, "inet", "unspec"),
            (0x20, V6, "inet6", "unspec"),
            (0x10, b"\1\2", "inet", "unspec"),
        ],
    )
    def test_it_is_taken_with_a_warning_and_without_addresses(
        self, family_transport: int, body: bytes, family: str, transport: str
    ) -> None:
        found = header(v2(family_transport, body))
        assert (found.family, found.transport, found.source, found.tlvs) == (family, transport, None, ())
        assert "free to accept or refuse" in found.warnings[0]

    def test_its_tlvs_are_read_and_its_checksum_counts(self) -> None:
        assert header(v2(0x00, tlv(1, b"h2"))).tlvs[0].decoded == "h2"
        assert header(v2(0x10, V4 + tlv(1, b"h2"))).tlvs[0].decoded == "h2"
        assert refused(v2(0x00, tlv(3, b"\1\2\3\4"))).rule == "2.2.3"
