"""Whom the application's server believes, by the arguments in its pods."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from analysis.checks.case import Case, Party
from analysis.checks.result import Result, fine, found, not_checked, not_needed
from analysis.checks.words import listed, service_name, workload_name
from analysis.trust import python_servers
from analysis.trust.model import Gunicorn, Uvicorn
from analysis.trust.python_servers import Allowed

_QUOTES = frozenset("'\"`")


def application(case: Case) -> list[Result]:
    """uvicorn's and gunicorn's arguments against who connects to them."""
    subject = _subject(case)
    if case.application is None:
        if not case.apps and not case.direct:
            return [
                not_checked("application", "no Ingress or route says which application is behind", subject)
            ]
        why = case.application_problem or "no pod or workload of the application is known"
        return [not_checked("application", why, subject)]
    trust = case.application.trust
    if isinstance(trust, Gunicorn) and trust.worker != "uvicorn":
        if case.direct:
            return [
                not_needed(
                    "application", "gunicorn's WSGI workers show the peer, and no ingress is between", subject
                )
            ]
        return [
            found(
                "application",
                "SIP755",
                subject,
                f"{case.application.command}: REMOTE_ADDR is the ingress pod",
            )
        ]
    if isinstance(trust, Uvicorn) and not trust.proxy_headers:
        return [] if case.direct else [found("application", "SIP754", subject, case.application.command)]
    assert trust is not None
    written = trust.allow
    allowed = (
        python_servers.allow_list(trust) if isinstance(trust, Uvicorn) else python_servers.worker_list(trust)
    )
    return [_trusted(case, subject, written, allowed)]


def _subject(case: Case) -> str:
    parties: Iterable[Party] = case.apps or ((case.entry,) if case.direct else ())
    for party in parties:
        if party.workloads:
            return workload_name(party.workloads[0])
    return next((service_name(party.service) for party in parties), service_name(case.entry.service))


def _trusted(case: Case, subject: str, written: str | None, allowed: Allowed) -> Result:
    shown = f"--forwarded-allow-ips {written}" if written is not None else "without --forwarded-allow-ips"
    if written is not None and _QUOTES & set(written):
        plain = written.translate({ord(quote): None for quote in _QUOTES})
        return found(
            "application",
            "SIP752",
            subject,
            f"the value is {written}, quotes and all",
            fix=f"Write the argument as --forwarded-allow-ips={plain}, without quotes inside the value.",
        )
    if allowed.everybody:
        return _everybody(case, subject)
    if case.direct:
        return not_needed("application", f"no ingress is between; uvicorn runs {shown}", subject)
    return _ingress_trusted(case, subject, shown, allowed)


def _everybody(case: Case, subject: str) -> Result:
    outside = [party.service for party in case.apps if party.service.external]
    if case.direct and case.entry.service.external:
        outside = [case.entry.service]
    fix = _advice(case)
    if outside:
        return found(
            "application",
            "SIP756",
            subject,
            f"it believes everybody (*), and {service_name(outside[0])} is of type {outside[0].type}",
            fix=fix,
        )
    return found("application", "SIP753", subject, "it is started with --forwarded-allow-ips *", fix=fix)


def ingress_ranges(case: Case) -> tuple[tuple[str, ...], str]:
    """Where the ingress's pods speak from: their addresses now, or else the networks of pods; and in words."""
    if any(each.host_network for each in case.entry.workloads):
        addresses = tuple(address for node in case.facts.nodes for address in node.addresses)
        return addresses, "the nodes, whose network the ingress uses"
    own = tuple(dict.fromkeys(entry.address for entry in case.entry.service.endpoints))
    if own and not case.facts.cluster_cidrs:
        return own, "the ingress's pods"
    if case.facts.cluster_cidrs:
        return case.facts.cluster_cidrs, "the pods' network"
    return tuple(cidr for node in case.facts.nodes for cidr in node.pod_cidrs), "the nodes' networks of pods"


def _ingress_trusted(case: Case, subject: str, shown: str, allowed: Allowed) -> Result:
    if _loopback_only(allowed) and any(
        each.containers > 1 for party in case.apps for each in party.workloads
    ):
        why = f"uvicorn runs {shown}, and another container of its pod may be a proxy in front of it"
        return not_checked("application", why, subject)
    if _loopback_only(allowed):
        return found(
            "application",
            "SIP751",
            subject,
            f"uvicorn runs {shown}: it believes this machine alone",
            fix=_advice(case),
        )
    now = tuple(dict.fromkeys(entry.address for entry in case.entry.service.endpoints))
    if now:
        strangers = [address for address in now if not allowed.admits(address)]
        if strangers:
            return found(
                "application",
                "SIP751",
                subject,
                f"uvicorn runs {shown}, which does not hold {listed(strangers)}",
                fix=_advice(case),
            )
    known, words = ingress_ranges(case)
    outside = [cidr for cidr in known if not _overlaps(allowed, cidr)]
    if known and len(outside) == len(known):
        return found(
            "application",
            "SIP751",
            subject,
            f"uvicorn runs {shown}, and {words} are {listed(known)}",
            fix=_advice(case),
        )
    if not known:
        return not_checked(
            "application",
            f"uvicorn runs {shown}, and nothing says which addresses the ingress's pods have; "
            "--pod-cidr says it",
            subject,
        )
    if not now and not all(_holds(allowed, cidr) for cidr in known):
        return not_checked(
            "application",
            f"uvicorn runs {shown}, which holds a part of {words} only ({listed(known)})",
            subject,
        )
    return fine("application", f"uvicorn runs {shown}, which holds {words}", subject)


def _advice(case: Case) -> str:
    known, _ = ingress_ranges(case)
    ranges = ",".join(known[:4]) if known else "THE-PODS-NETWORK"
    return f"Start uvicorn with --proxy-headers --forwarded-allow-ips={ranges}."


def _loopback_only(allowed: Allowed) -> bool:
    return bool(allowed.ranges.networks) and all(one.is_loopback for one in allowed.ranges.networks)


def _overlaps(allowed: Allowed, cidr: str) -> bool:
    network = ip_network(cidr, strict=False)
    return any(one.version == network.version and one.overlaps(network) for one in allowed.ranges.networks)


def _holds(allowed: Allowed, cidr: str) -> bool:
    network = ip_network(cidr, strict=False)
    return any(
        one.version == network.version and network.subnet_of(one)  # type: ignore[arg-type] # same version
        for one in allowed.ranges.networks
    )
