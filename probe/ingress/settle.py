"""What one line cannot say alone: its connection's other lines, or the listener's configuration, name the peer.

1. nginx's error log names an address without a port; an access line with the same connection number has the port.
2. HAProxy's usual formats name the frontend, and the configuration where that listens.
3. A client that is named without a peer is the peer itself, if the listener takes neither a PROXY header nor anybody's
   word for the client. That is in the configuration; without one, nothing is added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from analysis.ingress import CLOCKS, ZONE_STEP, Ingress, Kind, LogEntry, host_of, port_of
from analysis.trust.model import HaproxyTrust, NginxRealIp
from probe.ingress.entries import endpoint

#: Seconds within which a log writes of one connection again.
LASTING = 60.0

_SERVERS = {Kind.NGINX: Kind.NGINX, Kind.INGRESS_NGINX: Kind.NGINX, Kind.HAPROXY: Kind.HAPROXY}


def settled(entries: Sequence[LogEntry], ingresses: Iterable[Ingress]) -> list[LogEntry]:
    """The entries with what follows about their peers."""
    ingresses = list(ingresses)
    trusts, ports = _trusts(ingresses), _ports(ingresses)
    return _with_ports([_with_peer(_with_listener(each, ports), trusts) for each in entries])


def _ports(ingresses: Iterable[Ingress]) -> dict[str, set[int]]:
    """The ports of HAProxy's frontends by name."""
    found: dict[str, set[int]] = defaultdict(set)
    for ingress in ingresses:
        if ingress.kind is Kind.HAPROXY:
            for each in ingress.listeners:
                found[each.name].add(each.port)
    return found


def _with_listener(entry: LogEntry, ports: dict[str, set[int]]) -> LogEntry:
    """Where the connection arrived, for a line that names a frontend with a single port."""
    known = ports.get(entry.listener, ()) if entry.kind is Kind.HAPROXY and entry.local is None else ()
    return msgspec.structs.replace(entry, local=f":{min(known)}") if len(known) == 1 else entry


def _trusts(ingresses: Iterable[Ingress]) -> dict[tuple[Kind, int], list[bool]]:
    """By server and port: for each listener there, whether everybody is its own client."""
    found: dict[tuple[Kind, int], list[bool]] = defaultdict(list)
    for ingress in ingresses:
        for each in ingress.listeners:
            plain = each.proxy_protocol is False and _believes_nobody(each.trust)
            found[_SERVERS.get(ingress.kind, ingress.kind), each.port].append(plain)
    return found


def _believes_nobody(trust: object) -> bool:
    match trust:
        case NginxRealIp(trusted=trusted):
            return not trusted
        case HaproxyTrust(rules=rules, mode=mode):
            return mode == "tcp" or not any(rule.action == "set-src" for rule in rules)
        case _:
            return False


def _with_peer(entry: LogEntry, trusts: dict[tuple[Kind, int], list[bool]]) -> LogEntry:
    port = port_of(entry.local) if entry.local else None
    if entry.peer is not None or entry.client is None or not entry.client_port or port is None:
        return entry
    listeners = trusts.get((entry.kind, port))
    if not listeners or not all(listeners):
        return entry
    return msgspec.structs.replace(entry, peer=endpoint(entry.client, entry.client_port))


def _with_ports(entries: list[LogEntry]) -> list[LogEntry]:
    """Ports for peers that are an address alone, from lines with the number of the same connection."""
    by_number: dict[str, list[LogEntry]] = defaultdict(list)
    for each in entries:
        if each.connection and each.peer and port_of(each.peer):
            by_number[each.connection].append(each)
    return [_with_port(each, by_number) for each in entries]


def _with_port(entry: LogEntry, by_number: dict[str, list[LogEntry]]) -> LogEntry:
    if not entry.connection or (entry.peer and port_of(entry.peer)):
        return entry
    known = [each for each in by_number.get(entry.connection, ()) if _same_server(entry, each)]
    if entry.peer:
        known = [each for each in known if each.peer and host_of(each.peer) == entry.peer]
    else:
        known = [each for each in known if each.client == entry.client]
    peers = {each.peer for each in known}
    return msgspec.structs.replace(entry, peer=peers.pop()) if len(peers) == 1 else entry


def _same_server(one: LogEntry, other: LogEntry) -> bool:
    """Whether two lines can be of one run of one server: near in time, and not of two pods.

    Numbers begin anew when a server restarts, and every server begins with the same ones.
    """
    if one.server and other.server and one.server != other.server:
        return False
    if one.time is None or other.time is None:
        return one.file == other.file
    apart = abs(one.time - other.time)
    if one.zoned != other.zoned:
        apart = min(apart % ZONE_STEP, ZONE_STEP - apart % ZONE_STEP)
    return apart <= (LASTING if one.file == other.file else CLOCKS)
