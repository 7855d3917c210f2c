"""Nodes that the objects do not know: what they put in the place of a client looks like any outsider's address."""

from __future__ import annotations

import msgspec
import pytest

from analysis.facts import Facts
from analysis.report import Verdict
from tests.analysis.story import NODES, Story, cluster
from tests.analysis.test_stories import LOCAL, REMOTE, C


def _not_listed(facts: Facts, node: str) -> Facts:
    return msgspec.structs.replace(facts, nodes=tuple(each for each in facts.nodes if each.name != node))


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_a_source_at_an_endpoints_address_may_be_that_of_a_node_that_nobody_listed(policy: str) -> None:
    """node1 masquerades, is not watched, and is not among the objects: its address looks like any outsider's."""
    journey = Story(_not_listed(cluster(policy), "node1")).connection(REMOTE[2:]).journey()
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert journey.reason is not None
    assert "already be a translated one" in journey.reason


def test_a_source_that_still_asks_for_the_service_is_the_clients_whatever_is_listed() -> None:
    journey = Story(_not_listed(cluster("Local"), "node1")).connection(LOCAL).journey()
    assert journey.verdict is Verdict.PRESERVED


def test_the_clients_own_tap_settles_who_asked_an_endpoint_itself() -> None:
    path = [(tap, C, dst) for tap, _, dst in REMOTE[2:]]
    assert Story(cluster("Local")).connection(path).journey().verdict is Verdict.INCONCLUSIVE
    watched = [("client:c/eth0", C, path[0][2]), *path]
    assert Story(cluster("Local")).connection(watched).journey().verdict is Verdict.PRESERVED


def test_a_client_of_a_pod_on_its_nodes_network_is_known_where_every_node_is_listed_and_watched() -> None:
    """An ingress with hostNetwork: who asks its node asks the endpoint itself, and clients are never watched."""
    address = NODES["node2"]
    facts = cluster("Local")
    (service,) = facts.services
    served = tuple(msgspec.structs.replace(each, address=address) for each in service.endpoints)
    services = (msgspec.structs.replace(service, endpoints=served),)
    pods = tuple(
        msgspec.structs.replace(pod, host_network=True, addresses=(address,)) for pod in facts.pods[:1]
    )
    facts = msgspec.structs.replace(facts, services=services, pods=pods)
    watched = [f"nic:{node}/eth0" for node in NODES]

    def verdict(facts: Facts, taps: list[str]) -> Verdict:
        asked = [("nic:node2/eth0", C, f"{address}:8080")]
        return Story(facts).watch(*taps).connection(asked).journey().verdict

    assert verdict(facts, watched) is Verdict.PRESERVED
    assert verdict(facts, watched[:-1]) is Verdict.INCONCLUSIVE, "node3 may have put its own there"
    assert verdict(_not_listed(facts, "node1"), watched) is Verdict.INCONCLUSIVE, (
        "it may have another address, too"
    )
    assert verdict(_not_listed(facts, "node2"), ["nic:node1/eth0", "nic:node3/eth0"]) is not Verdict.PRESERVED
