"""Steps come in the order of translations, and what a client itself was seen to send is their beginning."""

from __future__ import annotations

import msgspec
import pytest

from analysis.engine.legs import FourTuple
from analysis.facts import Service
from analysis.hops.addresses import Target, TargetKind
from analysis.hops.steps import Step, _each_state_once
from analysis.report import Verdict
from daemonset.observation import TapKind, TcpFlag, Tunnel
from tests.analysis.story import CLIENT as CALLER
from tests.analysis.story import NODES, PODS, Story, cluster

CLIENT, NODE, POD, SERVICE, ENDPOINT = range(5)

#: A pod that balances: a client calls its node, the pod asks the Service in its own name, the Service has an endpoint.
TO_NODE = FourTuple(CLIENT, 4000, NODE, 80)
TO_POD = FourTuple(CLIENT, 4000, POD, 80)
TO_SERVICE = FourTuple(POD, 4000, SERVICE, 80)
TO_ENDPOINT = FourTuple(POD, 4000, ENDPOINT, 8080)


def step(place: str, kind: TapKind | None, addresses: FourTuple) -> Step:
    frontend = Target(Service("default", "web"), TargetKind.CLUSTER_IP, "http")
    target = frontend if addresses == TO_SERVICE else None
    return Step(place, kind, None, addresses, target, 0, Tunnel.NONE, None)


def test_a_balancing_pod_does_not_begin_what_a_client_was_seen_to_begin() -> None:
    """The node's clock was put right meanwhile, and nobody said that the pod balances."""
    steps = [
        step("client1", TapKind.CLIENT, TO_NODE),
        step("node1", TapKind.POD, TO_SERVICE),
        step("node1", TapKind.NIC, TO_NODE),
        step("node1", TapKind.POD, TO_POD),
        step("node1", TapKind.NIC, TO_ENDPOINT),
    ]
    ordered = _each_state_once(steps)
    assert ordered[0].kind is TapKind.CLIENT
    assert ordered[-1].addresses == TO_ENDPOINT


def test_what_asks_for_an_endpoint_begins_where_nobody_saw_the_client() -> None:
    steps = [
        step("node1", TapKind.NIC, TO_ENDPOINT),
        step("node2", TapKind.NIC, TO_SERVICE),
        step("node2", TapKind.NIC, TO_ENDPOINT),
        step("node1", TapKind.POD, TO_SERVICE),
    ]
    assert _each_state_once(steps)[0].addresses == TO_SERVICE


@pytest.mark.parametrize("seen", ["on its way to the pod", "before it was translated"])
def test_a_pod_that_passes_on_what_came_to_it_is_no_client(seen: str) -> None:
    """Nothing but its Service is known, and the node's clock was put right: the pod's own packets seem to be first."""
    pod, caller = "10.244.1.2:37065", f"{CALLER}:37065"
    asked = f"{NODES['node1']}:80" if seen == "before it was translated" else "10.244.1.2:80"
    way = [
        ("pod:node1/svclb", pod, "10.96.0.80:80"),
        ("nic:node1/eth0", caller, asked),
        ("nic:node1/eth0", pod, f"{PODS['node2']}:8080"),
        ("pod:node2/web", pod, f"{PODS['node2']}:8080"),
    ]
    facts = msgspec.structs.replace(cluster(endpoints=()), pods=(), nodes=())
    (journey,) = Story(facts).connection(way, 7_000).report().journeys
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert "where it began is not known" in (journey.reason or "")


@pytest.mark.parametrize("first", ["40000", "40001"])
def test_of_a_syn_that_nat_gave_two_ports_the_way_that_was_answered_is_told(first: str) -> None:
    """The server still held the first port: the kernel gave the next SYN the other, and the third the first again."""
    asked, node, pod = f"{CALLER}:41000", NODES["node1"], f"{PODS['node2']}:8080"

    def by(port: str) -> list[tuple[str, str, str]]:
        translated = [(tap, f"{node}:{port}", pod) for tap in ("nic:node1/eth0", "pod:node2/eth0")]
        return [("nic:node1/eth0", asked, f"{node}:30080"), *translated]

    story = Story(cluster()).syn(by(first), 7_000).wait(0.02)
    for tap, src, dst in reversed(by(first)[1:]):
        story.packet(tap, dst, src, flags=TcpFlag.ACK, seq=99, ack=98)  # a challenge
    story.syn(by("40001"), 7_000).wait(1).connection(by("40000"), 7_000)
    for port in dict.fromkeys([first, "40001", "40000"]):
        story.conntrack("node1", (asked, f"{node}:30080"), (f"{node}:{port}", pod))
    (journey,) = story.report().journeys
    assert {hop.source for hop in journey.hops if hop.point in {"dnat", "pod"}} == {f"{node}:40000"}
    assert [(snat.from_, snat.to) for snat in journey.snat] == [(asked, f"{node}:40000")]
