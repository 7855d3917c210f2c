"""Reports made by hand, as the analysis would make them: the renderers' tests need no analysis."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.report import (
    Capture,
    Client,
    CrossNode,
    Finding,
    Hop,
    Journey,
    Path,
    ProxyProtocol,
    Report,
    Resolved,
    Severity,
    Snat,
    Summary,
    Verdict,
)

START = 1_760_000_000.0


@dataclass
class Walk:
    """Writes hops one after the other: where, from whom, to whom; what changed follows by itself."""

    source: str = ""
    destination: str = ""
    hops: tuple[Hop, ...] = ()
    clock: float = START

    def at(
        self,
        node: str | None,
        point: str,
        interface: str | None = None,
        *,
        source: str = "",
        destination: str = "",
        evidence: str = "packet",
        leg: int = 0,
        note: str | None = None,
    ) -> Walk:
        source, destination = source or self.source, destination or self.destination
        changed = tuple(
            name
            for name, old, new in (
                ("source", self.source, source),
                ("destination", self.destination, destination),
            )
            if old and old != new and not (self.hops and self.hops[-1].leg != leg)
        )
        hop = Hop(node, point, interface, source, destination, changed, evidence, self.clock, leg, note)
        return replace(
            self, source=source, destination=destination, hops=(*self.hops, hop), clock=self.clock + 0.00025
        )


def lost_journey(identity: str = "j1") -> Journey:
    """Policy Cluster, endpoint on another node: masqueraded by kube-proxy on node1."""
    walk = (
        Walk("192.0.2.10:40112", "172.30.0.11:30080")
        .at("client1", "client", "eth0")
        .at("node1", "nic", "eth0")
        .at("node1", "dnat", evidence="conntrack", destination="10.244.3.3:8080")
        .at("node1", "nic", "eth0", source="172.30.0.11:26962")
        .at("node3", "nic", "eth0")
        .at("node3", "bridge", "cni0")
        .at("node3", "veth", "veth41f0")
        .at("node3", "pod", "eth0")
    )
    return Journey(
        id=identity,
        protocol="tcp",
        client=Client("192.0.2.10", 40112),
        verdict=Verdict.LOST,
        confidence="high",
        seen_by_app="172.30.0.11",
        hops=walk.hops,
        snat=(
            Snat(
                "node1",
                "192.0.2.10:40112",
                "172.30.0.11:26962",
                "kube-proxy masquerade (externalTrafficPolicy: Cluster)",
                "KUBE-POSTROUTING",
            ),
        ),
        cross_node=CrossNode("node1", "node3", "routed"),
        proxy_protocol=None,
        findings=("SIP101",),
        service="default/web",
        reason="the source address was replaced on the way",
        endpoint="default/web-2",
        answered=True,
        shape="lost-1",
    )


def preserved_journey(identity: str = "j9") -> Journey:
    """Policy Local on a node with an endpoint."""
    walk = (
        Walk("192.0.2.10:50112", "172.30.0.12:30081")
        .at("client1", "client", "eth0")
        .at("node2", "nic", "eth0")
        .at("node2", "bridge", "cni0", destination="10.244.2.3:8080")
        .at("node2", "pod", "eth0")
    )
    return Journey(
        id=identity,
        protocol="tcp",
        client=Client("192.0.2.10", 50112),
        verdict=Verdict.PRESERVED,
        confidence="high",
        seen_by_app="192.0.2.10",
        hops=walk.hops,
        snat=(),
        cross_node=None,
        proxy_protocol=None,
        findings=(),
        service="default/web",
        reason="the endpoint saw the client's own address",
        endpoint="default/web-1",
        answered=True,
        shape="preserved-1",
    )


def blackholed_journey(identity: str = "j20") -> Journey:
    """Policy Local on a node without an endpoint."""
    walk = (
        Walk("192.0.2.10:60112", "172.30.0.11:30081")
        .at("client1", "client", "eth0")
        .at("node1", "nic", "eth0")
    )
    return Journey(
        id=identity,
        protocol="tcp",
        client=Client("192.0.2.10", 60112),
        verdict=Verdict.BLACKHOLED,
        confidence="high",
        seen_by_app=None,
        hops=walk.hops,
        snat=(),
        cross_node=None,
        proxy_protocol=None,
        findings=("SIP201",),
        service="default/web",
        reason="node1 has no ready endpoint and the policy is Local, so node1 dropped the SYN",
        answered=False,
        shape="blackholed-1",
    )


def chained_journey(
    identity: str = "j30", *, told: str = "192.0.2.10", answered: str | None = "10.244.2.3"
) -> Journey:
    """Client → balancer → ingress → application, with a PROXY header, a field of the request and an answer.

    `told` is whom the ingress names to the application, `answered` whom the application says it sees (None: it says
    nothing).
    """
    walk = (
        Walk("192.0.2.10:40112", "192.0.2.80:443")
        .at("client1", "client", "eth0")
        .at("lb", "lb", "eth0")
        .at(
            "lb", "lb", "eth0", leg=1,
            source="192.0.2.80:50001", destination="172.30.0.12:30081", note="tied by PROXY header",
        )
        .at("node2", "nic", "eth0", leg=1)
        .at("node2", "bridge", "cni0", leg=1, destination="10.244.2.3:8081")
        .at("node2", "veth", "veth1", leg=1)
        .at("node2", "pod", "eth0", leg=1)
    )  # fmt: skip
    header = replace(walk, source="192.0.2.10:40112", destination="192.0.2.80:443").at(
        "node2", "proxy-header", "eth0", evidence="header", leg=1, note="PROXY v2"
    )
    onward = (
        replace(header, source="10.244.2.3:33333", destination="10.244.3.9:8000")
        .at("node2", "pod", "eth0", leg=2, note="tied by the same request id")
        .at("node3", "nic", "eth0", leg=2)
        .at("node3", "pod", "eth0", leg=2)
    )
    said = [(told, "http-header", "node2", "header", "by the same request id")]
    if answered is not None:
        said.append((answered, "app", "node3", "log", "by the application's answer"))
    hops = onward.hops + tuple(
        Hop(node, point, None, f"{named}:0", "10.244.3.9:8000", (), evidence, START, 2, by)
        for named, point, node, evidence, by in said
    )
    kept = (answered or told) == "192.0.2.10"
    return Journey(
        id=identity,
        protocol="tcp",
        client=Client("192.0.2.10", 40112),
        verdict=Verdict.PRESERVED if kept else Verdict.LOST,
        confidence="high" if answered else "medium",
        seen_by_app=answered,
        hops=hops,
        snat=(),
        cross_node=None,
        proxy_protocol=ProxyProtocol(2, "PROXY", "192.0.2.10:40112", "192.0.2.80:443"),
        findings=("SIP301",) if kept else ("SIP501",),
        service="default/web",
        reason="what the last server that was heard said of the client decided",
        endpoint="default/ingress-1",
        answered=True,
        shape=f"chained-{told}-{answered}",
        requests=2,
        support=("SIP501: the log of nginx says peer not trusted (ingress.log:3)",),
        resolved=(
            Resolved(
                server="port 8081",
                client="192.0.2.10",
                rule="the peer is in set_real_ip_from",
                source="https://nginx.org/en/docs/http/ngx_http_realip_module.html",
                forgeable=True,
                agrees=told == "192.0.2.10",
            ),
        ),
    )


MASQUERADED = Finding(
    code="SIP101",
    severity=Severity.ERROR,
    title="kube-proxy replaced the client's address",
    detail="default/web has externalTrafficPolicy Cluster: node1 forwards to node3 and masquerades.",
    fix='kubectl -n default patch service web -p \'{"spec":{"externalTrafficPolicy":"Local"}}\'',
    docs="docs/findings.md#sip101",
    evidence=("node1 conntrack 192.0.2.10:40112 -> 172.30.0.11:26962",),
    journeys=3,
)


def report(*journeys: Journey, findings: tuple[Finding, ...] = (), reasons: tuple[str, ...] = ()) -> Report:
    """A report of these journeys; those of one shape make one path."""
    shapes: dict[str, list[Journey]] = {}
    for journey in journeys:
        shapes.setdefault(journey.shape, []).append(journey)

    def number(verdict: Verdict) -> int:
        return sum(journey.verdict is verdict for journey in journeys)

    return Report(
        capture=Capture(
            complete=not reasons,
            nodes=("client1", "node1", "node2", "node3"),
            observations=1234,
            kernel_drops=0,
            reasons=reasons,
        ),
        summary=Summary(
            journeys=len(journeys),
            preserved=number(Verdict.PRESERVED),
            lost=number(Verdict.LOST),
            blackholed=number(Verdict.BLACKHOLED),
            inconclusive=number(Verdict.INCONCLUSIVE),
            cross_node=sum(journey.cross_node is not None for journey in journeys),
        ),
        journeys=journeys,
        findings=findings,
        paths=tuple(
            Path(shape, len(members), members[0].verdict, members[0].id) for shape, members in shapes.items()
        ),
        service="default/web",
        title=None,
    )
