"""How kube-proxy tells pods from clients outside (detectLocalMode), and what a masquerade at a cluster IP then is."""

from __future__ import annotations

import pytest

from analysis.facts import LocalDetection
from tests.analysis.story import Story, cluster
from tests.analysis.test_stories import MASQUERADED, POD

#: A pod's address on node1 (10.244.1.0/24), and one that no node's range holds.
ON_NODE1, ELSEWHERE = "10.244.1.9:41000", "10.9.9.9:41000"


def mechanism(source: str, detection: LocalDetection, ranges: tuple[str, ...] = ()) -> str:
    """What is blamed for a masquerade at node1 of a connection from `source` to the cluster IP."""
    facts = cluster(cluster_cidrs=ranges, local_detection=detection)
    path = [
        ("veth:node1/veth1", source, "10.96.0.80:80"),
        ("nic:node1/eth0", MASQUERADED, POD),
        ("pod:node2/web", MASQUERADED, POD),
    ]
    (journey,) = Story(facts).connection(path).report().journeys
    (snat,) = journey.snat
    return snat.mechanism


def test_without_a_cluster_cidr_nothing_is_told_apart_so_it_was_not_kube_proxy() -> None:
    assert mechanism(ELSEWHERE, LocalDetection("ClusterCIDR")) == "CNI masquerade"


@pytest.mark.parametrize("mode", ["NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"])
def test_by_the_nodes_own_range_its_pods_are_local(mode: str) -> None:
    detection = LocalDetection(mode, "" if mode == "NodeCIDR" else "cni0")
    assert mechanism(ON_NODE1, detection) == "CNI masquerade"
    assert "clusterCIDR" in mechanism(ELSEWHERE, detection)


def test_by_the_cluster_cidr_what_is_outside_of_it_is_masqueraded() -> None:
    detection = LocalDetection("ClusterCIDR")
    assert "clusterCIDR" in mechanism(ON_NODE1, detection, ("10.200.0.0/16",))
    assert mechanism(ON_NODE1, detection, ("10.244.0.0/16",)) == "CNI masquerade"
