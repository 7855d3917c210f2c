"""A cluster as one meets it: two Services, one of each policy, before the same pods; and every way to ask them.

web-1 runs on node2, web-2 on node3, and `tool`, a pod that only asks, on node1. For each way, who replaces the
source and who has to be passed follow from how kube-proxy and the CNI are defined, and whom the server saw is
its own answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from probe.lab import Lab, ProxyMode
from probe.lab.forwarding.extras import cni_masquerade
from probe.lab.forwarding.iptables import iptables_rules
from probe.lab.forwarding.nftables import nftables_rules
from probe.lab.forwarding.services import IpVersion
from probe.lab.plan import CLUSTER_CIDRS, PlannedNode
from probe.lab.rules import node_facts
from probe.lab.scenario import Family, Scenario, parse_scenario
from probe.objects import facts_from_objects
from tests.field.asking import Told, Wish, finish, run, start_asking
from tests.field.judging import Expected, Snat

Json = dict[str, Any]

_SCENARIO = """
title = "Two Services before the same pods"
story = "Policy Cluster and policy Local, asked in every way."
[cluster]
clients = 2
families = {families}
pod_network = "{network}"
[service]
type = "LoadBalancer"
vip = true
[[pods]]
name = "web-1"
node = "node2"
[[pods]]
name = "web-2"
node = "node3"
[[pods]]
name = "tool"
node = "node1"
role = "client"
[[requests]]
to = "node1"
[requests.expect]
verdict = "lost"
seen = "node:node1"
"""

HOMES = {"web-1": "node2", "web-2": "node3"}
NODE_PORTS = {"web-cluster": 30080, "web-local": 30081}

POLICY = "kube-proxy masquerade (externalTrafficPolicy: Cluster)"
HAIRPIN = "kube-proxy masquerade (a pod reached itself through the Service)"
ON_NODE = "kube-proxy masquerade (client on the node itself)"
CNI = "CNI masquerade"


@dataclass(frozen=True)
class Way:
    """One way to ask: from where to where, the node whose kube-proxy decides, and who may replace the source."""

    name: str
    place: str
    client: str
    target: str
    port: int
    node: str
    mechanism: str = POLICY
    before: str = ""  # the node that masquerades on the way to `node`
    silent: bool = False  # nobody answers: policy Local, no endpoint on the node

    def wishes(self) -> list[Wish]:
        """Three requests. Those that nobody answers wait for a second SYN, all at once."""
        wish: Wish = {"target": self.target, "port": self.port}
        return [wish | ({"patience": 1.4, "at_once": True} if self.silent else {}) for _ in range(3)]


def scenario(families: tuple[Family, ...], network: str) -> Scenario:
    """The lab to start."""
    listed = "[" + ", ".join(f'"{family}"' for family in families) + "]"
    return parse_scenario(_SCENARIO.format(families=listed, network=network), "twins.toml")


def virtual(service: str, family: Family) -> tuple[str, str]:
    """Cluster IP and load balancer address of one of the two Services."""
    ip, vip = {"web-cluster": ("80", "200"), "web-local": ("82", "201")}[service]
    if family == "ipv6":
        return f"fd00:10:96::{ip}", f"fd00:30::{vip}"
    return f"10.96.0.{ip}", f"172.30.0.{vip}"


def objects(lab: Lab) -> Json:
    """The lab's objects with its one Service made two."""
    items: list[Json] = []
    for item in lab.objects()["items"]:
        if item["kind"] == "Service":
            items += [_service(lab, item, name) for name in NODE_PORTS]
        elif item["kind"] == "EndpointSlice":
            items += [_slice(item, name) for name in NODE_PORTS]
        else:
            items.append(item)
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _service(lab: Lab, item: Json, name: str) -> Json:
    addresses = [virtual(name, family) for family in lab.plan.families]
    made = copy.deepcopy(item)
    made["metadata"]["name"] = name
    made["spec"] |= {
        "clusterIP": addresses[0][0],
        "clusterIPs": [ip for ip, _ in addresses],
        "externalTrafficPolicy": "Local" if name == "web-local" else "Cluster",
    }
    made["spec"]["ports"][0]["nodePort"] = NODE_PORTS[name]
    if name == "web-local":
        made["spec"]["healthCheckNodePort"] = 32100
    made["status"] = {"loadBalancer": {"ingress": [{"ip": vip, "ipMode": "VIP"} for _, vip in addresses]}}
    return made


def _slice(item: Json, service: str) -> Json:
    made = copy.deepcopy(item)
    made["metadata"]["name"] = f"{service}-{made['addressType'].lower()}"
    made["metadata"]["labels"]["kubernetes.io/service-name"] = service
    return made


def settle(lab: Lab, listed: Json) -> None:
    """Load kube-proxy's rules for these objects, and give hosts the routes that hosts have."""
    default_routes(lab)
    for node in lab.plan.nodes:
        _load(lab, node, listed)
    # Each client reaches the balancers' addresses through a node of its own, as the announcer of a VIP changes.
    for client, node in (("client1", "node1"), ("client2", "node2")):
        for family in lab.plan.families:
            for service in NODE_PORTS:
                _route(
                    lab,
                    client,
                    family,
                    virtual(service, family)[1],
                    lab.plan.node(node).host.addresses[family],
                )


def default_routes(lab: Lab) -> None:
    """Give nodes a default route: without one, the kernel refuses a cluster IP before kube-proxy's rules see it."""
    for node in lab.plan.nodes:
        for family in lab.plan.families:
            _route(lab, node.name, family, "default", _fabric(254, family))


def _fabric(number: int, family: Family) -> str:
    return f"fd00:30::{number}" if family == "ipv6" else f"172.30.0.{number}"


def _route(lab: Lab, place: str, family: Family, destination: str, gateway: str) -> None:
    version = "-6" if family == "ipv6" else "-4"
    run(lab, place, "ip", version, "route", "replace", destination, "via", gateway, "dev", "eth0")


def _load(lab: Lab, node: PlannedNode, listed: Json) -> None:
    facts, mine, mode = facts_from_objects(listed), node_facts(lab.plan, node), lab.plan.proxy_mode
    for family in lab.plan.families:
        version: IpVersion = 6 if family == "ipv6" else 4
        ip = "ip6" if version == 6 else "ip"
        if mode == "nftables":
            text = nftables_rules(facts, mine, version)
            run(lab, node.name, "sh", "-c", f"nft delete table {ip} kube-proxy && nft -f -", text=text)
            continue
        # kubelet's setting for node ports of localhost (kube-proxy --localhost-nodeports).
        loopback = "".join(
            f"echo 1 > /proc/sys/net/ipv4/conf/{name}/route_localnet; " for name in ("all", "cni0")
        )
        text = iptables_rules(facts, mine, version)
        text += cni_masquerade(mode, version, CLUSTER_CIDRS[family], everything=False)
        empty = "".join(
            f"{ip}tables -t {table} -F; {ip}tables -t {table} -X; " for table in ("nat", "filter")
        )
        run(lab, node.name, "sh", "-c", f"{loopback} {empty} {ip}tables-restore --wait --noflush", text=text)


def ways(mode: ProxyMode, family: Family) -> list[Way]:
    """Every way into the two Services."""
    return [*_from_clients(family), *_from_pods(family), *_from_hosts(mode, family)]


def _from_clients(family: Family) -> Iterator[Way]:
    clients = {name: _fabric(number, family) for name, number in (("client1", 101), ("client2", 102))}
    for service, port in NODE_PORTS.items():
        local = service == "web-local"
        for number in (1, 2, 3):
            node = f"node{number}"
            silent = local and node == "node1"
            target = _fabric(10 + number, family)
            name = f"client to {service}'s node port of {node}"
            yield Way(name, "client1", clients["client1"], target, port, node, silent=silent)
        for client, node in (("client1", "node1"), ("client2", "node2")):
            silent = local and node == "node1"
            vip = virtual(service, family)[1]
            yield Way(f"{client} to {service}'s VIP", client, clients[client], vip, 80, node, silent=silent)


def _from_pods(family: Family) -> Iterator[Way]:
    net = "fd00:10:244:{}::{}" if family == "ipv6" else "10.244.{}.{}"
    tool, web = net.format(1, 2), net.format(2, 2)
    for service, port in NODE_PORTS.items():
        cluster_ip, vip = virtual(service, family)
        yield Way(f"pod to {service}'s cluster IP", "tool", tool, cluster_ip, 80, "node1")
        yield Way(f"pod to {service}'s VIP", "tool", tool, vip, 80, "node1")
        own, other = _fabric(11, family), _fabric(12, family)
        yield Way(f"pod to {service}'s node port of its own node", "tool", tool, own, port, "node1")
        name = f"pod to {service}'s node port of another node"
        yield Way(name, "tool", tool, other, port, "node2", before="node1")
        yield Way(f"endpoint to {service}'s cluster IP", "web-1", web, cluster_ip, 80, "node2", HAIRPIN)
        mechanism = "kube-proxy masquerade" if service == "web-cluster" else HAIRPIN
        yield Way(f"endpoint to {service}'s VIP", "web-1", web, vip, 80, "node2", mechanism)


def _from_hosts(mode: ProxyMode, family: Family) -> Iterator[Way]:
    own, other = _fabric(11, family), _fabric(12, family)
    for service, port in NODE_PORTS.items():
        cluster_ip, vip = virtual(service, family)
        mechanism = POLICY if service == "web-cluster" else ON_NODE
        yield Way(f"host to {service}'s cluster IP", "node1", own, cluster_ip, 80, "node1", ON_NODE)
        yield Way(f"host to {service}'s VIP", "node1", own, vip, 80, "node1", mechanism)
        yield Way(f"host to {service}'s node port of its own", "node1", own, own, port, "node1", mechanism)
        yield Way(f"host to {service}'s node port of another node", "node1", own, other, port, "node2")
        if mode == "iptables" and family == "ipv4":  # elsewhere kube-proxy serves no loopback address
            loopback = "127.0.0.1"
            name = f"host to {service}'s node port of localhost"
            yield Way(name, "node1", loopback, loopback, port, "node1", mechanism)


def send(lab: Lab, asked: Iterable[Way]) -> dict[Way, list[Told]]:
    """Ask in all these ways, one place after the other."""
    by_place: dict[str, list[Way]] = {}
    for way in asked:
        by_place.setdefault(way.place, []).append(way)
    answers: dict[Way, list[Told]] = {}
    for place, listed in by_place.items():
        told = finish(start_asking(lab, place, [way.wishes() for way in listed]), listed[0].client)
        answers |= dict(zip(listed, told, strict=True))
    return answers


def expectation(way: Way, told: Told, via: str) -> Expected:
    """What must be said of one request in this way, by the server's own answer."""
    assert told.outcome == ("timeout" if way.silent else "answered"), f"{way.name}: {told}"
    if way.silent:
        return Expected(told, "blackholed", snat=(), crossing=None, codes=("SIP201",))
    home = HOMES[told.pod or ""]
    crossing = None if home == way.node else (way.node, home, via)
    snat: tuple[Snat, ...] = ()
    if told.peer != told.client:
        snat = (Snat(way.node, told.peer_text, way.mechanism),)
        if way.before:
            # The CNI hides a pod behind its node from other nodes; policy Cluster replaces it once more there.
            local = way.port == NODE_PORTS["web-local"]
            hidden = Snat(way.before, told.peer_text if local else "", CNI)
            snat = (hidden,) if local else (hidden, *snat)
    return Expected(told, "lost" if snat else "preserved", told.peer, snat, crossing)
