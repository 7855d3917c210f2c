"""Every scenario, with real packets, held against what the application answers and what the kernel recorded.

This keeps the scenarios honest: whom the application saw is its own word, and where the source was replaced and
which nodes a connection passed is read from each namespace's conntrack table with the conntrack tool, not with
any code of ours that decides the same.
"""

from __future__ import annotations

import re
import shutil
from typing import NamedTuple

import pytest

from probe.lab import PIPE, Lab, ProxyMode, Scenario, list_scenarios, load_scenario
from probe.lab.scenario import Request

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("conntrack") is None, reason="needs the conntrack tool"),
]

#: Health checks, and what an ingress sends to its application: not the connections on trial.
NOISE = {32100, 10256, 8000}


class Entry(NamedTuple):
    """One line of `conntrack -L`: the packet as it came, and the answer that is expected."""

    source: str
    destination: str
    port: int
    reply_source: str
    reply_destination: str


def entries(lab: Lab, place: str) -> list[Entry]:
    found = []
    for family in ("ipv4", "ipv6"):
        dump = lab.spawn(place, ["conntrack", "-L", "-f", family], stdout=PIPE, stderr=PIPE)
        assert dump.stdout is not None
        assert dump.stderr is not None
        with dump.stdout, dump.stderr:
            lines = dump.stdout.read().decode().splitlines()
            dump.stderr.read()
        assert dump.wait() == 0
        for line in lines:
            addresses = re.findall(r"(?:src|dst)=(\S+)", line)
            ports = [int(port) for port in re.findall(r"dport=(\d+)", line)]
            if len(addresses) == 4 and ports and ports[0] not in NOISE:
                found.append(Entry(addresses[0], addresses[1], ports[0], addresses[2], addresses[3]))
    return found


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize("name", list_scenarios())
def test_the_application_and_the_kernel_agree_with_the_scenario(name: str, mode: ProxyMode) -> None:
    scenario = load_scenario(name)
    with Lab.start(scenario, mode) as lab:
        answers = lab.send()
        nodes = {node.name: entries(lab, node.name) for node in lab.plan.nodes}
        pods = {
            f"pod:{pod.name}": entries(lab, pod.name) for pod in lab.plan.pods if not pod.pod.host_network
        }
        balancer = {"balancer": entries(lab, "lb")} if lab.plan.lb else {}
        balancer |= {"edge": entries(lab, "edge")} if lab.plan.edge else {}
    assert [answer.wrong for answer in answers if answer.wrong] == []
    assert len(answers) == sum(request.count * request.per_connection for request in scenario.requests)

    replaced = {
        place
        for place, found in (nodes | pods | balancer).items()
        for entry in found
        if entry.source != entry.reply_destination
    }
    ends_connections = scenario.balancer is not None and scenario.balancer.ends_connections
    expected = {request.expect.snat for request in scenario.requests} - {""}
    assert replaced == expected - ({"balancer", "edge"} if ends_connections else set())

    passed = {node for node, found in nodes.items() if found}
    for request in scenario.requests:
        if scenario.health_expect is not None:
            continue  # a balancer chooses the node, by checks that are odd on purpose
        crossing, possible = request.expect.cross_node, reachable(request, scenario)
        if crossing:
            assert passed >= {crossing.from_, crossing.to}
        elif spread_over(request, scenario):
            assert passed & possible == spread_over(request, scenario)
        else:
            assert len(passed & possible) == (0 if request.outcome in {"timeout", "refused"} else 1)
    if len(scenario.requests) == 1 and scenario.requests[0].expect.cross_node:
        assert len(passed) == 2


def spread_over(request: Request, scenario: Scenario) -> set[str]:
    """Under policy Local, the nodes with an endpoint over which a balancer spreads so many requests; if several."""
    if request.to != "balancer" or scenario.service.external_policy != "Local":
        return set()
    ready = {pod.node for pod in scenario.pods if pod.role in {"echo", "ingress"} and pod.ready}
    targets = ready & reachable(request, scenario)
    return targets if 1 < len(targets) <= request.count else set()


def reachable(request: Request, scenario: Scenario) -> set[str]:
    """The nodes at which a request may enter the cluster."""
    nodes = {f"node{number + 1}" for number in range(scenario.cluster.nodes)}
    if request.to in nodes:
        return {request.to}
    if request.to == "balancer" and scenario.balancer and scenario.balancer.kind != "router":
        frontends = {frontend.port: frontend for frontend in scenario.balancer.all_frontends()}
        return set(frontends[request.port or scenario.balancer.port].targets)
    return nodes
