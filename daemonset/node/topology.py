"""What a node looks like: its interfaces, its routes, and which network namespace is which pod.

Read through rtnetlink (pyroute2, imported only here and only when something is read). A pod is a network
namespace that hangs on ours: the kernel knows our namespace by a number over there (RTM_GETNSID), and the
pod's end of the veth names that number. So neighbours on the same machine that are no pods of this node
(other nodes of a lab, the fabric that our own NIC leads to) are told apart without guessing by index or name.

    survey()                         what is there, and how to enter the pods
    classify(interface, topology)    whether one of the interfaces is a tap, and of which kind
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from daemonset.node.namespaces import call_inside
from daemonset.observation import Gap, Interface, PodNamespace, Route, TapKind, Topology

_OURS = Path("/proc/thread-self/ns/net")
_UP = 0x1  # IFF_UP, linux/if.h
_MAIN = 254  # RT_TABLE_MAIN
_UNICAST = 1  # RTN_UNICAST
_FAMILIES = (2, 10)
_UNKNOWN_NAMESPACE = (None, -1, 0xFFFF_FFFF)

#: IFLA_INFO_KIND of devices that encapsulate; what passes them is the inner packet.
TUNNEL_KINDS = frozenset(
    {
        "vxlan", "geneve", "ipip", "gre", "gretap", "ip6gre", "ip6gretap", "sit", "ip6tnl",
        "wireguard", "vti", "vti6", "xfrm", "tun", "bareudp",
    }
)  # fmt: skip
_BRIDGE_KINDS = frozenset({"bridge", "openvswitch"})
_PAIR_KINDS = frozenset({"veth", "netkit"})  # two ends, one of them a pod's
_IDLE_KINDS = frozenset({"dummy", "ifb", "nlmon", "vrf"})  # they hold addresses or copies, no traffic of pods


class Survey(NamedTuple):
    """The topology, where each pod's namespace can be entered (by inode), and what could not be looked at."""

    topology: Topology
    paths: dict[str, str]
    gaps: tuple[Gap, ...] = ()


class _Link(NamedTuple):
    """An interface with what only matters while reading: what it is linked to, and the kernel's number for
    the namespace that this is in, if that is another one.
    """

    interface: Interface
    below: int
    peer_namespace: int | None


class _Namespace(NamedTuple):
    """A network namespace that some process is in, or that has a name."""

    inode: str
    path: str
    process: int


def load() -> None:
    """Import now what is read with. Raises ImportError."""
    import pyroute2  # noqa: F401, PLC0415 - as in _rtnetlink


def read_topology() -> Topology:
    """The topology alone; see `survey`."""
    return survey().topology


class SurveyEndedError(Exception):
    """Nobody wants to know any more."""


def survey(
    *,
    proc: Path = Path("/proc"),
    named: Path = Path("/run/netns"),
    time: int = 0,
    wanted: Callable[[], bool] = lambda: True,
) -> Survey:
    """Look at the network namespace that we are in, and at the pods that hang on it.

    Interfaces that are down are left out: nothing passes them, and a socket cannot be bound to them. `proc`
    and `named` are where the host's namespaces are found, `time` (ns) stands in the gaps. `wanted` is asked before
    each namespace is entered, which takes a few milliseconds: one of hundreds of pods may want to be ended meanwhile.
    Raises OSError where rtnetlink itself does not answer, SurveyEndedError where it is not wanted any more.
    """
    with _rtnetlink() as channel:
        interfaces = tuple(link.interface for link in _read_links(channel))
        topology = Topology(interfaces, tuple(_read_routes(channel)))
    found, hidden = _find_namespaces(proc, named)
    gaps = [Gap("namespaces", hidden, time)] if hidden else []
    pods: list[PodNamespace] = []
    paths: dict[str, str] = {}
    ours = os.open(_OURS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for namespace in found:
            if not wanted():
                raise SurveyEndedError
            try:
                pod = _read_pod(namespace, ours, topology)
            except OSError as error:
                gaps.append(Gap("namespace", f"{namespace.path} was not entered: {error.strerror}", time))
                continue
            if pod is not None:
                pods.append(pod)
                paths[pod.namespace] = namespace.path
    finally:
        os.close(ours)
    return Survey(msgspec.structs.replace(topology, pods=tuple(pods)), paths, tuple(gaps))


def name_text(name: str | bytes | None) -> str:
    """A name as text that can be sent: a pod may call its interfaces by any bytes.

    pyroute2 leaves those that are no UTF-8 as bytes, Python's own functions make surrogates of them.
    """
    raw = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name or b""
    return raw.decode("utf-8", "backslashreplace")


def classify(interface: Interface, topology: Topology) -> TapKind | None:
    """Which kind of tap an interface is; None: packets of Services are better seen elsewhere.

    A NIC carries the node's address or its default route, whatever it is made of (in a lab a veth). A veth
    whose other end is in another namespace and that is no NIC is the host end of a pod.
    """
    kind = interface.kind
    if interface.name == "lo" or kind in _IDLE_KINDS:
        return None
    if kind in TUNNEL_KINDS:
        return TapKind.TUNNEL
    if interface.master == 0 and _faces_outwards(interface, topology):
        return TapKind.NIC
    if kind in _BRIDGE_KINDS:
        return TapKind.BRIDGE
    if kind in _PAIR_KINDS:
        return TapKind.VETH if interface.peer else None
    return None


def _faces_outwards(interface: Interface, topology: Topology) -> bool:
    if any(route.destination == "default" and route.interface == interface.name for route in topology.routes):
        return True
    if interface.kind in _BRIDGE_KINDS:
        return False  # its address is the pods' gateway
    lasting = [address for text in interface.addresses if _lasts(address := ip_interface(text))]
    if interface.kind in _PAIR_KINDS:
        # Some CNIs put their gateway's address on every host end, alone: /32 and no network behind it.
        return bool(interface.peer) and any(address.network.num_addresses > 1 for address in lasting)
    return bool(lasting)


def _lasts(address: IPv4Interface | IPv6Interface) -> bool:
    """Whether others can reach somebody by it."""
    return not (address.is_link_local or address.is_loopback)


@contextlib.contextmanager
def _rtnetlink() -> Iterator[Any]:
    from pyroute2 import IPRoute  # noqa: PLC0415 - a quarter of a second that readers of files need not wait
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - the same

    try:
        with IPRoute() as channel:
            yield channel
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code), "rtnetlink") from error


def _read_links(channel: Any) -> list[_Link]:
    """Every interface that is up, in the order of the kernel's indices."""
    addresses: dict[int, list[str]] = {}
    for message in channel.get_addr():
        if message["family"] not in _FAMILIES:
            continue  # a pod's interface may have addresses that are none of IP
        # On a point-to-point link IFA_ADDRESS is the other side's; IFA_LOCAL is only there for IPv4.
        address = message.get("local") or message.get("address")
        if address:
            addresses.setdefault(message["index"], []).append(f"{address}/{message['prefixlen']}")
    links = []
    for message in channel.get_links():
        if not message["flags"] & _UP:
            continue
        information = message.get("linkinfo")
        kind = name_text(information.get("kind") if information else None)
        peer_namespace = message.get("link_netnsid")
        apart = peer_namespace not in _UNKNOWN_NAMESPACE
        index, below = message["index"], message.get("link") or 0
        interface = Interface(
            index=index,
            name=name_text(message.get("ifname")),
            kind=kind,
            addresses=tuple(addresses.get(index, ())),
            # The index of a peer in our own namespace would read like one in another: a pair at home has 0.
            peer=below if kind in _PAIR_KINDS and apart else 0,
            master=message.get("master") or 0,
        )
        links.append(_Link(interface, below, peer_namespace if apart else None))
    return sorted(links, key=lambda link: link.interface.index)


def _read_routes(channel: Any) -> Iterator[Route]:
    names = {message["index"]: name_text(message.get("ifname")) for message in channel.get_links()}
    for family in _FAMILIES:
        for message in channel.get_routes(table=_MAIN, family=family):
            if message["type"] != _UNICAST:
                continue
            prefix = message.get("dst")
            destination = f"{prefix}/{message['dst_len']}" if prefix else "default"
            if ip_address(prefix or "::").is_link_local:
                continue  # every interface has one, and nothing of a Service takes it
            for hop in message.get("multipath") or (message,):
                via = hop.get("gateway") or (hop.get("via") or {}).get("addr")  # RTA_VIA: of the other family
                # A whole route names its interface in an attribute, a hop of several in its header.
                yield Route(destination, via, names.get(hop.get("oif") or 0))


def _find_namespaces(proc: Path, named: Path) -> tuple[list[_Namespace], str]:
    """Every network namespace but our own, once each; and what to say of processes that are closed to us."""
    ours = _OURS.stat().st_ino
    found: dict[int, _Namespace] = {}
    closed = 0
    for process in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()):
        path = proc / str(process) / "ns/net"
        try:
            inode = path.stat().st_ino
        except PermissionError:
            closed += 1
        except OSError:
            continue  # the process has ended meanwhile, or is a zombie
        else:
            found.setdefault(inode, _Namespace(str(inode), str(path), process))
    for path in sorted(named.iterdir()) if named.is_dir() else ():
        with contextlib.suppress(OSError):  # taken away meanwhile, or a name without a namespace
            inode = path.stat().st_ino
            found.setdefault(inode, _Namespace(str(inode), str(path), 0))
    found.pop(ours, None)
    hidden = f"{closed} processes do not let us see which network namespace they are in" if closed else ""
    return list(found.values()), hidden


def _read_pod(namespace: _Namespace, ours: int, topology: Topology) -> PodNamespace | None:
    """The pod in a namespace; None when it hangs on another node, or is what our NIC hangs on."""
    try:
        entrance = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # it has ended meanwhile
    try:
        number, links = call_inside(entrance, lambda: _look_back(ours))
    finally:
        os.close(entrance)
    host_ends = {interface.index: interface for interface in topology.interfaces}
    for link in links:
        if number is None or link.peer_namespace != number:
            continue
        host_end = host_ends.get(link.below)
        pair = link.interface.kind in _PAIR_KINDS
        if pair and (host_end is None or classify(host_end, topology) is not TapKind.VETH):
            continue
        return PodNamespace(
            namespace=namespace.inode,
            addresses=tuple(
                str(address.ip)
                for link in links
                for text in link.interface.addresses
                if _lasts(address := ip_interface(text))
            ),
            veth=host_end.name if pair and host_end else None,
            process=namespace.process,
        )
    return None


def _look_back(ours: int) -> tuple[int | None, list[_Link]]:
    """From inside another namespace: the number that ours has there, and the interfaces."""
    with _rtnetlink() as channel:
        links = _read_links(channel)
        number = (channel.get_netnsid(fd=ours) or {}).get("nsid")
        return None if number in _UNKNOWN_NAMESPACE else number, links
