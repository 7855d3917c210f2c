"""What the report says of health checks: who asks, what nodes answer, and who is sent to them nevertheless.

The names of the JSON fields are part of the report's contract (docs/report.md). Times are seconds since the epoch.
"""

from __future__ import annotations

import msgspec


class Checker(msgspec.Struct, frozen=True, rename="camel"):
    """One who checks nodes in one way: from where, at which port, by which request, how often."""

    address: str
    port: int
    target: str  # "health-check node port", "kube-proxy", "node port"
    request: str | None  # method and target of the request; None: a bare connection
    nodes: tuple[str, ...]
    checks: int
    interval: float | None  # seconds from one check of a node to the next of the same series
    series: int = 1  # how many rhythms are mixed, as of a balancer with several servers at one node
    proxy_header: bool = False
    balancer: bool = False  # whether it is known to be a load balancer, or sends clients' connections itself


class Outage(msgspec.Struct, frozen=True, rename="camel"):
    """The time in which a node said that it must not be sent to, and what it was sent.

    `balancer_lag` counts from the first refusal to the last client that was sent there, `total_lag` from the first
    connection that failed. None where one of the two was not seen.
    """

    node: str
    answers: int  # that said so, to others than us
    first: float
    until: float | None  # healthy again; None: not within the capture
    healthy_before: float | None  # the last answer before that said the contrary
    failing_since: float | None  # the first connection that failed after the last that was served
    last_connection: float | None  # the last client that was sent there
    connections: int  # clients that were sent there after `first`
    served: int  # of these, how many were served
    lost: int  # clients lost here since `failing_since` or `first`
    attempts: int  # connections that arrived after `first`, with those that the balancer tried again
    health_lag: float | None
    balancer_lag: float
    total_lag: float | None
    stopped: bool | None  # whether the balancer stopped sending; None: there was too little traffic to tell
    resumed: float | None  # the first connection after `until`
    everywhere: bool = False  # no other node said at that time that it was healthy
    endpoints_gone: float | None = None  # when a watch told that its last ready endpoint was gone
    senders: tuple[str, ...] = ()  # who made connections to it after `first`, the busiest first


class NodeHealth(msgspec.Struct, frozen=True, rename="camel"):
    """One node: what it answered, and what became of connections that arrived there."""

    node: str
    endpoints: int | None  # ready ones on it, as the objects say; None: unknown
    answers: dict[str, int]  # "200", "503", "refused", "no answer", "closed"
    local_endpoints: tuple[int, ...]  # every number of endpoints that it claimed
    connections: int
    served: int
    failed: int
    lost: int | None  # clients lost for good; None: the balancer's other side was not seen
    outages: tuple[Outage, ...] = ()


class Event(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that happened. `kind`: endpoints, answer, failing, last, resumed."""

    time: float
    node: str
    kind: str
    text: str


class Health(msgspec.Struct, frozen=True, rename="camel"):
    """The whole of it, of one Service."""

    service: str
    port: int  # the health check node port, or kube-proxy's own
    checkers: tuple[Checker, ...]
    nodes: tuple[NodeHealth, ...]
    timeline: tuple[Event, ...]
    clients: (
        int | None
    )  # clients' connections at the balancer, or at the nodes where nothing stands before them
    lost: int | None  # of these, how many got no byte of an answer
    unsettled: int = 0  # of these, how many had not ended
    saved: int = 0  # connections that were served although their node had no ready endpoint any more
    lag: float | None = (
        None  # the longest time for which clients were sent to a node that served none, seconds
    )
    reasons: tuple[str, ...] = ()  # what could not be judged, and why
