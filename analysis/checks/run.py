"""All checks of a case, in the order of a connection's way, and the report of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from analysis.checks.application import application
from analysis.checks.case import Case
from analysis.checks.health import health_check, health_port
from analysis.checks.lifetime import drain, readiness
from analysis.checks.policy import placement, policy
from analysis.checks.proxying import affinity, hairpin, proxy_protocol
from analysis.checks.real_ip import real_ip
from analysis.checks.result import CheckReport, CheckSummary, Result, Status, not_checked
from analysis.checks.sights import sights
from analysis.checks.sources import source_ranges
from analysis.checks.spread import disruption, share, shares_of, spread, zones
from analysis.checks.words import service_name
from analysis.report import Severity

Check = Callable[[Case], list[Result]]

CHECKS: tuple[Check, ...] = (
    policy, placement, health_port, health_check, spread, zones, share, disruption, proxy_protocol, hairpin, affinity,
    source_ranges, real_ip, application, readiness, drain,
)  # fmt: skip

#: What a script may rely on: `probe.errors.ExitCode` has the same numbers.
WELL, FOUND, OPEN = 0, 3, 4


def run(
    case: Case,
    *,
    way: str = "",
    ignore: Collection[str] = (),
    fail_on: Severity = Severity.ERROR,
    remarks: Sequence[str] = (),
    unread: Sequence[str] = (),
) -> CheckReport:
    """Every check, those in `ignore` suppressed but shown; findings from `fail_on` up decide the exit code.

    `unread` are documents that could not be read: what is in them may be what matters. The exit code is 3 with such
    a finding; else 4 where something essential could not be checked; else 0.
    """
    results = tuple(_suppressed(each, ignore) for check in CHECKS for each in check(case))
    # What was not read of a kind that no check asks for by name is said all the same.
    told = " ".join(each.detail for each in results)
    results += tuple(
        not_checked(kind, why) for kind, why in sorted(case.lacking.items()) if why not in told and why
    )
    results += tuple(not_checked("documents", why, essential=True) for why in unread)
    shares, factor = shares_of(case)
    return CheckReport(
        service=service_name(case.entry.service),
        way=way,
        summary=_summary(results),
        results=results,
        shares=shares,
        imbalance=factor,
        expectation=sights(case),
        remarks=tuple(remarks),
        fail_on=fail_on.value,
        exit_code=_exit_code(results, fail_on),
    )


def _suppressed(result: Result, ignore: Collection[str]) -> Result:
    if result.code is not None and result.code in ignore:
        return msgspec.structs.replace(result, suppressed=True)
    return result


def _summary(results: Sequence[Result]) -> CheckSummary:
    live = [each for each in results if not each.suppressed]
    return CheckSummary(
        errors=sum(each.severity is Severity.ERROR for each in live),
        warnings=sum(each.severity is Severity.WARNING for each in live),
        infos=sum(each.severity is Severity.INFO for each in live),
        ok=sum(each.status is Status.OK for each in live),
        not_checked=sum(each.status is Status.NOT_CHECKED for each in live),
        suppressed=sum(each.suppressed for each in results),
    )


_GRAVE = {Severity.ERROR: 2, Severity.WARNING: 1, Severity.INFO: 0}


def _exit_code(results: Sequence[Result], fail_on: Severity) -> int:
    live = [each for each in results if not each.suppressed]
    if any(each.severity is not None and _GRAVE[each.severity] >= _GRAVE[fail_on] for each in live):
        return FOUND
    return OPEN if any(each.essential and each.status is Status.NOT_CHECKED for each in live) else WELL
