"""The plan as links, addresses and routes: one `ip -batch` text per network namespace, and its sysctls.

Pure: text out, nothing touched. The order of namespaces matters (`batches` keeps it): the fabric makes everybody's
NIC, a node makes its pods' interfaces, then each namespace configures what it was given.
"""

from __future__ import annotations

import msgspec

from probe.lab.plan import Host, Plan, PlannedNode, PlannedPod
from probe.lab.scenario import Family

FABRIC = "fabric"
BRIDGE = "cni0"
VXLAN_PORT = 8472  # flannel's, and the kernel's own before RFC 7348 gave 4789
VXLAN_VNI = 1
MTU = 1500
VXLAN_OVERHEAD = 70  # outer IPv6 + UDP + VXLAN + inner Ethernet

_HOST_PREFIX: dict[Family, int] = {"ipv4": 32, "ipv6": 128}
_FABRIC_PREFIX: dict[Family, int] = {"ipv4": 24, "ipv6": 64}
_TUNNELS: dict[Family, str] = {"ipv4": "flannel.1", "ipv6": "flannel-v6.1"}


class Batch(msgspec.Struct, frozen=True):
    """Commands for `ip -batch` within one namespace. Batches of one `stage` do not depend on each other."""

    namespace: str
    stage: int
    commands: tuple[str, ...]


def namespaces(plan: Plan) -> list[str]:
    """Every network namespace of the lab but the fabric, which is the lab's own."""
    return [host.name for host in plan.hosts] + [
        pod.namespace for pod in plan.pods if not pod.pod.host_network
    ]


def sysctls(plan: Plan, forwarding: bool) -> dict[str, str]:
    """Settings under /proc/sys/net for a namespace, to be made before it has any interface.

    IPv6 is off where it is not used, and otherwise without duplicate address detection and router solicitation:
    both cost a second and put noise on the taps.
    """
    six = "ipv6" in plan.families
    values = {
        "ipv4/conf/all/rp_filter": "0",
        "ipv4/conf/default/rp_filter": "0",
        "ipv4/conf/all/accept_redirects": "0",
        "ipv4/conf/default/accept_redirects": "0",
        "ipv4/conf/all/send_redirects": "0",
        "ipv4/conf/default/send_redirects": "0",
        "ipv6/conf/default/disable_ipv6": "0" if six else "1",
        "ipv6/conf/all/disable_ipv6": "0" if six else "1",
        "ipv6/conf/default/accept_dad": "0",
        "ipv6/conf/default/accept_ra": "0",
        "ipv6/conf/default/router_solicitations": "0",
        "ipv6/conf/default/accept_redirects": "0",
    }
    if forwarding:
        values |= {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}
    return values


def forwards(plan: Plan, namespace: str) -> bool:
    """Whether a namespace routes for others: nodes, the balancer, and pods that balance."""
    hosts = {host.name for host in plan.hosts if host.role != "client"}
    pods = {pod.namespace for pod in plan.pods if pod.pod.role == "svclb"}
    return namespace in hosts | pods


def batches(plan: Plan, host_routes: bool) -> list[Batch]:
    """All batches in order of stage.

    `host_routes` gives pods no on-link neighbours, so that pods of one node reach each other through the node's
    own IP stack: without bridge netfilter, NAT between them works only so.
    """
    found = [Batch(FABRIC, 0, tuple(_fabric(plan)))]
    found += [Batch(node.name, 1, tuple(_node(plan, node))) for node in plan.nodes]
    others = [host for host in plan.hosts if host.role != "node"]
    found += [Batch(host.name, 2, tuple(_host(plan, host))) for host in others]
    pods = [pod for pod in plan.pods if not pod.pod.host_network]
    found += [Batch(pod.namespace, 2, tuple(_pod(plan, pod, host_routes))) for pod in pods]
    return found


def _add(address: str, prefix: int, device: str) -> str:
    # nodad: an address is usable at once, also where accept_dad came too late.
    return f"addr add {address}/{prefix} dev {device}" + (" nodad" if ":" in address else "")


def _fabric(plan: Plan) -> list[str]:
    commands = [
        "link add fabric type bridge forward_delay 0 mcast_snooping 0",
        "link set lo up",
        "link set fabric up",
    ]
    for host in plan.hosts:
        commands += [
            f"link add p-{host.name} type veth peer name eth0 netns {host.name}",
            f"link set p-{host.name} master fabric up",
        ]
    return commands


def _nic(host: Host) -> list[str]:
    addresses = [_add(text, _FABRIC_PREFIX[family], "eth0") for family, text in host.addresses.items()]
    return ["link set lo up", *addresses, "link set eth0 up"]


def _host(plan: Plan, host: Host) -> list[str]:
    """A client or the balancer, with routes to the addresses that are no host's own."""
    commands, service, balancer = _nic(host), plan.scenario.service, plan.scenario.balancer
    announcer = plan.node(service.announced_by).host
    for addresses in (plan.vip, plan.external_ip):
        for family, address in addresses.items():
            gateway = announcer
            if balancer and balancer.kind == "router" and plan.lb:
                target = plan.node(balancer.targets[0]).host
                gateway = target if host.role == "lb" else plan.lb
            commands.append(f"route add {address}/{_HOST_PREFIX[family]} via {gateway.addresses[family]}")
    return commands


def _node(plan: Plan, node: PlannedNode) -> list[str]:
    mtu = MTU - (VXLAN_OVERHEAD if plan.scenario.cluster.pod_network == "vxlan" else 0)
    commands = [*_nic(node.host), f"link add {BRIDGE} mtu {mtu} type bridge forward_delay 0 mcast_snooping 0"]
    for family, address in node.bridge.items():
        commands.append(_add(address, int(node.pod_cidrs[family].partition("/")[2]), BRIDGE))
    commands.append(f"link set {BRIDGE} up")
    for pod in plan.pods_on(node.name):
        commands += [
            (
                f"link add {pod.veth} index {pod.veth_index} mtu {mtu} type veth "
                f"peer name eth0 mtu {mtu} netns {pod.namespace}"
            ),
            f"link set {pod.veth} master {BRIDGE}",
            f"link set {pod.veth} type bridge_slave hairpin on",
            f"link set {pod.veth} up",
        ]
    if plan.scenario.cluster.pod_network == "vxlan":
        commands += _tunnels(plan, node, mtu)
    else:
        commands += _routes(plan, node)
    return commands


def _routes(plan: Plan, node: PlannedNode) -> list[str]:
    return [
        f"route add {other.pod_cidrs[family]} via {other.host.addresses[family]}"
        for other in plan.nodes
        if other is not node
        for family in plan.families
    ]


def _tunnel_mac(node: PlannedNode, family: Family) -> str:
    return f"0a:58:0a:f4:{6 if family == 'ipv6' else 4:02x}:{node.host.number:02x}"


def _tunnels(plan: Plan, node: PlannedNode, mtu: int) -> list[str]:
    """flannel's VXLAN: no learning, everything about the other nodes is written down."""
    commands: list[str] = []
    for family in plan.families:
        device = _TUNNELS[family]
        commands += [
            (
                f"link add {device} address {_tunnel_mac(node, family)} mtu {mtu} type vxlan id {VXLAN_VNI} "
                f"dstport {VXLAN_PORT} local {node.host.addresses[family]} dev eth0 nolearning"
            ),
            _add(node.tunnel[family], _HOST_PREFIX[family], device),
            f"link set {device} up",
        ]
        for other in plan.nodes:
            if other is node:
                continue
            mac, gateway = _tunnel_mac(other, family), other.tunnel[family]
            commands += [
                f"neigh add {gateway} lladdr {mac} dev {device} nud permanent",
                f"route add {other.pod_cidrs[family]} via {gateway} dev {device} onlink",
            ]
    return commands


def forwarding_database(plan: Plan, node: PlannedNode) -> list[str]:
    """`bridge -batch` commands: which node is behind which MAC address of the VXLAN devices."""
    if plan.scenario.cluster.pod_network != "vxlan":
        return []
    return [
        f"fdb append {_tunnel_mac(other, family)} dev {_TUNNELS[family]} dst {other.host.addresses[family]}"
        for family in plan.families
        for other in plan.nodes
        if other is not node
    ]


def _pod(plan: Plan, pod: PlannedPod, host_routes: bool) -> list[str]:
    node, commands = plan.node(pod.pod.node), ["link set lo up"]
    for family, address in pod.addresses.items():
        length = _HOST_PREFIX[family] if host_routes else int(node.pod_cidrs[family].partition("/")[2])
        commands.append(_add(address, length, "eth0"))
    commands.append("link set eth0 up")
    for family in pod.addresses:
        onlink = " dev eth0 onlink" if host_routes else ""
        commands.append(f"route add default via {node.bridge[family]}{onlink}")
    return commands
