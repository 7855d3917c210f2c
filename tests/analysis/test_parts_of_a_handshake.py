"""Connections of which a place saw only a part: what is left says enough, or it does not."""

from __future__ import annotations

from analysis.report import Journey, Verdict
from daemonset.observation import TcpFlag
from tests.analysis.story import CLIENT, HTTP, OK, Story, cluster
from tests.analysis.test_stories import BEHIND, LB, LOCAL, MASQUERADED, NODE_PORT, POD, REMOTE, C, v1

ISN, SERVER_ISN = 7_000, 90_000
AT_POD = "pod:node2/web"


def opened(story: Story, path: list[tuple[str, str, str]], *, answered: bool = True) -> Story:
    """A handshake that is seen on the path, and nothing else."""
    story.syn(path, ISN)
    for tap, src, dst in reversed(path if answered else []):
        flags = TcpFlag.SYN | TcpFlag.ACK
        story.packet(tap, dst, src, flags=flags, seq=SERVER_ISN, ack=ISN + 1, tsecr=1_000, tsval=5)
    return story


def said(
    story: Story,
    tap: str,
    src: str,
    dst: str,
    *,
    seq: int = ISN + 1,
    ack: int = SERVER_ISN + 1,
    data: bytes = HTTP,
) -> Story:
    """The client's first bytes, seen at one place."""
    return story.packet(tap, src, dst, flags=TcpFlag.PSH | TcpFlag.ACK, seq=seq, ack=ack, payload=data)


def answered(story: Story, tap: str, src: str, dst: str, data: bytes = OK) -> Story:
    """The server's first bytes, seen at one place; `src` and `dst` of the client's direction."""
    flags = TcpFlag.PSH | TcpFlag.ACK
    return story.packet(tap, dst, src, flags=flags, seq=SERVER_ISN + 1, ack=ISN + 40, payload=data)


# ── first bytes without a handshake ──────────────────────────────────────────────────────────────────────────────────


def test_first_bytes_at_the_endpoint_show_that_it_was_reached_where_the_handshake_was_missed_there() -> None:
    story = said(opened(Story(cluster("Local")), LOCAL[:2], answered=False), AT_POD, C, POD)
    journey = story.journey()
    assert journey.verdict is Verdict.PRESERVED
    assert [(hop.node, hop.point) for hop in journey.hops][-1] == ("node2", "pod")


def test_numbers_of_both_sides_tell_first_bytes_whose_addresses_nobody_saw_before() -> None:
    story = said(opened(Story(cluster()), REMOTE[:1]), AT_POD, MASQUERADED, POD)
    journey = story.journey()
    assert journey.verdict is Verdict.LOST
    assert journey.snat[0].to == MASQUERADED


def test_the_clients_number_alone_does_not_tell_bytes_of_other_addresses() -> None:
    story = said(opened(Story(cluster()), REMOTE[:1], answered=False), AT_POD, MASQUERADED, POD)
    assert story.journey().verdict is Verdict.INCONCLUSIVE
    story = said(opened(Story(cluster()), REMOTE[:1]), AT_POD, MASQUERADED, POD, ack=5)
    assert story.journey().verdict is Verdict.INCONCLUSIVE


def test_bytes_of_another_connection_with_the_same_addresses_show_nothing() -> None:
    story = said(opened(Story(cluster("Local")), LOCAL[:2]), AT_POD, C, POD, seq=ISN + 500, ack=77)
    assert story.journey().verdict is Verdict.INCONCLUSIVE


def _behind_a_balancer(answer: str) -> Journey:
    """A header at the pod, which missed the handshake, and an answer there to this source."""
    story = opened(Story(cluster("Local", balancer=LB)), BEHIND[:2])
    tap, src, dst = BEHIND[2]
    return answered(said(story, tap, src, dst, data=v1(C) + HTTP), tap, answer, dst).journey()


def test_a_header_and_the_answer_to_it_are_read_where_the_handshake_was_missed() -> None:
    journey = _behind_a_balancer(f"{LB}:50000")
    assert journey.proxy_protocol is not None
    assert journey.proxy_protocol.source == C
    assert journey.reason is not None
    assert "which took it" in journey.reason
    assert journey.verdict is Verdict.INCONCLUSIVE, "whom the server may have asked was not seen"


def test_an_answer_to_another_address_is_not_taken_for_the_answer() -> None:
    reason = _behind_a_balancer(f"{LB}:50001").reason
    assert reason is not None
    assert "what the server made of it was not seen" in reason


# ── a record of a node that was not watched ──────────────────────────────────────────────────────────────────────────


def test_a_record_of_a_node_without_taps_shows_what_became_of_the_source() -> None:
    story = Story(cluster()).connection(REMOTE[2:]).conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD))
    journey = story.journey()
    assert journey.verdict is Verdict.LOST
    assert (journey.snat[0].node, journey.snat[0].from_, journey.snat[0].to) == ("node1", C, MASQUERADED)
    assert [(hop.node, hop.evidence) for hop in journey.hops][:3] == [
        ("node1", "conntrack"), ("node1", "conntrack"), ("node2", "packet")
    ]  # fmt: skip
    assert journey.findings == ("SIP101", "SIP401")


def test_a_client_that_was_watched_stands_before_such_a_record() -> None:
    path = [("client:c/eth0", C, NODE_PORT), *REMOTE[2:]]
    story = Story(cluster()).connection(path).conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD))
    journey = story.journey()
    assert journey.client is not None
    assert (journey.verdict, journey.client.address) == (Verdict.LOST, CLIENT)
    assert journey.hops[0].point == "client"


def _beyond(story: Story) -> list[Journey]:
    return [journey for journey in story.report().journeys if journey.verdict is not Verdict.INCONCLUSIVE]


def test_a_record_is_of_no_connection_where_two_had_its_addresses() -> None:
    story = (
        Story(cluster())
        .connection(REMOTE[2:], isn=7_000)
        .wait(20)
        .connection(REMOTE[2:], isn=900_000, tsval=21_000)
    )
    assert _beyond(story.conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD))) == []


def test_of_two_records_with_the_same_addresses_neither_is_taken() -> None:
    story = Story(cluster()).connection(REMOTE[2:])
    for client in (C, "198.51.100.7:40001"):
        story.conntrack("node1", (client, NODE_PORT), (MASQUERADED, POD))
    assert _beyond(story) == []


def test_a_record_of_another_time_is_another_connections() -> None:
    story = Story(cluster()).connection(REMOTE[2:]).wait(100)
    assert _beyond(story.conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD))) == []


def test_a_record_that_leaves_the_source_says_nothing_of_a_connection_elsewhere() -> None:
    """The client can have asked the endpoint itself from the same port: no kernel keeps these two apart."""
    path = [(tap, C, POD) for tap, _, _ in REMOTE[2:]]
    assert _beyond(Story(cluster()).connection(path).conntrack("node1", (C, NODE_PORT), (C, POD))) == []
