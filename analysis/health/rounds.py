"""Rounds of asking health ports, with the EndpointSlices around each: what `analysis.health.asking` judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from analysis.facts import Policy, Service
from analysis.health.replies import Reply


@dataclass(frozen=True, slots=True)
class Local:
    """The endpoints of one node as the slices have them: address, ready, terminating and still serving."""

    endpoints: frozenset[tuple[str, bool, bool]] = frozenset()

    @property
    def ready(self) -> int:
        """Ready addresses."""
        return len({address for address, ready, _ in self.endpoints if ready})

    @property
    def draining(self) -> int:
        """Addresses that terminate and still serve."""
        return len({address for address, _, draining in self.endpoints if draining})

    @property
    def counts(self) -> set[int]:
        """What kube-proxy may count: each family apart, or all."""
        ready = {address for address, ready, _ in self.endpoints if ready}
        sixes = sum(":" in address for address in ready)
        return {len(ready), sixes, len(ready) - sixes} - ({0} if ready else set())


@dataclass(frozen=True, slots=True)
class View:
    """The slices of a Service at one moment. `homeless`: ready endpoints of which no node is named."""

    nodes: Mapping[str, Local]
    homeless: int = 0

    @classmethod
    def of(cls, service: Service) -> View:
        """What a Service's endpoints say."""
        found: dict[str, set[tuple[str, bool, bool]]] = {}
        homeless: set[str] = set()
        for each in service.endpoints:
            if each.node is None:
                homeless |= {each.address} if each.ready else set()
                continue
            draining = each.terminating and each.serving and not each.ready
            found.setdefault(each.node, set()).add((each.address, each.ready, draining))
        return cls({node: Local(frozenset(each)) for node, each in found.items()}, len(homeless))

    def at(self, node: str) -> Local:
        """The endpoints of a node."""
        return self.nodes.get(node, Local())


@dataclass(frozen=True, slots=True)
class Round:
    """One round of asking: the slices before and after it, None where they may not be read."""

    before: View | None
    after: View | None
    replies: tuple[Reply, ...]


class AskedRounds(msgspec.Struct, frozen=True):
    """All rounds, as a session keeps them. `leaving`: why nodes were about to go; `reasons`: what was not asked."""

    service: str  # namespace/name
    policy: Policy
    health_check_node_port: int
    rounds: tuple[Round, ...]
    leaving: dict[str, str] = {}
    reasons: tuple[str, ...] = ()
