"""ingress-nginx: the real_ip settings that the controller renders from its ConfigMap, and the fields it sends.

With both use-proxy-protocol and use-forwarded-headers the controller (from v1.13 on) makes a field of its own: when
the PROXY header names an address of proxy-real-ip-cidr it holds the forwarded field, else the PROXY header's source;
real_ip then works on that field. The peer must be in proxy-real-ip-cidr as well.
"""

from __future__ import annotations

from dataclasses import replace

from analysis.trust import nginx
from analysis.trust.fields import FORWARDED_FOR, REAL_IP, values, with_one, without
from analysis.trust.model import Arrival, Claim, Fields, IngressNginx, NginxRealIp, Resolution
from analysis.trust.ranges import address, plain
from analysis.trust.rule import Rule

_TEMPLATE = "kubernetes/ingress-nginx rootfs/etc/nginx/template/nginx.tmpl"
_PULL = "https://github.com/kubernetes/ingress-nginx/pull/12768"

BOTH_FIELD = Rule(
    "ingress-both-field",
    "the PROXY header names an address of proxy-real-ip-cidr (another proxy), so the forwarded field decides",
    _PULL,
)
BOTH_PROXY = Rule(
    "ingress-both-proxy",
    "the PROXY header names an address outside proxy-real-ip-cidr, so that is the client",
    _PULL,
)
BOTH_NOTHING = Rule(
    "ingress-both-nothing",
    "the PROXY header names an address of proxy-real-ip-cidr, but the request has no usable forwarded field, so the"
    " peer is taken for the client",
    _PULL,
)

RULES = (BOTH_FIELD, BOTH_PROXY, BOTH_NOTHING)

#: forwarded-for-proxy-protocol-header, whose default nobody has a reason to change.
OWN_FIELD = "X-Forwarded-For-Proxy-Protocol"
_NGINX = (1, 27)  # of controllers from 1.12 on
_FULL = "full_x_forwarded_for"


def rendered(settings: IngressNginx) -> NginxRealIp:
    """The nginx settings that the controller's template makes of the ConfigMap."""
    real_ip = settings.use_forwarded_headers or settings.use_proxy_protocol or settings.enable_real_ip
    return NginxRealIp(
        trusted=settings.proxy_real_ip_cidr if real_ip else (),
        header=_header(settings),
        recursive=real_ip,
        proxy_protocol=settings.use_proxy_protocol,
        sends=_sends(settings),
        version=_NGINX,
    )


def _header(settings: IngressNginx) -> str:
    if _both(settings):
        return OWN_FIELD
    return "proxy_protocol" if settings.use_proxy_protocol else settings.forwarded_for_header


def _both(settings: IngressNginx) -> bool:
    return settings.header_wins and settings.use_proxy_protocol and settings.use_forwarded_headers


def _full(settings: IngressNginx) -> bool:
    return settings.use_forwarded_headers and settings.compute_full_forwarded_for


def _sends(settings: IngressNginx) -> Fields:
    forwarded = f"${_FULL}" if _full(settings) else "$remote_addr"
    original = settings.forwarded_for_header.lower().replace("-", "_")
    return (
        (REAL_IP, "$remote_addr"),
        (FORWARDED_FOR, forwarded),
        ("X-Original-Forwarded-For", f"$http_{original}"),
    )


def resolve(settings: IngressNginx, arrival: Arrival) -> Resolution:
    """What the controller's nginx takes for the client, and what it sends to the application."""
    made = rendered(settings)
    fields = nginx.accepted(arrival.fields)
    both, trusted = _both(settings) and arrival.proxy_source is not None, False
    if both:
        trusted = _names_a_proxy(made, arrival.proxy_source or "")
        value = ", ".join(values(fields, settings.forwarded_for_header)) if trusted else arrival.proxy_source
        fields = with_one(fields, OWN_FIELD, value) if value else without(fields, OWN_FIELD)
    found = nginx.resolve(replace(made, sends=()), Arrival(arrival.peer, arrival.proxy_source, fields))
    if found.client is None:
        return found
    known = nginx.variables(Arrival(arrival.peer, arrival.proxy_source, fields), found.client)
    known[_FULL] = _full_forwarded_for(settings, known, fields)
    found = replace(found, onward=nginx.onward(made, known, fields))
    return _told(found, settings, trusted) if both else found


def _names_a_proxy(made: NginxRealIp, source: str) -> bool:
    """What `geo $proxy_protocol_addr` answers; what is no address is looked up as 255.255.255.255."""
    found = address(source) or address("255.255.255.255")
    assert found is not None
    return nginx.trusted(made).holds(plain(found))


def _full_forwarded_for(settings: IngressNginx, known: dict[str, str], fields: Fields) -> str:
    last = known["proxy_protocol_addr" if settings.use_proxy_protocol else "realip_remote_addr"]
    came = ", ".join(values(fields, FORWARDED_FOR))
    return f"{came}, {last}" if came else last


def _told(found: Resolution, settings: IngressNginx, trusted: bool) -> Resolution:
    """In the words of the controller: nginx itself knows only the field that was made for it."""
    if found.by is Claim.FIELD:
        rule = BOTH_FIELD if trusted else BOTH_PROXY
        claim = Claim.FIELD if trusted else Claim.PROXY
        field = settings.forwarded_for_header if trusted else ""
        return replace(found, by=claim, rule=rule.words, source=rule.source, rule_key=rule.key, field=field)
    if found.rule_key == nginx.NOTHING.key and trusted:
        rule = BOTH_NOTHING
        return replace(found, rule=rule.words, source=rule.source, rule_key=rule.key)
    return found
