"""loadBalancerSourceRanges: what can be read, and where it holds."""

from __future__ import annotations

from ipaddress import ip_network

from analysis.checks.case import Case
from analysis.checks.result import Result, fine, found, not_needed
from analysis.checks.words import listed, patch_service, service_name


def source_ranges(case: Case) -> list[Result]:
    """The ranges of the entry's Service."""
    service, subject = case.entry.service, service_name(case.entry.service)
    if not service.source_ranges:
        return [not_needed("source-ranges", "no loadBalancerSourceRanges", subject)]
    if service.type != "LoadBalancer":
        return [
            found(
                "source-ranges",
                "SIP782",
                subject,
                f"it is of type {service.type}",
                commands=(patch_service(service, {"loadBalancerSourceRanges": None}),),
            )
        ]
    wrong = [each for each in service.source_ranges if not _range(each)]
    if wrong:
        return [found("source-ranges", "SIP781", subject, f"{listed(wrong)} cannot be read")]
    words = (
        f"{len(service.source_ranges)} ranges; they hold for the balancer's address, not for the node ports"
    )
    return [fine("source-ranges", words, subject)]


def _range(written: str) -> bool:
    try:
        ip_network(written.strip(), strict=False)
    except ValueError:
        return False
    return "/" in written
