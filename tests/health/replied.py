"""Clusters whose health ports are asked, by construction: what each node has, and what its ports do about it.

Asked(has={"node1": 1, "node2": 0}) answers as kube-proxy would; `but("node2", status=200, local_endpoints=1)` lies.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec

from analysis.facts import Endpoint, Policy, Service
from analysis.health.asking import ROUNDS, judge
from analysis.health.judge import Codes
from analysis.health.replies import AskedFrom, Asking, NodeReplies, Reply
from analysis.health.rounds import Round, View
from probe.health.report import HealthReport, with_asking

PORT, HEALTHZ = 32100, 10256
KEY = "default/web"
DOOMED = "it has the taint ToBeDeletedByClusterAutoscaler"

#: What a reply says where nothing listens, and where nothing comes back.
REFUSED = {"outcome": "refused", "status": None, "local_endpoints": None, "weight": None, "service": ""}
SILENT = REFUSED | {"outcome": "no answer"}
UNASKED = REFUSED | {"outcome": "not asked", "reason": "its agent's pod did not come"}


def service(has: dict[str, int], *, draining: dict[str, int] | None = None, policy: str = "Local") -> Service:
    """A Service with so many ready endpoints, and so many that terminate and serve, on each node."""
    endpoints = [
        Endpoint(f"10.244.{number}.{2 + one}", 8080, "tcp", node=node)
        for number, (node, count) in enumerate(has.items())
        for one in range(count)
    ]
    endpoints += [
        Endpoint(f"10.244.{number}.{100 + one}", 8080, "tcp", node=node, ready=False, terminating=True)
        for number, (node, count) in enumerate((draining or {}).items())
        for one in range(count)
    ]
    port = PORT if policy == "Local" else 0
    return Service(
        "default",
        "web",
        "LoadBalancer",
        Policy(policy),
        endpoints=tuple(endpoints),
        health_check_node_port=port,
    )


class Asked:
    """Nodes that are asked by themselves, a peer, and from outside, the same in every round unless said otherwise."""

    def __init__(
        self,
        has: dict[str, int],
        *,
        draining: dict[str, int] | None = None,
        policy: str = "Local",
        rounds: int = ROUNDS,
    ) -> None:
        self.has = has
        self.policy = policy
        self.service = service(has, draining=draining, policy=policy)
        view: View | None = View.of(self.service)
        self.views = [(view, view)] * rounds
        self.leaving: dict[str, str] = {}
        self.rounds = [self._replies() for _ in range(rounds)]

    def _replies(self) -> list[Reply]:
        found = []
        for node, count in self.has.items():
            for side in AskedFrom:
                asker = {"itself": node, "peer": "peer-of-" + node, "operator": ""}[side]
                common = {"node": node, "asked_from": side, "asker": asker, "outcome": "answered"}
                if self.policy == "Local":
                    own = {"port": PORT, "target": "health-check node port", "status": 200 if count else 503}
                    body = {"local_endpoints": count, "weight": count, "proxy_healthy": True, "service": KEY}
                    found.append(Reply(**common, **own, **body))
                found.append(
                    Reply(**common, port=HEALTHZ, target="kube-proxy", status=200, node_eligible=True)
                )
        return found

    def but(
        self,
        node: str,
        port: int = PORT,
        *,
        sides: tuple[str, ...] = ("itself", "peer", "operator"),
        rounds: tuple[int, ...] | None = None,
        **said: Any,
    ) -> Self:
        """This port of this node answers something else, to these sides, in these rounds (None: in all)."""
        for number in range(len(self.rounds)) if rounds is None else rounds:
            self.rounds[number] = [
                msgspec.structs.replace(each, **said)
                if (each.node, each.port) == (node, port) and each.asked_from in sides
                else each
                for each in self.rounds[number]
            ]
        return self

    def slices(self, number: int, before: Service | None, after: Service | None) -> Self:
        """What the slices showed around one round; None: they may not be read."""
        seen = [View.of(each) if each is not None else None for each in (before, after)]
        self.views[number] = (seen[0], seen[1])
        return self

    def leaves(self, node: str) -> Self:
        """The autoscaler has chosen the node."""
        self.leaving[node] = DOOMED
        return self

    @property
    def built(self) -> list[Round]:
        return [
            Round(before, after, tuple(replies))
            for (before, after), replies in zip(self.views, self.rounds, strict=True)
        ]

    def judged(self) -> tuple[Asking, Codes]:
        return judge(self.built, self.service, leaving=self.leaving)

    def codes(self) -> set[str]:
        return set(self.judged()[1])

    def node(self, name: str) -> NodeReplies:
        return next(node for node in self.judged()[0].nodes if node.node == name)

    def report(self) -> HealthReport:
        return with_asking(*self.judged())


def two(**more: Any) -> Asked:
    """node1 has one endpoint, node2 none."""
    return Asked({"node1": 1, "node2": 0}, **more)


def cluster(**more: Any) -> Asked:
    """Two nodes under policy Cluster."""
    return Asked({"node1": 1, "node2": 0}, policy="Cluster", **more)


ASKED_STORIES = {
    "SIP611": lambda: two().but("node1", sides=("peer", "operator"), **SILENT).report(),
    "SIP612": lambda: two().but("node1", local_endpoints=4, weight=4).report(),
    "SIP613": lambda: cluster().but("node1", HEALTHZ, status=503).report(),
    "SIP614": lambda: cluster().leaves("node1").report(),
    "SIP615": lambda: cluster().but("node1", HEALTHZ, **REFUSED).report(),
    "SIP616": lambda: two().but("node1", status=404, start="HTTP/1.1 404 Not Found").report(),
    "SIP617": lambda: (
        cluster().leaves("node1").but("node1", HEALTHZ, status=503, node_eligible=False).report()
    ),
    "SIP618": lambda: two().report(),
}
