"""kube-proxy's nftables mode: the text for `nft -f` of one node, table `kube-proxy` of family ip or ip6.

Same decisions as in iptables mode, another form: dispatch is one look-up in a verdict map (`service-ips`,
`service-nodeports`) instead of a walk over rules, refusals are maps too (`no-endpoint-services`,
`no-endpoint-nodeports`: drop or reject), source ranges are checked before DNAT (`firewall-ips`). One rule is
stricter: node ports are open on the node's own addresses only (`nodeport-ips`), not on the pod bridge.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from analysis.facts import Endpoint, Facts
from probe.lab.forwarding.names import nftables_chain
from probe.lab.forwarding.services import (
    AFFINITY_SECONDS,
    MASQUERADE_MARK,
    IpVersion,
    NodeFacts,
    PortRules,
    port_rules,
)

_MARK = f"{MASQUERADE_MARK:#x}"

#: Base chains: name, type, hook, priority (dstnat is -100, srcnat 100) and what they do.
_BASE_CHAINS = (
    ("filter-prerouting-pre-dnat", "filter", "prerouting", "-110", ("ct state new jump firewall-check",)),
    ("filter-output-pre-dnat", "filter", "output", "-110", ("ct state new jump firewall-check",)),
    (
        "filter-input",
        "filter",
        "input",
        "0",
        ("ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"),
    ),
    (
        "filter-forward",
        "filter",
        "forward",
        "0",
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    (
        "filter-output",
        "filter",
        "output",
        "0",
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    ("nat-prerouting", "nat", "prerouting", "-100", ("jump services",)),
    ("nat-output", "nat", "output", "-100", ("jump services",)),
    ("nat-postrouting", "nat", "postrouting", "100", ("jump masquerading",)),
)


class _Container:
    """A set or map under construction."""

    def __init__(self, kind: str, type_: str, comment: str) -> None:
        self.kind = kind
        self.type = type_
        self.comment = comment
        self.elements: list[str] = []

    def lines(self, name: str) -> list[str]:
        """Its definition, elements included."""
        lines = [f"{self.kind} {name} {{", f"  type {self.type}", f'  comment "{self.comment}"']
        if self.elements:
            elements = ",\n    ".join(dict.fromkeys(self.elements))
            lines.append(f"  elements = {{\n    {elements}\n  }}")
        return [*lines, "}"]


class _Table:
    """The table under construction."""

    def __init__(self, node: NodeFacts, version: IpVersion) -> None:
        self.node = node
        self.version = version
        self.ip = "ip" if version == 4 else "ip6"
        address = f"ipv{version}_addr"
        key, port_key = f"{address} . inet_proto . inet_service", "inet_proto . inet_service"
        self.containers = {
            "cluster-ips": _Container("set", address, "Active ClusterIPs"),
            "nodeport-ips": _Container("set", address, "IPs that accept NodePort traffic"),
            "no-endpoint-services": _Container(
                "map", f"{key} : verdict", "vmap to drop or reject packets to services with no endpoints"
            ),
            "no-endpoint-nodeports": _Container(
                "map",
                f"{port_key} : verdict",
                "vmap to drop or reject packets to service nodeports with no endpoints",
            ),
            "firewall-ips": _Container(
                "map", f"{key} : verdict", "destinations that are subject to LoadBalancerSourceRanges"
            ),
            "service-ips": _Container(
                "map", f"{key} : verdict", "ClusterIP, ExternalIP and LoadBalancer IP traffic"
            ),
            "service-nodeports": _Container("map", f"{port_key} : verdict", "NodePort traffic"),
        }
        self.affinity: dict[str, str] = {}
        self.chains: dict[str, list[str]] = {}

    def text(self) -> str:
        """The table as `nft -f` reads it. Chains come before the maps whose verdicts name them."""
        body = ['comment "rules for kube-proxy"']
        for name, address in self.affinity.items():
            body.append(f"set {name} {{\n  type {address}\n  flags dynamic,timeout")
            body.append(f"  timeout {AFFINITY_SECONDS}s\n}}")
        for name, rules in self.chains.items():
            body += [f"chain {name} {{", *(f"  {rule}" for rule in rules), "}"]
        for name, container in self.containers.items():
            body += container.lines(name)
        for name, type_, hook, priority, jumps in _BASE_CHAINS:
            body += [f"chain {name} {{", f"  type {type_} hook {hook} priority {priority}; policy accept;"]
            body += [*(f"  {jump}" for jump in jumps), "}"]
        lines = "\n".join(body).replace("\n", "\n  ")
        return f"table {self.ip} kube-proxy {{\n  {lines}\n}}\n"


def nftables_rules(facts: Facts, node: NodeFacts, version: IpVersion) -> str:
    """All of kube-proxy's rules of one node and one address family."""
    table = _Table(node, version)
    addresses = [address for address in node.addresses if ip_address(address).version == version]
    table.containers["nodeport-ips"].elements += addresses
    _skeleton(table)
    for rules in port_rules(facts, node, version):
        _Port(table, rules).write()
    return table.text()


def _skeleton(table: _Table) -> None:
    ip, key = table.ip, f"{table.ip} daddr . meta l4proto . th dport"
    cidrs = [cidr for cidr in table.node.service_cidrs if ip_network(cidr).version == table.version]
    unallocated = f"{ip} daddr {{ {', '.join(cidrs)} }} drop" if cidrs else ""
    table.chains |= {
        "mark-for-masquerade": [f"meta mark set meta mark or {_MARK}"],
        "masquerading": [
            f"meta mark and {_MARK} == 0 return",
            f"meta mark set meta mark xor {_MARK}",
            "masquerade fully-random",
        ],
        "reject-chain": ["reject"],
        "services": [
            f"{key} vmap @service-ips",
            f"{ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
        ],
        "service-endpoints-check": [f"{key} vmap @no-endpoint-services"],
        "nodeport-endpoints-check": [
            f"{ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"
        ],
        "firewall-check": [f"{key} vmap @firewall-ips"],
        "cluster-ips-check": [
            f'{ip} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"'
        ],
    }
    if unallocated:
        note = 'comment "Drop traffic to unallocated ClusterIPs"'
        table.chains["cluster-ips-check"].append(f"{unallocated} {note}")


class _Port:
    """Writes the chains and elements of one Service port."""

    def __init__(self, table: _Table, rules: PortRules) -> None:
        self.table = table
        self.rules = rules
        self.ip = table.ip
        self.pods = table.node.local(table.version)
        self.service_chain = nftables_chain("service", rules)
        self.local_chain = nftables_chain("local", rules)
        self.external_chain = nftables_chain("external", rules)
        self.firewall_chain = nftables_chain("firewall", rules)

    def write(self) -> None:
        """Everything about this port."""
        rules = self.rules
        for endpoint in rules.endpoints:
            self._endpoint(endpoint)
        if rules.uses_cluster_chain:
            self._balance(self.service_chain, rules.cluster_endpoints)
        if rules.uses_local_chain:
            self._balance(self.local_chain, rules.local_endpoints)
        if rules.external and rules.cluster_endpoints:
            self._external_chain()
        self._cluster_ip()
        self._external_addresses()

    def _element(self, map_: str, key: str, verdict: str) -> None:
        element = f'{key} comment "{self.rules.name}" : {verdict}'
        self.table.containers[map_].elements.append(element)

    def _key(self, address: str) -> str:
        return f"{address} . {self.rules.port.protocol} . {self.rules.port.port}"

    def _refusal(self, endpoints: tuple[Endpoint, ...]) -> str | None:
        if not self.rules.cluster_endpoints:
            return "goto reject-chain"
        return None if endpoints else "drop"

    def _cluster_ip(self) -> None:
        rules = self.rules
        if not rules.cluster_ip:
            return
        self.table.containers["cluster-ips"].elements.append(rules.cluster_ip)
        refusal = self._refusal(rules.internal_endpoints)
        if refusal:
            self._element("no-endpoint-services", self._key(rules.cluster_ip), refusal)
            return
        chain = self.local_chain if rules.internal_local else self.service_chain
        self._element("service-ips", self._key(rules.cluster_ip), f"goto {chain}")
        match = f"{self.ip} daddr {rules.cluster_ip} {rules.port.protocol} dport {rules.port.port}"
        if self.table.node.masquerade_all:
            self.table.chains[chain].insert(0, f"{match} jump mark-for-masquerade")
        elif self.pods:
            selector, value = self.pods
            self.table.chains[chain].insert(0, f"{match} {selector} != {value} jump mark-for-masquerade")

    def _external_addresses(self) -> None:
        rules, refusal = self.rules, self._refusal(self.rules.external_endpoints)
        for address in (*rules.external_ips, *rules.balancer_ips):
            if rules.cluster_endpoints:
                self._element("service-ips", self._key(address), f"goto {self.external_chain}")
            if refusal:
                self._element("no-endpoint-services", self._key(address), refusal)
        if rules.service.source_ranges and rules.balancer_ips:
            self._source_ranges()
        if rules.port.node_port:
            key = f"{rules.port.protocol} . {rules.port.node_port}"
            if rules.cluster_endpoints:
                self._element("service-nodeports", key, f"goto {self.external_chain}")
            if refusal:
                self._element("no-endpoint-nodeports", key, refusal)

    def _source_ranges(self) -> None:
        version = self.table.version
        allowed = [cidr for cidr in self.rules.service.source_ranges if ip_network(cidr).version == version]
        sources = f"{self.ip} saddr != {{ {', '.join(allowed)} }} " if allowed else ""
        self.table.chains[self.firewall_chain] = [f"{sources}drop"]
        for address in self.rules.balancer_ips:
            self._element("firewall-ips", self._key(address), f"goto {self.firewall_chain}")

    def _external_chain(self) -> None:
        rules = self.rules
        chain = self.table.chains.setdefault(self.external_chain, [])
        if not rules.external_local:
            chain.append("jump mark-for-masquerade")
        else:
            if self.pods:
                selector, value = self.pods
                chain.append(
                    f'{selector} {value} goto {self.service_chain} comment "short-circuit pod traffic"'
                )
            chain.append('fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"')
            chain.append(
                f'fib saddr type local goto {self.service_chain} comment "short-circuit local traffic"'
            )
        if rules.external_endpoints:
            chain.append(f"goto {self.local_chain if rules.external_local else self.service_chain}")

    def _balance(self, name: str, endpoints: tuple[Endpoint, ...]) -> None:
        chain = self.table.chains.setdefault(name, [])
        if self.rules.service.session_affinity == "ClientIP":
            for endpoint in endpoints:
                sticky = nftables_chain("affinity", self.rules, endpoint)
                target = nftables_chain("endpoint", self.rules, endpoint)
                chain.append(f"{self.ip} saddr @{sticky} goto {target}")
        targets = [nftables_chain("endpoint", self.rules, endpoint) for endpoint in endpoints]
        verdicts = ", ".join(f"{index} : goto {target}" for index, target in enumerate(targets))
        chain.append(f"numgen random mod {len(endpoints)} vmap {{ {verdicts} }}")

    def _endpoint(self, endpoint: Endpoint) -> None:
        address = endpoint.address
        # A pod that reaches itself through its Service would answer itself past the NAT.
        rules = [f"{self.ip} saddr {address} jump mark-for-masquerade"]
        if self.rules.service.session_affinity == "ClientIP":
            sticky = nftables_chain("affinity", self.rules, endpoint)
            self.table.affinity[sticky] = f"ipv{self.table.version}_addr"
            rules.append(f"update @{sticky} {{ {self.ip} saddr }}")
        target = f"[{address}]" if self.table.version == 6 else address
        rules.append(f"meta l4proto {self.rules.port.protocol} dnat to {target}:{endpoint.port}")
        self.table.chains[nftables_chain("endpoint", self.rules, endpoint)] = rules
