"""Traefik: one entry point, by its documents and its source (v3).

Traefik itself takes the connection's source for the client. What it tells the application is X-Real-Ip, which it
fills with that source unless a trusted peer has sent one; that is the client in the sense of these rules.

Not confirmed by a run.
"""

from __future__ import annotations

from analysis.trust.fields import FORWARDED_FOR, REAL_IP, values, with_one, without
from analysis.trust.model import Arrival, Claim, Fields, Resolution, TraefikTrust
from analysis.trust.ranges import Ranges, mapped_out, strict_ranges
from analysis.trust.rule import Rule, believe, refuse

_ENTRY = "https://doc.traefik.io/traefik/reference/install-configuration/entrypoints"
_SOURCE = "traefik/traefik pkg/middlewares/forwardedheaders/forwarded_header.go"
_TCP = "traefik/traefik pkg/server/server_entrypoint_tcp.go"

PEER = Rule(
    "traefik-peer", "X-Real-Ip of a peer outside forwardedHeaders.trustedIPs is replaced by the peer", _SOURCE
)
ABSENT = Rule(
    "traefik-absent", "a trusted peer sent no X-Real-Ip, so the connection's source is put there", _SOURCE
)
FIELD = Rule("traefik-field", "X-Real-Ip of a peer in forwardedHeaders.trustedIPs passes as it came", _SOURCE)
UNEXPECTED = Rule(
    "traefik-unexpected",
    "without proxyProtocol a PROXY header is no HTTP (400)",
    f"{_ENTRY}#opt-proxyProtocol",
)
IGNORED = Rule(
    "traefik-ignored", "the PROXY header of a peer outside proxyProtocol.trustedIPs is read and ignored", _TCP
)
FROM_PROXY = Rule(
    "traefik-proxy",
    "the PROXY header of a peer in proxyProtocol.trustedIPs replaces the connection's source",
    _TCP,
)

RULES = (PEER, ABSENT, FIELD, UNEXPECTED, IGNORED, FROM_PROXY)

#: Fields that are removed when the peer is not trusted, as far as they speak of the client.
_REMOVED = (FORWARDED_FOR, REAL_IP)


def resolve(settings: TraefikTrust, arrival: Arrival) -> Resolution:
    """What X-Real-Ip says when the request leaves, and what else goes on."""
    if arrival.proxy_source is not None and not settings.proxy:
        return refuse(UNEXPECTED)
    source, claim, rule = _source(settings, arrival)
    forwarded = strict_ranges(settings.forwarded_trusted, "forwardedHeaders.trustedIPs")
    if not (settings.forwarded_insecure or _holds(forwarded, source)):
        kept = _stripped(arrival.fields)
        return believe(rule or PEER, claim, source, _sent(settings, kept, source, source))
    named = values(arrival.fields, REAL_IP)
    if named and named[0]:
        onward = _sent(settings, arrival.fields, source, named[0])
        return believe(FIELD, Claim.FIELD, named[0], onward, field=REAL_IP)
    return believe(rule or ABSENT, claim, source, _sent(settings, arrival.fields, source, source))


def _source(settings: TraefikTrust, arrival: Arrival) -> tuple[str, Claim, Rule | None]:
    """The connection's source after the PROXY header, if that is believed."""
    peer = mapped_out(arrival.peer)
    if arrival.proxy_source is None:
        return peer, Claim.PEER, None
    ranges = strict_ranges(settings.proxy_trusted, "proxyProtocol.trustedIPs")
    if not (settings.proxy_insecure or _holds(ranges, arrival.peer)):
        return peer, Claim.PEER, IGNORED
    if not arrival.proxy_source:
        return peer, Claim.PEER, None
    return mapped_out(arrival.proxy_source), Claim.PROXY, FROM_PROXY


def _holds(ranges: Ranges, source: str) -> bool:
    return ranges.admits(source) is True


def _stripped(fields: Fields) -> Fields:
    """Without the fields that Traefik manages, also where an underscore stands for a hyphen."""
    unwanted = {name.lower() for name in _REMOVED}
    return tuple((name, value) for name, value in fields if name.lower().replace("_", "-") not in unwanted)


def _sent(settings: TraefikTrust, fields: Fields, source: str, real_ip: str) -> Fields:
    came = ", ".join(values(fields, FORWARDED_FOR))
    others = without(fields, FORWARDED_FOR, REAL_IP)
    sent = with_one(others, REAL_IP, real_ip)
    if settings.not_append:
        return with_one(sent, FORWARDED_FOR, came) if came else sent
    return with_one(sent, FORWARDED_FOR, f"{came}, {source}" if came else source)
