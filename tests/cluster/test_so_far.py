"""What is said of a capture while it goes on: the report's words, only of what is settled, within a bounded cost."""

from __future__ import annotations

import time

import numpy as np
import pytest

from analysis.chain.clients import EVERYBODY
from analysis.facts import Facts
from analysis.ingress import IngressRecord
from daemonset.observation import PACKET, Hello, Tap, TapKind, Taps
from daemonset.wire import PacketRows
from probe.cluster import so_far
from probe.cluster.so_far import SoFar, Subject, summary
from tests.analysis.story import SECOND, START, Story, cluster
from tests.analysis.test_stories import MASQUERADED, NODE_PORT, POD, REMOTE, C

SUBJECT = Subject(Facts(known=False), None, IngressRecord(), EVERYBODY)


def lost() -> Story:
    return Story(cluster()).connection(REMOTE).conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD))


def test_it_says_what_the_report_says_and_who_did_it() -> None:
    report = lost().report()
    assert summary(report, START / SECOND + 10) == "so far: 1 lost (node1, kube-proxy masquerade)"


def test_connections_that_are_young_are_not_spoken_of() -> None:
    assert summary(lost().report(), START / SECOND - 1) == ""


def test_a_node_or_mechanism_cannot_write_to_the_terminal() -> None:
    import msgspec

    report = lost().report()
    (journey,) = report.journeys
    hostile = msgspec.structs.replace(journey.snat[0], node="node\x1b[2J")
    report = msgspec.structs.replace(report, journeys=(msgspec.structs.replace(journey, snat=(hostile,)),))
    assert "\x1b" not in summary(report, time.time())


def test_beyond_a_size_it_says_so_once_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(so_far, "MOST", 100)
    words = SoFar(SUBJECT, dict)
    words.take("node1", Hello("node1"))
    words.take("node1", Taps((Tap("node1", TapKind.NIC, "eth0"),)))
    for _ in range(3):
        words.take("node1", PacketRows(np.zeros(50, PACKET.dtype()).tobytes()))
    assert words.word() == "more than 100 packets: verdicts come with the report"
    assert words.word() is None
    assert not words._frames


def test_it_is_not_asked_again_at_once() -> None:
    words = SoFar(SUBJECT, dict)
    assert words.word() is None, "nothing has come"
    words.take("node1", PacketRows(np.zeros(1, PACKET.dtype()).tobytes()))
    assert words.word() is None, "and it is too soon to look"
