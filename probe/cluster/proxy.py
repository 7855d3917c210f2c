"""A proxy behind a Service: its pods, its ports, its ConfigMap. What each product is told is read beside this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.facts import Service
from analysis.ports import is_port
from probe.cluster.command_lines import Flags, command_line, flags_of
from probe.cluster.controllers import Product
from probe.cluster.fields import Json, key_of, name_of, objects, plain, table
from probe.cluster.reading import CONFIGMAPS, Reading

#: The versions of the PROXY header that every proxy here takes.
BOTH_VERSIONS = (1, 2)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A product behind a Service, with its pods, and the Gateways and classes that lead to it."""

    product: Product
    service: Service
    pods: Sequence[Json]
    gateways: Sequence[Json] = ()
    classes: Sequence[Json] = ()

    @property
    def flags(self) -> Flags:
        """The arguments of the first pod's containers, together; names as written."""
        found: Flags = {}
        for pod in self.pods[:1]:
            for container in objects(pod, "spec.containers"):
                found |= flags_of(command_line(container))
        return found


@dataclass(frozen=True, slots=True)
class Port:
    """Where the proxy takes connections: its own port, and the Service's in front of it."""

    port: int
    service_port: int
    name: str
    tls: bool


def ports_of_proxy(service: Service) -> list[Port]:
    """The TCP ports of a Service, as its pods have them."""
    found: dict[int, Port] = {}
    for port in service.ports:
        if port.protocol != "tcp":
            continue
        targets = {each.port for each in service.endpoints if each.port_name == port.name}
        if not targets:
            targets = {int(port.target)} if is_port(port.target) else {port.port}
        tls = port.port == 443 or "https" in {port.name, port.app_protocol} or port.name == "websecure"
        for target in sorted(targets):
            found.setdefault(target, Port(target, port.port, port.name, tls))
    return list(found.values())


def configmap_of(
    reading: Reading, proxy: Proxy, default: str, *names: str
) -> tuple[Mapping[str, str] | None, str]:
    """The data of the ConfigMap that a proxy's arguments name, and where it stands; None where it is not known."""
    flags = proxy.flags
    written = next((flags[name] for name in ("configmap", "nginx-configmaps") if name in flags), "")
    place, _, name = written.rpartition("/")
    # The variable of the pod's own namespace comes from the pod and is seldom told.
    place = proxy.service.namespace if not place or place.startswith("$") else place
    wanted = [name] if name and not name.startswith("$") else [default, *names]
    found = reading.within(CONFIGMAPS, place)
    for item in found:
        if name_of(item) in wanted:
            return table(item, "data"), f"ConfigMap {key_of(item)}"
    if not reading.knows(CONFIGMAPS, place):
        return None, ""
    reading.remark(
        f"{proxy.product}: there is no ConfigMap {place}/{plain(wanted[0])}; its defaults are taken"
    )
    return {}, f"defaults of {proxy.product}"


def no_gateway(reading: Reading, proxy: Proxy) -> None:
    """Say that a proxy of the Gateway API stands there without a Gateway."""
    reading.remark(
        f"no Gateway is known to lead to svc/{proxy.service.name}; whom {proxy.product} believes is not known"
    )


def split_list(written: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(part.strip() for part in written.split(",") if part.strip())
