"""NAT that is not kube-proxy's: the CNI's masquerade and host ports, in-cluster balancer pods, the external balancer.

Named after the real thing each of them imitates, so that blame reads the same on a real node.
"""

from __future__ import annotations

import msgspec

from probe.lab.forwarding.services import IpVersion
from probe.lab.plan import ProxyMode

MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}


class Redirect(msgspec.Struct, frozen=True):
    """Traffic to one port that is sent on: to `address:port`, from a source address of the redirecting host."""

    protocol: str
    port: int
    to_address: str
    to_port: int
    address: str = ""  # only what is addressed to this; "": any address of the host


def _target(redirect: Redirect) -> str:
    address = f"[{redirect.to_address}]" if ":" in redirect.to_address else redirect.to_address
    return f"{address}:{redirect.to_port}"


def cni_masquerade(mode: ProxyMode, version: IpVersion, cluster_cidr: str, everything: bool) -> str:
    """flannel's masquerade: of what leaves the pod network and, with `everything`, of what enters it as well.

    The latter is what flannel did until it learnt to spare traffic to local pods (flannel#734).
    """
    if mode != "nftables":
        lines = [
            "*nat",
            ":FLANNEL-POSTRTG - [0:0]",
            '-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG',
            f"-A FLANNEL-POSTRTG -s {cluster_cidr} -d {cluster_cidr} -j RETURN",
            f"-A FLANNEL-POSTRTG -s {cluster_cidr} ! -d {MULTICAST[version]} -j MASQUERADE --random-fully",
        ]
        if everything:
            lines.append(
                f"-A FLANNEL-POSTRTG ! -s {cluster_cidr} -d {cluster_cidr} -j MASQUERADE --random-fully"
            )
        return "\n".join([*lines, "COMMIT", ""])
    ip = "ip" if version == 4 else "ip6"
    rules = [
        f"{ip} saddr {cluster_cidr} {ip} daddr {cluster_cidr} return",
        f"{ip} saddr {cluster_cidr} {ip} daddr != {MULTICAST[version]} masquerade fully-random",
    ]
    if everything:
        rules.append(f"{ip} saddr != {cluster_cidr} {ip} daddr {cluster_cidr} masquerade fully-random")
    return _nft_table(f"{ip} flannel-ipv{version}", {("postrtg", "postrouting", 110): rules})


def host_port(mode: ProxyMode, version: IpVersion, redirects: list[Redirect]) -> str:
    """The portmap CNI plugin: a port of the node becomes a port of a pod; the source stays."""
    if mode != "nftables":
        lines = [
            "*nat",
            ":CNI-HOSTPORT-DNAT - [0:0]",
            "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
            *(
                f"-A CNI-HOSTPORT-DNAT -p {entry.protocol} -m {entry.protocol} --dport {entry.port} "
                f"-j DNAT --to-destination {_target(entry)}"
                for entry in redirects
            ),
        ]
        return "\n".join([*lines, "COMMIT", ""])
    ip = "ip" if version == 4 else "ip6"
    rules = [
        f"fib daddr type local {entry.protocol} dport {entry.port} dnat to {_target(entry)}"
        for entry in redirects
    ]
    return _nft_table(f"{ip} cni_hostport", {("prerouting", "prerouting", -99): rules})


def service_pod(mode: ProxyMode, version: IpVersion, redirect: Redirect) -> str:
    """klipper-lb inside its pod: DNAT to the Service's cluster IP, and masquerade, or replies would miss it."""
    if mode != "nftables":
        lines = [
            "*nat",
            (
                f"-A PREROUTING -p {redirect.protocol} -m {redirect.protocol} --dport {redirect.port} "
                f"-j DNAT --to-destination {_target(redirect)}"
            ),
            f"-A POSTROUTING -d {redirect.to_address} -p {redirect.protocol} -j MASQUERADE",
        ]
        return "\n".join([*lines, "COMMIT", ""])
    ip = "ip" if version == 4 else "ip6"
    return _nft_table(
        f"{ip} klipper-lb",
        {
            ("prerouting", "prerouting", -100): [
                f"{redirect.protocol} dport {redirect.port} dnat to {_target(redirect)}"
            ],
            ("postrouting", "postrouting", 100): [f"{ip} daddr {redirect.to_address} masquerade"],
        },
    )


def snat_balancer(version: IpVersion, redirect: Redirect) -> str:
    """An L4 load balancer that rewrites both addresses: DNAT to a node, SNAT to its own. Always nftables."""
    ip = "ip" if version == 4 else "ip6"
    arriving = f"{ip} daddr {redirect.address} {redirect.protocol} dport {redirect.port}"
    leaving = f"{ip} daddr {redirect.to_address} {redirect.protocol} dport {redirect.to_port}"
    return _nft_table(
        f"{ip} balancer",
        {
            ("prerouting", "prerouting", -100): [f"{arriving} dnat to {_target(redirect)}"],
            ("postrouting", "postrouting", 100): [f"{leaving} snat to {redirect.address}"],
        },
    )


def _nft_table(name: str, chains: dict[tuple[str, str, int], list[str]]) -> str:
    """A table of base chains of type nat: (name, hook, priority) → rules."""
    lines = [f"table {name} {{"]
    for (chain, hook, priority), rules in chains.items():
        lines += [f"  chain {chain} {{", f"    type nat hook {hook} priority {priority}; policy accept;"]
        lines += [*(f"    {rule}" for rule in rules), "  }"]
    return "\n".join([*lines, "}", ""])
