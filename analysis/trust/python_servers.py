"""uvicorn, gunicorn and hypercorn: what `scope["client"]` or REMOTE_ADDR is when the application looks.

Confirmed with uvicorn 0.54, gunicorn 23.0 and hypercorn 0.18.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from analysis.trust.fields import FORWARDED_FOR, values
from analysis.trust.model import (
    UNIX_PEER,
    Arrival,
    Claim,
    Fields,
    Gunicorn,
    Hypercorn,
    Resolution,
    TrustError,
    Uvicorn,
)
from analysis.trust.ranges import Address, Network, Ranges
from analysis.trust.rule import Rule, believe, refuse, unknown

_UVICORN = "encode/uvicorn uvicorn/middleware/proxy_headers.py"
_UVICORN_DOC = "https://uvicorn.dev/deployment/#proxies-and-forwarded-headers"
_WORKER = "encode/uvicorn uvicorn/workers.py"
_GUNICORN = "https://docs.gunicorn.org/en/stable/settings.html"
_HYPERCORN = "pgjones/hypercorn src/hypercorn/middleware/proxy_fix.py"

OFF = Rule("uvicorn-off", "--no-proxy-headers: the client is the peer", _UVICORN_DOC)
STRANGER = Rule(
    "uvicorn-stranger", "the peer is not in --forwarded-allow-ips, so X-Forwarded-For is not read", _UVICORN
)
ABSENT = Rule("uvicorn-absent", "the peer is trusted but sent no usable X-Forwarded-For", _UVICORN)
ALWAYS = Rule(
    "uvicorn-always",
    '--forwarded-allow-ips is "*": the first entry of X-Forwarded-For is the client',
    _UVICORN,
)
LAST_STRANGER = Rule(
    "uvicorn-last-stranger",
    "the peer is trusted: the last entry of X-Forwarded-For that --forwarded-allow-ips does not hold",
    _UVICORN,
)
ALL_TRUSTED = Rule(
    "uvicorn-all-trusted",
    "the peer is trusted and so is every entry of X-Forwarded-For: the first of them is the client",
    _UVICORN,
)
NOBODY = Rule(
    "uvicorn-nobody",
    "before 0.31, where every entry of X-Forwarded-For is trusted, the application is given no client address",
    _UVICORN,
)
PROXY_UNKNOWN = Rule(
    "uvicorn-proxy", "uvicorn knows no PROXY header: it is an invalid HTTP request (400)", _UVICORN_DOC
)

WSGI_PEER = Rule(
    "gunicorn-peer",
    "REMOTE_ADDR of a WSGI application is the peer, whatever X-Forwarded-For and forwarded_allow_ips say",
    f"{_GUNICORN}#forwarded-allow-ips",
)
WSGI_PROXY = Rule(
    "gunicorn-proxy",
    "proxy_protocol: the source of the PROXY header is REMOTE_ADDR",
    f"{_GUNICORN}#proxy-protocol",
)
WSGI_FORBIDDEN = Rule(
    "gunicorn-forbidden",
    "proxy_protocol: a PROXY header of a peer outside proxy_allow_ips is refused (403)",
    f"{_GUNICORN}#proxy-allow-ips",
)
WSGI_NOBODY = Rule(
    "gunicorn-nobody",
    "proxy_protocol: gunicorn takes a version 1 header for TCP4 and TCP6 alone, not UNKNOWN (400)",
    "benoitc/gunicorn gunicorn/http/message.py",
)
WSGI_LATER = Rule(
    "gunicorn-later",
    "from 24 on gunicorn reads both versions of the header; what one without addresses does is not known here",
    f"{_GUNICORN}#proxy-protocol",
)
WSGI_UNEXPECTED = Rule(
    "gunicorn-unexpected",
    "without proxy_protocol a PROXY header is an invalid request (400)",
    f"{_GUNICORN}#proxy-protocol",
)

HYPERCORN_PEER = Rule(
    "hypercorn-peer", "hypercorn reads no forwarded field by itself: the client is the peer", _HYPERCORN
)
HYPERCORN_HOPS = Rule(
    "hypercorn-hops",
    "ProxyFixMiddleware: the entry of X-Forwarded-For with number trusted_hops from the right, whoever the peer is",
    _HYPERCORN,
)
HYPERCORN_FORWARDED = Rule(
    "hypercorn-forwarded",
    "ProxyFixMiddleware, modern: for= in the element of Forwarded with number trusted_hops from the right",
    _HYPERCORN,
)
HYPERCORN_FEW = Rule(
    "hypercorn-few",
    "ProxyFixMiddleware: fewer entries than trusted_hops, so the client is the peer",
    _HYPERCORN,
)
HYPERCORN_PROXY = Rule(
    "hypercorn-proxy", "hypercorn knows no PROXY header: it is an invalid HTTP request (400)", _HYPERCORN
)

RULES = (
    OFF,
    STRANGER,
    ABSENT,
    ALWAYS,
    LAST_STRANGER,
    ALL_TRUSTED,
    NOBODY,
    PROXY_UNKNOWN,
    WSGI_PEER,
    WSGI_PROXY,
    WSGI_FORBIDDEN,
    WSGI_NOBODY,
    WSGI_LATER,
    WSGI_UNEXPECTED,
    HYPERCORN_PEER,
    HYPERCORN_HOPS,
    HYPERCORN_FORWARDED,
    HYPERCORN_FEW,
    HYPERCORN_PROXY,
)

DEFAULT_ALLOW = "127.0.0.1,::1"

# uvicorn's rules by version, from its release notes and its source.
_RANGES_SINCE = (0, 31)
_PORTS_SINCE = (0, 45)
_SINGLE_ONLY = (0, 48)
_JOINED_SINCE = (0, 49)
_LOOPBACK6_SINCE = (0, 53)

_GUNICORN_CHECKS = (23, 0)
_GUNICORN_RANGES = (24, 0)


@dataclass(frozen=True, slots=True)
class Allowed:
    """uvicorn's trust list: everybody, ranges, and texts that must be met literally (quotes and all)."""

    everybody: bool
    ranges: Ranges
    literals: frozenset[str]

    def admits(self, host: str) -> bool:
        """Whether the list holds an entry or a peer; "" stands for a peer without address."""
        if self.everybody:
            return True
        if not host:
            return False
        found = _address(host)
        if found is None or not self.ranges:
            return host in self.literals
        return any(found.version == network.version and found in network for network in self.ranges.networks)


def allowed(entries: Iterable[str], version: tuple[int, int], *, everybody: bool) -> Allowed:
    """The list as uvicorn understands it: what is neither address nor range is a literal and no error."""
    networks: list[Network] = []
    literals = set()
    for text in entries:
        one = _network(text) if version >= _RANGES_SINCE else None
        if one is not None:
            networks.append(one)
        else:
            literals.add(text)
    return Allowed(everybody, Ranges(tuple(networks)), frozenset(literals))


def allow_list(settings: Uvicorn) -> Allowed:
    """The list of these settings."""
    written = settings.allow
    if written is None:
        written = DEFAULT_ALLOW if settings.version >= _LOOPBACK6_SINCE else "127.0.0.1"
    entries = [part.strip() for part in written.split(",")]
    # Since 0.31 the star must stand alone; in a list it is a literal that nobody is called.
    everybody = written == "*" if settings.version >= _RANGES_SINCE else "*" in entries
    return allowed(entries, settings.version, everybody=everybody)


def worker_list(settings: Gunicorn) -> Allowed:
    """The list of a uvicorn worker: gunicorn's, as a list."""
    entries = gunicorn_list(settings, settings.allow, "forwarded_allow_ips")
    version = settings.uvicorn_version
    everybody = entries == ("*",) if version >= _RANGES_SINCE else "*" in entries
    return allowed(entries, version, everybody=everybody)


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> Network | None:
    """Python's reading: bits below the prefix length make it no range at all."""
    try:
        return ip_network(text)
    except ValueError:
        return None


def resolve_uvicorn(settings: Uvicorn, arrival: Arrival) -> Resolution:
    """What scope["client"] holds."""
    if arrival.proxy_source is not None:
        return refuse(PROXY_UNKNOWN)
    if not settings.proxy_headers:
        return believe(OFF, Claim.PEER, arrival.peer)
    return _from_list(allow_list(settings), arrival, settings.version)


def _from_list(trusted: Allowed, arrival: Arrival, version: tuple[int, int]) -> Resolution:
    if not trusted.admits("" if arrival.peer == UNIX_PEER else arrival.peer):
        return believe(STRANGER, Claim.PEER, arrival.peer)
    entries = _entries(arrival.fields, version)
    if not entries:
        return believe(ABSENT, Claim.PEER, arrival.peer)
    rule, host = ALL_TRUSTED, _host(entries[0], version)
    if trusted.everybody:
        rule = ALWAYS
    else:
        strangers = (_host(entry, version) for entry in reversed(entries))
        stranger = next((found for found in strangers if not trusted.admits(found)), None)
        if stranger is not None:
            rule, host = LAST_STRANGER, stranger
        elif version < _RANGES_SINCE:
            return unknown(NOBODY, (), FORWARDED_FOR)
    if not host and version >= _RANGES_SINCE:
        return believe(ABSENT, Claim.PEER, arrival.peer)
    return believe(rule, Claim.FIELD, host, field=FORWARDED_FOR)


def _entries(fields: Fields, version: tuple[int, int]) -> tuple[str, ...]:
    """The list's entries. Of repeated fields the last alone counts, or (0.48) none, or (from 0.49 on) all."""
    lines = values(fields, FORWARDED_FOR)
    if version < _SINGLE_ONLY:
        lines = lines[-1:]
    elif version < _JOINED_SINCE and len(lines) > 1:
        return ()
    return tuple(part.strip() for part in ", ".join(lines).split(",")) if lines else ()


def _host(entry: str, version: tuple[int, int]) -> str:
    """An entry without its port, where it has one that is written as it should be."""
    if version < _PORTS_SINCE:
        return entry
    if entry.startswith("["):
        host, bracket, rest = entry[1:].partition("]")
        return host if bracket and (not rest or rest.startswith(":")) else entry
    host, colon, port = entry.partition(":")
    if not colon or ":" in port:
        return entry
    return host if _is_number(port) else entry


def _is_number(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def gunicorn_list(settings: Gunicorn, written: str | None, setting: str) -> tuple[str, ...]:
    """A list of gunicorn's. Raises TrustError for what the version would not start with."""
    entries = tuple(part.strip() for part in (DEFAULT_ALLOW if written is None else written).split(","))
    entries = tuple(entry for entry in entries if entry)
    for entry in entries:
        if entry != "*" and not _gunicorn_takes(entry, settings.version):
            raise TrustError(
                f'{setting}: {entry[:80]!r}: gunicorn {settings.version[0]} takes addresses and "*" alone'
                if settings.version < _GUNICORN_RANGES
                else f"{setting}: {entry[:80]!r} is neither an address nor a range"
            )
    return entries


def _gunicorn_takes(entry: str, version: tuple[int, int]) -> bool:
    if version >= _GUNICORN_RANGES:
        return _network(entry) is not None
    return version < _GUNICORN_CHECKS or _address(entry) is not None


def resolve_gunicorn(settings: Gunicorn, arrival: Arrival) -> Resolution:
    """What REMOTE_ADDR is, or with uvicorn's worker what scope["client"] holds."""
    if settings.worker == "uvicorn":
        if arrival.proxy_source is not None:
            return refuse(PROXY_UNKNOWN)
        return _from_list(worker_list(settings), arrival, settings.uvicorn_version)
    gunicorn_list(settings, settings.allow, "forwarded_allow_ips")
    if arrival.proxy_source is None:
        return believe(WSGI_PEER, Claim.PEER, arrival.peer)
    if not settings.proxy_protocol:
        return refuse(WSGI_UNEXPECTED)
    if not _may_send(settings, arrival.peer):
        return refuse(WSGI_FORBIDDEN)
    if not arrival.proxy_source:
        return refuse(WSGI_NOBODY) if settings.version < _GUNICORN_RANGES else unknown(WSGI_LATER, ())
    return believe(WSGI_PROXY, Claim.PROXY, arrival.proxy_source)


def _may_send(settings: Gunicorn, peer: str) -> bool:
    senders = gunicorn_list(settings, settings.proxy_allow, "proxy_allow_ips")
    if peer == UNIX_PEER or "*" in senders:
        return True
    if settings.version < _GUNICORN_RANGES:
        return peer in senders  # as text
    found = _address(peer)
    networks = (_network(sender) for sender in senders)
    return found is not None and any(
        one is not None and one.version == found.version and found in one for one in networks
    )


def resolve_hypercorn(settings: Hypercorn, arrival: Arrival) -> Resolution:
    """What scope["client"] holds behind ProxyFixMiddleware, or without it."""
    if arrival.proxy_source is not None:
        return refuse(HYPERCORN_PROXY)
    if settings.mode is None:
        return believe(HYPERCORN_PEER, Claim.PEER, arrival.peer)
    if settings.mode == "modern":
        element = _from_right(arrival.fields, "Forwarded", settings.trusted_hops)
        if element is not None:
            return _forwarded(element, arrival.peer)
    entry = _from_right(arrival.fields, FORWARDED_FOR, settings.trusted_hops)
    if entry is None:
        return believe(HYPERCORN_FEW, Claim.PEER, arrival.peer)
    return believe(HYPERCORN_HOPS, Claim.FIELD, entry, field=FORWARDED_FOR)


def _from_right(fields: Fields, name: str, number: int) -> str | None:
    if number < 0:
        raise TrustError(f"trusted_hops {number}: write 0 or more")
    found = [part.strip() for line in values(fields, name) for part in line.split(",")]
    return found[-number] if 0 < number <= len(found) else None


def _forwarded(element: str, peer: str) -> Resolution:
    """The last parameter that is written `for=`, without blank or capital; the value keeps its quotes."""
    named = [part[4:].strip() for part in element.split(";") if part.startswith("for=")]
    if not named:
        return believe(HYPERCORN_FEW, Claim.PEER, peer)
    return believe(HYPERCORN_FORWARDED, Claim.FIELD, named[-1], field="Forwarded")
