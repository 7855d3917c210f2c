"""The values of trust evaluation: what arrives, what is configured, what follows.

Addresses are text without port. Header fields are pairs of name and value in the order of the request; one name
may stand there several times, and names compare without regard to case. Values are what a client sent: hostile
text, never to be shown unescaped.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Fields = tuple[tuple[str, str], ...]

#: The peer of a connection over a unix socket. nginx writes it so; ASGI servers show no client at all.
UNIX_PEER = "unix:"


class TrustError(ValueError):
    """Settings that no rule can be applied to. The message says which and what to write instead."""


class Claim(enum.StrEnum):
    """Which of the claims about the client was believed."""

    PEER = "peer"  # the source of the packets
    PROXY = "proxy-header"
    FIELD = "header-field"
    NOBODY = "nobody"  # the connection or request is refused, or no rule can tell


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request as it reaches a listener.

    `proxy_source` is the source address in the PROXY header in front of it: None without a header, "" where the
    header names nobody (LOCAL, UNKNOWN, UNSPEC).
    """

    peer: str
    proxy_source: str | None = None
    fields: Fields = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """Whom a server takes for the client, why, and what it tells the next one.

    `client` is the text that the server would show, None where it refuses (`refused`) or cannot be told. `field`
    names the header field that decided. `onward` are all header fields about the client that it would send on, in
    order; None where that depends on something that the settings do not say. `onward_proxy` is the source in the
    PROXY header that it would write, None where it writes none. `forgeable` says whether a stranger who reaches
    this listener directly could have chosen `client`; `source` is where the rule is written down, and `rule_key`
    its name in docs/trust.md.
    """

    client: str | None
    by: Claim
    rule: str
    source: str
    onward: Fields | None = ()
    onward_proxy: str | None = None
    field: str = ""
    forgeable: bool = False
    refused: bool = False
    rule_key: str = ""


@dataclass(frozen=True, slots=True)
class NginxRealIp:
    """nginx: the real_ip module of one server or location, and what `proxy_set_header` sends.

    `trusted` are the values of set_real_ip_from as written; `header` is that of real_ip_header, whose default is
    X-Real-IP. `proxy_protocol` is the parameter of `listen`. `sends` are name and expression of each
    proxy_set_header in force, for example ("X-Forwarded-For", "$proxy_add_x_forwarded_for"); all other fields pass
    as they came. With `stream` it forwards a TCP stream: fields pass untouched, and `sends_proxy` is
    `proxy_protocol on`. `version` matters for $http_NAME alone: from 1.23 on it joins repeated fields of any name.
    """

    trusted: tuple[str, ...] = ()
    header: str = "X-Real-IP"
    recursive: bool = False
    proxy_protocol: bool = False
    sends: Fields = ()
    stream: bool = False
    sends_proxy: bool = False
    version: tuple[int, int] = (1, 22)


@dataclass(frozen=True, slots=True)
class IngressNginx:
    """ingress-nginx: the keys of its ConfigMap that bear on the client's address, with their defaults.

    `header_wins` tells what both `use-forwarded-headers` and `use-proxy-protocol` mean together: from v1.13 (pull
    request 12768) the forwarded header decides when the PROXY header names a trusted address; before, and with
    `header_wins` off, only the PROXY header does.
    """

    use_forwarded_headers: bool = False
    use_proxy_protocol: bool = False
    enable_real_ip: bool = False
    compute_full_forwarded_for: bool = False
    proxy_real_ip_cidr: tuple[str, ...] = ("0.0.0.0/0",)
    forwarded_for_header: str = "X-Forwarded-For"
    header_wins: bool = True


@dataclass(frozen=True, slots=True)
class HaproxyRule:
    """One `http-request` rule: set-src, set-header, add-header or del-header.

    `name` is the header field; for set-src the one that is read. `value` is the log format of set-header and
    add-header, for example "%[src]". `occurrence` is the second argument of hdr(): 1 is the first, -1 the last
    value. The rule applies to connections of `sources` (`if { src … }`), or to all where that is None; a
    condition of another kind makes the rule `conditional`, and what it decides cannot be told.
    """

    action: Literal["set-src", "set-header", "add-header", "del-header"]
    name: str
    value: str = ""
    occurrence: int = -1
    sources: tuple[str, ...] | None = None
    conditional: bool = False


@dataclass(frozen=True, slots=True)
class HaproxyTrust:
    """HAProxy: one frontend with its backend.

    `accept_proxy` is the parameter of `bind`; `expect_proxy_from` the sources of `tcp-request connection
    expect-proxy layer4 if { src … }`. `forward_for` and its fellows are `option forwardfor`. `rules` stand in the
    order in which they are applied. `sends_proxy` is send-proxy or send-proxy-v2 of the server line. With
    `mode` "tcp" the header fields pass untouched.
    """

    mode: Literal["http", "tcp"] = "http"
    accept_proxy: bool = False
    expect_proxy_from: tuple[str, ...] = ()
    forward_for: bool = False
    forward_for_except: tuple[str, ...] = ()
    forward_for_header: str = "X-Forwarded-For"
    forward_for_if_none: bool = False
    rules: tuple[HaproxyRule, ...] = ()
    sends_proxy: bool = False


@dataclass(frozen=True, slots=True)
class EnvoyXff:
    """Envoy's original-IP detection extension `xff`: by hops or by trusted ranges, never both."""

    trusted_hops: int = 0
    trusted_cidrs: tuple[str, ...] | None = None
    skip_append: bool = True


@dataclass(frozen=True, slots=True)
class EnvoyCustomHeader:
    """Envoy's original-IP detection extension `custom_header`. `rejects` is reject_with_status being set."""

    name: str
    rejects: bool = False


@dataclass(frozen=True, slots=True)
class EnvoyTrust:
    """Envoy: one HTTP connection manager and its listener.

    `proxy_protocol` is the listener filter, `proxy_optional` its allow_requests_without_proxy_protocol.
    `detection` are the original_ip_detection_extensions in order, which cannot stand beside use_remote_address.
    """

    use_remote_address: bool = False
    trusted_hops: int = 0
    skip_append: bool = False
    proxy_protocol: bool = False
    proxy_optional: bool = False
    detection: tuple[EnvoyXff | EnvoyCustomHeader, ...] = ()


@dataclass(frozen=True, slots=True)
class TraefikTrust:
    """Traefik: one entry point. `proxy` is whether proxyProtocol is configured at all."""

    proxy: bool = False
    proxy_trusted: tuple[str, ...] = ()
    proxy_insecure: bool = False
    forwarded_trusted: tuple[str, ...] = ()
    forwarded_insecure: bool = False
    not_append: bool = False


@dataclass(frozen=True, slots=True)
class Uvicorn:
    """uvicorn. `allow` is --forwarded-allow-ips as the process sees it, None where neither flag nor environment says.

    `version` decides the rules: address ranges came with 0.31, ports with 0.45, repeated fields with 0.49.
    """

    proxy_headers: bool = True
    allow: str | None = None
    version: tuple[int, int] = (0, 54)


@dataclass(frozen=True, slots=True)
class Gunicorn:
    """gunicorn. `worker` "uvicorn" is any worker class of uvicorn, whose application sees what uvicorn resolves.

    `allow` is forwarded_allow_ips, which decides for uvicorn's workers; a WSGI application sees the peer whatever it
    says. `proxy_protocol` and `proxy_allow` are gunicorn's own PROXY receiver, which uvicorn's workers do not have.
    Ranges in both lists came with version 24.
    """

    worker: Literal["wsgi", "uvicorn"] = "wsgi"
    allow: str | None = None
    proxy_protocol: bool = False
    proxy_allow: str | None = None
    version: tuple[int, int] = (23, 0)
    uvicorn_version: tuple[int, int] = (0, 54)


@dataclass(frozen=True, slots=True)
class Hypercorn:
    """hypercorn. `mode` is that of ProxyFixMiddleware around the application, None where it is not used."""

    mode: Literal["legacy", "modern"] | None = None
    trusted_hops: int = 1


@dataclass(frozen=True, slots=True)
class Relay:
    """A balancer that no product's rules are known for: it believes its peer and says so, or nothing at all.

    `forwarded` is what it does to X-Forwarded-For: "append" the peer, "overwrite" it with the peer, "pass" it as
    it came (every TCP relay), "remove" it. `accepts_proxy` requires a PROXY header of everybody, `sends_proxy`
    writes one; a `transparent` one keeps the client's source address in its packets.
    """

    forwarded: Literal["append", "overwrite", "pass", "remove"] = "pass"
    accepts_proxy: bool = False
    sends_proxy: bool = False
    transparent: bool = False


Settings = (
    NginxRealIp
    | IngressNginx
    | HaproxyTrust
    | EnvoyTrust
    | TraefikTrust
    | Uvicorn
    | Gunicorn
    | Hypercorn
    | Relay
)
