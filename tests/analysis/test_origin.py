"""Whom kube-proxy on a node takes for a pod (detectLocalMode), and what policy Local then asks of it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from analysis.facts import Endpoint, Facts, LocalDetection, Node, Policy, Service
from analysis.hops.addresses import EXTERNAL, Owner, OwnerKind, Target, TargetKind, integer
from analysis.hops.origin import Caller, Origin, origin, told_apart
from analysis.judging.expectation import Expected, expected_at
from analysis.report import Verdict
from tests.analysis.story import PODS, Story, cluster

NODE1 = Node("node1", ("172.30.0.11", "fd30::11"), ("10.244.1.0/24", "fd44:1::/64"))
NODE2 = Node("node2", ("172.30.0.12",), ("10.244.2.0/24",))
BARE = Node("bare", ("172.30.0.13",))
POD1, POD2 = Owner(OwnerKind.POD, "a", "node1"), Owner(OwnerKind.POD, "b", "node2")
HOST1, HOST2 = Owner(OwnerKind.NODE, "node1", "node1"), Owner(OwnerKind.NODE, "node2", "node2")
BRIDGE1 = Owner(OwnerKind.POD_NETWORK, "node1", "node1")


def facts(mode: str, interface: str = "", ranges: tuple[str, ...] = (), proxy: str = "iptables") -> Facts:
    return Facts(
        nodes=(NODE1, NODE2, BARE),
        cluster_cidrs=ranges,
        local_detection=LocalDetection(mode, interface),
        proxy_mode=proxy,
    )


NONE = facts("ClusterCIDR")
WHOLE = facts("ClusterCIDR", ranges=("10.244.0.0/16",))
TWO = facts("ClusterCIDR", ranges=("10.244.1.0/24", "10.244.2.0/24"))
BY_NODE = facts("NodeCIDR")
BY_BRIDGE = facts("BridgeInterface", "cni0")
BY_PREFIX = facts("InterfaceNamePrefix", "cali")
UNTOLD = facts("")


@pytest.mark.parametrize(
    ("told", "caller", "wanted"),
    [
        # by clusterCIDR: its first range of the family, and nobody without one
        (WHOLE, Caller("node1", integer("10.244.2.9"), POD2), Origin.POD),
        (WHOLE, Caller("node1", integer("203.0.113.9"), EXTERNAL), Origin.OUTSIDE),
        (WHOLE, Caller("node1", integer("10.244.9.9"), EXTERNAL), Origin.POD),
        (WHOLE, Caller("node1", integer("fd44:1::9"), POD1), Origin.OUTSIDE),
        (NONE, Caller("node1", integer("10.244.1.9"), POD1), Origin.OUTSIDE),
        (TWO, Caller("node1", integer("10.244.2.9"), POD2), Origin.OUTSIDE),
        # by the node's own
        (BY_NODE, Caller("node1", integer("10.244.1.9"), POD1), Origin.POD),
        (BY_NODE, Caller("node1", integer("10.244.2.9"), POD2), Origin.OUTSIDE),
        (BY_NODE, Caller("node1", integer("fd44:1::9"), POD1), Origin.POD),
        (BY_NODE, Caller("bare", integer("10.244.1.9"), POD1), Origin.UNKNOWN),
        (BY_NODE, Caller("unheard-of", integer("10.244.1.9"), POD1), Origin.UNKNOWN),
        # by where it came in
        (BY_BRIDGE, Caller("node1", integer("10.244.1.9"), POD1, "cni0"), Origin.POD),
        (BY_BRIDGE, Caller("node1", integer("10.244.2.9"), POD2, "eth0"), Origin.OUTSIDE),
        (BY_BRIDGE, Caller("node1", integer("10.244.1.9"), POD1), Origin.UNKNOWN),
        (BY_BRIDGE, Caller("node1", integer("203.0.113.9"), EXTERNAL), Origin.OUTSIDE),
        (BY_PREFIX, Caller("node1", integer("10.244.1.9"), POD1, "cali123"), Origin.POD),
        (BY_PREFIX, Caller("node1", integer("10.244.1.9"), POD1, "eth0"), Origin.OUTSIDE),
        (facts("BridgeInterface"), Caller("node1", integer("10.244.1.9"), POD1, "cni0"), Origin.UNKNOWN),
        # what begins on the node is the node's, of another node's host it depends
        (NONE, Caller("node1", integer("172.30.0.11"), HOST1), Origin.HOST),
        (NONE, Caller("node1", integer("172.30.0.11"), None), Origin.HOST),
        (NONE, Caller("node1", integer("10.244.1.1"), BRIDGE1), Origin.HOST),
        (WHOLE, Caller("node1", integer("172.30.0.12"), HOST2), Origin.OUTSIDE),
        (UNTOLD, Caller("node1", integer("172.30.0.12"), HOST2), Origin.UNKNOWN),
        # nothing said
        (UNTOLD, Caller("node1", integer("10.244.1.9"), POD1), Origin.UNKNOWN),
        (UNTOLD, Caller("node1", integer("203.0.113.9"), EXTERNAL), Origin.OUTSIDE),
        (UNTOLD, Caller("node1", integer("203.0.113.9"), None), Origin.UNKNOWN),
        # what cannot be read is left out
        (facts("ClusterCIDR", ranges=("what", "10.244.0.0/16")), Caller("node1", integer("10.244.1.9"), POD1),
         Origin.POD),
    ],
)  # fmt: skip
def test_whom_a_node_takes_a_caller_for(told: Facts, caller: Caller, wanted: Origin) -> None:
    assert origin(caller, told) is wanted


def test_whether_a_node_tells_pods_apart_at_all() -> None:
    assert told_apart(NONE, "node1", 4) is False
    assert told_apart(WHOLE, "node1", 4) is True
    assert told_apart(WHOLE, "node1", 6) is False, "kube-proxy's is a range of the other family"
    assert told_apart(BY_NODE, "node1", 6) is True
    assert told_apart(BY_NODE, "node2", 6) is False
    assert told_apart(BY_NODE, "bare", 4) is None
    assert told_apart(BY_BRIDGE, "node1", 6) is True
    assert told_apart(UNTOLD, "node1", 4) is None


LOCAL = Service(
    "shop", "web", "LoadBalancer", Policy.LOCAL,
    endpoints=(Endpoint("10.244.2.5", 8080, "tcp", node="node2"),),
)  # fmt: skip


def expected(told: Facts, caller: Caller, kind: TargetKind = TargetKind.LOAD_BALANCER) -> Expected:
    return expected_at(Target(LOCAL, kind, ""), caller, told)


POD_ON_NODE1 = Caller("node1", integer("10.244.1.9"), POD1)
POD_OF_NODE2 = Caller("node1", integer("10.244.2.9"), POD2, "eth0")


@pytest.mark.parametrize("proxy", ["iptables", "nftables"])
@pytest.mark.parametrize(
    ("told", "caller", "drops"),
    [
        (NONE, POD_ON_NODE1, True),
        (WHOLE, POD_ON_NODE1, False),
        (WHOLE, POD_OF_NODE2, False),
        (BY_NODE, POD_ON_NODE1, False),
        (BY_NODE, POD_OF_NODE2, True),
        (BY_BRIDGE, POD_OF_NODE2, True),
        (BY_BRIDGE, POD_ON_NODE1, False),
        (UNTOLD, POD_ON_NODE1, False),
        (NONE, Caller("node1", integer("172.30.0.11"), HOST1), False),
        (NONE, Caller("node1", integer("172.30.0.12"), HOST2), True),
        (NONE, Caller("node1", integer("203.0.113.9"), EXTERNAL), True),
        (
            facts("ClusterCIDR", ranges=("0.0.0.0/0",)),
            Caller("node1", integer("203.0.113.9"), EXTERNAL),
            False,
        ),
    ],
)
def test_a_node_without_endpoint_drops_whom_it_takes_for_a_client_outside(
    told: Facts, caller: Caller, drops: bool, proxy: str
) -> None:
    told = msgspec.structs.replace(told, proxy_mode=proxy)
    wanted = Expected.DROP_NO_LOCAL_ENDPOINT if drops else Expected.FORWARD
    assert expected(told, caller) is wanted
    assert expected(told, caller, TargetKind.NODE_PORT) is wanted
    assert expected(told, replace(caller, node="node2")) is Expected.FORWARD


@pytest.mark.parametrize("proxy", ["ipvs", "ebpf", ""])
def test_of_others_than_these_two_modes_no_drop_is_expected_for_pods(proxy: str) -> None:
    told = facts("ClusterCIDR", proxy=proxy)
    assert expected(told, POD_ON_NODE1) is Expected.FORWARD
    outside = Caller("node1", integer("203.0.113.9"), EXTERNAL)
    assert expected(told, outside) is Expected.DROP_NO_LOCAL_ENDPOINT


def silent(detection: LocalDetection, ranges: tuple[str, ...] = ()) -> Verdict:
    """A pod on node1 asks a node port of node1 under policy Local, and nobody answers."""
    told = cluster("Local", cluster_cidrs=ranges, local_detection=detection)
    story = Story(told).watch("bridge:node1/cni0", "nic:node1/eth0")
    for attempt in range(3):
        path = [("bridge:node1/cni0", "10.244.1.9:41000", "172.30.0.11:30080")]
        story.syn(path, isn=7_000, tsval=1_000 + attempt * 1_000).wait(1)
    (journey,) = story.report().journeys
    return journey.verdict


def test_a_pods_silence_is_explained_only_where_it_is_known_that_pods_are_not_told_apart() -> None:
    assert PODS["node2"] == "10.244.2.5", "the only endpoint is on node2"
    assert silent(LocalDetection("ClusterCIDR")) is Verdict.BLACKHOLED
    assert silent(LocalDetection("BridgeInterface", "docker0")) is Verdict.BLACKHOLED
    assert silent(LocalDetection("BridgeInterface", "cni0")) is Verdict.INCONCLUSIVE
    assert silent(LocalDetection("NodeCIDR")) is Verdict.INCONCLUSIVE
    assert silent(LocalDetection()) is Verdict.INCONCLUSIVE
