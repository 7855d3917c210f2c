"""What is wrong, or right, with the health checks that were watched: codes with their evidence.

Each rule asks for positive evidence: an answer that was seen, together with connections or with what the objects say
of the node's endpoints. Objects can be older than the capture, so where packets contradict them, packets win.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.facts import Policy
from analysis.health.arrivals import Arrival, Outcome
from analysis.health.checks import Asked, Check
from analysis.health.result import Checker, NodeHealth, Outage
from analysis.health.watching import Watched
from analysis.hops.addresses import text

#: Refusals after which a balancer that goes on sending is not slow but does not listen. Balancers take 2 to 10 in a
#: row (AWS: unhealthy threshold up to 10).
DEAF = 10

#: Answers that it takes to say "always".
ALWAYS = 3

#: Connections in vain that are no accident of one moment.
SEVERAL = 3

#: Connections that healthy nodes have to be sent before it says something that others were sent none.
SETTLED = 5

Codes = dict[str, list[str]]


def codes_of(watched: Watched) -> Codes:
    """Codes of findings, each with lines of evidence."""
    found: Codes = {}
    for code, line in (*_of_nodes(watched), *_of_checkers(watched), *_of_outages(watched)):
        found.setdefault(code, []).append(line)
    health = watched.health
    if health.saved:
        found["SIP610"] = [f"{_connections(health.saved)} served by endpoints that were terminating"]
    if not any(code in found for code in _BAD) and _verified(watched):
        quiet = [node.node for node in _quiet(health.nodes)]
        found["SIP609"] = [f"{node} says that it is unhealthy, and no client is sent there" for node in quiet]
    return found


_BAD = frozenset({"SIP601", "SIP602", "SIP603", "SIP604", "SIP605", "SIP606", "SIP608"})


def _verified(watched: Watched) -> bool:
    """Whether clients were sent to healthy nodes only while at least one node said that it must not be."""
    nodes = watched.health.nodes
    quiet = _quiet(nodes)
    served = [node for node in nodes if node.served and node.answers.get("200")]
    return bool(quiet) and sum(node.served for node in served) >= SETTLED


def _quiet(nodes: Sequence[NodeHealth]) -> list[NodeHealth]:
    """Nodes that told a balancer that they must not be sent to, and were not."""
    return [node for node in nodes if any(outage.answers for outage in node.outages) and not node.connections]


def _of_nodes(watched: Watched) -> Iterator[tuple[str, str]]:
    service = watched.service
    told = [check for check in watched.checks if check.asked is Asked.SERVICE]
    for node in watched.health.nodes:
        checks = [check for check in told if check.node == node.node]
        if not checks or service.external_policy is not Policy.LOCAL:
            continue
        arrivals = [each for each in watched.arrivals.at_nodes if each.node == node.node]
        moved = node.node in watched.moved
        yield from _lies(node, checks, arrivals, moved=moved)
        yield from _never(node, checks, arrivals, moved=moved)


def _lies(
    node: NodeHealth, checks: Sequence[Check], arrivals: Sequence[Arrival], *, moved: bool
) -> Iterator[tuple[str, str]]:
    """200 where no endpoint is: by its own body, or by the objects and the connections.

    `moved`: its endpoints changed meanwhile, so that objects say nothing.
    """
    empty = [check for check in checks if check.healthy and check.endpoints == 0]
    if empty:
        yield "SIP608", f"{node.node} answered 200 with localEndpoints 0, {_times(_asked(empty))}"
        return
    if moved or any(not check.healthy for check in checks) or node.endpoints != 0 or node.served:
        return
    failed = [each for each in arrivals if each.outcome.failed]
    if len(failed) >= SEVERAL:
        line = f"{node.node} answered 200, {_times(_asked(checks))}; {_connections(len(failed))} got no answer there"
        yield "SIP601", line
    elif _asked(checks) >= ALWAYS and not arrivals:
        yield (
            "SIP601",
            f"{node.node} answered 200, {_times(_asked(checks))}; the objects show no ready endpoint on it",
        )


def _asked(checks: Sequence[Check]) -> int:
    return sum(check.times for check in checks)


def _never(
    node: NodeHealth, checks: Sequence[Check], arrivals: Sequence[Arrival], *, moved: bool
) -> Iterator[tuple[str, str]]:
    """Not served at all, or refusing although endpoints are there."""
    if _asked(checks) < ALWAYS or any(check.healthy for check in checks):
        return
    proxied = all(check.proxied for check in checks)
    dead = [check for check in checks if check.answer in {"refused", "no answer", "closed"}]
    if len(dead) == len(checks):
        if not proxied:
            yield "SIP602", f"{node.node}: {_times(_asked(checks))} asked, each time {_list(checks)}"
        return
    refusing = [check for check in checks if check.answer == "503"]
    if node.endpoints and not moved and len(refusing) == len(checks):
        served = [each for each in arrivals if each.outcome is Outcome.SERVED]
        also = f"; {_connections(len(served))} served there meanwhile" if served else ""
        claim = checks[-1].endpoints
        says = f" with localEndpoints {claim}" if claim is not None else ""
        line = f"{node.node} answered 503{says}, {_times(_asked(checks))}; the objects show {node.endpoints} ready"
        yield "SIP603", line + also


def _list(checks: Sequence[Check]) -> str:
    return ", ".join(dict.fromkeys(check.answer for check in checks))


def _of_checkers(watched: Watched) -> Iterator[tuple[str, str]]:
    service = watched.service
    if service.external_policy is not Policy.LOCAL or not service.health_check_node_port:
        return
    yield from _broken_by_header(watched)
    senders = [each for each in watched.health.checkers if each.balancer]
    right = {
        each.address for each in senders if each.target == Asked.SERVICE and not _unknown_path(each, watched)
    }
    for each in senders:
        if each.address in right or each.checks < ALWAYS or each.proxy_header:
            continue
        if each.target == Asked.TRAFFIC and (each.request is None or not _refused(each, watched)):
            continue  # a connection to the node port fails where no endpoint is, so it is a check of a kind
        asked = f"{each.request or 'a connection'} at port {each.port} ({each.target})"
        answers = ", ".join(dict.fromkeys(check.answer for check in _checks(each, watched)))
        port = service.health_check_node_port
        yield "SIP604", f"{each.address} asks for {asked}, is answered {answers}; the right port is {port}"


def _checks(checker: Checker, watched: Watched) -> list[Check]:
    return [
        check
        for check in watched.checks
        if (text(check.source), check.port, check.request) == (checker.address, checker.port, checker.request)
    ]


def _unknown_path(checker: Checker, watched: Watched) -> bool:
    """Whether the right port answers that it does not know what it is asked for."""
    checks = _checks(checker, watched)
    return bool(checks) and all(check.answer in {"400", "404", "405"} for check in checks)


def _refused(checker: Checker, watched: Watched) -> bool:
    """Whether a request to the node port is answered, where it is, by a refusal."""
    statuses = [check.answer for check in _checks(checker, watched) if check.answer.isdigit()]
    closed = [check for check in _checks(checker, watched) if check.answer == "closed"]
    return bool(statuses or closed) and not any(status[0] in "23" for status in statuses)


def _broken_by_header(watched: Watched) -> Iterator[tuple[str, str]]:
    for each in watched.health.checkers:
        if not each.proxy_header or each.target == Asked.TRAFFIC:
            continue
        checks = [check for check in _checks(each, watched) if check.proxied]
        if checks and not any(check.healthy for check in checks):
            yield (
                "SIP605",
                f"{each.address} sends a PROXY header to port {each.port}, is answered {_list(checks)}",
            )


def _of_outages(watched: Watched) -> Iterator[tuple[str, str]]:
    if not watched.health.port:
        return
    for node in watched.health.nodes:
        for outage in node.outages:
            if outage.everywhere or (not outage.connections and not outage.lost):
                continue  # with no healthy node at all, balancers send everywhere on purpose
            if not _somebody_asks(node.node, watched):
                continue  # clients that come by themselves are no balancer's fault
            if outage.answers >= DEAF and outage.stopped is False and outage.connections >= SEVERAL:
                yield "SIP606", _sent_on(outage)
            elif outage.connections or outage.lost:
                yield "SIP607", _lagging(outage)


def _somebody_asks(node: str, watched: Watched) -> bool:
    """Whether anybody besides us asked the node for its health."""
    return any(
        node in checker.nodes for checker in watched.health.checkers if checker.target != Asked.TRAFFIC
    )


def _sent_on(outage: Outage) -> str:
    return (
        f"{outage.node} said {_times(outage.answers)} that it is unhealthy; "
        f"{_connections(outage.connections)} sent there afterwards, the last after {outage.balancer_lag:.1f} s"
    )


def _lagging(outage: Outage) -> str:
    parts = [
        f"{outage.node}: clients were sent there for {outage.balancer_lag:.1f} s after its first refusal"
    ]
    if outage.total_lag is not None:
        parts.append(f"{outage.total_lag:.1f} s after connections began to fail")
    parts.append(f"{outage.lost} lost, {outage.served} served")
    if outage.stopped is False:
        parts.append("the balancer had not stopped when the capture ended")
    return "; ".join(parts)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _connections(number: int) -> str:
    return f"{number} connection{'' if number == 1 else 's'}"
