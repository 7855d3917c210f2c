"""Envoy: the trusted client address of the HTTP connection manager, by its documents and its source.

Not confirmed by a run: the rules follow the examples of the documents, which the tests hold.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from analysis.trust.fields import FORWARDED_FOR, values, with_one
from analysis.trust.model import (
    Arrival,
    Claim,
    EnvoyCustomHeader,
    EnvoyTrust,
    EnvoyXff,
    Fields,
    Resolution,
    TrustError,
)
from analysis.trust.ranges import Address, address, plain, strict_ranges
from analysis.trust.rule import Rule, believe, refuse

_HEADERS = (
    "https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-for"
)
_XFF = "envoyproxy/envoy source/extensions/http/original_ip_detection/xff/xff.cc"
_CUSTOM = "envoyproxy/envoy source/extensions/http/original_ip_detection/custom_header/custom_header.cc"
_FILTER = (
    "https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/listener_filters/proxy_protocol"
)

REMOTE = Rule("envoy-remote", "use_remote_address without trusted hops: the connection's source", _HEADERS)
REMOTE_HOPS = Rule(
    "envoy-remote-hops",
    "use_remote_address with xff_num_trusted_hops N: the Nth address from the right of X-Forwarded-For",
    _HEADERS,
)
LAST = Rule(
    "envoy-last",
    "without use_remote_address, xff_num_trusted_hops N: the (N+1)th address from the right of X-Forwarded-For",
    _HEADERS,
)
TOO_FEW = Rule(
    "envoy-too-few",
    "X-Forwarded-For is absent, too short or no address at that place, so the connection's source counts",
    _HEADERS,
)
RANGES = Rule(
    "envoy-ranges",
    "xff_trusted_cidrs holds the connection's source, so the last address of X-Forwarded-For outside it counts",
    _XFF,
)
STRANGER = Rule(
    "envoy-stranger", "xff_trusted_cidrs does not hold the connection's source, so that counts", _XFF
)
CUSTOM = Rule("envoy-custom", "the custom header that original-IP detection names holds an address", _CUSTOM)
REJECTED = Rule(
    "envoy-rejected", "the custom header is absent or no address and reject_with_status is set", _CUSTOM
)
EXPECTED = Rule(
    "envoy-expected", "the proxy_protocol listener filter closes connections without header", _FILTER
)
UNEXPECTED = Rule(
    "envoy-unexpected", "without the proxy_protocol listener filter a PROXY header is no HTTP (400)", _FILTER
)

_INTERNAL = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fd00::/8", "::1/128")

RULES = (
    REMOTE,
    REMOTE_HOPS,
    LAST,
    TOO_FEW,
    RANGES,
    STRANGER,
    CUSTOM,
    REJECTED,
    EXPECTED,
    UNEXPECTED,
)


def check(settings: EnvoyTrust) -> None:
    """Raise TrustError for what Envoy would not start with."""
    if settings.detection and (settings.use_remote_address or settings.trusted_hops):
        raise TrustError(
            "original_ip_detection_extensions exclude use_remote_address and xff_num_trusted_hops: keep one of them"
        )
    for extension in settings.detection:
        if isinstance(extension, EnvoyXff) and extension.trusted_cidrs is not None and extension.trusted_hops:
            raise TrustError(
                "xff_trusted_cidrs and xff_num_trusted_hops exclude each other: keep one of them"
            )


def resolve(settings: EnvoyTrust, arrival: Arrival) -> Resolution:
    """The trusted client address, and X-Forwarded-For as it goes on."""
    check(settings)
    if settings.proxy_protocol:
        if arrival.proxy_source is None and not settings.proxy_optional:
            return refuse(EXPECTED)
    elif arrival.proxy_source is not None:
        return refuse(UNEXPECTED)
    # The listener filter replaces the connection's source before anything else looks at it.
    source = arrival.proxy_source or arrival.peer
    claim = Claim.PROXY if arrival.proxy_source else Claim.PEER
    if settings.detection:
        return _detected(settings, arrival, source, claim)
    if settings.use_remote_address:
        return _remote(settings, arrival, source, claim)
    found = from_right(arrival.fields, settings.trusted_hops)
    return _believed(LAST, found, arrival, source, claim)


def _remote(settings: EnvoyTrust, arrival: Arrival, source: str, claim: Claim) -> Resolution:
    found = believe(REMOTE, claim, source)
    if settings.trusted_hops:
        here = from_right(arrival.fields, settings.trusted_hops - 1)
        found = _believed(REMOTE_HOPS, here, arrival, source, claim)
    onward = arrival.fields if settings.skip_append else appended(arrival.fields, source)
    internal = not values(arrival.fields, FORWARDED_FOR) and _internal(found.client or "")
    if onward is not None and not internal:
        onward = with_one(onward, "X-Envoy-External-Address", found.client or "")
    return replace(found, onward=onward)


def _internal(client: str) -> bool:
    """Whether Envoy counts the address among its own by default (RFC 1918, RFC 4193, loopback)."""
    found = address(client)
    return found is not None and any(
        found.version == one.version and found in one for one in map(ip_network, _INTERNAL)
    )


def _believed(rule: Rule, found: Address | None, arrival: Arrival, source: str, claim: Claim) -> Resolution:
    """The address of the field, or the connection's source where the field has none."""
    if found is None:
        return believe(TOO_FEW, claim, source, arrival.fields)
    return believe(rule, Claim.FIELD, str(found), arrival.fields, field=FORWARDED_FOR)


def _detected(settings: EnvoyTrust, arrival: Arrival, source: str, claim: Claim) -> Resolution:
    """The extensions in their order; the first that finds an address ends the search."""
    missed = TOO_FEW
    for extension in settings.detection:
        if isinstance(extension, EnvoyCustomHeader):
            lines = values(arrival.fields, extension.name)
            found = address(lines[0].strip(" \t")) if lines else None
            if found is None and extension.rejects:
                return refuse(REJECTED)
            rule, field, skip = CUSTOM, extension.name, False
        else:
            found, rule = _xff(extension, arrival.fields, source)
            field, skip = FORWARDED_FOR, extension.skip_append
        if found is not None:
            onward = arrival.fields if skip else appended(arrival.fields, source)
            return believe(rule, Claim.FIELD, str(found), onward, field=field)
        missed = STRANGER if rule is STRANGER else missed
    return believe(missed, claim, source, arrival.fields)


def _xff(extension: EnvoyXff, fields: Fields, source: str) -> tuple[Address | None, Rule]:
    ranges = strict_ranges(extension.trusted_cidrs or (), "xff_trusted_cidrs")
    if not ranges:
        return from_right(fields, extension.trusted_hops), LAST
    if not ranges.admits(source):
        return None, STRANGER
    found = None
    for text in reversed(_members(fields)):
        here = address(text)
        if here is None:
            return None, RANGES
        found = here
        if not ranges.holds(plain(here)):
            break
    return found, RANGES


def from_right(fields: Fields, skipped: int) -> Address | None:
    """The address of X-Forwarded-For after `skipped` others from the right; None where there is none."""
    found = _members(fields)
    return address(found[-1 - skipped]) if len(found) > skipped else None


def _members(fields: Fields) -> tuple[str, ...]:
    """The list's members; Envoy joins repeated fields with a comma first."""
    lines = values(fields, FORWARDED_FOR)
    return tuple(part.strip() for part in ",".join(lines).split(",")) if lines else ()


def appended(fields: Fields, source: str) -> Fields | None:
    """The fields with the connection's source at the end of X-Forwarded-For.

    None for a loopback source, in whose place Envoy writes an address of its own host.
    """
    found = address(source)
    if found is None or found.is_loopback:
        return None
    came = ",".join(values(fields, FORWARDED_FOR))
    return with_one(fields, FORWARDED_FOR, f"{came},{source}" if came else source)
