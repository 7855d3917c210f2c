"""Whom the ingress believes about its clients: too few, everybody, or what it would refuse."""

from __future__ import annotations

from ipaddress import ip_network

from analysis.checks.case import Case
from analysis.checks.providers import PASSING, reads_http, sends_proxy
from analysis.checks.proxying import configmap
from analysis.checks.result import Result, fine, found, not_checked, not_needed
from analysis.checks.words import listed, patch, service_name
from analysis.facts import Policy
from analysis.ingress import Kind, Listener
from analysis.judging.expectation import Source, source_expected
from analysis.trust.inspection import lists
from analysis.trust.model import Arrival, Claim, IngressNginx, NginxRealIp, TrustError
from analysis.trust.overtrust import FORGED, overtrust
from analysis.trust.products import resolved
from analysis.trust.ranges import Ranges

Networks = tuple[str, ...]


def real_ip(case: Case) -> list[Result]:
    """The trust list of the ingress against who is in front of it."""
    subject = service_name(case.entry.service)
    if case.ingress_refused:
        return [found("real-ip", "SIP743", subject, case.ingress_refused)]
    if case.direct:
        return [not_needed("real-ip", "no ingress is known behind the Service", subject)]
    if case.ingress is None:
        return [
            not_checked(
                "real-ip",
                case.ingress_problem or f"what {case.product} is told is not known",
                subject,
                essential=True,
            )
        ]
    listener = next((each for each in case.ingress.listeners if each.trust is not None), None)
    if listener is None:
        return [
            not_checked(
                "real-ip", f"{case.product} tells no settings for whom it believes", subject, essential=True
            )
        ]
    try:
        return _unread_field(case, listener) or [_narrow(case, listener), *_wide(case, listener)]
    except TrustError as error:
        return [found("real-ip", "SIP743", subject, f"{error} ({case.ingress.file})")]


def reads_field(listener: Listener) -> bool:
    """Whether a field of the request may decide who the client is."""
    trust = listener.trust
    if isinstance(trust, IngressNginx):
        return trust.use_forwarded_headers or trust.enable_real_ip
    if isinstance(trust, NginxRealIp):
        return bool(trust.trusted) and trust.header.lower() != "proxy_protocol"
    return any(lists(trust)) if trust is not None else False


def _unread_field(case: Case, listener: Listener) -> list[Result]:
    """A balancer that reads HTTP, and an ingress that does not read what it says."""
    says = reads_http(case.entry.service.annotations)
    if not says or reads_field(listener) or listener.proxy_protocol:
        return []
    place = configmap(case)
    nginx = case.ingress is not None and case.ingress.kind is Kind.INGRESS_NGINX
    commands = (
        (patch("configmap", *place, {"data": {"use-forwarded-headers": "true"}}),) if place and nginx else ()
    )
    return [
        found(
            "real-ip",
            "SIP744",
            service_name(case.entry.service),
            f"the balancer reads HTTP ({says}), and {case.product} does not read X-Forwarded-For",
            commands=commands,
            helm=('controller.config.use-forwarded-headers="true"',) if nginx else (),
        )
    ]


def peers(case: Case) -> tuple[Networks, str]:
    """Who connects to the ingress, as far as it is known, and in words; () where it is not."""
    service = case.entry.service
    masked = source_expected(service, case.facts) is Source.MASQUERADED
    if masked and service.external and service.external_policy is Policy.CLUSTER:
        nodes = tuple(address for node in case.facts.nodes for address in node.addresses)
        return nodes, "a node, whose address kube-proxy puts in the place of the balancer's,"
    return case.balancers, "the balancer"


def _narrow(case: Case, listener: Listener) -> Result:
    """Whether the list holds the balancer."""
    subject, trust = service_name(case.entry.service), listener.trust
    assert trust is not None
    uses = reads_field(listener) or bool(listener.proxy_protocol)
    if not uses:
        return not_needed(
            "real-ip", f"{case.product} takes the peer for the client; no list is asked", subject
        )
    held = lists(trust)
    if any(each.whole(4) for each in held):
        return fine("real-ip", "the list admits the balancer, as it admits everybody", subject)
    known, words = peers(case)
    if not known:
        return not_checked(
            "real-ip", "nothing says from which addresses the balancer speaks; --balancer says it", subject
        )
    if listener.proxy_protocol and all(_takes_header(listener, each) for each in known):
        whose = f"of {words} ({listed(known)})" if held else "of whoever connects, and so the balancer's"
        return fine("real-ip", f"{case.product} takes the PROXY header {whose}", subject)
    missing = [each for each in known if not _holds(held, each)]
    if not missing:
        return fine("real-ip", f"the list holds {words} ({listed(known)})", subject)
    return found(
        "real-ip",
        "SIP741",
        subject,
        f"{words} speaks from {listed(missing)}, and {written(listener)} does not hold that",
        commands=_correct(case, listener, missing),
        helm=_helm(listener, missing),
    )


def _takes_header(listener: Listener, network: str) -> bool:
    """Whether a PROXY header from there decides the client, by the product's own rules."""
    assert listener.trust is not None
    try:
        first = ip_network(network, strict=False)
    except ValueError:
        return False
    named = FORGED[first.version]
    return resolved(listener.trust, Arrival(str(first[0]), named)).client == named


def _holds(held: tuple[Ranges, ...], wanted: str) -> bool:
    try:
        network = ip_network(wanted, strict=False)
    except ValueError:
        return False
    for ranges in held:
        for one in ranges.networks:
            if one.version == network.version and network.subnet_of(one):  # type: ignore[arg-type] # same version
                return True
    return False


def written(listener: Listener) -> str:
    """The list as the product's own setting has it."""
    trust = listener.trust
    if isinstance(trust, IngressNginx):
        return f"proxy-real-ip-cidr {','.join(trust.proxy_real_ip_cidr)[:200]}"
    if isinstance(trust, NginxRealIp):
        return f"set_real_ip_from {','.join(trust.trusted)[:200]}"
    return "its trust list"


def _correct(case: Case, listener: Listener, missing: list[str]) -> tuple[str, ...]:
    place = configmap(case)
    if place is None or not isinstance(listener.trust, IngressNginx):
        return ()
    return (patch("configmap", *place, {"data": {"proxy-real-ip-cidr": ",".join(missing)}}),)


def _helm(listener: Listener, missing: list[str]) -> tuple[str, ...]:
    if not isinstance(listener.trust, IngressNginx):
        return ()
    return (f"controller.config.proxy-real-ip-cidr={','.join(missing)}",)


def _wide(case: Case, listener: Listener) -> list[Result]:
    """Whether strangers may choose the client's address: tried with the product's own rules."""
    assert listener.trust is not None
    openings = overtrust(listener.trust)
    if not openings:
        return []
    service, subject = case.entry.service, service_name(case.entry.service)
    passing = case.provider in PASSING and not service.source_ranges
    direct = (
        service.external
        and service.external_policy is Policy.LOCAL
        and passing
        and not reads_http(service.annotations)
        and not sends_proxy(service.annotations).on
        and not case.balancers
    )
    by_field = [each for each in openings if each.claim is Claim.FIELD]
    code = "SIP745" if direct and by_field else "SIP742"
    opening = by_field[0] if by_field else openings[0]
    known, _ = peers(case)
    commands = _correct(case, listener, list(known)) if known else ()
    return [
        found("real-ip", code, subject, f"{opening.reason} (shown by trying its rules)", commands=commands)
    ]
