"""kube-proxy's iptables mode: the text for `iptables-restore` (IPv4) or `ip6tables-restore` (IPv6) of one node.

The way of a packet, in the order of the netfilter hooks:

* nat PREROUTING/OUTPUT → KUBE-SERVICES → (cluster IP) KUBE-SVC/SVL → KUBE-SEP → DNAT
* … → (external address, or KUBE-NODEPORTS) KUBE-EXT: policy Cluster marks for masquerade, Local does not
* filter INPUT/FORWARD → KUBE-EXTERNAL-SERVICES drops what has no local endpoint and rejects what has none at all;
  KUBE-PROXY-FIREWALL drops what the source ranges did not let through to DNAT
* nat POSTROUTING → KUBE-POSTROUTING masquerades what was marked 0x4000, with a random port
"""

from __future__ import annotations

from analysis.facts import Endpoint, Facts
from probe.lab.forwarding.names import iptables_chain
from probe.lab.forwarding.services import (
    AFFINITY_SECONDS,
    MASQUERADE_MARK,
    IpVersion,
    NodeFacts,
    PortRules,
    endpoint_text,
    port_rules,
)

_MARK = f"{MASQUERADE_MARK:#x}"


class _Table:
    """One table under construction: chains are declared by their first use."""

    def __init__(self, name: str, builtin: tuple[str, ...]) -> None:
        self.name = name
        self.chains: dict[str, list[str]] = {}
        self.builtin = builtin

    def add(self, chain: str, *rules: str) -> None:
        """Append rules to a chain; with none, only declare it."""
        self.chains.setdefault(chain, []).extend(rules)

    def text(self) -> str:
        """The table as iptables-restore reads it."""
        own = [chain for chain in self.chains if chain not in self.builtin]
        lines = [f"*{self.name}", *(f":{chain} ACCEPT [0:0]" for chain in self.builtin)]
        lines += [f":{chain} - [0:0]" for chain in own]
        lines += [f"-A {chain} {rule}" for chain, rules in self.chains.items() for rule in rules]
        return "\n".join([*lines, "COMMIT", ""])


def iptables_rules(facts: Facts, node: NodeFacts, version: IpVersion) -> str:
    """All of kube-proxy's rules of one node and one address family."""
    filter_ = _Table("filter", ("INPUT", "FORWARD", "OUTPUT"))
    nat = _Table("nat", ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"))
    _filter_skeleton(filter_, version)
    _nat_skeleton(nat)
    for rules in port_rules(facts, node, version):
        _Port(filter_, nat, node, version, rules).write()
    nat.add(
        "KUBE-SERVICES",
        f"{_comment('kubernetes service nodeports; NOTE: this must be the last rule in this chain')} "
        "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
    )
    return filter_.text() + nat.text()


def _comment(text: str) -> str:
    return f'-m comment --comment "{text}"'


def _filter_skeleton(table: _Table, version: IpVersion) -> None:
    new = "-m conntrack --ctstate NEW"
    firewall = f"{new} {_comment('kubernetes load balancer firewall')} -j KUBE-PROXY-FIREWALL"
    services = f"{new} {_comment('kubernetes service portals')} -j KUBE-SERVICES"
    external = f"{new} {_comment('kubernetes externally-visible service portals')} -j KUBE-EXTERNAL-SERVICES"
    table.add(
        "INPUT",
        firewall,
        f"{_comment('kubernetes health check service ports')} -j KUBE-NODEPORTS",
        external,
        "-j KUBE-FIREWALL",
    )
    forward = f"{_comment('kubernetes forwarding rules')} -j KUBE-FORWARD"
    table.add("FORWARD", firewall, forward, services, external)
    table.add("OUTPUT", firewall, services, "-j KUBE-FIREWALL")
    for chain in ("KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"):
        table.add(chain)
    table.add("KUBE-FIREWALL")
    if version == 4:
        table.add(
            "KUBE-FIREWALL",
            f"! -s 127.0.0.0/8 -d 127.0.0.0/8 {_comment('block incoming localnet connections')} "
            "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
        )
    table.add(
        "KUBE-FORWARD",
        "-m conntrack --ctstate INVALID -j DROP",
        f"{_comment('kubernetes forwarding rules')} -m mark --mark {_MARK}/{_MARK} -j ACCEPT",
        f"{_comment('kubernetes forwarding conntrack rule')} "
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    )


def _nat_skeleton(table: _Table) -> None:
    portals = f"{_comment('kubernetes service portals')} -j KUBE-SERVICES"
    table.add("PREROUTING", portals)
    table.add("OUTPUT", portals)
    table.add("POSTROUTING", f"{_comment('kubernetes postrouting rules')} -j KUBE-POSTROUTING")
    table.add("KUBE-SERVICES")
    table.add("KUBE-NODEPORTS")
    table.add("KUBE-MARK-MASQ", f"-j MARK --set-xmark {_MARK}/{_MARK}")
    table.add(
        "KUBE-POSTROUTING",
        f"-m mark ! --mark {_MARK}/{_MARK} -j RETURN",
        f"-j MARK --set-xmark {_MARK}/0x0",
        f"{_comment('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully",
    )


class _Port:
    """Writes the rules of one Service port."""

    def __init__(
        self, filter_: _Table, nat: _Table, node: NodeFacts, version: IpVersion, rules: PortRules
    ) -> None:
        self.filter = filter_
        self.nat = nat
        self.node = node
        self.rules = rules
        self.local = node.local_arguments(version)
        self.bits = 32 if version == 4 else 128
        self.reject = "icmp-port-unreachable" if version == 4 else "icmp6-port-unreachable"
        self.cluster_chain = iptables_chain("SVC", rules)
        self.local_chain = iptables_chain("SVL", rules)
        self.external_chain = iptables_chain("EXT", rules)
        self.firewall_chain = iptables_chain("FW", rules)

    def write(self) -> None:
        """Everything about this port, in both tables."""
        rules = self.rules
        self._cluster_ip()
        self._external_addresses()
        if rules.service.health_check_node_port:
            self.filter.add(
                "KUBE-NODEPORTS",
                f"-p tcp {_comment(rules.name + ' health check node port')} "
                f"-m tcp --dport {rules.service.health_check_node_port} -j ACCEPT",
            )
        if rules.external and rules.cluster_endpoints:
            self._external_chain()
        if rules.uses_cluster_chain:
            self._balance(self.cluster_chain, rules.cluster_endpoints)
        if rules.uses_local_chain:
            self._balance(self.local_chain, rules.local_endpoints)
        for endpoint in rules.endpoints:
            self._endpoint(endpoint)

    def _match(self, address: str | None, note: str, port: int | None = None) -> str:
        protocol = self.rules.port.protocol
        to = f"-d {address}/{self.bits} " if address else ""
        local = "" if address else "-m addrtype --dst-type LOCAL "
        note = _comment(f"{self.rules.name}{note}")
        return f"{to}-p {protocol} {note} {local}-m {protocol} --dport {port or self.rules.port.port}"

    def _refusal(self, endpoints: tuple[Endpoint, ...]) -> tuple[str, str] | None:
        """How to refuse where nobody serves: nobody anywhere is an error to tell, nobody here is a silence."""
        if not self.rules.cluster_endpoints:
            return " has no endpoints", f"REJECT --reject-with {self.reject}"
        if not endpoints:
            return " has no local endpoints", "DROP"
        return None

    def _cluster_ip(self) -> None:
        rules = self.rules
        chain = self.local_chain if rules.internal_local else self.cluster_chain
        match = self._match(rules.cluster_ip, " cluster IP")
        refusal = self._refusal(rules.internal_endpoints)
        if refusal:
            note, target = refusal
            self.filter.add("KUBE-SERVICES", f"{self._match(rules.cluster_ip, note)} -j {target}")
            return
        self.nat.add("KUBE-SERVICES", f"{match} -j {chain}")
        if self.node.masquerade_all:
            self.nat.add(chain, f"{match} -j KUBE-MARK-MASQ")
        elif self.local:
            self.nat.add(chain, f"! {self.local} {match} -j KUBE-MARK-MASQ")

    def _external_addresses(self) -> None:
        rules = self.rules
        refusal = self._refusal(rules.external_endpoints)
        named = [(address, " external IP") for address in rules.external_ips]
        named += [(address, " loadbalancer IP") for address in rules.balancer_ips]
        for address, note in named:
            firewalled = bool(rules.service.source_ranges) and address in rules.balancer_ips
            if rules.cluster_endpoints:
                chain = self.firewall_chain if firewalled else self.external_chain
                self.nat.add("KUBE-SERVICES", f"{self._match(address, note)} -j {chain}")
            if firewalled:
                self._source_ranges(address)
            if refusal:
                refused, target = refusal
                self.filter.add("KUBE-EXTERNAL-SERVICES", f"{self._match(address, refused)} -j {target}")
        if not rules.port.node_port:
            return
        node_port = rules.port.node_port
        if rules.cluster_endpoints:
            protocol = rules.port.protocol
            self.nat.add(
                "KUBE-NODEPORTS",
                f"-p {protocol} {_comment(rules.name)} -m {protocol} --dport {node_port} -j {self.external_chain}",
            )
        if refusal:
            refused, target = refusal
            match = self._match(None, refused, node_port)
            self.filter.add("KUBE-EXTERNAL-SERVICES", f"{match} -j {target}")

    def _source_ranges(self, address: str) -> None:
        """Only allowed sources reach DNAT; who did not is still addressed to the balancer's IP, and dropped."""
        note = f" traffic not accepted by {self.firewall_chain}"
        self.filter.add("KUBE-PROXY-FIREWALL", f"{self._match(address, note)} -j DROP")
        if not self.rules.cluster_endpoints:
            return
        if self.firewall_chain not in self.nat.chains:
            ranges = [
                cidr for cidr in self.rules.service.source_ranges if (":" in cidr) == (self.bits == 128)
            ]
            note = _comment(f"{self.rules.name} loadbalancer IP")
            self.nat.add(
                self.firewall_chain, *(f"-s {cidr} {note} -j {self.external_chain}" for cidr in ranges)
            )

    def _external_chain(self) -> None:
        rules, chain = self.rules, self.external_chain
        what = f"for {rules.name} external destinations"
        self.nat.add(chain)
        if not rules.external_local:
            self.nat.add(chain, f"{_comment('masquerade traffic ' + what)} -j KUBE-MARK-MASQ")
        else:
            local = "-m addrtype --src-type LOCAL"
            if self.local:
                pods = _comment("pod traffic " + what)
                self.nat.add(chain, f"{self.local} {pods} -j {self.cluster_chain}")
            self.nat.add(chain, f"{_comment('masquerade LOCAL traffic ' + what)} {local} -j KUBE-MARK-MASQ")
            self.nat.add(chain, f"{_comment('route LOCAL traffic ' + what)} {local} -j {self.cluster_chain}")
        if rules.external_endpoints:
            self.nat.add(chain, f"-j {self.local_chain if rules.external_local else self.cluster_chain}")

    def _balance(self, chain: str, endpoints: tuple[Endpoint, ...]) -> None:
        """One endpoint at random: the first of n with 1/n, the next with 1/(n-1), the last always."""
        self.nat.add(chain)
        if self.rules.service.session_affinity == "ClientIP":
            for endpoint in endpoints:
                target = iptables_chain("SEP", self.rules, endpoint)
                self.nat.add(
                    chain,
                    f"{_comment(f'{self.rules.name} -> {endpoint_text(endpoint)}')} "
                    f"-m recent --name {target} --rcheck --seconds {AFFINITY_SECONDS} --reap -j {target}",
                )
        for index, endpoint in enumerate(endpoints):
            left = len(endpoints) - index
            chance = f"-m statistic --mode random --probability {1 / left:.11f} " if left > 1 else ""
            note = _comment(f"{self.rules.name} -> {endpoint_text(endpoint)}")
            self.nat.add(chain, f"{note} {chance}-j {iptables_chain('SEP', self.rules, endpoint)}")

    def _endpoint(self, endpoint: Endpoint) -> None:
        chain, note = iptables_chain("SEP", self.rules, endpoint), _comment(self.rules.name)
        protocol = self.rules.port.protocol
        sticky = ""
        if self.rules.service.session_affinity == "ClientIP":
            sticky = f"-m recent --name {chain} --set "
        self.nat.add(
            chain,
            # A pod that reaches itself through its Service would answer itself past the NAT.
            f"-s {endpoint.address}/{self.bits} {note} -j KUBE-MARK-MASQ",
            f"-p {protocol} {note} {sticky}-m {protocol} -j DNAT --to-destination {endpoint_text(endpoint)}",
        )
