"""Conntrack records as rows: saved text of every form, and the kernel's own messages."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemonset.node import ctnetlink
from daemonset.node.conntrack import parse_text
from daemonset.node.ctnetlink import ASSURED, DST_NAT, SEEN_REPLY, SRC_NAT, parse_message
from daemonset.observation import NAT, NatEvent
from tests.ground.rows import Nat, nats

EVIDENCE = Path(__file__).parents[2].parent / "shared/evidence"

MASQUERADED = (
    "tcp      6 118 TIME_WAIT src=172.30.0.101 dst=172.30.0.11 sport=57088 dport=30091 "
    "src=10.244.3.7 dst=172.30.0.11 sport=8081 dport=14211 [ASSURED] mark=16384 use=1"
)


def one(line: str, **known: int) -> Nat:
    rows, skipped = parse_text(line, **known)
    assert skipped == []
    (row,) = nats(rows)
    return row


def test_a_node_port_connection_with_dnat_and_masquerade() -> None:
    row = one(MASQUERADED, time=5, node=2)
    assert row.original == "172.30.0.101:57088 > 172.30.0.11:30091"
    assert row.reply == "10.244.3.7:8081 > 172.30.0.11:14211"
    assert row.status == SEEN_REPLY | ASSURED | SRC_NAT | DST_NAT
    assert (row.protocol, row.mark, row.zone, row.event) == (6, 16384, 0, NatEvent.DUMP)
    assert (row.time, row.node) == (5, 2)


@pytest.mark.parametrize(
    ("reply", "bits"),
    [
        ("src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1", 0),
        ("src=10.0.0.9 dst=10.0.0.1 sport=2 dport=1", DST_NAT),
        ("src=10.0.0.2 dst=10.0.0.1 sport=9 dport=1", DST_NAT),
        ("src=10.0.0.2 dst=10.0.0.9 sport=2 dport=1", SRC_NAT),
        ("src=10.0.0.2 dst=10.0.0.1 sport=2 dport=9", SRC_NAT),
    ],
)
def test_nat_is_read_from_the_two_tuples(reply: str, bits: int) -> None:
    row = one(f"tcp 6 1 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 [UNREPLIED] {reply} mark=0 use=1")
    assert row.status == bits


@pytest.mark.parametrize(
    ("line", "original", "protocol", "status"),
    [
        (
            ("ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 "
            "dst=10.0.0.1 sport=2 dport=1 [ASSURED] mark=0 delta-time=0 use=1"),
            "10.0.0.1:1 > 10.0.0.2:2", 6, SEEN_REPLY | ASSURED,
        ),
        (
            ("ipv6     10 udp      17 29 src=fd00::1 dst=fd00::2 sport=1 dport=53 [UNREPLIED] src=fd00::2 dst=fd00::1 "
            "sport=53 dport=1 mark=0 zone=0 use=2"),
            "[fd00::1]:1 > [fd00::2]:53", 17, 0,
        ),
        (
            ("icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=5 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=5 "
            "mark=0 use=1"),
            "10.0.0.1:0 > 10.0.0.2:0", 1, SEEN_REPLY,
        ),
        (
            ("sctp     132 209 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 "
            "sport=2 dport=1 [ASSURED] mark=0 use=1"),
            "10.0.0.1:1 > 10.0.0.2:2", 132, SEEN_REPLY | ASSURED,
        ),
        (
            ("tcp      6 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 packets=5 bytes=300 src=10.0.0.2 dst=10.0.0.1 "
            "sport=2 dport=1 packets=4 bytes=200 [OFFLOAD] mark=0 use=2"),
            "10.0.0.1:1 > 10.0.0.2:2", 6, SEEN_REPLY,
        ),
        (
            ("udp      17 29 src=127.0.0.1 dst=127.0.0.1 sport=6 dport=53 [UNREPLIED] src=127.0.0.1 dst=127.0.0.1 "
            "sport=53 dport=6 mark=0 delta-time=0 [start=Sat Nov 21 03:57:35 2026] use=1 id=4262883203"),
            "127.0.0.1:6 > 127.0.0.1:53", 17, 0,
        ),
    ],
)  # fmt: skip
def test_every_form_that_the_tools_write(line: str, original: str, protocol: int, status: int) -> None:
    row = one(line)
    assert (row.original, row.protocol, row.status) == (original, protocol, status)


@pytest.mark.parametrize("zone", ["zone=7", "zone-orig=7", "orig-zone=7"])
def test_zones(zone: str) -> None:
    assert one(f"{MASQUERADED} {zone}").zone == 7


def test_events_carry_their_kind_and_their_own_time() -> None:
    text = (
        "[1700000000.000012]\t    [NEW] " + MASQUERADED + "\n"
        "[1700000000.5]\t [UPDATE] " + MASQUERADED + "\n"
        " [DESTROY] " + MASQUERADED
    )
    rows, skipped = parse_text(text, time=9)
    assert skipped == []
    assert [(row.event, row.time) for row in nats(rows)] == [
        (NatEvent.NEW, 1_700_000_000_000_012_000),
        (NatEvent.UPDATE, 1_700_000_000_500_000_000),
        (NatEvent.DESTROY, 9),
    ]


def test_what_is_no_entry_is_told_and_the_rest_is_kept() -> None:
    text = [
        "",
        "conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown.",
        MASQUERADED,
        "\x1b[31mhello",
        MASQUERADED.replace("sport=57088", "sport=70000"),
        MASQUERADED.replace("src=10.244.3.7", "src=10.244.3.777"),
        MASQUERADED.replace(" dst=172.30.0.11 sport=8081", " sport=8081"),
        MASQUERADED.replace("mark=16384", "mark=99999999999"),
    ]
    rows, skipped = parse_text(text)
    assert len(nats(rows)) == 1
    assert [line.split(":")[0] for line in skipped] == [f"line {number}" for number in range(4, 9)]
    assert skipped[0] == "line 4: not a conntrack entry: '\\x1b[31mhello'"


def test_a_foreign_file_does_not_fill_the_memory_with_complaints() -> None:
    rows, skipped = parse_text("nonsense\n" * 5000)
    assert rows == b""
    assert len(skipped) == 101
    assert skipped[-1] == "and 4900 more lines"


@pytest.mark.skipif(not EVIDENCE.is_dir(), reason="the captures of ../shared/evidence are not here")
def test_every_line_of_the_evidence_is_understood() -> None:
    for path in EVIDENCE.rglob("conntrack-*.txt"):
        text = path.read_text()
        rows, skipped = parse_text(text)
        assert skipped == []
        assert len(rows) // NAT.size == len(text.splitlines())


FIELD = st.tuples(st.sampled_from(["src", "dst", "sport", "dport", "mark", "zone"]), st.text(max_size=9)).map(
    "=".join
)
LINES = st.lists(FIELD, max_size=14).map(lambda fields: " ".join(["tcp 6 1 X", *fields]))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | LINES)
@example(MASQUERADED.replace("57088", "²"))
@example("tcp 6 1 src=::1%a dst=::1 src=::1 dst=::1")
def test_any_text_gives_rows_or_complaints(text: str) -> None:
    rows, skipped = parse_text(text)
    assert len(rows) % NAT.size == 0
    assert all(line.isascii() and line.isprintable() for line in skipped)


# Messages of the kernel.


def attribute(kind: int, *values: bytes) -> bytes:
    value = b"".join(values)
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def wire_tuple(
    kind: int,
    src: str,
    sport: int,
    dst: str,
    dport: int,
    protocol: int = 6,
    zone: int = 0,
    turned: bool = False,
) -> bytes:
    """A tuple with its attributes in the kernel's order, or all of them turned round."""
    order = -1 if turned else 1
    first = 1 if "." in src else 3
    addresses = [attribute(first + i, ip_address(text).packed) for i, text in enumerate((src, dst))]
    ports = [attribute(2, struct.pack("!H", sport)), attribute(3, struct.pack("!H", dport))]
    parts = [
        attribute(0x8001, *addresses[::order]),
        attribute(0x8002, *[attribute(1, bytes([protocol])), *ports][::order]),
        attribute(3, struct.pack("!H", zone)) if zone else b"",
    ]
    return attribute(0x8000 | kind, *parts[::order])


def message(*attributes: bytes, kind: int = 0x100, flags: int = 0x600) -> bytes:
    body = struct.pack("!BBH", 2, 0, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


TUPLES = (
    wire_tuple(1, "172.30.0.101", 57088, "172.30.0.11", 30091),
    wire_tuple(2, "10.244.3.7", 8081, "172.30.0.11", 14211),
)
SIX = (wire_tuple(1, "fd00::1", 1, "fd00::2", 2, 17), wire_tuple(2, "fd00:9::2", 3, "fd00::1", 4, 17))
WHOLE = message(
    *TUPLES, attribute(3, struct.pack("!I", 0x1BE)), attribute(8, struct.pack("!I", 0x4000)),
    attribute(18, struct.pack("!H", 3)), attribute(4, attribute(1, b"\x03")),
)  # fmt: skip


def parsed(data: bytes, *, dumped: bool = False) -> Nat:
    row = parse_message(data, time=5, node=1, dumped=dumped)
    assert row is not None
    return nats(row)[0]


def test_a_message_is_a_row() -> None:
    row = parsed(WHOLE)
    assert row.original == "172.30.0.101:57088 > 172.30.0.11:30091"
    assert row.reply == "10.244.3.7:8081 > 172.30.0.11:14211"
    assert (row.status, row.mark, row.zone, row.protocol) == (0x1BE, 0x4000, 3, 6)
    assert (row.time, row.node, row.event) == (5, 1, NatEvent.NEW)


def test_the_kinds_of_events() -> None:
    assert parsed(message(*TUPLES, flags=0)).event == NatEvent.UPDATE
    assert parsed(message(*TUPLES, kind=0x102, flags=0)).event == NatEvent.DESTROY
    assert parsed(message(*TUPLES, flags=2), dumped=True).event == NatEvent.DUMP


def test_ipv6_and_a_zone_of_one_direction() -> None:
    row = parsed(
        message(
            wire_tuple(1, "fd00::1", 1, "fd00::2", 2, 17, zone=9),
            wire_tuple(2, "fd00::2", 2, "fd00::1", 1, 17),
        )
    )
    assert (row.original, row.protocol, row.zone, row.status) == ("[fd00::1]:1 > [fd00::2]:2", 17, 9, 0)


@pytest.mark.parametrize(("one", "other"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
def test_attributes_may_come_in_any_order(one: str, other: str) -> None:
    usual = message(wire_tuple(1, one, 1, other, 2), wire_tuple(2, other, 2, one, 9))
    turned = message(
        wire_tuple(2, other, 2, one, 9, turned=True), wire_tuple(1, one, 1, other, 2, turned=True)
    )
    assert parsed(usual) == parsed(turned)
    assert parsed(usual).status == SRC_NAT


def test_the_kernels_own_time_of_an_event_wins() -> None:
    assert parsed(message(*TUPLES, attribute(27, struct.pack("!Q", 1234)))).time == 1234


@pytest.mark.parametrize(
    "data",
    [
        b"",
        WHOLE[:19],
        message(TUPLES[0]),
        message(*TUPLES, kind=0x101),
        message(*TUPLES, kind=0x200),
        message(attribute(0x8001, attribute(0x8001)), TUPLES[1]),
        struct.pack("=IHHII", 20, 3, 2, 0, 0) + bytes(4),
    ],
)
def test_what_is_no_whole_record_is_none(data: bytes) -> None:
    assert parse_message(data, time=0) is None


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=120) | st.integers(0, len(WHOLE)).map(lambda cut: WHOLE[:cut]))
def test_any_message_is_a_row_or_none(data: bytes) -> None:
    row = parse_message(data, time=0)
    assert row is None or len(row) == NAT.size


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_change_to_a_message_is_a_row_or_none(data: st.DataObject) -> None:
    broken = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    row = parse_message(bytes(broken), time=0)
    assert row is None or len(row) == NAT.size


TAILS = st.lists(
    st.tuples(st.sampled_from([3, 4, 7, 8, 12, 18, 27]), st.binary(max_size=9)).map(
        lambda pair: attribute(*pair)
    ),
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([TUPLES, SIX]), TAILS, st.integers(0, 24), st.integers(0, 0xFF))
def test_the_quick_way_and_the_long_way_agree(
    tuples: tuple[bytes, bytes], tail: list[bytes], cut: int, event: int
) -> None:
    """Whatever follows the tuples, whole or cut."""
    data = message(*tuples, *tail)
    stop = len(data) - cut
    quick = ctnetlink._usual_row(data, stop, 5, 1, event)
    assert quick is None or quick == ctnetlink._walked_row(data, stop, 5, 1, event)
    assert cut or quick is not None


@pytest.mark.parametrize("first", [TUPLES, TUPLES[::-1]])
def test_a_status_is_not_untold_by_an_empty_one_after_it(first: tuple[bytes, bytes]) -> None:
    """The same for both ways: laid out as usual, and in any order."""
    row = parsed(message(*first, attribute(3, bytes(3) + b"\x01"), attribute(3, b"")))
    assert row.status & 1


def of_ports(*ports: tuple[int, int]) -> ctnetlink.Ports:
    return ctnetlink.Ports(ports)


@pytest.mark.parametrize("tuples", [(6, TUPLES), (17, SIX)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("turned", [False, True])
def test_records_of_ports_are_known(tuples: tuple[int, tuple[bytes, bytes]], turned: bool) -> None:
    protocol, both = tuples
    data = message(*(both[::-1] if turned else both))
    data = data[:16] + bytes([2 if protocol == 6 else 10]) + data[17:]
    row = parse_message(data, time=0)
    assert row is not None
    port = nats(row)[0].original.rpartition(":")[2]
    wanted, another = of_ports((protocol, int(port))), of_ports((23 - protocol, int(port)))
    assert wanted.may_have(data)
    assert wanted.have(row)
    assert not another.have(row), "the same port of another protocol"
    assert of_ports((protocol, 7)).may_have(data) == turned, "what is laid out otherwise has to be read"
    assert not of_ports((protocol, 7)).have(row)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120) | st.integers(0, len(WHOLE)).map(lambda cut: WHOLE[:cut]))
def test_no_record_of_a_wanted_port_is_passed_over(data: bytes) -> None:
    row = parse_message(data, time=0)
    if row is not None:
        (record,) = nats(row)
        wanted = of_ports((record.protocol, int(record.original.rpartition(":")[2])))
        assert wanted.may_have(data)
        assert wanted.have(row)
    assert of_ports().may_have(data) in {True, False}
