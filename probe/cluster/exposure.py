"""Whether traffic from outside reaches a Service, which ports belong to it, and what to say where none does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from analysis.facts import Facts, Pod, Service
from analysis.ports import is_port
from probe.cluster.fields import plain
from probe.errors import UnavailableError

#: Most names that an error suggests.
_SUGGESTED = 3

#: Most ports of servers behind an ingress that are watched beside its own.
MOST_BEHIND = 64


def check_type(service: Service) -> None:
    """Raise UnavailableError for a Service that no node forwards."""
    if service.type == "ExternalName":
        raise UnavailableError(
            f"svc/{service.name} is of type ExternalName: it is a name in DNS and no packets pass it; give the Service "
            "that the name stands for"
        )


def check_exposed(service: Service, facts: Facts, slices_known: bool) -> list[str]:
    """Remarks on a Service that is reached in an uncommon way. Raises UnavailableError for one that is not reached."""
    check_type(service)
    name = f"svc/{service.name} in namespace {service.namespace}"
    remarks: list[str] = []
    if slices_known and not service.endpoints and not service.selector:
        raise UnavailableError(
            f"{name} has no selector and no EndpointSlice, so it leads nowhere; give it endpoints, or give the Service "
            "that has them"
        )
    if not service.selector and service.endpoints:
        remarks.append(f"{name} has no selector: its endpoints are kept by somebody else than Kubernetes")
    if slices_known and not service.endpoints and service.selector:
        remarks.append(f"{name} has no endpoints now: connections are refused until a pod is ready")
    if service.external:
        return remarks + _pending(service, name)
    directly, kind = _reached_directly(service, facts), plain(service.type)
    if not directly:
        raise UnavailableError(
            f"{name} is of type {kind} and has no external address: nothing outside the cluster reaches it; "
            "make it a NodePort or LoadBalancer, or give the Service, Ingress or Gateway in front of it"
        )
    remarks.append(
        f"{name} is of type {kind}; it is reached from outside on its nodes' own ports ({directly}), where "
        "no policy of the Service applies"
    )
    return remarks


def _pending(service: Service, name: str) -> list[str]:
    if service.type == "LoadBalancer" and not service.balancers and not service.external_ips:
        return [f"{name} waits for an address of a load balancer; only its node ports are reached yet"]
    return []


def _reached_directly(service: Service, facts: Facts) -> str:
    """How pods of a Service are reached without it: "hostNetwork", "hostPort", or "" where they are not."""
    pods = PodIndex(facts.pods).behind(service)
    if any(pod.host_network for pod in pods):
        return "hostNetwork"
    return "hostPort" if any(pod.host_ports for pod in pods) else ""


class PodIndex:
    """Pods by where they are, so that those behind hundreds of Services are found in one pass."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._by_namespace: dict[str, dict[str, Pod]] = defaultdict(dict)
        for pod in pods:
            self._by_namespace[pod.namespace][pod.name] = pod

    def behind(self, service: Service) -> list[Pod]:
        """The pods of a Service: those that its endpoints name, or else those that its selector admits."""
        here = self._by_namespace.get(service.namespace, {})
        named = dict.fromkeys(endpoint.pod for endpoint in service.endpoints)
        found = [here[name] for name in named if name is not None and name in here]
        if found or not service.selector:
            return found
        wanted = service.selector.items()
        return [pod for pod in here.values() if all(pod.labels.get(key) == value for key, value in wanted)]


def ports_of(
    service: Service, facts: Facts, behind: Sequence[Service] = ()
) -> tuple[tuple[int, ...], list[str]]:
    """Every port at which a connection can be met on either side of NAT, and remarks on those left out.

    `behind` are the Services that an ingress passes requests on to.
    """
    found = _own_ports(service)
    for pod in PodIndex(facts.pods).behind(service):
        found |= {port.host for port in pod.host_ports} | {port.container for port in pod.host_ports}
    further: set[int] = set()
    for other in behind:
        further |= _own_ports(other)
    further -= found
    remarks: list[str] = []
    if len(further) > MOST_BEHIND:
        remarks.append(
            f"the servers behind svc/{service.name} use {len(further)} ports, of which {MOST_BEHIND} are watched; name "
            "one Ingress to watch its own"
        )
    found |= set(sorted(further)[:MOST_BEHIND])
    return tuple(sorted(found - {0})), remarks


def _own_ports(service: Service) -> set[int]:
    found = {number for port in service.ports for number in (port.port, port.node_port)}
    found |= {endpoint.port for endpoint in service.endpoints}
    found |= {int(port.target) for port in service.ports if is_port(port.target)}
    return {number for number in found | {service.health_check_node_port} if 0 < number <= 0xFFFF}


def missing(
    kind: str, short: str, name: str, namespace: str, known: Iterable[tuple[str, str]]
) -> UnavailableError:
    """The error for an object that is not there. `known` are namespace and name of those of its kind."""
    everything = list(known)
    here = sorted(other for place, other in everything if place == namespace)
    elsewhere = sorted(place for place, other in everything if other == name and place != namespace)
    said = f"there is no {kind} {name} in namespace {namespace}"
    if elsewhere:
        return UnavailableError(f"{said}, but in {few(elsewhere)}; give -n {elsewhere[0]}")
    if near := get_close_matches(name, here, n=_SUGGESTED, cutoff=0.5):
        return UnavailableError(f"{said}; did you mean {few([f'{short}/{each}' for each in near])}?")
    if here:
        return UnavailableError(
            f"{said}; give {'the one there: ' if len(here) == 1 else 'one of '}{few(here)}"
        )
    return UnavailableError(f"{said}, and no other; check -n, or see `kubectl get {short} -A`")


def few(names: Sequence[str]) -> str:
    """Some of the names, and how many more there are."""
    shown = ", ".join(names[:_SUGGESTED])
    return f"{shown} and {len(names) - _SUGGESTED} more" if len(names) > _SUGGESTED else shown
