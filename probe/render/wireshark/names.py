"""What the addresses of a session are called, for the names that Wireshark shows in place of them.

node1, web-1.default.pod, web.default.svc; clients and balancers by their own names. An address has one name, because
readers show the last of several: what holds it itself comes before what is reached under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from analysis.facts import Facts, Service
from analysis.recording import Recording
from daemonset.observation import TapKind

_OTHER = re.compile("[^A-Za-z0-9._-]")

#: Most addresses that are named: pods of a large cluster, and more.
_LIMIT = 100_000

Address = IPv4Address | IPv6Address


def names_of(recording: Recording, facts: Facts) -> dict[Address, str]:
    """Names by address; without addresses that mean something else on every machine."""
    found: dict[Address, str] = {}
    for text, name in _named(recording, facts):
        try:
            address = ip_address(text.partition("/")[0])
        except ValueError:
            continue
        if address.is_loopback or address.is_link_local or address.is_unspecified:
            continue
        if len(found) < _LIMIT:
            found.setdefault(address, name)
    return found


def plain_name(text: str) -> str:
    """A name as hosts have them: whatever else a cluster or a file says becomes an underscore."""
    return _OTHER.sub("_", text)[:200] or "_"


def _named(recording: Recording, facts: Facts) -> Iterator[tuple[str, str]]:
    for node in facts.nodes:
        for address in node.addresses:
            yield address, plain_name(node.name)
    for pod in facts.pods:
        for address in () if pod.host_network else pod.addresses:
            yield address, f"{plain_name(pod.name)}.{plain_name(pod.namespace)}.pod"
    outside = {tap.node for tap in recording.taps if tap.kind in {TapKind.CLIENT, TapKind.LB}}
    for place, topology in recording.topologies.items():
        for interface in topology.interfaces if place in outside else ():
            for address in interface.addresses:
                yield address, plain_name(place)
    for tap in recording.taps:
        for address in tap.addresses if tap.node in outside else ():
            yield address, plain_name(tap.node)
    for service in facts.services:
        for address in _addresses(service):
            yield address, f"{plain_name(service.name)}.{plain_name(service.namespace)}.svc"


def _addresses(service: Service) -> Iterator[str]:
    yield from service.cluster_ips
    yield from service.external_ips
    yield from (balancer.address for balancer in service.balancers if balancer.address)
