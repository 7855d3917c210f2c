"""Every scenario of the lab, from packets to the report, right in both of kube-proxy's modes.

What must come of a scenario stands in its file and follows from how it is built. Held against that are the
answers of the applications, and the report, journey by journey.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.lab import ProxyMode, list_scenarios, load_scenario
from probe.play import differences, play
from probe.session import load
from tests.lab.here import why_not

pytestmark = [pytest.mark.lab, pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")]

KNOWN = {
    "cluster-remote", "cluster-same-node", "local-preserved", "local-no-endpoint", "no-endpoints-at-all",
    "local-draining", "hairpin-lb-ip", "overlay-vxlan", "cni-masquerade", "svclb-masquerade", "masquerade-all",
    "hostnetwork-daemonset", "lb-vip-dsr", "external-ip", "lb-l4-snat", "lb-tcp-no-proxy", "proxy-v1-ok",
    "proxy-v2-ok", "ipv6", "dual-stack", "udp-dns",
}  # fmt: skip


def test_the_scenarios_are_all_there() -> None:
    assert set(list_scenarios()) >= KNOWN


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize("name", list_scenarios())
def test_a_scenario_comes_out_as_it_is_built(name: str, mode: ProxyMode, tmp_path: Path) -> None:
    played = play(load_scenario(name), mode, record=tmp_path / "session", progress=lambda _: None)
    assert differences(played) == []
    assert played.report.capture.reasons == ()
    assert played.report.capture.complete
    assert len(played.report.journeys) == len(played.answers)
    assert load(tmp_path / "session").meta == played.session.meta
