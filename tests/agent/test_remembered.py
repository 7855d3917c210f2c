"""The filter that remembers connections: what it passes more than the classic one, and of a sample less."""

from __future__ import annotations

import json
import os
import random
import subprocess
from typing import Any

import pytest

from daemonset.taps import ebpf, kernel_filter
from daemonset.taps.filters import Filter
from daemonset.taps.kernel_filter import CONTROL_BYTES
from daemonset.taps.remembered import FIRST_PAYLOADS
from daemonset.taps.sampling import chosen
from tests.agent.scene import scene, why_not
from tests.agent.test_kernel_filter import (
    ACK,
    FAMILIES,
    FILTERS,
    FIN,
    HELLO,
    PROXY_1,
    PROXY_2,
    PSH,
    RST,
    SYN,
    WRAPS,
    Packet,
    ip4,
    keeps,
    kernel_answers,
    sample,
    tcp,
)

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

SNAPLEN = 700
OPTIONS: dict[str, Any] = {"ports": [80], "heads": True, "snaplen": SNAPLEN}
BODY = bytes(range(1, 60))


@pytest.fixture(autouse=True)
def takes_ebpf() -> None:
    """These ask the kernel; elsewhere they would only see the fallback, which the last test is about."""
    try:
        ebpf.Map(16).close()
    except OSError as error:
        pytest.skip(f"no eBPF: {error.strerror}")


def answers(packets: list[Packet], **options: Any) -> list[int]:
    return kernel_answers({**OPTIONS, **options}, packets, ebpf=[FIRST_PAYLOADS])


def there(
    flags: int, payload: bytes = b"", *, family: str = "4", wrap: str = "plain", **fields: int
) -> Packet:
    return WRAPS[wrap](FAMILIES[family](tcp(flags, payload, **{"sport": 40000, "dport": 80, **fields})))


def back(
    flags: int, payload: bytes = b"", *, family: str = "4", wrap: str = "plain", **fields: int
) -> Packet:
    return there(flags, payload, family=family, wrap=wrap, **{"sport": 80, "dport": 40000, **fields})


@pytest.mark.parametrize("filter_", FILTERS, ids=["all", "ports", "many-ports-heads", "head-ports", "sample"])
def test_a_translated_program_answers_as_the_classic_one(filter_: dict[str, Any]) -> None:
    dice = random.Random(repr(filter_))
    packets = [packet for packet in (sample(dice) for _ in range(1500)) if packet[1]]
    program = kernel_filter.build(**filter_)
    assert kernel_answers(filter_, packets, ebpf=[]) == [
        min(keeps(program, packet), len(packet[1])) for packet in packets
    ]


@pytest.mark.parametrize("filter_", FILTERS[:4], ids=["all", "ports", "many-ports-heads", "head-ports"])
def test_what_the_classic_program_passes_passes_as_before(filter_: dict[str, Any]) -> None:
    dice = random.Random(repr(filter_) + "more")
    packets = [packet for packet in (sample(dice) for _ in range(1500)) if packet[1]]
    program = kernel_filter.build(**filter_)
    kept = kernel_answers(filter_, packets, ebpf=[FIRST_PAYLOADS])
    for packet, bytes_kept in zip(packets, kept, strict=True):
        if before := keeps(program, packet):
            assert bytes_kept == min(before, len(packet[1]))
    assert sum(map(bool, kept)) >= sum(bool(keeps(program, packet)) for packet in packets)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_payloads_of_each_direction_pass(family: str, wrap: str) -> None:
    how = {"family": family, "wrap": wrap}
    packets = [
        there(ACK, BODY, **how),  # of nothing that is known
        there(SYN, **how),
        there(ACK, **how),  # no payload
        back(ACK, b"220 mail.example ESMTP", **how),  # of this direction nothing is known yet
        back(SYN | ACK, **how),
        *[back(PSH | ACK, BODY, **how)] * 5,
        *[there(PSH | ACK, b"EHLO me", **how)] * 4,
        there(FIN | ACK, **how),
    ]
    kept = [bool(answer) for answer in answers(packets)]
    assert kept == [
        False, True, False, False, True, True, True, True, False, False, True, True, True, False, True
    ]  # fmt: skip


def test_a_new_connection_of_the_same_ends_begins_anew() -> None:
    packets = [there(SYN), *[there(ACK, BODY)] * 4, there(RST), there(SYN, seq=9), *[there(ACK, BODY)] * 4]
    assert [bool(answer) for answer in answers(packets)] == [
        True, True, True, True, False, True, True, True, True, True, False
    ]  # fmt: skip


@pytest.mark.parametrize("header", [PROXY_1, PROXY_2], ids=["v1", "v2"])
@pytest.mark.parametrize("first", [1, 5, 7, 9, 13])
def test_a_header_in_two_segments_passes_whole(header: bytes, first: int) -> None:
    packets = [
        there(SYN),
        there(ACK, header[:first]),
        there(ACK, header[first:]),
        there(ACK, b"GET / HTTP/1.1\r\n"),
    ]
    assert all(answers(packets))


def test_heads_count_among_the_first_and_always_pass() -> None:
    request = b"GET / HTTP/1.1\r\n"
    packets = [there(SYN), *[there(ACK, request)] * 5, there(ACK, BODY)]
    assert [bool(answer) for answer in answers(packets)] == [True] * 6 + [False]


def test_short_frames_are_padded_and_that_is_no_payload() -> None:
    ethertype, data = there(ACK)
    assert answers([there(SYN), (ethertype, data + bytes(6)), (ethertype, data + BODY)]) == [
        len(there(SYN)[1]), 0, 0
    ]  # fmt: skip


def test_other_ports_and_other_ends_are_not_meant() -> None:
    packets = [
        there(SYN), there(ACK, BODY, sport=40001), there(ACK, BODY, dport=81),
        there(SYN, dport=81), there(ACK, BODY, dport=81), there(ACK, BODY, family="6"),
    ]  # fmt: skip
    assert [bool(answer) for answer in answers(packets)] == [True] + [False] * 5


def test_a_payload_is_kept_as_far_as_a_head_is() -> None:
    assert answers([there(SYN), there(ACK, bytes([1]) * 1200)])[1] == SNAPLEN > CONTROL_BYTES


def test_of_a_sample_all_of_a_chosen_connection_passes_and_nothing_of_another() -> None:
    for wanted in (True, False):
        isn = next(number for number in range(1, 1000) if chosen(number, 16) is wanted)
        after = isn + 1
        packets = [
            there(SYN, seq=isn),
            back(SYN | ACK, seq=77, ack=after),
            there(ACK, PROXY_1, seq=after),
            there(ACK, HELLO, seq=after + len(PROXY_1)),
            there(ACK, b"GET / HTTP/1.1\r\n", seq=after + 300),
            back(ACK, b"HTTP/1.1 200 OK\r\n", ack=after + 300),
            back(FIN | ACK, seq=99, ack=after + 301),
            there(FIN | ACK, seq=after + 301),
            there(RST, seq=next(number for number in range(5000, 6000) if not chosen(number, 16))),
        ]
        assert [bool(answer) for answer in answers(packets, sample=16)] == [wanted] * len(packets)


def test_of_a_sample_the_refusal_of_a_chosen_connection_passes() -> None:
    chosen_one, other = (
        next(number for number in range(1, 1000) if chosen(number, 16) is is_) for is_ in (True, False)
    )
    packets = [back(RST | ACK, seq=0, ack=chosen_one + 1), back(RST | ACK, seq=0, ack=other + 1)]
    assert [bool(answer) for answer in answers(packets, sample=16)] == [True, False]


def test_what_is_remembered_is_of_one_socket() -> None:
    """Interfaces of two namespaces may have the same number."""
    one, two = (Filter([80], heads=True, sample=1) for _ in range(2))
    assert one.remembers
    assert not one.refused
    numbers = [next(one._numbers) for _ in range(3)]
    assert len(set(numbers)) == 3
    one.close()
    two.close()


def test_programs_with_many_ports_are_taken() -> None:
    filter_ = Filter(range(1, 4000, 7), heads=True, sample=16)
    assert filter_.remembers
    filter_.close()


def test_nobody_watches_with_the_classic_program_and_is_told_why() -> None:
    if os.geteuid():
        pytest.skip("already nobody")
    code = (
        "import json; from daemonset.taps.filters import Filter; from daemonset.taps.ring import open_filtered\n"
        "filter_ = Filter([80], heads=True, sample=1); open_filtered(filter_).close()\n"
        "print(json.dumps([filter_.remembers, filter_.refused]))"
    )
    with scene(as_nobody=True) as here:
        process = here.start(here.python, "-c", code, stdout=subprocess.PIPE)
        said, _ = process.communicate(timeout=30)
    assert json.loads(said) == [False, "Operation not permitted"]


def test_a_plain_session_needs_no_memory() -> None:
    filter_ = Filter([80], heads=False, sample=1)
    assert not filter_.remembers
    assert not filter_.refused
    assert keeps(filter_.program, ip4(6, tcp(SYN)))
