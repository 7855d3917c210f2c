"""The one serialisable report. Every renderer reads this value and nothing else.

The names of its JSON fields are a contract (docs/report.md); fields are added, never renamed.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from analysis.health.result import Health

SCHEMA_VERSION = "1"


class Verdict(enum.StrEnum):
    """What became of the client's address on one journey."""

    PRESERVED = "preserved"
    LOST = "lost"
    BLACKHOLED = "blackholed"
    INCONCLUSIVE = "inconclusive"


class Forged(enum.StrEnum):
    """What became of a forged claim about the client."""

    REACHED = "reached"
    NOT_REACHED = "not reached"
    UNKNOWN = "unknown"


class Severity(enum.StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Client(msgspec.Struct, frozen=True, rename="camel"):
    """The client as far back as it could be followed."""

    address: str
    port: int


class Hop(msgspec.Struct, frozen=True, rename="camel"):
    """One point of the path where an address is known. `changed` is against the hop before."""

    node: str | None
    point: str
    interface: str | None
    source: str
    destination: str
    changed: tuple[str, ...]
    evidence: str
    time: float
    leg: int = 0  # which connection of the journey, from the client on
    note: str | None = None
    tap: str | None = None  # kind of the tap that saw it


class Snat(msgspec.Struct, frozen=True, rename="camel"):
    """One replacement of the source address."""

    node: str | None
    from_: str = msgspec.field(name="from")
    to: str = ""
    mechanism: str = ""
    rule: str | None = None


class CrossNode(msgspec.Struct, frozen=True, rename="camel"):
    """The connection was forwarded from one node to another."""

    from_: str = msgspec.field(name="from")
    to: str = ""
    via: str = "routed"


class ProxyProtocol(msgspec.Struct, frozen=True, rename="camel"):
    """The PROXY header that reached the endpoint."""

    version: int
    command: str
    source: str | None
    destination: str | None
    tlvs: tuple[dict[str, Any], ...] = ()


class Resolved(msgspec.Struct, frozen=True, rename="camel"):
    """Whom a server would take for the client by the configuration that was given."""

    server: str
    client: str | None  # None: it refuses, or the configuration does not say
    rule: str
    source: str  # where the rule is written down
    forgeable: bool  # whether a stranger who reaches the listener could have chosen the client
    agrees: bool | None = None  # with what was seen; None: nothing was seen


class RuleSaid(msgspec.Struct, frozen=True, rename="camel"):
    """What one rule of a kernel's packet filter did to a packet that began a connection of the journey."""

    node: str
    did: str  # mark, snat, dnat, drop, reject
    rule: str
    words: str = ""  # what it is for, where its names tell
    owner: str | None = None  # kube-proxy, a network plugin …
    namespace: str | None = None  # of the pod whose rule it is; null: the node's
    evidence: str = "trace"  # counters: of iptables-legacy; consistent: one of several that these allow


class Journey(msgspec.Struct, frozen=True, rename="camel"):
    """One client connection from its first to its last known point."""

    id: str
    protocol: str
    client: Client | None
    verdict: Verdict
    confidence: str
    seen_by_app: str | None
    hops: tuple[Hop, ...]
    snat: tuple[Snat, ...]
    cross_node: CrossNode | None
    proxy_protocol: ProxyProtocol | None
    findings: tuple[str, ...]
    service: str | None = None
    reason: str = ""  # one sentence: why this verdict
    endpoint: str | None = None  # pod or address that was to answer
    answered: bool | None = None  # None: not known
    shape: str = ""  # journeys of one shape took the same path
    requests: int = 0  # HTTP requests that could be read on the way into the Service
    attempts: int = 0  # connections of the balancer for this client that nobody answered, besides
    support: tuple[str, ...] = ()  # "SIP307: …": what configuration and log say for a finding
    resolved: tuple[Resolved, ...] = ()  # whom the configuration would have servers take for the client
    display_filter: str = ""  # finds its packets in Wireshark
    rules: tuple[RuleSaid, ...] = ()  # what the kernel said of its own rules, where it was asked


class Finding(msgspec.Struct, frozen=True, rename="camel"):
    """A coded statement about the session; see `probe explain CODE`."""

    code: str
    severity: Severity
    title: str
    detail: str
    fix: str
    docs: str
    evidence: tuple[str, ...] = ()
    journeys: int = 0  # how many journeys it is about
    confidence: str = "high"  # "medium": other faults would look the same


class Capture(msgspec.Struct, frozen=True, rename="camel"):
    """How much of the truth the capture could see."""

    complete: bool
    nodes: tuple[str, ...]
    observations: int
    kernel_drops: int
    reasons: tuple[str, ...]
    health_checks: int = 0  # connections of balancers that only checked; not journeys
    sample: int = 1  # of so many TCP connections one was watched, the same ones on every node
    clients: tuple[str, ...] = ()  # journeys of these clients only; none: of all
    other_clients: int = 0  # journeys left out because they are of others
    unknown_clients: int = 0  # journeys left out because nothing says whose they are


class Summary(msgspec.Struct, frozen=True, rename="camel"):
    """Counts of journeys."""

    journeys: int = 0
    preserved: int = 0
    lost: int = 0
    blackholed: int = 0
    inconclusive: int = 0
    cross_node: int = 0


class Path(msgspec.Struct, frozen=True, rename="camel"):
    """All journeys of one shape: they took the same path through the same kinds of change."""

    shape: str
    count: int
    verdict: Verdict
    example: str  # id of a journey


class Forgery(msgspec.Struct, frozen=True, rename="camel"):
    """A claim about the client that a request of ours invented, and whether the application took it for true.

    `claim` is a header field in lower case, or "proxy" or "proxy-v2" for a PROXY header of the client's own.
    """

    claim: str
    value: str
    outcome: Forged
    requests: int  # that made this claim
    reached: int  # of these, how many the application believed
    evidence: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """The whole answer."""

    capture: Capture
    summary: Summary
    journeys: tuple[Journey, ...]
    findings: tuple[Finding, ...]
    paths: tuple[Path, ...] = ()
    service: str | None = None
    title: str | None = None  # what was asked, for people
    journeys_omitted: int = 0  # counted in summary and paths, not told one by one
    schema_version: str = SCHEMA_VERSION
    forgeries: tuple[Forgery, ...] = ()
    health: Health | None = None  # None: no health check was seen, or no objects were given

    @property
    def exit_code(self) -> int:
        """0 all preserved · 3 something lost or an error-level finding · 4 inconclusive (docs/report.md)."""
        if self.summary.lost or self.summary.blackholed:
            return 3
        if any(finding.severity is Severity.ERROR for finding in self.findings):
            return 3
        if self.summary.inconclusive or not self.summary.journeys:
            return 4
        return 0
