"""A balancer of which only its effect is known: what it does to X-Forwarded-For and to PROXY headers."""

from __future__ import annotations

from analysis.trust.fields import FORWARDED_FOR, values, with_one, without
from analysis.trust.model import Arrival, Claim, Fields, Relay, Resolution
from analysis.trust.rule import Rule, believe, refuse

_ALB = "https://docs.aws.amazon.com/elasticloadbalancing/latest/application/x-forwarded-headers.html"
_SPEC = "https://www.haproxy.org/download/3.3/doc/proxy-protocol.txt section 2"

PEER = Rule("relay-peer", "the balancer takes its peer for the client", _ALB)
FROM_PROXY = Rule("relay-proxy", "the balancer takes the source in the PROXY header for the client", _SPEC)
EXPECTED = Rule("relay-expected", "the balancer expects a PROXY header and gets none", _SPEC)
AS_DATA = Rule(
    "relay-as-data", "to a TCP relay that expects no PROXY header it is data and goes on as it came", _SPEC
)
UNEXPECTED = Rule(
    "relay-unexpected", "an HTTP balancer that expects no PROXY header finds no HTTP in it", _SPEC
)

RULES = (PEER, FROM_PROXY, EXPECTED, AS_DATA, UNEXPECTED)


def resolve(settings: Relay, arrival: Arrival) -> Resolution:
    """Its peer, or the source in the PROXY header."""
    if settings.accepts_proxy and arrival.proxy_source is None:
        return refuse(EXPECTED)
    if not settings.accepts_proxy and arrival.proxy_source is not None:
        if settings.forwarded != "pass":
            return refuse(UNEXPECTED)
        # With a header of its own in front there would be two, and the next server reads the second as a request.
        onward = None if settings.sends_proxy else arrival.fields
        return believe(AS_DATA, Claim.PEER, arrival.peer, onward, onward_proxy=arrival.proxy_source)
    client = arrival.proxy_source or arrival.peer
    onward = forwarded(settings, arrival.fields, client)
    proxy = client if settings.sends_proxy else None
    if arrival.proxy_source:
        return believe(FROM_PROXY, Claim.PROXY, client, onward, onward_proxy=proxy)
    return believe(PEER, Claim.PEER, client, onward, onward_proxy=proxy)


def forwarded(settings: Relay, fields: Fields, client: str) -> Fields:
    """The fields with X-Forwarded-For treated as the settings say."""
    if settings.forwarded == "pass":
        return fields
    if settings.forwarded == "remove":
        return without(fields, FORWARDED_FOR)
    came = ", ".join(values(fields, FORWARDED_FOR))
    appended = settings.forwarded == "append" and came
    return with_one(fields, FORWARDED_FOR, f"{came}, {client}" if appended else client)
