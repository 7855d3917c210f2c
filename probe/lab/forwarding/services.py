"""What kube-proxy decides about one Service port on one node, whichever kernel interface it then writes to.

Rules (Kubernetes documentation, "Virtual IPs and Service Proxies"; KEP-1669, KEP-1860):

1. Ready endpoints serve. While there is none, those that terminate but still serve do.
2. Policy Local counts the endpoints of the node alone, by rule 1 applied to them alone.
3. Traffic from pods and from the node itself to an external address under policy Local is short-circuited to
   all endpoints: it did not come from outside.
4. A balancer's address is short-circuited only with ipMode VIP.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Literal

import msgspec

from analysis.facts import Endpoint, Facts, Policy, Service, ServicePort

IpVersion = Literal[4, 6]

MASQUERADE_MARK = 0x4000
AFFINITY_SECONDS = 10800  # the API's default of sessionAffinityConfig.clientIP.timeoutSeconds


class NodeFacts(msgspec.Struct, frozen=True):
    """What the rules of one node depend on besides the Services."""

    name: str
    addresses: tuple[str, ...]
    cluster_cidrs: tuple[str, ...] = ()  # empty: local traffic is not told apart
    service_cidrs: tuple[str, ...] = ()
    masquerade_all: bool = False
    local_interface: str = ""  # local traffic is told by where it comes in, a name or one that ends in *

    def local(self, version: IpVersion) -> tuple[str, str] | None:
        """What kube-proxy takes for pods' traffic, in nft's words: selector and value; None: it tells nothing apart."""
        if self.local_interface:
            return "iifname", f'"{self.local_interface}"'
        cidr = self.cidr(version)
        return (f"{'ip' if version == 4 else 'ip6'} saddr", cidr) if cidr else None

    def local_arguments(self, version: IpVersion) -> str | None:
        """The same as iptables' arguments."""
        if self.local_interface:
            return f"-i {self.local_interface.replace('*', '+')}"
        cidr = self.cidr(version)
        return f"-s {cidr}" if cidr else None

    def cidr(self, version: IpVersion) -> str | None:
        """The pods' CIDR of one family."""
        return next((cidr for cidr in self.cluster_cidrs if ip_network(cidr).version == version), None)


class PortRules(msgspec.Struct, frozen=True):
    """One Service port of one family on one node, decided."""

    service: Service
    port: ServicePort
    cluster_ip: str | None
    external_ips: tuple[str, ...]
    balancer_ips: tuple[str, ...]
    cluster_endpoints: tuple[Endpoint, ...]
    local_endpoints: tuple[Endpoint, ...]

    @property
    def name(self) -> str:
        """`namespace/name:port`, as kube-proxy writes it in comments and hashes it into names."""
        return f"{self.service.key}:{self.port.name}" if self.port.name else self.service.key

    @property
    def external_local(self) -> bool:
        """Whether externalTrafficPolicy is Local."""
        return self.service.external_policy is Policy.LOCAL

    @property
    def internal_local(self) -> bool:
        """Whether internalTrafficPolicy is Local."""
        return self.service.internal_policy is Policy.LOCAL

    @property
    def external(self) -> bool:
        """Whether it can be reached from outside."""
        return bool(self.port.node_port or self.external_ips or self.balancer_ips)

    @property
    def external_endpoints(self) -> tuple[Endpoint, ...]:
        """Who may serve traffic from outside."""
        return self.local_endpoints if self.external_local else self.cluster_endpoints

    @property
    def internal_endpoints(self) -> tuple[Endpoint, ...]:
        """Who may serve traffic to the cluster IP."""
        return self.local_endpoints if self.internal_local else self.cluster_endpoints

    @property
    def uses_cluster_chain(self) -> bool:
        """Whether anything is sent to all endpoints: Local's short-circuit does so too."""
        return bool(self.cluster_endpoints) and (not self.internal_local or self.external)

    @property
    def uses_local_chain(self) -> bool:
        """Whether anything is sent to the node's own endpoints alone."""
        return bool(self.local_endpoints) and (self.internal_local or (self.external_local and self.external))

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every endpoint that some rule may choose, in kube-proxy's order."""
        chosen = self.cluster_endpoints if self.uses_cluster_chain else ()
        chosen += self.local_endpoints if self.uses_local_chain else ()
        return tuple({endpoint_text(endpoint): endpoint for endpoint in chosen}.values())


def endpoint_text(endpoint: Endpoint) -> str:
    """`ip:port`, IPv6 in brackets."""
    address = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return f"{address}:{endpoint.port}"


def port_rules(facts: Facts, node: NodeFacts, version: IpVersion) -> Iterator[PortRules]:
    """Every Service port of one address family as `node` sees it, in order of name."""
    for service in sorted(facts.services, key=lambda service: service.key):
        cluster_ips = _of(service.cluster_ips, version)
        if not cluster_ips:
            continue  # headless, or of the other family
        for port in service.ports:
            endpoints = [
                endpoint
                for endpoint in service.endpoints
                if endpoint.port_name == port.name
                and endpoint.protocol == port.protocol
                and ip_address(endpoint.address).version == version
            ]
            endpoints.sort(key=endpoint_text)
            yield PortRules(
                service=service,
                port=port,
                cluster_ip=cluster_ips[0],
                external_ips=_of(service.external_ips, version),
                balancer_ips=_of(_short_circuited(service), version),
                cluster_endpoints=_serving(endpoints),
                local_endpoints=_serving([endpoint for endpoint in endpoints if endpoint.node == node.name]),
            )


def local_ready(service: Service, node: str) -> int:
    """`localEndpoints` of the health check node port: ready ones only, so that draining nodes answer 503.

    An endpoint of a dual-stack Service counts once, as its pod does.
    """
    return len(
        {entry.pod or entry.address for entry in service.endpoints if entry.ready and entry.node == node}
    )


def _serving(endpoints: list[Endpoint]) -> tuple[Endpoint, ...]:
    ready = tuple(endpoint for endpoint in endpoints if endpoint.ready)
    return ready or tuple(endpoint for endpoint in endpoints if endpoint.serving and endpoint.terminating)


def _short_circuited(service: Service) -> tuple[str, ...]:
    return tuple(
        balancer.address
        for balancer in service.balancers
        if balancer.address and balancer.ip_mode == "VIP" and service.type == "LoadBalancer"
    )


def _of(addresses: tuple[str, ...], version: IpVersion) -> tuple[str, ...]:
    return tuple(address for address in addresses if ip_address(address).version == version)
