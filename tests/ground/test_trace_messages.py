"""Messages of the kernel's trace and of its rules, as bytes: what they say, and that any bytes are read or left."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from daemonset.node.nfnetlink import (
    Order,
    attribute,
    attributes,
    batch,
    messages,
    name,
    nested,
    number,
    text,
    u32,
    u64,
)
from daemonset.node.nft_rules import parse_rule, sets_trace
from daemonset.node.nft_table import TABLE, table_orders
from daemonset.node.nft_trace import Header, TraceType, parse_headers, parse_trace
from daemonset.observation import Rule, RuleHit, RuleHits, TracedRules, Tracing
from daemonset.wire import Frame, Reader, Writer

TRACE, NEW_RULE = 17, 6
IPV4 = bytes.fromhex("4500003c00004000400600000a09090a0a090909")
IPV6 = bytes.fromhex("6000000000140640") + bytes(15) + b"\1" + bytes(15) + b"\2"
TCP = (50000).to_bytes(2, "big") + (80).to_bytes(2, "big") + (4_000_000_000).to_bytes(4, "big") + bytes(12)


def expression(kind: str, *values: bytes) -> bytes:
    return nested(1, name(1, kind), nested(2, *values))


def trace(*more: bytes, family: int = 2, kind: int = 3) -> bytes:
    said = name(1, "nat") + name(2, "KUBE-EXT-X") + u64(3, 12) + u32(4, kind) + u32(6, 7)
    return Order(TRACE, 0, family, said + b"".join(more)).message(1)


def rule(*expressions: bytes, more: bytes = b"", family: int = 2) -> bytes:
    said = name(1, "nat") + name(2, "KUBE-EXT-X") + u64(3, 12) + nested(4, *expressions) + more
    return Order(NEW_RULE, 0, family, said).message(1)


def only(data: bytes) -> Rule:
    (message,) = messages(data)
    read = parse_rule(message)
    assert read is not None
    return read


def test_an_event_says_where_which_rule_what_came_of_it_and_for_which_packet() -> None:
    verdict = nested(5, u32(1, -3), name(2, "KUBE-MARK-MASQ"))
    (message,) = messages(trace(verdict, attribute(8, IPV4), attribute(9, TCP), u32(14, 0x4000)))
    event = parse_trace(message)
    assert event is not None
    assert event.type is TraceType.RULE
    assert (event.family, event.table, event.chain, event.handle) == ("ip", "nat", "KUBE-EXT-X", 12)
    assert (event.verdict, event.target, event.mark, event.packet) == ("jump", "KUBE-MARK-MASQ", 0x4000, 7)
    assert event.header == Header(6, "10.9.9.10:50000", "10.9.9.9:80", 4_000_000_000)


def test_a_policy_that_drops_is_a_verdict_without_a_rule() -> None:
    (message,) = messages(trace(u32(16, 0), kind=1))
    event = parse_trace(message)
    assert event is not None
    assert (event.type, event.verdict, event.header) == (TraceType.POLICY, "drop", None)


def test_a_verdict_of_netfilter_is_known_with_the_error_that_it_carries() -> None:
    (message,) = messages(trace(nested(5, u32(1, 111 << 16))))
    event = parse_trace(message)
    assert event is not None
    assert event.verdict == "drop"


def test_headers_of_both_families_and_none_behind_extension_headers() -> None:
    assert parse_headers(IPV6, TCP) == Header(6, "[::1]:50000", "[::2]:80", 4_000_000_000)
    hopopts = IPV6[:6] + b"\0" + IPV6[7:]
    assert parse_headers(hopopts, TCP) is None
    assert parse_headers(IPV4[:19], TCP) is None
    assert parse_headers(IPV4, TCP[:7]) is None


def test_what_a_rule_does_not_let_be_read_stands_there_by_its_kind() -> None:
    found = only(rule(expression("osf", u32(1, 1)), expression("counter"), expression("masq")))
    assert (found.text, found.action) == ("[osf] masquerade", "masquerade")


def test_a_comment_of_nft_is_in_what_it_keeps_with_the_rule() -> None:
    kept = attribute(7, b"\5\1x" + b"\0\3hi\0")
    assert only(rule(expression("masq"), more=kept)).comment == "hi"


def test_prefixes_of_both_widths() -> None:
    load = expression("payload", u32(1, 1), u32(2, 1), u32(3, 12), u32(4, 2))
    equals = expression("cmp", u32(1, 1), u32(2, 0), nested(3, attribute(1, b"\x0a\xf4")))
    assert only(rule(load, equals)).text == "ip saddr 10.244.0.0/16"
    load = expression("payload", u32(1, 1), u32(2, 1), u32(3, 16), u32(4, 4))
    mask = (nested(4, attribute(1, b"\xff\xff\xf0\0")), nested(5, attribute(1, bytes(4))))
    masked = expression("bitwise", u32(1, 1), u32(2, 1), u32(3, 4), *mask)
    equals = expression("cmp", u32(1, 1), u32(2, 1), nested(3, attribute(1, bytes([172, 16, 0, 0]))))
    assert only(rule(load, masked, equals)).text == "ip daddr != 172.16.0.0/20"


def test_a_rule_that_marks_packets_for_a_trace_is_known_in_either_form() -> None:
    (native,) = messages(rule(expression("meta", u32(2, 12), u32(3, 1))))
    (target,) = messages(rule(expression("target", name(1, "TRACE"))))
    (other,) = messages(rule(expression("meta", u32(2, 3), u32(3, 1)), expression("target", name(1, "MARK"))))
    assert [sets_trace(message) for message in (native, target, other)] == [True, True, False]


def test_the_table_of_our_own_belongs_to_its_socket_and_sets_nothing_but_the_trace() -> None:
    orders = table_orders([80, 443], 64)
    table = dict(attributes(orders[0].attributes))
    assert text(table[1]) == TABLE
    assert number(table[2]) == 2, "NFT_TABLE_F_OWNER"
    found = [message for message in messages(batch(orders, 1)) if message.kind == NEW_RULE]
    rules = [
        read for message in found if (read := parse_rule(message._replace(data=_with_handle(message.data))))
    ]
    assert [(each.chain, each.action) for each in rules] == [
        ("choose-arriving", "trace"), ("arriving", "jump"), ("arriving", "jump"),
        ("choose-leaving", "trace"), ("leaving", "jump"), ("leaving", "jump"),
    ]  # fmt: skip
    assert rules[1].text == "meta l4proto tcp @2,13,1 0x2/0x17 dport @ports jump choose-arriving"
    assert rules[2].text == "meta l4proto udp dport @ports jump choose-arriving"


def _with_handle(data: bytes) -> bytes:
    """A rule that is to be made has no number yet."""
    return data + u64(3, 1)


def test_many_ports_are_given_in_parts_that_fit_a_message() -> None:
    assert all(len(order.attributes) < 1 << 16 for order in table_orders(range(1, 4097), 64))


DNAT = expression("target", name(1, "DNAT"), attribute(3, bytes(44)))
SAMPLES = (
    trace(nested(5, u32(1, -3), name(2, "KUBE-MARK-MASQ")), attribute(8, IPV4), attribute(9, TCP)),
    trace(attribute(8, IPV6), attribute(9, TCP), family=10),
    rule(expression("match", name(1, "comment"), attribute(3, b"hello\0")), DNAT),
    rule(expression("immediate", u32(1, 0), nested(2, nested(2, u32(1, -4), name(2, "X"))))),
    rule(expression("lookup", name(1, "__set3"), u32(2, 1), u32(3, 0)), family=10),
    *(order.message(1) for order in table_orders([80], 4)),
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A message with a few bytes changed, cut or doubled; its lengths may lie."""
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=40))


@settings(max_examples=1000)
@given(st.one_of(mangled(), st.binary(max_size=300)))
def test_any_bytes_are_an_event_a_rule_or_nothing(data: bytes) -> None:
    for message in messages(data):
        sets_trace(message)
        event, found = parse_trace(message), parse_rule(message)
        if event is not None:
            assert len(event.table) <= 256
            assert 0 <= event.mark < 1 << 32
            assert event.header is None or 0 <= event.header.seq < 1 << 32
        if found is not None:
            assert len(found.text) <= 1000
            assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Rule) == found


@given(st.binary(max_size=600))
def test_any_bytes_are_the_insides_of_a_rule(data: bytes) -> None:
    for message in messages(rule(data)):
        parse_rule(message)
        sets_trace(message)


def test_what_is_told_of_rules_passes_the_wire() -> None:
    hit = RuleHit(
        1, 7, "ip", "nat", "KUBE-EXT-X", 12, "jump", "KUBE-MARK-MASQ", 0, 6, "1.2.3.4:5", "6.7.8.9:10", 11
    )
    told: list[Frame] = [
        Tracing(mechanism="nftables trace", limit=64, packets=1, time=9),
        TracedRules((Rule("ip", "nat", "KUBE-EXT-X", 12, "-j KUBE-MARK-MASQ", "masquerade", "jump"),)),
        RuleHits((hit,)),
    ]
    written: list[bytes] = []
    writer = Writer(written.append)
    for message in told:
        writer.message(message)  # type: ignore[arg-type] - none of these is rows
    assert Reader().feed(b"".join(written)) == told
