"""Health checks as the packets show them: who asked which node at which port, and what it was answered.

A check is a connection to a node at the Service's health check node port or at kube-proxy's own, whoever opens it.
Besides, balancers check at the node port itself, by a bare connection or by a request in their own name; these are
told by carrying no client's connection, and for requests by coming again and again from a balancer that was watched.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from analysis.chain.journeys import KUBE_PROXY_HEALTHZ, Selection
from analysis.chain.trips import Trip
from analysis.facts import Service
from analysis.health.arrivals import SECOND, Arrivals, Outcome, entry_node, outcome_of, status_of
from analysis.health.own import OwnChecks
from analysis.health.result import Checker
from analysis.hops.addresses import AddressBook, OwnerKind, text
from daemonset.observation import HealthAnswer, Payload

#: Two that asked a node within so many ns of each other may have been answered in the other order.
_CROSSING = SECOND // 20

#: So often in a row a port of a node must have been silent to ourselves before that counts.
_CERTAIN = 3

_PROXY = frozenset({Payload.PROXY_V1, Payload.PROXY_V2})


class Asked(enum.StrEnum):
    """What a check asks about."""

    SERVICE = "health-check node port"
    PROXY = "kube-proxy"
    TRAFFIC = "node port"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one node. `answer` is "200", "503", …, "refused", "no answer" or "closed"; `time` in ns."""

    node: str
    time: int
    source: int
    port: int
    asked: Asked
    request: str | None
    answer: str
    said: HealthAnswer | None
    proxied: bool  # a PROXY header came first
    times: int = 1  # asked so often in a row, and answered the same
    ours: bool = False  # asked by us, at the node itself
    source_port: int = 0

    @property
    def endpoints(self) -> int | None:
        """How many endpoints the node says that it has: in the body, or where that was not seen, as its weight."""
        if self.said is None:
            return None
        return self.said.local_endpoints if self.said.local_endpoints is not None else self.said.weight

    @property
    def healthy(self) -> bool:
        """Whether a load balancer takes it for a healthy node's."""
        return self.answer == "200"


_WORDS = {
    Outcome.UNANSWERED: "no answer",
    Outcome.REFUSED: "refused",
    Outcome.CLOSED: "closed",
    Outcome.BARE: "accepted",
    Outcome.OPEN: "",
    Outcome.SERVED: "answered",
}


def checks_of(
    selection: Selection, arrivals: Arrivals, service: Service, book: AddressBook, finished: int
) -> list[Check]:
    """Every check of the recording whose outcome was seen, in order of time."""
    found: list[Check] = []
    ports = {KUBE_PROXY_HEALTHZ: Asked.PROXY}
    if service.health_check_node_port:
        ports[service.health_check_node_port] = Asked.SERVICE
    for trip in selection.trips:
        first = trip.steps[0].addresses
        owner = book.owner(first.dst)
        if owner.kind is not OwnerKind.NODE or owner.node is None or trip.leg.protocol != 6:
            continue
        if book.owner(trip.source).kind in {OwnerKind.POD, OwnerKind.LOOPBACK}:
            continue
        if first.dport in ports:
            found.append(_check(trip, owner.node, ports[first.dport], arrivals, finished))
    for trip in selection.checks:
        node = entry_node(trip, book)
        if node is not None and trip.leg.protocol == 6:
            found.append(_check(trip, node, Asked.TRAFFIC, arrivals, finished))
    return sorted((check for check in found if check.answer), key=lambda check: check.time)


def _check(trip: Trip, node: str, asked: Asked, arrivals: Arrivals, finished: int) -> Check:
    outcome = outcome_of(trip.leg, finished)
    request = trip.requests[0] if trip.requests else None
    answer, said = _WORDS.get(outcome, ""), None
    for each in trip.leg.stream.answers:
        if each.head is not None and each.head.http is not None:
            status = status_of(each.head.http.start)
            answer, said = str(status) if status else answer, said or each.head.health
            break
    first = trip.steps[0].addresses
    return Check(
        node=node,
        time=arrivals.clock.start(trip, node),
        source=first.src,
        source_port=first.sport,
        port=first.dport,
        asked=asked,
        request=" ".join(request.line) if request else None,
        answer=answer,
        said=said,
        proxied=any(each.payload in _PROXY for each in trip.leg.stream.requests),
    )


def without_ours(checks: Sequence[Check], own: OwnChecks) -> list[Check]:
    """Those that others asked."""
    sockets = set(own.sources)
    return [check for check in checks if (text(check.source), check.source_port) not in sockets]


def own_checks(own: OwnChecks, service: Service, others: Sequence[Check]) -> list[Check]:
    """What nodes answered to ourselves, at the ports that say something of the Service.

    A run of equal answers is its first and its last. Where somebody else asked a node at about the same moment, that
    tells already: two answers that crossed on their way would look as if the node had changed its mind.
    """
    ports = {KUBE_PROXY_HEALTHZ: Asked.PROXY}
    if service.health_check_node_port:
        ports[service.health_check_node_port] = Asked.SERVICE
    asked: dict[str, list[int]] = defaultdict(list)
    for check in others:
        asked[check.node].append(check.time)
    found = []
    for run in own.answers:
        if run.port not in ports or (not run.answer.isdigit() and run.times < _CERTAIN):
            continue  # one that came to nothing may be our own fault
        times = [(run.time, max(run.times - 1, 1))] + ([(run.until, 1)] if run.times > 1 else [])
        for time, count in times:
            at = bisect_left(asked[run.node], time - _CROSSING)
            near = asked[run.node][at : at + 1]
            if near and near[0] <= time + _CROSSING:
                continue
            told = Check(
                run.node, time, 0, run.port, ports[run.port], None, run.answer, run.said, proxied=False
            )
            found.append(replace(told, times=count, ours=True))
    return found


def checkers_of(checks: Sequence[Check], balancers: frozenset[int]) -> tuple[Checker, ...]:
    """Who checks in which way, the busiest first. `balancers` are those of load balancers."""
    groups: dict[tuple[int, int, Asked, str | None, bool], list[Check]] = defaultdict(list)
    for check in checks:
        groups[check.source, check.port, check.asked, check.request, check.proxied].append(check)
    found = []
    for (source, port, asked, request, proxied), group in groups.items():
        interval, series = _rhythm(group)
        checker = Checker(
            address=text(source),
            port=port,
            target=asked,
            request=request,
            nodes=tuple(sorted({check.node for check in group})),
            checks=len(group),
            interval=interval,
            series=series,
            proxy_header=proxied,
            balancer=source in balancers,
        )
        found.append(checker)
    return tuple(sorted(found, key=lambda each: (-each.checks, each.address, each.port, each.request or "")))


#: How many servers a balancer may have for one node, each checked in a rhythm of its own; and how steady a rhythm is.
_SERIES = 16
_STEADY = 0.1
_STEADIER = 4


def _rhythm(group: Iterable[Check]) -> tuple[float | None, int]:
    """Seconds from one check of a node to the next of the same series, the median over nodes; and how many series.

    A balancer that has several servers at one node checks each of them by its own clock: then every n-th gap is much
    steadier than the gaps themselves. Where none is, it is the gap between any two checks.
    """
    by_node: dict[str, list[int]] = defaultdict(list)
    for check in group:
        by_node[check.node].append(check.time)
    times = [sorted(each) for each in by_node.values()]
    single = _gaps(times, 1)
    if not single:
        return None, 1
    if not _steady(single):
        for series in range(2, _SERIES + 1):
            gaps = _gaps(times, series)
            if len(gaps) < 2 * series:
                break
            if _steady(gaps) and _spread(gaps) <= _spread(single) / _STEADIER:
                return round(median(gaps) / SECOND, 3), series
    return round(median(single) / SECOND, 3), 1


def _gaps(times: Sequence[Sequence[int]], series: int) -> list[int]:
    return [b - a for each in times for a, b in zip(each, each[series:], strict=False)]


def _steady(gaps: Sequence[int]) -> bool:
    middle = median(gaps)
    return sum(abs(gap - middle) <= _STEADY * middle for gap in gaps) >= (1 - _STEADY) * len(gaps)


def _spread(gaps: Sequence[int]) -> float:
    middle = median(gaps)
    return median(abs(gap - middle) for gap in gaps)
