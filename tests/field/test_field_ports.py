"""One source port used for several ways to the same endpoint: NAT then gives later connections another port."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from probe.lab import Lab, ProxyMode
from probe.lab.scenario import Scenario, parse_scenario
from tests.field.asking import Told, Wish, ask
from tests.field.judging import Expected, differences, judge
from tests.field.twins import default_routes
from tests.field.watching import Watch, usual_taps

pytestmark = pytest.mark.lab

_SCENARIO = """
title = "One endpoint, asked in three ways"
story = "By its Service's cluster IP, by its load balancer's address, and by itself."
[cluster]
nodes = 2
[service]
type = "LoadBalancer"
external_policy = "Local"
vip = true
[[pods]]
name = "tool"
node = "node1"
role = "client"
[[pods]]
name = "web-1"
node = "{endpoint}"
[[requests]]
to = "cluster-ip"
from = "tool"
[requests.expect]
verdict = "preserved"
seen = "client"
"""

TOOL = "10.244.1.2"
PORT = 40001


def scenario(endpoint: str) -> Scenario:
    return parse_scenario(_SCENARIO.format(endpoint=endpoint), "ports.toml")


def wishes(endpoint: str) -> dict[str, Wish]:
    """The ways; all of them keep the address of a pod."""
    own = "10.244.1.3" if endpoint == "node1" else "10.244.2.2"
    targets = {"cluster IP": ("10.96.0.80", 80), "VIP": ("172.30.0.200", 80), "endpoint": (own, 8080)}
    return {name: {"target": ip, "port": port, "from_port": PORT} for name, (ip, port) in targets.items()}


ORDERS = list(permutations(["cluster IP", "VIP", "endpoint"]))


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize("endpoint", ["node1", "node2"])
def test_one_port_in_three_ways_is_three_connections(mode: ProxyMode, endpoint: str, tmp_path: Path) -> None:
    """After DNAT all three would be one tuple, so NAT rewrites the port of the second and the third."""
    asked = wishes(endpoint)
    complaints: list[str] = []
    with Lab.start(scenario(endpoint), mode) as lab:
        default_routes(lab)
        for number, order in enumerate(ORDERS):
            with Watch(lab, tmp_path / str(number), usual_taps(lab)) as watch:
                told = ask(lab, "tool", TOOL, *[asked[name] for name in order])
            expected = [
                expectation(each) for each, name in zip(told, order, strict=True) if name != "endpoint"
            ]
            report = judge(watch.captures, lab.objects())
            complaints += [f"{order}: {word}" for word in differences(report, expected)]
    assert complaints == []


def expectation(told: Told) -> Expected:
    assert told.peer == TOOL
    return Expected(told, "preserved", TOOL, ())
