"""What an ingress's configuration and its log say, as plain values, and how a judge asks for them.

Both are claims of the same standing as the cluster's objects: a configuration says what a listener *should* expect,
a log says whom the server took for its peer and its client and what it complained about. They confirm or contradict
what was seen on the wire; neither replaces it.

Rules:

1. A listener is known by its port: a pod's address is another one after every restart, its listening port is not.
2. A line of a log is about a connection only if it names the connection's peer, and is near in time when both times
   are known. Source ports come again within seconds, so two candidates that time does not tell apart are none.
3. Every text of a log may have been written by a client. It is bounded here and escaped wherever it is shown. A log
   whose server writes a client's line feeds as they came can be made to hold lines that the server never wrote.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from math import floor, inf, isfinite

import msgspec

from analysis.ports import is_port
from analysis.trust.model import (
    EnvoyCustomHeader,
    EnvoyTrust,
    EnvoyXff,
    Gunicorn,
    HaproxyTrust,
    IngressNginx,
    NginxRealIp,
    TraefikTrust,
    Uvicorn,
)

#: Seconds by which the clocks of a log and of a capture may differ, with the one-second resolution of most logs.
CLOCKS = 2.5

#: Seconds within which a line with the right peer is looked for. A busy client was seen to use a port again after 11 s.
NEAR = 5.0

#: Seconds by which the coarsest times may miss the connection that they belong to.
RESOLUTION = 1.0

#: Every offset from UTC that is in use is a multiple of this, in seconds, and lies between the two others.
ZONE_STEP, ZONE_EAST, ZONE_WEST = 900, 14 * 3600, -12 * 3600

#: Longest part of a line, and of any value out of it, that is kept, in characters.
TEXT_LIMIT = 512


class Kind(enum.StrEnum):
    """Which server wrote a configuration or a log."""

    NGINX = "nginx"
    INGRESS_NGINX = "ingress-nginx"
    HAPROXY = "haproxy"
    ENVOY = "envoy"
    TRAEFIK = "traefik"
    UVICORN = "uvicorn"


class Problem(enum.StrEnum):
    """What a server complains about."""

    HEADER_MISSING = "header-missing"  # a PROXY header was expected, something else arrived
    HEADER_EMPTY = "header-empty"  # a PROXY header was expected, the peer closed without a byte, as checks do
    HEADER_LATE = "header-late"  # a PROXY header was expected, none came in time
    HEADER_UNEXPECTED = "header-unexpected"  # a PROXY header arrived where requests are expected
    HEADER_MALFORMED = "header-malformed"  # it began like a PROXY header, and was not one
    HEADER_VERSION = "header-version"  # the receiver does not take this version or command
    HEADER_FAMILY = "header-family"  # the receiver does not take this address family or transport
    HEADER_REFUSED = "header-refused"  # the PROXY header was refused; the log does not say why
    REQUEST_INVALID = "request-invalid"  # no HTTP request, and nothing says what it was
    TLS_ON_PLAIN = "tls-on-plain"  # a TLS handshake arrived where plain requests are expected
    PLAIN_ON_TLS = "plain-on-tls"  # a plain HTTP request arrived where TLS is expected
    TLS_FAILED = "tls-failed"  # TLS was expected; the handshake failed for another reason
    UPSTREAM_FAILED = "upstream-failed"  # the server got no answer from the next one


#: Problems that a load balancer's TCP health check causes as a matter of course.
BENIGN = frozenset({Problem.HEADER_EMPTY})


class Upstream(msgspec.Struct, frozen=True):
    """A server that requests are passed on to. `address` is "ip:port" or "name:port" as written.

    `sends` is the version of the PROXY header that it is sent first, 0 for none; `check` is the port of a health
    check of its own, 0 for the same.
    """

    address: str
    sends: int = 0
    name: str = ""
    check: int = 0


class EnvoyDetection(msgspec.Struct, frozen=True):
    """One of Envoy's original-IP detection extensions; one of the two is set."""

    xff: EnvoyXff | None = None
    custom_header: EnvoyCustomHeader | None = None


class EnvoySettings(msgspec.Struct, frozen=True):
    """`analysis.trust.model.EnvoyTrust` as a recording keeps it: JSON does not tell the kinds of detection apart."""

    use_remote_address: bool = False
    trusted_hops: int = 0
    skip_append: bool = False
    proxy_protocol: bool = False
    proxy_optional: bool = False
    detection: tuple[EnvoyDetection, ...] = ()

    @classmethod
    def of(cls, trust: EnvoyTrust) -> EnvoySettings:
        """The same settings, to be kept."""
        kept = tuple(
            EnvoyDetection(xff=each) if isinstance(each, EnvoyXff) else EnvoyDetection(custom_header=each)
            for each in trust.detection
        )
        return cls(
            trust.use_remote_address,
            trust.trusted_hops,
            trust.skip_append,
            trust.proxy_protocol,
            trust.proxy_optional,
            kept,
        )

    @property
    def trust(self) -> EnvoyTrust:
        """The same settings, to be judged by."""
        found = (each.xff or each.custom_header for each in self.detection)
        return EnvoyTrust(
            self.use_remote_address,
            self.trusted_hops,
            self.skip_append,
            self.proxy_protocol,
            self.proxy_optional,
            tuple(each for each in found if each is not None),
        )


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A port on which an ingress takes connections.

    `addresses` is empty for every address. `proxy_protocol`: whether a PROXY header must come first; None where the
    configuration makes it depend on something (`notes` say on what). `versions` are those that the listener takes,
    None where that is not known. `forwards` are the header fields that it sets onward, lower-case name and the
    value as configured. `mode` is http or tcp. `line` is where in the file it stands. `nginx`, `haproxy`,
    `ingress_nginx`, `envoy` and `traefik` are the settings for `analysis.trust`: one of them, in a field of its own
    for JSON's sake.
    """

    port: int
    addresses: tuple[str, ...] = ()
    proxy_protocol: bool | None = False
    versions: tuple[int, ...] | None = None
    tls: bool = False
    mode: str = "http"
    nginx: NginxRealIp | None = None
    haproxy: HaproxyTrust | None = None
    ingress_nginx: IngressNginx | None = None
    forwards: tuple[tuple[str, str], ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    name: str = ""
    line: int = 0
    notes: tuple[str, ...] = ()
    envoy: EnvoySettings | None = None
    traefik: TraefikTrust | None = None

    @property
    def trust(self) -> NginxRealIp | HaproxyTrust | IngressNginx | EnvoyTrust | TraefikTrust | None:
        """Whom the listener believes about its client; None where servers behind it differ in that."""
        envoy = self.envoy.trust if self.envoy is not None else None
        return self.nginx or self.haproxy or self.ingress_nginx or envoy or self.traefik


class Ingress(msgspec.Struct, frozen=True):
    """A configuration that was read from `file`."""

    kind: Kind
    listeners: tuple[Listener, ...] = ()
    file: str = ""
    notes: tuple[str, ...] = ()


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a server's log says.

    Addresses are canonical texts. `peer` is the transport's other end, "ip:port", or "ip" alone where the log does
    not tell the port; `client` is whom the server took for the client; `proxied` is the source in the PROXY header
    that it took, "ip:port"; `forwarded` is the X-Forwarded-For that it was sent; `outgoing` is its own end of the
    connection to `upstream`. `local` is "ip:port" of the listener, with "" for an address that is not told.
    `connection` numbers connections within the file's server. `time` is seconds since the epoch; where `zoned` is
    False the log names no time zone, and `time` is its wall clock read as if it were UTC.
    """

    kind: Kind
    time: float | None = None
    zoned: bool = True
    peer: str | None = None
    client: str | None = None
    client_port: int | None = None
    proxied: str | None = None
    forwarded: str | None = None
    local: str | None = None
    outgoing: str | None = None
    upstream: str | None = None
    request: str | None = None
    request_id: str | None = None
    status: int | None = None
    problem: Problem | None = None
    connection: str | None = None
    listener: str = ""  # its name, where the log has one (HAProxy's frontend)
    server: str = ""  # the pod, container or host that the line's prefix names
    file: str = ""
    line: int = 0
    text: str = ""


class Application(msgspec.Struct, frozen=True):
    """The server of the application behind the ingress: its command line, and what it believes by that."""

    command: str
    uvicorn: Uvicorn | None = None
    gunicorn: Gunicorn | None = None

    @property
    def trust(self) -> Uvicorn | Gunicorn | None:
        """Whom it believes about its client."""
        return self.uvicorn or self.gunicorn


class IngressRecord(msgspec.Struct, frozen=True):
    """All that was given of ingresses and of the application behind them, as a recorded session keeps it."""

    ingresses: tuple[Ingress, ...] = ()
    entries: tuple[LogEntry, ...] = ()
    remarks: tuple[str, ...] = ()  # what of the files could not be used, for people
    application: Application | None = None

    def plus(self, other: IngressRecord) -> IngressRecord:
        """Both; a file that is in the two counts once, as `other` has it."""
        files = {each.file for each in other.ingresses} | {each.file for each in other.entries}
        return IngressRecord(
            (*(each for each in self.ingresses if each.file not in files), *other.ingresses),
            (*(each for each in self.entries if each.file not in files), *other.entries),
            (*self.remarks, *other.remarks),
            other.application or self.application,
        )


class IngressFacts:
    """The questions that a judge asks of configurations and logs. Empty without any: every answer is then "none"."""

    def __init__(self, record: IngressRecord | None = None) -> None:
        self.record = record or IngressRecord()
        self._by_peer: dict[str, list[LogEntry]] = defaultdict(list)
        self._by_client: dict[str, list[LogEntry]] = defaultdict(list)
        self._by_outgoing: dict[str, list[LogEntry]] = defaultdict(list)
        self._by_request: dict[str, list[LogEntry]] = defaultdict(list)
        for entry in self.record.entries:
            self._index(entry)

    def _index(self, entry: LogEntry) -> None:
        if entry.peer is not None:
            self._by_peer[entry.peer].append(entry)
        if entry.outgoing is not None:
            self._by_outgoing[entry.outgoing].append(entry)
        for client in {entry.proxied, _client(entry)} - {None, entry.peer}:
            self._by_client[str(client)].append(entry)
        if entry.request_id:
            self._by_request[entry.request_id].append(entry)

    def __bool__(self) -> bool:
        return bool(self.record.ingresses or self.record.entries or self.record.application)

    def listener_at(self, address: str | None, port: int) -> Listener | None:
        """The listener at a port: the one with the address, else one of every address, else any at that port.

        A pod's address is seldom in its configuration, so another address is no contradiction. None where several
        that differ in what they expect or believe could be meant.
        """
        at_port = [each for one in self.record.ingresses for each in one.listeners if each.port == port]
        wanted = canonical(address) if address else ""
        any_of_family = "::" if ":" in wanted else "0.0.0.0"  # noqa: S104 - compared, not listened on
        exact = [each for each in at_port if wanted in each.addresses]
        every = [each for each in at_port if not each.addresses or any_of_family in each.addresses]
        for candidates in (exact, every, at_port):
            if candidates:
                return candidates[0] if all(_alike(candidates[0], each) for each in candidates) else None
        return None

    def entries_about(
        self, source: str, near: float | None, until: float | None = None, port: int | None = None
    ) -> tuple[LogEntry, ...]:
        """What the logs say of the connection from `source` ("ip:port"), in the order in which it was written.

        `near` and `until` are when the connection began and ended, in seconds since the epoch; `port` is where it
        arrived, if lines that say they are about another listener are to be left out. Where no line names the port
        of the source, lines that name its address alone count, but only if all of them near that time tell the same;
        those about connections without a byte are left out beside others.
        """
        source = canonical(source)
        span = (near, until)
        exact = _nearest([each for each in self._by_peer[source] if _at(each, port)], span)
        if exact:
            return exact
        loose = [each for each in self._by_peer[host_of(source)] if _at(each, port)]
        close = [each for each in loose if _distance(each, span) <= CLOCKS]
        close = [each for each in close if each.problem not in BENIGN] or close
        told = {(each.problem, each.client, each.status) for each in close}
        return tuple(close) if len(told) == 1 else ()

    def entries_of_client(
        self, source: str, near: float | None, until: float | None = None
    ) -> tuple[LogEntry, ...]:
        """What the logs say of requests whose client they take to be `source` ("ip:port"), told by somebody else."""
        return _nearest(self._by_client[canonical(source)], (near, until))

    def entries_opening(
        self, source: str, near: float | None, until: float | None = None
    ) -> tuple[LogEntry, ...]:
        """What the logs say of connections that their server itself opened from `source` ("ip:port")."""
        return _nearest(self._by_outgoing[canonical(source)], (near, until))

    def entries_for_request(self, request_id: str) -> tuple[LogEntry, ...]:
        """Every line that names this request id."""
        return tuple(self._by_request.get(request_id, ()))


def canonical(address: str) -> str:
    """The one spelling of "ip", "ip:port" or "[ip]:port"; IPv4-mapped addresses are IPv4. Other text is kept."""
    host, port = _split(address)
    try:
        parsed = ip_address(host)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    text = str(mapped or parsed)
    if port is None:
        return text
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def host_of(address: str) -> str:
    """The address alone of "ip:port"."""
    return canonical(_split(address)[0])


def port_of(address: str) -> int | None:
    """The port of "ip:port", None where there is none."""
    port = _split(address)[1]
    return int(port) if port is not None and is_port(port) else None


def _split(address: str) -> tuple[str, str | None]:
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        return host, rest[1:] if rest.startswith(":") else None
    if address.count(":") == 1:
        host, _, port = address.partition(":")
        return host, port
    return address, None


def _client(entry: LogEntry) -> str | None:
    if entry.client is None or not entry.client_port:
        return None
    return (
        f"[{entry.client}]:{entry.client_port}"
        if ":" in entry.client
        else f"{entry.client}:{entry.client_port}"
    )


def _alike(one: Listener, other: Listener) -> bool:
    """Whether two listeners expect the same and believe the same."""
    bare = [
        msgspec.structs.replace(each, addresses=(), line=0, name="", upstreams=(), notes=())
        for each in (one, other)
    ]
    return bare[0] == bare[1]


def _at(entry: LogEntry, port: int | None) -> bool:
    told = port_of(entry.local) if entry.local else None
    return port is None or told is None or told == port


def _distance(entry: LogEntry, span: tuple[float | None, float | None]) -> float:
    """Seconds between a line and the time that is asked for: 0 within it, and where either is not known.

    A time without a zone is tried with every offset that is in use, and is as near as the best of them makes it.
    """
    near, until = span
    if near is None or entry.time is None:
        return 0.0
    if not isfinite(entry.time):  # out of a damaged recording
        return inf
    end = max(near, until or near)
    if entry.zoned:
        return max(near - entry.time, entry.time - end, 0.0)
    steps = floor((entry.time - near) / ZONE_STEP)  # so many bring it to `near` or just after
    bounded = (min(max(step * ZONE_STEP, ZONE_WEST), ZONE_EAST) for step in (steps, steps + 1))
    return min(max(near - moment, moment - end, 0.0) for moment in (entry.time - shift for shift in bounded))


def _nearest(entries: Sequence[LogEntry], span: tuple[float | None, float | None]) -> tuple[LogEntry, ...]:
    """The lines of the one connection that is meant; none where two could be."""
    groups = _connections([each for each in entries if _distance(each, span) <= NEAR], span)
    if not groups:
        return ()
    ranked = sorted((min(_distance(entry, span) for entry in group), at) for at, group in enumerate(groups))
    best, chosen = ranked[0]
    if len(ranked) > 1 and ranked[1][0] <= best + CLOCKS:
        return ()
    return tuple(groups[chosen])


def _connections(
    entries: Iterable[LogEntry], span: tuple[float | None, float | None]
) -> list[list[LogEntry]]:
    """Lines apart by the connection that they are about, as far as that is told."""
    groups: list[list[LogEntry]] = []
    for entry in entries:
        for group in groups:
            if _may_be_one(entry, group[0], span) and _may_be_one(entry, group[-1], span):
                group.append(entry)
                break
        else:
            groups.append([entry])
    return groups


def _may_be_one(one: LogEntry, other: LogEntry, span: tuple[float | None, float | None]) -> bool:
    """Whether two lines with the same peer can be about one connection: an access log and an error log often are.

    While a connection lasts, its port cannot be used again; lines from before or after must be near each other.
    """
    pairs = ((one.kind, other.kind), (one.connection, other.connection), (one.server, other.server))
    if any(a and b and a != b for a, b in pairs):
        return False
    if one.local and other.local and not _same_place(one.local, other.local):
        return False
    if one.connection and other.connection:
        return True
    if span[1] is not None and max(_distance(one, span), _distance(other, span)) <= RESOLUTION:
        return True
    if one.time is None or other.time is None or one.zoned != other.zoned:
        return True
    return abs(one.time - other.time) <= CLOCKS


def _same_place(one: str, other: str) -> bool:
    hosts = {host_of(one), host_of(other)} - {"", "0.0.0.0", "::"}  # noqa: S104 - compared, not listened on
    return len(hosts) <= 1 and port_of(one) == port_of(other)
