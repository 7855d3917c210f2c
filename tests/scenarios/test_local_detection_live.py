"""kube-proxy's four ways of telling pods from others, played: who is led past policy Local, and who is dropped."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from probe.errors import UnavailableError
from probe.lab import ProxyMode, load_scenario
from probe.playing.play import differences, play

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    ("way", "mode"),
    [("NodeCIDR", "iptables"), ("NodeCIDR", "nftables"), ("InterfaceNamePrefix", "iptables")],
)
def test_a_pod_of_the_node_is_known_and_one_of_another_node_is_a_client_from_outside(
    way: Literal["NodeCIDR", "InterfaceNamePrefix"], mode: ProxyMode
) -> None:
    """As in the scenario, which does it by the bridge: what came of it says the client, not the analysis."""
    scenario = load_scenario("pod-known-by-bridge")
    told = msgspec.structs.replace(scenario.cluster, detect_local=way)
    try:
        played = play(msgspec.structs.replace(scenario, cluster=told), mode, progress=lambda _: None)
    except UnavailableError as error:
        pytest.skip(str(error))
    assert {answer.place: answer.result.outcome for answer in played.answers} == {
        "caller": "answered", "stranger": "timeout",
    }  # fmt: skip
    assert differences(played) == []
