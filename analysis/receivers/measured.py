"""What receivers did with single headers, as it was measured: live servers on loopback, and decoders of libraries.

Each header was sent with an HTTP request behind it, over TCP, except where it is cut short. A server that took the
header answered the request and told which address it has for the client.

Codes of live servers:

    h  took it; told the header's source            R  closed with RST, 0 bytes back
    i  took it; told the header's source address    F  closed with FIN, 0 bytes back
       with the connection's own port               W  waited for more
    o  took it; told the connection's own address   4  took the header, answered HTTP 400 to what follows
    -  took it; told no address
    ?  took it; was not asked which address         =X took it; told X

Codes of libraries:

    A  decoded it      T  decoded it, told an error about its TLVs      W  asked for more
    E  refused it      P  took the bytes for a connection without a header      L  never returned
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Receiver(NamedTuple):
    """A program or library that reads PROXY headers, and what of it was measured.

    `half` is how it ended a connection that went idle within a version 1 and a version 2 header.
    """

    name: str
    version: str
    note: str = ""
    half: tuple[str, str] = ("", "")


class Case(NamedTuple):
    """One header as it was sent, and one code for each of RECEIVERS. `cut`: where it was cut into two segments."""

    name: str
    codes: tuple[str, ...]
    header: bytes
    cut: int = 0


_UNRECORDED = "release not recorded"

RECEIVERS = (
    Receiver("nginx", "1.22.1"),
    Receiver("nginx", "main branch of 2026-04"),
    Receiver("HAProxy", "2.6.12"),
    Receiver("HAProxy", "3.5-dev5"),
    Receiver("Apache httpd", "2.4.71", half=("FIN after 20 s", "FIN after 20 s")),
    Receiver("lighttpd", "1.4.69"),
    Receiver("Envoy", "1.40", half=("RST after 5 s", "RST after 5 s")),
    Receiver(
        "go-proxyproto (Traefik)",
        _UNRECORDED,
        "the library that Traefik uses, mode REQUIRE",
        ("", "FIN after 10 s"),
    ),
    Receiver("go-proxyproto, decoder", _UNRECORDED, "its parser by itself"),
    Receiver("proxy-protocol (Python)", "0.11.3"),
    Receiver("Twisted", "26.10"),
    Receiver("aiosmtpd", "1.4.6"),
    Receiver("gunicorn", "27"),
    Receiver("ppp (Rust)", _UNRECORDED),
)

NOT_MEASURED = "."

_NAMED = {
    "@S": "0d0a0d0a000d0a515549540a",  # the signature
    "@4": "c0000201c6336402dc0401bb",  # 192.0.2.1:56324 to 198.51.100.2:443
    "@6": "20010db800000000000000000000000120010db8000000000000000000000002dc0401bb",
    # one of each: ALPN, AUTHORITY, NOOP, UNIQUE_ID, SSL with details 21 to 28, types 10, EA, F0 and F8
    "@T": (
        "0100026832020009612e6578616d706c65040001000500026964"
        "2000250700000000210001782200017823000178240001782500017826000178270001782800017810000178"
        "ea00020176f0000178f8000178"
    ),
}
_run = re.compile("([0-9a-f]{2})[*]([0-9]+)").fullmatch


def _binary(text: str) -> bytes:
    """Bytes from words of hex, of names above, and of runs (`00*36`)."""
    words = []
    for word in text.split():
        repeated = _run(word)
        words.append(repeated[1] * int(repeated[2]) if repeated else _NAMED.get(word, word))
    return bytes.fromhex("".join(words))


_ROWS: tuple[tuple[str, str, bytes] | tuple[str, str, bytes, int], ...] = (
    ("v1_tcp4", "h h h h i ? h h A A A A A A", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"),
    ("v1_tcp6", "h h h h i ? h h A A A A A A", b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n"),
    ("v1_unknown", "- - o o F ? o o A A E A E A", b"PROXY UNKNOWN\r\n"),
    (
        "v1_unknown_addrs",
        "- - R R o ? o o A A A A E A",
        b"PROXY UNKNOWN 192.0.2.1 198.51.100.2 56324 443\r\n",
    ),
    ("v1_unknown_junk", "- - R R o ? o o A A A A E A", b"PROXY UNKNOWN foo bar\r\n"),
    ("v1_unknown_107", "- - R R o ? o o A A A A E A", b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"),
    ("v1_unknown_108", "- - R R o ? o F E A A E E E", b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n"),
    ("v1_unknown_200", "- - R R F ? R F E A A E E E", b"PROXY UNKNOWN " + b"x" * 184 + b"\r\n"),
    ("v1_unknown_glued", "- - R R F F R F E E E E E E", b"PROXY UNKNOWNX\r\n"),
    ("v1_lower_tcp4", "F F R R F F R F E E E E E E", b"PROXY tcp4 192.0.2.1 198.51.100.2 56324 443\r\n"),
    ("v1_lower_proxy", "F F R R F F R F E E E E E E", b"proxy TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"),
    ("v1_sp2_kw", "F F R R i F R F E E E E E E", b"PROXY  TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"),
    ("v1_sp2_addr", "F F R R i F R F E E E E E E", b"PROXY TCP4 192.0.2.1  198.51.100.2 56324 443\r\n"),
    ("v1_sp_trail", "F F R R i F h F E E A E E E", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n"),
    ("v1_tab", "F F R R F F R F E E E E E W", b"PROXY TCP4 192.0.2.1\t198.51.100.2\t56324\t443\r\n"),
    ("v1_extra_tok", "F F R R i F R F E E A E E E", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 x\r\n"),
    ("v1_few_tok", "F F R R i F R F E E E E E E", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n"),
    ("v1_lf", "F F R R 4 F R F E E E E E E", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n"),
    ("v1_cr", "F F R R W F R F E E E E E E", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r"),
    (
        "v1_lz_ip",
        "h h =192.0.2.1:56324 =192.0.2.1:56324 i F R F E E A E E E",
        b"PROXY TCP4 192.000.002.001 198.51.100.2 56324 443\r\n",
    ),
    ("v1_lz_port", "h h h h i ? h F E A A E A E", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 0443\r\n"),
    (
        "v1_port_65536",
        "F F =192.0.2.1: =192.0.2.1: i ? R F E E A E E E",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
    ),
    (
        "v1_port_99999",
        "F F =192.0.2.1:34463 =192.0.2.1:34463 i ? R F E E A E E E",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 99999 443\r\n",
    ),
    ("v1_dport_65536", "F F h h i ? R F E E A E E E", b"PROXY TCP4 192.0.2.1 198.51.100.2 443 65536\r\n"),
    ("v1_port_neg", "F F R R i F R F E E A E E E", b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n"),
    (
        "v1_port_plus",
        "F F R R i F =192.0.2.1:80 F E A A E A A",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +80 443\r\n",
    ),
    (
        "v1_port_empty",
        "F F =192.0.2.1: =192.0.2.1: i F R F E E E E E E",
        b"PROXY TCP4 192.0.2.1 198.51.100.2  443\r\n",
    ),
    ("v1_port_under", "F F R R i F R F E A A A A E", b"PROXY TCP4 192.0.2.1 198.51.100.2 5_6 443\r\n"),
    ("v1_port_0", "h h h h i F h h A A A A A A", b"PROXY TCP4 192.0.2.1 198.51.100.2 0 0\r\n"),
    (
        "v1_octet_256",
        "h h =0.0.2.1:56324 =0.0.2.1:56324 F F R F E E A E E E",
        b"PROXY TCP4 256.0.2.1 198.51.100.2 56324 443\r\n",
    ),
    (
        "v1_3octets",
        "h h =192.0.2.0:56324 =192.0.2.0:56324 i F R F E E A E E E",
        b"PROXY TCP4 192.0.2 198.51.100.2 56324 443\r\n",
    ),
    ("v1_hex_ip", "F F R R F F R F E E A E E E", b"PROXY TCP4 0xC0.0.2.1 198.51.100.2 56324 443\r\n"),
    ("v1_host", "F F R R F F R F E E A E E E", b"PROXY TCP4 localhost localhost 56324 443\r\n"),
    ("v1_t4_v6addr", "h h R R F F R F E E A E E E", b"PROXY TCP4 2001:db8::1 2001:db8::2 56324 443\r\n"),
    ("v1_t6_v4addr", "h h R R F F R F E E A E E E", b"PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n"),
    (
        "v1_t6_mapped",
        "h h h h i ? h =192.0.2.1:56324 A A A A A A",
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 56324 443\r\n",
    ),
    (
        "v1_t6_zone",
        "F F R R F F =[fe80::1%4]:56324 F E A A E E E",
        b"PROXY TCP6 fe80::1%eth0 fe80::2 56324 443\r\n",
    ),
    ("v1_t6_upper", "h h h h i ? h h A A A A A A", b"PROXY TCP6 2001:DB8::1 2001:DB8::2 56324 443\r\n"),
    (
        "v1_t6_full",
        "h h h h i ? h h A A A A A A",
        b"PROXY TCP6 %b1 %b2 56324 443\r\n" % ((b"2001:0db8:" + b"0000:" * 5 + b"000",) * 2),
    ),
    ("v1_t6_bracket", "F F R R F F R F E E A E E E", b"PROXY TCP6 [2001:db8::1] [2001:db8::2] 56324 443\r\n"),
    ("v1_t6_2dcolon", "h h R R F F R F E E A E E E", b"PROXY TCP6 2001::db8::1 2001:db8::2 56324 443\r\n"),
    ("v1_udp4", "F F R R F F R F E E E E E E", b"PROXY UDP4 192.0.2.1 198.51.100.2 56324 443\r\n"),
    ("v1_any_src", "h h h h i ? R h A A A A A A", b"PROXY TCP4 0.0.0.0 198.51.100.2 56324 443\r\n"),
    ("v1_mcast_src", "h h h h i ? R h A A A A A A", b"PROXY TCP4 230.0.0.1 198.51.100.2 56324 443\r\n"),
    ("v1_glued", "F F R R F F R F E E E E E E", b"PROXYTCP4 192.0.2.1 198.51.100.2 56324 443\r\n"),
    ("v1_nul", "F F R R F F h F E E A E E E", b"PROXY TCP4 192.0.2.1\x00 198.51.100.2 56324 443\r\n"),
    ("v1_split", "F F R R i F h F A A A A A A", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", 20),
    ("v1_trunc", "F F R R W F W F E L W E E W", b"PROXY TCP4 192.0.2.1 198.51.100.2"),
    ("v2_tcp4", "h h h h i ? h h A A A A A A", _binary("@S 2111000c @4")),
    ("v2_tcp6", "h h h h i ? h h A A A A A A", _binary("@S 21210024 @6")),
    ("v2_udp4", "- - R R F ? h h A A A A E A", _binary("@S 2112000c @4")),
    ("v2_udp6", "- - R R F ? h h A A A A E A", _binary("@S 21220024 @6")),
    (
        "v2_unix",
        "- - R R F ? R =/run/a.sock A A A A E A",
        _binary("@S 213100d82f72756e2f612e736f636b 00*97 2f72756e2f622e736f636b 00*97"),
    ),
    (
        "v2_unixdg",
        "- - R R F ? R =/run/a.sock A A A A E A",
        _binary("@S 213200d82f72756e2f612e736f636b 00*97 2f72756e2f622e736f636b 00*97"),
    ),
    ("v2_local_0", "- - o o o ? o o A A A A A A", _binary("@S 20000000")),
    ("v2_local_addr", "- - o R o ? o o A A A A A A", _binary("@S 2011000c @4")),
    ("v2_local_11_len0", "- - o o o ? o o A A A E A E", _binary("@S 20110000")),
    ("v2_local_f41", "- - o o o ? o F E A A E A E", _binary("@S 20410000")),
    ("v2_local_junk5", "- - o R o ? o o T A A T A A", _binary("@S 200000050102030405")),
    ("v2_local_tlv", "- - o o o ? o o A A A A A A", _binary("@S 200000070000040a0b0c0d")),
    ("v2_proxy_unspec0", "- - R R F ? R F E A A A E A", _binary("@S 21000000")),
    ("v2_proxy_unspec12", "- - R R F ? R F E A A T E A", _binary("@S 2100000c @4")),
    ("v2_f10", "- - R R F ? R F E A A T E A", _binary("@S 2110000c @4")),
    ("v2_f01", "- - R R F ? R F E A A A A A", _binary("@S 21010000")),
    ("v2_f41", "- - R R F ? R F E A E E E E", _binary("@S 2141000c @4")),
    ("v2_f13", "- - R R F ? R F E A E E E E", _binary("@S 2113000c @4")),
    ("v2_ver1", "F F R R F F R F E E E E E E", _binary("@S 1111000c @4")),
    ("v2_ver3", "F F R R F F R F E E E E E E", _binary("@S 3111000c @4")),
    ("v2_cmd2", "- - R R F F R F E E E E E E", _binary("@S 2211000c @4")),
    ("v2_len11", "F F R R F ? R F E E E E E E", _binary("@S 2111000bc0000201c6336402dc0401")),
    ("v2_len0_tcp4", "F F R R F ? R F E E E E E E", _binary("@S 21110000")),
    ("v2_len12_tcp6", "F F R R F ? R F E E E E E E", _binary("@S 2121000c20010db8 00*8")),
    ("v2_tlv_noop", "h h h h i ? h h A A A A A A", _binary("@S 21110033 @4 040024 00*36")),
    ("v2_tlv_zero", "h h h h i ? h h A A A A A A", _binary("@S 2111000f @4 e00000")),
    (
        "v2_tlv_aws",
        "h h h h i ? h h A A A A A A",
        _binary("@S 21110026 @4 ea001701767063652d3038643262663135666163353030316339"),
    ),
    ("v2_tlv_azure", "h h h h i ? h h A A A A A A", _binary("@S 21110014 @4 ee00050101020304")),
    ("v2_tlv_gcp", "h h h h i ? h h A A A A A A", _binary("@S 21110017 @4 e00008000000000000002a")),
    ("v2_tlv_junk1", "h h R R i ? R h T A A A A T", _binary("@S 2111000d @4 ff")),
    ("v2_tlv_junk2", "h h R R i ? R h T A A A A T", _binary("@S 2111000e @4 0100")),
    ("v2_tlv_overrun", "h h R R i ? R h T A A T A T", _binary("@S 21110011 @4 0100096832")),
    ("v2_crc_ok", "h h h h i ? h h A A A A A A", _binary("@S 21110013 @4 03000420ec9549")),
    ("v2_crc_bad", "h h R R i ? h h A A A A A A", _binary("@S 21110013 @4 03000420ec9548")),
    ("v2_crc_len2", "h h R R i ? h h A E A A A A", _binary("@S 21110011 @4 0300020000")),
    ("v2_uid_129", "h h R R i ? h h A A A A A A", _binary("@S 21110090 @4 050081 75*129")),
    ("v2_auth_256", "h h R R F F h h A A A A A A", _binary("@S 2111010f @4 020100 61*256")),
    (
        "v2_ssl",
        "h h h h i ? h h A A A A A A",
        _binary("@S 21110023 @4 2000140100000000210007544c5376312e33220002636e"),
    ),
    ("v2_ssl_short", "h h h h i ? h h T A A A A A", _binary("@S 21110012 @4 200003010000")),
    (
        "v2_ssl_sub_overrun",
        "h h h h i ? h h T A A T A A",
        _binary("@S 2111001a @4 20000b0100000000210009544c53"),
    ),
    ("v2_len_536", "h h h h F F h h A A A A A A", _binary("@S 21110208 @4 0401f9 00*505")),
    ("v2_len_3000", "R R h R F F h h A A A A A A", _binary("@S 21110bb8 @4 040ba9 00*2985")),
    ("v2_len_5000", "R R h R F F h R E A A A A A", _binary("@S 21111388 @4 041379 00*4985")),
    ("v2_len_65535", "R R R R R F h R E A A A A A", _binary("@S 2111ffff @4 04fff 00*65520 0")),
    ("v2_badsig", "F F R R F F R F E E E E E E", _binary("0d0a0d0a000d0a515549540d2111000c @4")),
    ("v2_split", "F F R R i F h h A A A A A A", _binary("@S 2111000c @4"), 10),
    ("v2_split16", "F F R R i F h h A A A A A A", _binary("@S 2111000c @4"), 16),
    ("v2_trunc", "F F R R W F W W E E W E E W", _binary("@S 2111000cc0000201")),
    ("v2_twice", "4 4 4 4 4 4 4 4 A A A A E A", _binary("@S 2111000c @4 @S 2111000c @4")),
    (
        "v1_then_v2",
        "4 4 4 4 4 4 4 4 A A A A E A",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n" + _binary("@S 2111000c @4"),
    ),
    ("none_http", "F F R R F F R F E E E E P E", b""),
    ("none_tls", "F F R R F F R F E E E E E E", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"),
)

#: More headers, which were sent to nginx 1.22.1 and HAProxy 2.6.12 alone: one code for each of the two.
_OF_TWO: tuple[tuple[str, str, bytes] | tuple[str, str, bytes, int], ...] = (
    ("v1_any_dst", "h h", b"PROXY TCP4 192.0.2.1 0.0.0.0 56324 443\r\n"),
    ("v1_mcast_dst", "h h", b"PROXY TCP4 192.0.2.1 230.0.0.1 56324 443\r\n"),
    ("v1_reserved", "h h", b"PROXY TCP4 255.255.255.255 255.255.255.255 56324 443\r\n"),
    ("v1_lz_dst", "h h", b"PROXY TCP4 192.0.2.1 198.051.100.002 56324 443\r\n"),
    ("v1_lz_ports", "h h", b"PROXY TCP4 192.0.2.1 198.51.100.2 05632 0443\r\n"),
    ("v1_lz_all", "h =192.0.2.1:5632", b"PROXY TCP4 192.000.002.001 198.051.100.002 05632 0443\r\n"),
    ("v1_t6_port_0", "h h", b"PROXY TCP6 2001:db8::1 2001:db8::2 0 0\r\n"),
    ("v1_t6_any", "h h", b"PROXY TCP6 :: :: 56324 443\r\n"),
    ("v1_t6_mcast", "h h", b"PROXY TCP6 ff02::1 ff02::2 56324 443\r\n"),
    ("v1_t6_lz_ports", "h h", b"PROXY TCP6 2001:db8::1 2001:db8::2 05632 0443\r\n"),
    ("v1_t6_port_65536", "F =2001:db8::1:", b"PROXY TCP6 2001:db8::1 2001:db8::2 65536 443\r\n"),
    ("v1_t6_sp2_addr", "F R", b"PROXY TCP6 2001:db8::1  2001:db8::2 56324 443\r\n"),
    ("v1_t6_sp_trail", "F h", b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443 \r\n"),
    ("v1_t6_extra_tok", "F h", b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443 x\r\n"),
    ("v1_t6_few_tok", "F R", b"PROXY TCP6 2001:db8::1 2001:db8::2 56324\r\n"),
    ("v1_t6_lf", "F R", b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\n"),
    ("v1_split_3", "F F", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", 3),
    ("v1_t6_split", "F F", b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", 20),
    ("v1_twice", "4 4", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n" * 2),
    ("v2_then_v1", "4 4", _binary("@S 2111000c @4") + b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"),
    ("v2_port_0", "h h", _binary("@S 2111000cc0000201c633640200000000")),
    ("v2_any", "h h", _binary("@S 2111000c 00*8 dc0401bb")),
    ("v2_mcast", "h h", _binary("@S 2111000ce6000001e6000002dc0401bb")),
    ("v2_reserved", "h h", _binary("@S 2111000c ff*8 dc0401bb")),
    ("v2_tcp6_port_0", "h h", _binary("@S 2121002420010db8 00*11 0120010db8 00*11 0200000000")),
    ("v2_tcp6_any", "h h", _binary("@S 21210024 00*32 dc0401bb")),
    ("v2_tcp6_mcast", "h h", _binary("@S 21210024ff02 00*13 01ff02 00*13 02dc0401bb")),
    ("v2_tcp6_mapped", "h h", _binary("@S 21210024 00*10 ffffc0000201 00*10 ffffc6336402dc0401bb")),
    ("v2_all_tlvs", "h h", _binary("@S 21110066 @4 @T 03000420affa62")),
    ("v2_netns", "h h", _binary("@S 21110011 @4 3000026e73")),
    ("v2_two_crc", "h R", _binary("@S 2111001a @4 0300042a68edaf0300042a68edaf")),
    ("v2_tcp6_all_tlvs", "h h", _binary("@S 2121007e @6 @T 030004dae82d31")),
    ("v2_tcp6_netns", "h h", _binary("@S 21210029 @6 3000026e73")),
    ("v2_tcp6_junk1", "h R", _binary("@S 21210025 @6 ff")),
    ("v2_tcp6_overrun", "h R", _binary("@S 21210029 @6 0100096832")),
    ("v2_tcp6_crc_bad", "h R", _binary("@S 2121002b @6 03000401020304")),
    ("v2_tcp6_uid_129", "h R", _binary("@S 212100a8 @6 050081 75*129")),
    ("v2_tcp6_split", "F F", _binary("@S 21210024 @6"), 10),
    ("v2_tcp6_split16", "F F", _binary("@S 21210024 @6"), 16),
    ("v2_tlv_overrun_all", "h R", _binary("@S 21110064 @4 @T 0100096832")),
    ("v2_len_1000", "h h", _binary("@S 211103d8 @4 0403c9 00*969")),
    ("v2_len_2000", "R h", _binary("@S 211107c0 @4 0407b1 00*1969")),
    ("v2_len_12000", "R h", _binary("@S 21112ed0 @4 042ec1 00*11969")),
    ("v2_local_aws", "- o", _binary("@S 2011005404004a 00*74 030004aa5748a9")),
    (
        "v2_local_aws_vpc",
        "- o",
        _binary("@S 20110054ea001701767063652d3038643262663135666163353030316339040030 00*48 030004fbd3307f"),
    ),
    ("v2_local_11_crc", "- o", _binary("@S 20110013 @4 030004553f6571")),
    ("v2_local_21", "- o", _binary("@S 20210024 @6")),
    ("v2_local_all_tlvs", "- o", _binary("@S 2000005a @T 030004bd3c57d6")),
    ("v2_local_crc_bad", "- o", _binary("@S 2000000703000401020304")),
    ("v2_udp4_tlvs", "- R", _binary("@S 21120010 @4 04000100")),
    ("v2_cut_3", "F R", _binary("0d0a0d")),
    ("v2_cut_14", "F R", _binary("@S 2111")),
)


def _case(name: str, codes: list[str], header: bytes, cut: int = 0) -> Case:
    if len(codes) == 2:
        codes = [{0: codes[0], 2: codes[1]}.get(place, NOT_MEASURED) for place in range(len(RECEIVERS))]
    return Case(name, tuple(codes), header, cut)


CASES = tuple(_case(name, codes.split(), header, *cut) for name, codes, header, *cut in _ROWS + _OF_TWO)

#: What followed each header; nothing follows one that is cut short, or a record of TLS.
BEHIND = b"GET / HTTP/1.1\r\n"
ALONE = frozenset({"v1_trunc", "v2_trunc", "v2_cut_3", "v2_cut_14", "none_tls"})
