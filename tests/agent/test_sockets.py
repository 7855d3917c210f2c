"""The two kinds of packet socket, on the same traffic, in the real kernel."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from daemonset.taps.ring import VLAN_PRESENT
from tests.agent.scene import scene, why_not
from tests.agent.socket_stage import FRAMES, PACKETS, SNAPLEN

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module", params=[False, True], ids=["self", "nobody"])
def told(request: pytest.FixtureRequest) -> dict[str, Any]:
    with scene(as_nobody=request.param) as here:
        here.ip("link add name left type veth peer name right", "link set left up", "link set right up")
        process = here.module("tests.agent.socket_stage", stdout=subprocess.PIPE)
        answer, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    return dict(json.loads(answer))


def test_ring_and_plain_socket_see_the_same(told: dict[str, Any]) -> None:
    """But for this: of a packet that no frame holds, the ring's queue keeps more than the filter said."""
    for (ring, *ring_facts), (plain, *plain_facts) in zip(*told["seen"].values(), strict=True):
        assert ring.startswith(plain)
        assert ring_facts == plain_facts


def test_packets_are_whole_in_order_and_cut_only_at_the_snaplen(told: dict[str, Any]) -> None:
    passed = [PACKETS[number] for number in (0, 1, 2, 4, 5, 6)]
    seen = told["seen"]["plain"]
    assert [kind for _, kind, *_ in seen] == [packet[0] for _, packet in passed]
    for (data, _, _, _, vlan, length), (tag, (_, packet)) in zip(seen, passed, strict=True):
        assert length == len(packet)
        assert packet.hex().startswith(data)
        assert vlan == (0 if tag is None else tag | VLAN_PRESENT)
    assert len(seen[2][0]) == 2 * SNAPLEN
    assert len(seen[4][0]) == 2 * 432


@pytest.mark.parametrize("kind", ["ring", "plain"])
def test_what_is_lost_is_counted_once(told: dict[str, Any], kind: str) -> None:
    assert told["before"][kind][1] == 0
    received, dropped = told["after"][kind]
    assert received + dropped == 2 * 3 * FRAMES
    assert received == told["left"][kind] > 0
    assert kind == "plain" or received == FRAMES
    assert told["again"][kind] == [0, 0]


def test_what_a_plain_socket_lays_down_as_frames_is_what_it_says_one_by_one(told: dict[str, Any]) -> None:
    assert told["alike"] == [True] * (3 * (6 + 4))
