"""What an nginx configuration says of its listeners: PROXY header, TLS, whom it believes, what it sends onward.

Settings are inherited as nginx merges them: a directive of an inner block replaces that of the outer one, and lists
(set_real_ip_from, proxy_set_header) are replaced as a whole. Parameters of `listen` belong to the socket, so what one
server says of an address and port holds for all servers there (ngx_http_add_addresses).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import msgspec

from analysis.ingress import Ingress, Kind, Listener, Upstream, canonical
from analysis.trust.model import NginxRealIp
from probe.ingress.errors import ConfigError
from probe.ingress.nginx_files import Tree
from probe.ingress.nginx_grammar import Directive
from probe.ingress.port_ranges import MOST_OF_RANGES, PortRanges

#: nginx takes both since 1.13.11; older ones are out of every distribution.
VERSIONS = (1, 2)

_PASSES = frozenset({"proxy_pass", "grpc_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass"})
_ABOUT_CLIENT = re.compile(r"forwarded|real-ip|client-ip|connecting-ip", re.IGNORECASE)
_CLIENT_VARIABLE = re.compile(
    r"remote_addr|proxy_protocol|x_forwarded_for|http_forwarded|x_real_ip|the_real_ip"
)


@dataclass(frozen=True, slots=True)
class _Settings:
    """What is in force in a block."""

    trusted: tuple[str, ...] = ()
    header: str = "X-Real-IP"
    recursive: bool = False
    sends: tuple[tuple[str, str], ...] = ()
    sends_proxy: bool = False
    passes: str = ""

    def within(self, block: Iterable[Directive]) -> _Settings:
        """The settings of a block inside."""
        trusted: list[str] = []
        sends: list[tuple[str, str]] = []
        inner = replace(self, passes="")
        for each in block:
            match each.name, each.args:
                case "set_real_ip_from", (value,):
                    trusted.append(value)
                case "real_ip_header", (value,):
                    inner = replace(inner, header=value)
                case "real_ip_recursive", (value,):
                    inner = replace(inner, recursive=value == "on")
                case (("proxy_set_header" | "grpc_set_header"), (name, value)):
                    sends.append((name, value))
                case "proxy_protocol", (value,):
                    inner = replace(inner, sends_proxy=value == "on")
                case name, (value, *_) if name in _PASSES:
                    inner = replace(inner, passes=value)
                case _:
                    pass
        return replace(inner, trusted=tuple(trusted) or self.trusted, sends=tuple(sends) or self.sends)


@dataclass(slots=True)
class _Socket:
    """An address and port, and all servers that listen there."""

    line: int
    proxy_protocol: bool = False
    tls: bool = False
    mode: str = "http"
    names: list[str] = field(default_factory=list)
    uses: list[_Settings] = field(default_factory=list)


class _Listen:
    """One `listen`: addresses, ports and parameters. Raises ConfigError."""

    def __init__(self, directive: Directive) -> None:
        if not directive.args:
            raise ConfigError('"listen" names no address or port', file=directive.file, line=directive.line)
        place, *parameters = directive.args
        self.line = directive.line
        self.unix = place.startswith("unix:")
        self.proxy_protocol = "proxy_protocol" in parameters
        self.tls = "ssl" in parameters
        self.udp = "udp" in parameters or "quic" in parameters
        self.address, self.ports = "", range(0)
        if not self.unix:
            self.address, ports = _place(place)
            if self.address == "::" and "ipv6only=off" in parameters:
                self.address = ""
            self.ports = _ports(ports, directive)


def nginx_ingress(tree: Tree, file: str) -> Ingress:
    """The listeners of a configuration. Raises ConfigError where it has no server at all, or a wrong listen."""
    reading = _Reading(list(tree.missing))
    outer = [each for each in tree.directives if each.name in {"http", "stream"} and each.block is not None]
    # A file out of conf.d or sites-enabled holds servers without the http block around them.
    bare = [
        each for each in tree.directives if each.name in {"server", "upstream"} and each.block is not None
    ]
    for mode, block in [
        *((each.name, each.block or []) for each in outer),
        *([("http", bare)] if bare else []),
    ]:
        reading.block(mode, block)
    if not reading.sockets and not reading.ranges.named and not tree.missing:
        raise ConfigError(
            "it has no server that listens on a port; give nginx.conf with its includes, or `nginx -T`"
        )
    listeners = (_listener(place, socket, reading.upstreams) for place, socket in reading.sockets.items())
    return Ingress(Kind.NGINX, tuple(_joined(listeners)), file, tuple(reading.notes))


class _Reading:
    """What has been found so far: sockets by address and port, upstreams by name, remarks for people."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self.sockets: dict[tuple[str, int], _Socket] = {}
        self.upstreams: dict[str, tuple[Upstream, ...]] = {}
        self.ranges = PortRanges()

    def block(self, mode: str, block: list[Directive]) -> None:
        """Read an http or stream block."""
        settings = _Settings().within(block)
        for each in block:
            if each.name == "upstream" and each.args:
                self.upstreams[each.args[0]] = _members(each)
            elif each.name == "server" and each.block is not None:
                self._server(each, mode, settings)

    def _server(self, server: Directive, mode: str, outer: _Settings) -> None:
        block = server.block or []
        settings = outer.within(block)
        listens = [_Listen(each) for each in block if each.name == "listen"]
        uses = [settings] if settings.passes else list(_passing(block, settings)) or [settings]
        names = [name for each in block if each.name == "server_name" for name in each.args]
        tls = any(each.name == "ssl" and each.args == ("on",) for each in block)
        for listen in listens or [_Listen(Directive("listen", ("80",), server.line))]:
            if listen.unix or listen.udp:
                what = "a unix socket" if listen.unix else "UDP"
                self.notes.append(f"line {listen.line}: {what} is not followed")
                continue
            if not self.ranges.admits(listen.ports):
                self.notes.append(
                    f"line {listen.line}: its ports are not followed: more than {MOST_OF_RANGES} in ranges"
                )
                continue
            for port in listen.ports:
                socket = self.sockets.setdefault((listen.address, port), _Socket(listen.line))
                socket.proxy_protocol |= listen.proxy_protocol
                socket.tls |= listen.tls or tls
                socket.mode = "tcp" if mode == "stream" else "http"
                socket.names += names
                socket.uses += uses


def _passing(block: Iterable[Directive], outer: _Settings) -> Iterator[_Settings]:
    """The settings of every location that passes requests on."""
    for each in block:
        if each.block is not None and each.name in {"location", "if", "limit_except"}:
            inner = outer.within(each.block)
            if inner.passes:
                yield inner
            yield from _passing(each.block, inner)


def _listener(
    place: tuple[str, int], socket: _Socket, upstreams: dict[str, tuple[Upstream, ...]]
) -> Listener:
    address, port = place
    beliefs = {
        (use.trusted, use.header.lower(), use.recursive, _about_client(use), use.sends_proxy)
        for use in socket.uses
    }
    use = socket.uses[0]
    trust: NginxRealIp | None = None
    if len(beliefs) == 1:
        trust = NginxRealIp(
            trusted=use.trusted,
            header=use.header,
            recursive=use.recursive,
            proxy_protocol=socket.proxy_protocol,
            sends=use.sends,
            stream=socket.mode == "tcp",
            sends_proxy=use.sends_proxy and socket.mode == "tcp",
        )
    targets: dict[str, Upstream] = {}
    for each in socket.uses:
        for upstream in _targets(each, upstreams, sends=int(each.sends_proxy and socket.mode == "tcp")):
            targets.setdefault(upstream.address, upstream)
    return Listener(
        port=port,
        addresses=(address,) if address else (),
        proxy_protocol=socket.proxy_protocol,
        versions=VERSIONS if socket.proxy_protocol else None,
        tls=socket.tls,
        mode=socket.mode,
        nginx=trust,
        forwards=tuple((name.lower(), value) for name, value in use.sends) if trust else (),
        upstreams=tuple(targets.values()),
        name=" ".join(dict.fromkeys(socket.names)),
        line=socket.line,
        notes=()
        if trust
        else ("its servers or locations differ in whom they believe or what they send onward",),
    )


def _about_client(use: _Settings) -> frozenset[tuple[str, str]]:
    """Those fields sent onward that tell of the client; locations may differ in all others."""
    return frozenset(
        (name.lower(), value)
        for name, value in use.sends
        if _ABOUT_CLIENT.search(name) or _CLIENT_VARIABLE.search(value)
    )


def _joined(listeners: Iterable[Listener]) -> Iterator[Listener]:
    """Listeners that differ in nothing but their address, as one."""
    groups: dict[Listener, list[Listener]] = defaultdict(list)
    for each in listeners:
        groups[msgspec.structs.replace(each, addresses=(), line=0)].append(each)
    for group in groups.values():
        every = any(not each.addresses for each in group)
        addresses = () if every else tuple(address for each in group for address in each.addresses)
        yield msgspec.structs.replace(group[0], addresses=addresses)


def _place(text: str) -> tuple[str, str]:
    """Address ("" for IPv4's any) and port of a `listen` or `server`, whose default port is 80."""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        return canonical(address), port.removeprefix(":") or "80"
    address, colon, port = text.rpartition(":")
    if not colon:
        return ("0.0.0.0", text) if text[:1].isdigit() and "." not in text else (_any(text), "80")  # noqa: S104
    return _any(address), port


def _any(address: str) -> str:
    return "0.0.0.0" if address in {"*", ""} else canonical(address)  # noqa: S104 - nginx's own meaning


def _ports(text: str, directive: Directive) -> range:
    first, _, last = text.partition("-")
    if len(text) < 12 and all(each.isascii() and each.isdigit() for each in (first, last or first)):
        ports = range(int(first), int(last or first) + 1)
        if ports and ports[0] > 0 and ports[-1] < 1 << 16:
            return ports
    raise ConfigError(
        f'"listen {directive.args[0][:60]}" has no port', file=directive.file, line=directive.line
    )


def _members(upstream: Directive) -> tuple[Upstream, ...]:
    servers = [each.args[0] for each in upstream.block or () if each.name == "server" and each.args]
    return tuple(Upstream(_target(server, 80), name=upstream.args[0]) for server in servers)


def _targets(use: _Settings, upstreams: dict[str, tuple[Upstream, ...]], sends: int) -> Iterator[Upstream]:
    scheme, has_scheme, rest = use.passes.partition("://")
    host = (rest if has_scheme else use.passes).partition("/")[0]
    if not host or "$" in host:
        return
    known = upstreams.get(host)
    for each in known or (Upstream(_target(host, 443 if scheme in {"https", "grpcs"} else 80)),):
        yield Upstream(each.address, sends, each.name)


def _target(text: str, port: int) -> str:
    if text.startswith("unix:"):
        return text
    if text.startswith("["):
        return canonical(text if "]:" in text else f"{text}:{port}")
    return canonical(text if ":" in text else f"{text}:{port}")
