"""Whom to ask from where: each node's ports from the node itself, a neighbour, and the operator's side. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from analysis.chain.journeys import KUBE_PROXY_HEALTHZ
from analysis.facts import Facts, Node, Policy, Service
from analysis.health.checks import Asked
from analysis.health.replies import AskedFrom, Reply
from daemonset.node.health_port import Answered

#: Nodes that are asked from the operator's side too, and addresses that are tried of each.
MOST_FROM_HERE, MOST_ADDRESSES = 64, 3

#: The taint by which the cluster autoscaler marks a node that it is about to remove (KEP-3836).
_DOOMED = "ToBeDeletedByClusterAutoscaler"


class Question(NamedTuple):
    """One port of one node, asked from one place. `place` is "" at the operator's own machine."""

    node: str
    port: int
    target: Asked
    asked_from: AskedFrom
    place: str
    address: str
    impossible: str = ""  # why it cannot be asked at all

    @property
    def text(self) -> str:
        """As `daemonset.node.health_port` reads it."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}{'/healthz' if self.target is Asked.PROXY else '/'}"

    def reply(self, answered: Answered) -> Reply:
        """The answer to it."""
        said = answered.said
        return Reply(
            node=self.node,
            port=self.port,
            target=self.target,
            asked_from=self.asked_from,
            asker=self.place,
            address=self.address,
            outcome=answered.outcome,
            status=answered.status,
            local_endpoints=said.local_endpoints if said is not None else None,
            weight=said.weight if said is not None else None,
            proxy_healthy=said.healthy if said is not None else None,
            node_eligible=answered.eligible,
            service=said.service if said is not None else "",
            start=answered.start,
            seconds=answered.seconds,
        )

    def unasked(self, reason: str) -> Reply:
        """That it could not be asked."""
        return Reply(
            node=self.node,
            port=self.port,
            target=self.target,
            asked_from=self.asked_from,
            asker=self.place,
            address=self.address,
            reason=reason,
        )


def ports_of(service: Service) -> list[tuple[int, Asked]]:
    """The ports that say what a load balancer should know."""
    found = [(KUBE_PROXY_HEALTHZ, Asked.PROXY)]
    if service.external_policy is Policy.LOCAL and service.health_check_node_port:
        found.insert(0, (service.health_check_node_port, Asked.SERVICE))
    return found


def questions_of(
    service: Service,
    nodes: Sequence[Node],
    agents: Sequence[str],
    turn: int = 0,
    *,
    operator: str | None = "",
    ranges: Sequence[str] = (),
) -> list[Question]:
    """All that is to be asked. `agents`: nodes from which can be asked; `operator`: the place outside, None: none.

    `turn`: with each one higher, other neighbours ask. `ranges`: kube-proxy's nodePortAddresses, where alone it serves
    the health check node port.
    """
    found: list[Question] = []
    for number, node in enumerate(nodes):
        known = addresses_of(node, service)
        if not known:
            continue
        peer = _peer(node.name, agents, number + turn)
        for port, target in ports_of(service):
            served = _within(known, ranges) if target is Asked.SERVICE else known
            if not served:
                why = f"nodePortAddresses {', '.join(ranges[:4])} hold no address of the node that is known"
                found.append(Question(node.name, port, target, AskedFrom.ITSELF, node.name, "", why))
                continue
            found.append(Question(node.name, port, target, AskedFrom.ITSELF, node.name, served[0]))
            if peer is not None:
                found.append(Question(node.name, port, target, AskedFrom.PEER, peer, served[0]))
            if operator is not None and number < MOST_FROM_HERE:
                outside = (AskedFrom.OPERATOR, operator)
                found += [
                    Question(node.name, port, target, *outside, each) for each in served[:MOST_ADDRESSES]
                ]
    return found


def own_questions(service: Service, facts: Facts, names: Collection[str]) -> list[Question]:
    """What each node is to ask itself again and again: the one port by which a balancer should decide."""
    port, _ = ports_of(service)[0]
    nodes = [node for node in facts.nodes if node.name in names]
    asked = questions_of(service, nodes, [], operator=None, ranges=facts.node_port_addresses)
    return [question for question in asked if question.port == port and not question.impossible]


def _within(addresses: Sequence[str], ranges: Sequence[str]) -> Sequence[str]:
    """Those within the ranges; all where a range is a word, as "primary" is, or none is given."""
    try:
        nets = [ip_network(each, strict=False) for each in ranges]
    except ValueError:
        return addresses
    return [each for each in addresses if not nets or any(ip_address(each) in net for net in nets)]


def addresses_of(node: Node, service: Service) -> list[str]:
    """A node's addresses, those of the Service's first family first."""
    wanted = 6 if service.ip_families[:1] == ("IPv6",) else 4
    return sorted(node.addresses, key=lambda each: ip_address(each).version != wanted)


def _peer(node: str, agents: Sequence[str], number: int) -> str | None:
    """A neighbour that asks; each asks as few as can be."""
    others = [agent for agent in agents if agent != node]
    return others[number % len(others)] if others else None


def best_of(replies: Iterable[Reply]) -> list[Reply]:
    """One reply for each port and side: of several addresses the one that answered."""
    order = ["answered", "not HTTP", "closed", "refused", "no answer", "unreachable", "not asked"]
    found: dict[tuple[str, int, AskedFrom], Reply] = {}
    for reply in replies:
        key = reply.node, reply.port, reply.asked_from
        before = found.get(key)
        if before is None or order.index(reply.outcome) < order.index(before.outcome):
            found[key] = reply
    return list(found.values())


def leaving_of(facts: Facts, deleted: Iterable[str] = ()) -> Mapping[str, str]:
    """Why nodes are about to go: `deleted` have a deletionTimestamp, others the autoscaler's taint."""
    found = dict.fromkeys(deleted, "it is being deleted")
    for node in facts.nodes:
        if any(taint.partition("=")[0].partition(":")[0] == _DOOMED for taint in node.taints):
            found.setdefault(node.name, f"it has the taint {_DOOMED}")
    return found
