"""A recording → what it says of health checks. The entrance of this package.

    checks_of ──▶ outages_of ──▶ the numbers: seconds of lag, clients lost, connections saved
    Arrivals ────────┘      └──▶ timeline

Nothing is said of what was not seen: without the balancer's front no clients are counted, without a refusal no lag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from analysis.chain.journeys import KUBE_PROXY_HEALTHZ, Selection
from analysis.engine.gathering import pieces
from analysis.facts import Facts, Service
from analysis.health.arrivals import SECOND, Arrival, Arrivals, Outcome
from analysis.health.changes import EndpointChange
from analysis.health.checks import Asked, Check, checkers_of, checks_of, own_checks, without_ours
from analysis.health.outages import Node, outages_of
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.health.result import Event, Health, NodeHealth, Outage
from analysis.hops.addresses import AddressBook, OwnerKind
from analysis.recording import Recording


@dataclass(frozen=True, slots=True)
class Watched:
    """What was watched of health checks, with what the judgement needs besides the report."""

    health: Health
    service: Service
    checks: tuple[Check, ...]
    arrivals: Arrivals
    moved: frozenset[str] = frozenset()  # nodes whose endpoints changed: objects say nothing of them


def watched_of(
    selection: Selection,
    recording: Recording,
    book: AddressBook,
    facts: Facts,
    *,
    changes: Sequence[EndpointChange] = (),
    own: OwnChecks = NONE_OWN,
    reasons: Sequence[str] = (),
) -> Watched | None:
    """What a recording says of the health checks of the one Service in it.

    `changes` and `own` are what was watched and asked besides. None where there are no facts, no checks, or several
    Services at once, whose balancers cannot be told apart.
    """
    service = _service(facts, book, selection)
    if service is None:
        return None
    finished = max((int(piece["time"].max()) for _, piece in pieces(recording.packets)), default=0)
    arrivals = Arrivals(selection, recording.taps, book, finished)
    others = without_ours(checks_of(selection, arrivals, service, book, finished), own)
    checks = sorted([*others, *own_checks(own, service, others)], key=lambda check: check.time)
    if not checks:
        return None
    changes = sorted(
        (change for change in changes if change.service in {"", service.key}), key=lambda each: each.time
    )
    told = _told(checks, service)
    nodes = tuple(
        _with_endpoints(_node(node, told, arrivals, service, facts), changes)
        for node in _nodes(told, arrivals)
    )
    senders = {each.trip.source for each in arrivals.at_nodes}
    known = {check.source for check in others if book.owner(check.source).kind is OwnerKind.BALANCER}
    settled = arrivals.clients and (arrivals.fronts or not arrivals.behind_balancer)
    health = Health(
        service=service.key,
        port=service.health_check_node_port or KUBE_PROXY_HEALTHZ,
        checkers=checkers_of(others, frozenset(senders | known)),
        nodes=nodes,
        timeline=_timeline(nodes, told, changes),
        clients=len(arrivals.clients) if settled else None,
        lost=sum(each.outcome.failed for each in arrivals.clients) if settled else None,
        unsettled=sum(each.outcome is Outcome.OPEN for each in arrivals.clients),
        saved=len(_saved(nodes, arrivals, changes)),
        lag=_lag([outage for node in nodes for outage in node.outages]),
        reasons=(*reasons, *own.reasons, *_reasons(arrivals, asked=bool(others))),
    )
    return Watched(health, service, tuple(checks), arrivals, _moved(service, changes))


def _moved(service: Service, changes: Sequence[EndpointChange]) -> frozenset[str]:
    """Nodes that had other numbers of ready endpoints at other times than the objects say."""
    return frozenset(change.node for change in changes if change.ready != ready_on(service, change.node))


def _service(facts: Facts, book: AddressBook, selection: Selection) -> Service | None:
    """The one Service that clients' connections of the recording are to; else the one with health checks at all."""
    wanted = [service for service in facts.services if service.key in book.wanted]
    asked = {each.trip.target.service.key for each in selection.connections if each.trip.target is not None}
    met = [service for service in wanted if service.key in asked]
    if len(met) == 1:
        return met[0]
    return wanted[0] if len(wanted) == 1 else None


def _told(checks: Sequence[Check], service: Service) -> list[Check]:
    """The answers by which a balancer should decide: of the Service's own port, else of kube-proxy's."""
    asked = Asked.SERVICE if service.health_check_node_port else Asked.PROXY
    return [check for check in checks if check.asked is asked]


def _nodes(told: Sequence[Check], arrivals: Arrivals) -> list[str]:
    return sorted({check.node for check in told} | {each.node for each in arrivals.at_nodes})


def ready_on(service: Service, node: str) -> int:
    """How many ready endpoints the objects say that a node has."""
    return len({each.address for each in service.endpoints if each.node == node and each.ready})


def _node(node: str, told: Sequence[Check], arrivals: Arrivals, service: Service, facts: Facts) -> NodeHealth:
    checks = [check for check in told if check.node == node]
    here = [each for each in arrivals.at_nodes if each.node == node and each.outcome is not Outcome.BARE]
    said = [check.endpoints for check in checks]
    lost = sum(each.outcome.failed for each in arrivals.clients if each.node == node)
    return NodeHealth(
        node=node,
        endpoints=ready_on(service, node) if facts.known else None,
        answers=_answers(checks),
        local_endpoints=tuple(sorted({number for number in said if number is not None})),
        connections=len(here),
        served=sum(each.outcome is Outcome.SERVED for each in here),
        failed=sum(each.outcome.failed for each in here),
        lost=lost if arrivals.clients else None,
        outages=tuple(outages_of(Node(node, checks, arrivals, [check for check in told if check.healthy]))),
    )


def _with_endpoints(node: NodeHealth, changes: Sequence[EndpointChange]) -> NodeHealth:
    """The outages of a node with the time at which its last ready endpoint went before them."""
    here = [change for change in changes if change.node == node.node]
    outages = []
    for outage in node.outages:
        before = [change for change in here if change.time / SECOND <= outage.first]
        gone = before[-1].time / SECOND if before and before[-1].ready == 0 else None
        for change in reversed(before):
            if gone is None or change.ready:
                break
            gone = change.time / SECOND  # the first of those that show none
        outages.append(msgspec.structs.replace(outage, endpoints_gone=gone))
    return msgspec.structs.replace(node, outages=tuple(outages))


def _answers(checks: Sequence[Check]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for check in checks:
        found[check.answer] += check.times
    return dict(found)


def _saved(
    nodes: Sequence[NodeHealth], arrivals: Arrivals, changes: Sequence[EndpointChange]
) -> list[Arrival]:
    """Connections that were served by a node without a ready endpoint: by one that was terminating.

    By the watch of endpoints where there was one; else by the node's own answers, after one that it was healthy.
    """
    found = []
    for each in arrivals.at_nodes:
        if each.outcome is not Outcome.SERVED:
            continue
        before = [change for change in changes if change.node == each.node and change.time <= each.time]
        if before:
            drained = before[-1].ready == 0 and before[-1].terminating > 0
        else:
            outages = next((node.outages for node in nodes if node.node == each.node), ())
            drained = any(
                _holds(outage, each.time) and outage.healthy_before is not None for outage in outages
            )
        if drained:
            found.append(each)
    return found


def _holds(outage: Outage, time: int) -> bool:
    return time / SECOND >= outage.first and (outage.until is None or time / SECOND < outage.until)


def _lag(outages: Sequence[Outage]) -> float | None:
    """The longest time from the first connection that failed, or from the first refusal, to the last client."""
    known = [
        max(each.total_lag or 0.0, each.balancer_lag) for each in outages if each.last_connection is not None
    ]
    return max(known, default=None)


def _reasons(arrivals: Arrivals, *, asked: bool) -> list[str]:
    if not asked:
        return [
            "nobody but ourselves asked for a node's health meanwhile, so that no balancer is known to listen to it"
        ]
    if arrivals.at_nodes and arrivals.behind_balancer and not arrivals.fronts:
        return ["clients are not counted, because the balancer's other side was not watched; attempts are"]
    return []


def _timeline(
    nodes: Sequence[NodeHealth], told: Sequence[Check], changes: Sequence[EndpointChange]
) -> tuple[Event, ...]:
    count: int | None
    events = [Event(each.time / SECOND, each.node, "endpoints", each.words) for each in _steps(changes)]
    for node in nodes:
        answer, count = "", None
        for check in (each for each in told if each.node == node.node):
            # Not every answer is seen with its body: one without is no other answer than one with.
            if check.answer != answer or (None not in {count, check.endpoints} and check.endpoints != count):
                events.append(Event(check.time / SECOND, node.node, "answer", _answer(check)))
                count = None
            answer, count = check.answer, check.endpoints if check.endpoints is not None else count
        for outage in node.outages:
            events += _events(node.node, outage)
    return tuple(sorted(events, key=lambda event: (event.time, event.node, event.kind)))


def _steps(changes: Sequence[EndpointChange]) -> list[EndpointChange]:
    """Changes that change something."""
    last: dict[str, tuple[int, int]] = {}
    found = []
    for change in changes:
        if last.get(change.node) != (change.ready, change.terminating):
            found.append(change)
        last[change.node] = (change.ready, change.terminating)
    return found


def _answer(check: Check) -> str:
    words = f"health check: {check.answer}"
    if check.endpoints is None:
        return words
    return f"{words}, {check.endpoints} local endpoint{'' if check.endpoints == 1 else 's'}"


def _events(node: str, outage: Outage) -> list[Event]:
    events = []
    if outage.failing_since is not None:
        events.append(Event(outage.failing_since, node, "failing", "the first connection fails"))
    if outage.last_connection is not None:
        lost = f", {outage.lost} of them lost" if outage.lost else ""
        after = (
            f"{outage.connections} after the first refusal{lost}"
            if outage.connections
            else f"none after it{lost}"
        )
        events.append(Event(outage.last_connection, node, "last", f"the last client is sent here: {after}"))
    if outage.resumed is not None:
        events.append(Event(outage.resumed, node, "resumed", "clients are sent here again"))
    return events
