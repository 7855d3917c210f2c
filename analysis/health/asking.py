"""Answers of health ports, held against the EndpointSlices of each node. Pure; `judge` is the entrance.

Endpoints change while ports are asked, and kube-proxy follows a moment later. So slices are read before and after each
round of asking, and a node of which they say different things at any time is not judged by them. What is wrong must be
wrong in every round, and the caller goes on asking (`unsettled`) until that is known. Two things need no slices: an
answer that contradicts itself, and a port that nobody serves.

What is asked from the operator's side may be another machine's of the same address, even one of another cluster with
the same Service. Such an answer counts only where nobody inside was answered and its body names the Service; silence
there says nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from analysis.facts import Policy, Service
from analysis.health.checks import Asked
from analysis.health.judge import Codes
from analysis.health.own import OwnChecks
from analysis.health.replies import AskedFrom, Asking, NodeReplies, Reply, Standing
from analysis.health.rounds import AskedRounds, Local, Round

#: How often what is wrong must be seen.
ROUNDS = 3

_SILENT = frozenset({"refused", "no answer", "closed", "unreachable"})


def judge(
    rounds: Sequence[Round],
    service: Service,
    *,
    leaving: Mapping[str, str] | None = None,
    reasons: Collection[str] = (),
) -> tuple[Asking, Codes]:
    """What all rounds come to, and the codes of findings with their evidence. `leaving`: why nodes are about to go."""
    found: Codes = {}
    nodes = []
    for node in dict.fromkeys(reply.node for each in rounds for reply in each.replies):
        told = _Node(node, rounds, service, (leaving or {}).get(node, ""))
        result, codes = told.result()
        nodes.append(result)
        for code, line in codes:
            found.setdefault(code, []).append(line)
    asking = Asking(
        service=service.key,
        policy=service.external_policy,
        port=service.health_check_node_port,
        rounds=len(rounds),
        nodes=tuple(nodes),
        reasons=(*reasons, *_reasons(rounds, service)),
    )
    right = [node.node for node in nodes if node.standing is Standing.RIGHT]
    if right and not found.keys() - {"SIP617"} and len(right) == len(nodes):
        found["SIP618"] = [f"{_nodes(len(right))} asked, and all of them answer as they must"]
    return asking, found


def judge_kept(asked: AskedRounds) -> tuple[Asking, Codes]:
    """The same of rounds that were kept."""
    namespace, _, name = asked.service.partition("/")
    service = Service(
        namespace, name, external_policy=asked.policy, health_check_node_port=asked.health_check_node_port
    )
    return judge(asked.rounds, service, leaving=asked.leaving, reasons=asked.reasons)


def with_asked(watched: Codes, own: OwnChecks, service: str | None) -> Codes:
    """Codes of what was watched and of what was asked, where it was asked about the Service that is judged."""
    if own.asked is None or service not in {None, own.asked.service}:
        return watched
    _, told = judge_kept(own.asked)
    both = {code: [*told.get(code, ()), *watched.get(code, ())] for code in (*told, *watched)}
    if watched:
        both.pop("SIP618", None)  # packets tell more than that all ports answer as they must
    return both


def unsettled(rounds: Sequence[Round], service: Service, leaving: Mapping[str, str] | None = None) -> bool:
    """Whether another round would tell more: something is wrong, and has not been for `ROUNDS` rounds."""
    if not rounds or len(rounds) >= ROUNDS:
        return not rounds
    for node in dict.fromkeys(reply.node for reply in rounds[-1].replies):
        told = _Node(node, rounds[-1:], service, (leaving or {}).get(node, ""))
        if told.changed or any(told.verdicts()):
            return True
    return False


def _reasons(rounds: Sequence[Round], service: Service) -> list[str]:
    found = []
    if any(each.before is None or each.after is None for each in rounds):
        found.append("answers are not held against EndpointSlices, because these may not be read")
    elif any(view is not None and view.homeless for each in rounds for view in (each.before, each.after)):
        found.append("answers are not held against EndpointSlices, because endpoints name no node")
    if service.external_policy is Policy.LOCAL and not service.health_check_node_port:
        found.append(
            "the Service has no health check node port: no balancer can ask which nodes have endpoints"
        )
    return found


class _Node:
    """One node in all rounds."""

    def __init__(self, name: str, rounds: Sequence[Round], service: Service, leaving: str) -> None:
        self.name = name
        self.service = service
        self.leaving = leaving
        self.rounds = [tuple(reply for reply in each.replies if reply.node == name) for each in rounds]
        views = [view for each in rounds for view in (each.before, each.after)]
        self.known = all(view is not None and not view.homeless for view in views)
        states = [view.at(name) for view in views if view is not None]
        self.changed = len(set(states)) > 1
        self.local = states[0] if self.known and not self.changed else None
        # What changed before the last round is over: what is right then is right, but nothing is wrong by it.
        self._calm = self.known and len(set(states[-2:])) == 1
        self._now = states[-1] if self._calm else None

    def verdicts(self) -> list[dict[str, str]]:
        """What is wrong in each round: codes with their evidence."""
        return [dict(self._wrong(replies)) for replies in self.rounds]

    def result(self) -> tuple[NodeReplies, list[tuple[str, str]]]:
        """What is to be said of the node, and the findings that it leads to."""
        verdicts = self.verdicts()
        lasting = {code for code in verdicts[0] if all(code in each for each in verdicts)}
        lasting = lasting if len(verdicts) >= ROUNDS else set()
        last, codes = verdicts[-1], list[tuple[str, str]]()
        words: list[str] = []
        if lasting:
            standing = Standing.WRONG
            codes = [(code, f"{self.name}: {last[code]}, {len(verdicts)} times") for code in sorted(lasting)]
            words = [last[code] for code in sorted(lasting)]
        elif last:
            standing = Standing.CHANGED if self.changed else Standing.OPEN
            words = [f"{text}, and not each time" for text in last.values()]
        elif self.changed and not self._calm:
            standing = Standing.CHANGED
        else:
            standing, words = self._quiet()
            words += ["what it answered first was on its way to that"] if any(verdicts) else []
        if self.leaving and self._says_that_it_leaves():
            codes.append(("SIP617", f"{self.name}: {self.leaving}, and it answers 503"))
        result = NodeReplies(
            node=self.name,
            ready=self._now.ready if self._now is not None else None,
            terminating=self._now.draining if self._now is not None else None,
            standing=standing,
            words=tuple(words),
            replies=self.rounds[-1],
            leaving=self.leaving,
        )
        return result, codes

    def _quiet(self) -> tuple[Standing, list[str]]:
        """Where nothing is wrong: whether enough was seen to say that all is right."""
        answered = [reply for reply in self._heard(self._deciding()) if reply.answered]
        if not answered:
            why = next((reply.reason for reply in self.rounds[-1] if reply.reason), "nobody was answered")
            return Standing.OPEN, [why]
        if self._by_node:
            return Standing.RIGHT, []
        if not self._own_port:
            return Standing.OPEN, ["nothing says which endpoints it has"]
        if self._now is None:
            return Standing.OPEN, ["its endpoints are not known"]
        if not self._now.ready and self._now.draining and any(reply.status == 200 for reply in answered):
            return Standing.OPEN, ["its endpoints terminate and still serve; kube-proxy would answer 503"]
        if any(list(self._against(reply, self._now, "")) for reply in answered):
            return Standing.CHANGED, []
        return Standing.RIGHT, ["its endpoints changed meanwhile"] if self.changed else []

    def _deciding(self) -> list[Reply]:
        """The answers by which a balancer should decide, of the last round."""
        wanted = Asked.SERVICE if self._own_port else Asked.PROXY
        return [reply for reply in self.rounds[-1] if reply.target == wanted]

    @property
    def _own_port(self) -> bool:
        return self.service.external_policy is Policy.LOCAL and bool(self.service.health_check_node_port)

    @property
    def _by_node(self) -> bool:
        """Whether the node's own health is what counts."""
        return self.service.external_policy is Policy.CLUSTER

    def _counts(self, reply: Reply) -> bool:
        """Whether it is certain that this node answered."""
        if not reply.answered:
            return False
        return reply.asked_from is not AskedFrom.OPERATOR or reply.service == self.service.key

    def _heard(self, replies: Sequence[Reply]) -> list[Reply]:
        """The replies that are certain to be this node's: of those inside, else of the operator's side."""
        inside = [reply for reply in replies if reply.asked_from is not AskedFrom.OPERATOR]
        heard = [reply for reply in inside if reply.answered or reply.outcome == "not HTTP"]
        return heard or [reply for reply in replies if self._counts(reply)]

    # ── what is wrong in one round ───────────────────────────────────────────────────────────────────────────

    def _wrong(self, replies: Sequence[Reply]) -> Iterable[tuple[str, str]]:
        for target in (Asked.SERVICE, Asked.PROXY):
            here = [reply for reply in replies if reply.target == target and reply.asked]
            if not here:
                continue
            judge_one = self._of_service if target is Asked.SERVICE else self._of_proxy
            for reply in self._heard(here):
                yield from judge_one(reply)
            yield from self._unserved(here, target)

    def _unserved(self, replies: Sequence[Reply], target: Asked) -> Iterable[tuple[str, str]]:
        """Not served at all, or to the node itself alone."""
        own = next((reply for reply in replies if reply.asked_from is AskedFrom.ITSELF), None)
        others = [reply for reply in replies if reply.asked_from is not AskedFrom.ITSELF]
        peer = next((reply for reply in others if reply.asked_from is AskedFrom.PEER), None)
        if own is None or not (target is Asked.SERVICE or self._by_node):
            return
        if own.outcome in _SILENT and not any(self._counts(reply) for reply in others):
            words = f"it asked its own port {own.port}: {own.outcome}"
            yield ("SIP602" if target is Asked.SERVICE else "SIP615"), words
        elif own.answered and peer is not None and peer.outcome in _SILENT:
            answer = f"port {own.port} answers the node itself {own.status}"
            yield "SIP611", f"{answer}, and {peer.asker}: {peer.outcome}"

    def _of_service(self, reply: Reply) -> Iterable[tuple[str, str]]:
        """Of the health check node port, from one answer."""
        said = f"port {reply.port} answers {reply.status if reply.answered else reply.outcome}"
        other = reply.service not in {"", self.service.key}
        if not reply.answered or reply.status not in {200, 503} or other:
            names = f" and names {reply.service}" if other else ""
            yield "SIP616", f"{said}{names} ({reply.start})"
            return
        if reply.status == 200 and reply.claimed == 0:
            yield "SIP608", f"{said}, with localEndpoints 0"
            return
        if reply.proxy_healthy is False and not self.leaving:
            yield "SIP613", f"{said}, with serviceProxyHealthy false"
            return
        many = "" if reply.claimed == 1 else "s"
        counts = f" with {reply.claimed} local endpoint{many}" if reply.claimed is not None else ""
        if self.local is not None:
            yield from self._against(reply, self.local, f"{said}{counts}")
        if None not in {reply.local_endpoints, reply.weight} and reply.local_endpoints != reply.weight:
            yield "SIP612", f"its body counts {reply.local_endpoints} endpoints, its weight {reply.weight}"

    def _against(self, reply: Reply, local: Local, said: str) -> Iterable[tuple[str, str]]:
        """Held against the slices, which did not change meanwhile."""
        shown = f"{said}; the slices show {local.ready} ready"
        if reply.status == 200 and not local.ready:
            if not local.draining:  # they serve, and whoever is sent there is served
                yield "SIP601", shown
        elif reply.status == 503 and local.ready:
            yield "SIP603", shown
        elif reply.claimed is not None and reply.claimed not in local.counts:
            yield "SIP612", shown

    def _of_proxy(self, reply: Reply) -> Iterable[tuple[str, str]]:
        """Of kube-proxy's own health, from one answer."""
        said = f"kube-proxy's port {reply.port} answers {reply.status if reply.answered else reply.outcome}"
        if not reply.answered or reply.status not in {200, 503}:
            if self._by_node:
                yield "SIP616", f"{said} ({reply.start})"
        elif reply.status == 503:
            if reply.node_eligible is not False and not self.leaving:
                yield "SIP613", said
        elif self.leaving and self._by_node:
            yield "SIP614", f"{said}, and the node is to go: {self.leaving}"

    def _says_that_it_leaves(self) -> bool:
        return any(
            reply.status == 503 and self._counts(reply)
            for reply in self.rounds[-1]
            if reply.target == Asked.PROXY
        )


def _nodes(number: int) -> str:
    return "1 node was" if number == 1 else f"{number} nodes were"
