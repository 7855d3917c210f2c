"""What the report says of health ports that were asked: who was asked from where, what came back, and what that means.

The names of the JSON fields are part of the report's contract (docs/health.md).
"""

from __future__ import annotations

import enum

import msgspec


class AskedFrom(enum.StrEnum):
    """From where a node's port was asked."""

    ITSELF = "itself"
    PEER = "peer"
    OPERATOR = "operator"


class Standing(enum.StrEnum):
    """What is to be said of one node."""

    RIGHT = "as it must be"
    WRONG = "wrong"
    CHANGED = "changed meanwhile"
    OPEN = "not judged"


class Reply(msgspec.Struct, frozen=True, rename="camel"):
    """What one port of one node answered to one who asked, the last time that it was asked.

    `outcome` is "answered", "not HTTP", "closed", "refused", "no answer", "unreachable", or "not asked", whose `reason`
    is told. `asker` is the node or other place from which it was asked; "": the operator's own machine.
    """

    node: str
    port: int
    target: str  # "health-check node port" or "kube-proxy"
    asked_from: AskedFrom
    asker: str = ""
    address: str = ""
    outcome: str = "not asked"
    status: int | None = None
    local_endpoints: int | None = None
    weight: int | None = None
    proxy_healthy: bool | None = None
    node_eligible: bool | None = None
    service: str = ""  # namespace/name that the body names
    start: str = ""  # the status line, or what came in its place
    seconds: float = 0.0
    reason: str = ""

    @property
    def asked(self) -> bool:
        """Whether it was asked at all."""
        return self.outcome != "not asked"

    @property
    def answered(self) -> bool:
        """Whether an HTTP answer came."""
        return self.outcome == "answered"

    @property
    def claimed(self) -> int | None:
        """How many endpoints it says that the node has."""
        return self.local_endpoints if self.local_endpoints is not None else self.weight


class NodeReplies(msgspec.Struct, frozen=True, rename="camel"):
    """One node: what the EndpointSlices say of it, what its ports answered, and what that comes to."""

    node: str
    ready: int | None  # endpoints; None: the slices are not known, or changed meanwhile
    terminating: int | None  # that still serve
    standing: Standing
    words: tuple[str, ...] = ()  # why
    replies: tuple[Reply, ...] = ()
    leaving: str = ""  # why the node is about to go, "" where it is not


class Asking(msgspec.Struct, frozen=True, rename="camel"):
    """All that was asked of one Service's health checks."""

    service: str
    policy: str
    port: int  # the health check node port; 0: there is none
    rounds: int
    nodes: tuple[NodeReplies, ...]
    reasons: tuple[str, ...] = ()  # what could not be asked or compared, and why

    @property
    def judged(self) -> bool:
        """Whether anything could be said of any node."""
        return any(node.standing in {Standing.RIGHT, Standing.WRONG} for node in self.nodes)
