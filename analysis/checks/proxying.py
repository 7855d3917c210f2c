"""Whether both sides speak the PROXY protocol, or neither."""

from __future__ import annotations

from analysis.checks.case import Case
from analysis.checks.providers import HOSTNAMES, SILENT, STATED, TURN_ON, Sends, sends_proxy
from analysis.checks.result import Result, fine, found, not_checked, not_needed
from analysis.checks.words import annotate, patch, service_name
from analysis.ingress import Kind


def proxy_protocol(case: Case) -> list[Result]:
    """What the balancer's annotations say against what the ingress expects."""
    service, subject = case.entry.service, service_name(case.entry.service)
    sends = sends_proxy(service.annotations)
    results: list[Result] = []
    if sends.wrong:
        results.append(
            found(
                "proxy-protocol",
                "SIP733",
                subject,
                f'{sends.annotation} is "{sends.value}"; "{sends.taken}" is what turns it on',
                commands=(annotate(service, sends.annotation, sends.taken),),
            )
        )
        return results
    if case.ingress is None:
        return [_unknown_ingress(case, sends, subject)]
    expects = {listener.proxy_protocol for listener in case.ingress.listeners}
    if not expects or None in expects or len(expects) > 1:
        why = "; ".join(dict.fromkeys(note for each in case.ingress.listeners for note in each.notes[:1]))
        return [
            not_checked(
                "proxy-protocol",
                why or "the listeners of the ingress do not all expect the same",
                subject,
                essential=True,
            )
        ]
    return [_compared(case, sends, subject, expected=True in expects)]


def _unknown_ingress(case: Case, sends: Sends, subject: str) -> Result:
    if not sends.on:
        if case.direct:
            return not_needed("proxy-protocol", "no annotation asks the balancer for PROXY headers", subject)
        return not_checked(
            "proxy-protocol",
            case.ingress_problem or "what the ingress is told is not known",
            subject,
            essential=True,
        )
    if case.direct and case.application is not None:
        return found(
            "proxy-protocol",
            "SIP731",
            subject,
            f"{sends.annotation} is on, and the Service leads to {_server(case)}, which knows no PROXY header",
            commands=(annotate(case.entry.service, sends.annotation, ""),),
        )
    return not_checked(
        "proxy-protocol",
        f"{sends.annotation} is on, and "
        + (case.ingress_problem or "whether the servers expect it is not known"),
        subject,
        essential=True,
    )


def _server(case: Case) -> str:
    return "uvicorn" if case.application is not None and case.application.uvicorn else "the application"


def _compared(case: Case, sends: Sends, subject: str, *, expected: bool) -> Result:
    service = case.entry.service
    if expected and sends.on:
        return fine(
            "proxy-protocol", f"{sends.annotation} is on, and {case.product} expects the header", subject
        )
    if sends.on:
        return found(
            "proxy-protocol",
            "SIP731",
            subject,
            f"{sends.annotation} is on, and {case.product} expects none ({_where(case)})",
            commands=(*_expect(case, on=True), annotate(service, sends.annotation, "")),
            helm=_helm(case, on=True),
        )
    if not expected:
        return fine(
            "proxy-protocol",
            f"no annotation asks for PROXY headers, and {case.product} expects none",
            subject,
        )
    if sends.on is False or case.provider in SILENT | STATED:
        why = (
            f"{sends.annotation} is off"
            if sends.on is False
            else f"no annotation turns it on at {case.provider}"
        )
        if case.provider in SILENT:
            why = f"{case.provider} sends none ({case.provider_source})"
        key, value = TURN_ON.get(case.provider, ("", ""))
        turn_on = (annotate(service, key, value),) if key else ()
        return found(
            "proxy-protocol",
            "SIP732",
            subject,
            f"{case.product} expects the header ({_where(case)}), and {why}",
            commands=(*turn_on, *_expect(case, on=False)),
            helm=_helm(case, on=False),
        )
    return not_checked(
        "proxy-protocol",
        f"{case.product} expects the header, and {_balancer(case)}",
        subject,
        essential=True,
    )


def _balancer(case: Case) -> str:
    if case.provider:
        return f"whether {case.provider}'s balancer sends one stands in no annotation"
    return "nothing says which balancer is in front and whether it sends one"


def _where(case: Case) -> str:
    return case.ingress.file if case.ingress is not None else ""


def configmap(case: Case) -> tuple[str, str] | None:
    """Namespace and name of the ConfigMap that the ingress's settings came from."""
    words = _where(case).split()
    if len(words) == 2 and words[0] == "ConfigMap" and "/" in words[1]:
        place, _, name = words[1].partition("/")
        return place, name
    return None


def _expect(case: Case, *, on: bool) -> tuple[str, ...]:
    """How the ingress is told to expect the header, or no longer to."""
    place = configmap(case)
    if place is None or case.ingress is None or case.ingress.kind is not Kind.INGRESS_NGINX:
        return ()
    return (patch("configmap", *place, {"data": {"use-proxy-protocol": "true" if on else "false"}}),)


def _helm(case: Case, *, on: bool) -> tuple[str, ...]:
    if case.ingress is None or case.ingress.kind is not Kind.INGRESS_NGINX:
        return ()
    return (f'controller.config.use-proxy-protocol="{"true" if on else "false"}"',)


def hairpin(case: Case) -> list[Result]:
    """Whether clients inside the cluster are led past a balancer that sends PROXY headers (KEP-1860)."""
    service, subject = case.entry.service, service_name(case.entry.service)
    if not sends_proxy(service.annotations).on:
        return [not_needed("ip-mode", "the balancer sends no PROXY headers", subject)]
    short = [each.address for each in service.balancers if each.address and each.ip_mode == "VIP"]
    key = HOSTNAMES.get(case.provider, "")
    if short:
        hint = (
            (annotate(service, key, "true" if key.endswith("use-hostname") else "ingress.example.com"),)
            if key
            else ()
        )
        return [
            found("ip-mode", "SIP734", subject, f"status holds {short[0]} with ipMode VIP", commands=hint)
        ]
    if service.balancers:
        return [fine("ip-mode", "status holds a host name, or an address with ipMode Proxy", subject)]
    if case.provider == "AWS" or service.annotations.get(key):
        return [fine("ip-mode", "the balancer is known by a host name", subject)]
    return [not_checked("ip-mode", "the Service has no address in its status yet", subject)]


def affinity(case: Case) -> list[Result]:
    """Session affinity by an address that is not the client's."""
    service, subject = case.entry.service, service_name(case.entry.service)
    if service.session_affinity != "ClientIP":
        return []
    if sends_proxy(service.annotations).on:
        return [
            found(
                "affinity",
                "SIP783",
                subject,
                "sessionAffinity: ClientIP behind a balancer that sends PROXY headers",
                commands=(
                    patch("svc", service.namespace, service.name, {"spec": {"sessionAffinity": "None"}}),
                ),
            )
        ]
    return [fine("affinity", "sessionAffinity: ClientIP keeps by the address that the nodes see", subject)]
