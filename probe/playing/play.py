"""Playing a scenario of the lab under watch, and holding what was seen against what must come of it.

What must come of it is known by construction (`probe.lab.scenario.Expect`), of which the analysis knows nothing.
Or requests of our own are sent there instead (`probe.playing.ask`), of which nothing is known beforehand.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from analysis.analyze import analyze
from analysis.asked import Asked
from analysis.chain.clients import Clients
from analysis.chain.journeys import KUBE_PROXY_HEALTHZ
from analysis.facts import Facts
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.ingress import IngressRecord
from analysis.judging.forgery import claimed_addresses, plain_address
from analysis.report import Journey, Report, Severity, Verdict
from daemonset.wire import Frame
from probe.agents.lab import LabSource
from probe.agents.tracing import trace_arguments
from probe.cluster.interrupts import Terminated
from probe.cluster.so_far import SoFar, Subject
from probe.ingress import ingress_of
from probe.lab import Answer, Lab, ProxyMode, Scenario
from probe.lab.plan import Plan, make_plan, same_address
from probe.lab.scenario import Request
from probe.live.board import Board
from probe.objects import facts_from_objects
from probe.playing.ask import Question, ask_in_lab, lab_orders
from probe.sending import CLAIMS
from probe.sending.claims import endpoint
from probe.sessions.folder import Meta
from probe.sessions.room import room
from probe.sessions.session import Mask, Session, Witness, Words, capture

#: What is still on its way when the last answer has come: the ends of connections, seconds.
SETTLE = 0.2

_TICK = 0.2  # seconds between looks at what there is to judge

_Key = tuple[str, str, int]  # protocol, address and port of a client's socket


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario that was played: the session, its report, and what the clients were answered."""

    scenario: Scenario
    plan: Plan
    session: Session
    report: Report
    answers: tuple[Answer, ...]


class Beside(Protocol):
    """Something that is done in the lab while a scenario is played there."""

    def begin(self, lab: Lab, facts: Facts) -> None:
        """Before the first request, when everything is watched. Raises ProbeError."""
        ...

    def end(self) -> OwnChecks:
        """After the last; what it has asked of health ports."""
        ...


def play(
    scenario: Scenario,
    proxy_mode: ProxyMode,
    *,
    question: Question | None = None,
    ingress: Callable[[], IngressRecord] | None = None,
    record: Path | None = None,
    linger: float = 0.0,
    clients: tuple[str, ...] = (),
    sample: int = 1,
    trace: int = 0,
    beside: Beside | None = None,
    board: Board | None = None,
    mask: Mask | None = None,
    progress: Callable[[str], None],
) -> Played:
    """Build the scenario's cluster, watch it everywhere, send its requests, judge. Raises ProbeError.

    A `question` is asked instead of the scenario's own requests. `ingress` is asked for configurations and logs
    when all has been sent; else there is what the scenario says. `linger` is how many seconds to go on watching
    after the last answer. Ctrl-C ends the watching only. `clients`: the report is about these alone. `sample` N: of
    N TCP connections one is watched. `trace`: of how many packets on each node the kernel is to name the rules that
    they meet. `beside`: what else is done while it is watched. `board` is told how it goes.
    With `mask`, session and report are those of others.
    """
    orders = lab_orders(question, make_plan(scenario, proxy_mode)) if question is not None else []
    answers: list[Answer] = []
    asked: list[Asked] = []

    def requests() -> Words:
        try:
            if beside is not None:
                beside.begin(lab, facts)
            if question is None:
                progress(f"sending {sum(request.count for request in scenario.requests)} requests")
                answers.extend(lab.send())
                asked.extend(_asked(answer, scenario) for answer in answers)
            else:
                for each in ask_in_lab(lab, orders, progress):
                    asked.append(each)  # noqa: PERF402 - one by one: those before an interruption are kept
            if linger:
                progress(f"watching for {linger:g} s more; Ctrl-C ends that")
            _linger(linger, so_far, board)
            time.sleep(SETTLE)
        except Terminated:
            raise
        except KeyboardInterrupt:
            progress("ending the capture; Ctrl-C again gives up")
        if board is not None:
            board.over()
        own = beside.end() if beside is not None else NONE_OWN
        told = tuple(msgspec.json.decode(msgspec.json.encode(answer)) for answer in answers)
        said = ingress() if ingress is not None else _given(scenario)
        return Words(told, tuple(asked), said, tuple(lab.changes), own)

    room()  # too little is said now, not when all has been captured
    with Lab.start(scenario, proxy_mode, progress) as lab:
        facts = facts_from_objects(lab.objects())
        meta = Meta(
            title=_title(scenario, proxy_mode, question),
            service=_service(scenario),
            scenario=scenario.name,
            proxy_mode=proxy_mode,
            facts=facts,
            clients=clients,
        )
        ports = {*watched_ports(facts, scenario), *(order.port for order in orders)}
        tracing = trace_arguments(trace, ports, facts)
        source = LabSource(lab, sorted(ports), sample, rules=record is not None, tracing=tracing)
        so_far: SoFar | None = None
        watchers: list[Witness] = []
        if board is not None:
            subject = Subject(facts, meta.service, _given(scenario), Clients.of(clients))
            so_far = SoFar(subject, dict, words=board.judged)
            watchers = [so_far.take, board.take]

        def witness(place: str, frame: Frame) -> None:
            for watcher in watchers:
                watcher(place, frame)

        session = capture(
            source,
            requests,
            facts=facts,
            meta=meta,
            record=record,
            progress=progress,
            witness=witness,
            mask=mask,
        )
        plan = lab.plan
    progress("judging")
    report = analyze(
        session.recording,
        session.facts,
        asked=session.meta.asked,
        ingress=session.meta.ingress,
        service=session.meta.service,
        title=session.meta.title,
        clients=Clients.of(session.meta.clients),
        changes=session.meta.changes,
        own=session.meta.own,
        room=room(),
    )
    return Played(scenario, plan, session, report, tuple(answers))


def _linger(seconds: float, so_far: SoFar | None, board: Board | None) -> None:
    """Let time pass, and judge meanwhile where somebody looks on."""
    ends = time.monotonic() + seconds
    asleep = board.ending if board is not None else threading.Event()
    while (left := ends - time.monotonic()) > 0:
        if so_far is not None and board is not None:
            board.doing(f"watching for {left:.0f} s more; Ctrl-C ends that")
            so_far.word()
        if asleep.wait(min(_TICK, left)):
            return


def _given(scenario: Scenario) -> IngressRecord:
    """What the scenario has the analysis told of the ingress, read as any configuration. Raises ProbeError."""
    if not scenario.ingress_config:
        return IngressRecord()
    return ingress_of(scenario.ingress_config, "ingress.conf")


def _service(scenario: Scenario) -> str | None:
    """The Service whose connections are judged; None, all that outsiders reach, where the application is one too."""
    if scenario.app_service.node_port:
        return None
    return f"{scenario.service.namespace}/{scenario.service.name}"


def _title(scenario: Scenario, proxy_mode: ProxyMode, question: Question | None) -> str:
    what = scenario.title
    if question is not None:
        url, query, _ = question.target.url.partition("?")
        what = f"asked {url}{'?…' if query else ''}"  # it is kept, and queries hold tokens
    return f"{scenario.name}, {proxy_mode} mode: {what}"


def _asked(answer: Answer, scenario: Scenario) -> Asked:
    """What a client of the lab was answered, in the form in which any request of ours is told."""
    result, request = answer.result, scenario.requests[answer.request]
    forged = [
        (name.lower(), value)
        for name, value in request.headers.items()
        if name.lower() in CLAIMS or claimed_addresses(name.lower(), value)
    ]
    if request.proxy is not None and request.proxy.source:
        claim = "proxy" if request.proxy.version == 1 else "proxy-v2"
        forged.append((claim, endpoint(request.proxy.source, request.proxy.port)))
    return Asked(
        source=endpoint(result.source, result.source_port),
        token=result.token,
        destination=endpoint(result.target, result.target_port),
        started=result.started,
        ended=result.ended,
        outcome=result.outcome,
        status=result.status,
        saw=plain_address(result.seen) if result.seen else None,
        forged=tuple(forged),
        detail=result.error or "",
    )


def watched_ports(facts: Facts, scenario: Scenario) -> list[int]:
    """Every port at which a connection of the cluster's Services can be met, on either side of NAT."""
    balancers = [each for each in (scenario.balancer, scenario.edge) if each is not None]
    ports = {frontend.port for balancer in balancers for frontend in balancer.all_frontends()}
    ports |= {KUBE_PROXY_HEALTHZ} if balancers else set()
    for service in facts.services:
        ports |= {service.health_check_node_port}
        ports |= {number for port in service.ports for number in (port.port, port.node_port)}
        ports |= {endpoint.port for endpoint in service.endpoints}
    return sorted(ports - {0})


def differences(played: Played) -> list[str]:
    """Everything that is not as the scenario demands, in words; empty: all as it must be."""
    wrong = [
        f"request {answer.request + 1}.{answer.result.number + 1} from {answer.place}: {complaint}"
        for answer in played.answers
        for complaint in answer.wrong
    ]
    journeys: dict[_Key, list[Journey]] = defaultdict(list)
    nobodys = 0
    untied = any(request.expect.untied for request in played.scenario.requests)
    for journey in played.report.journeys:
        if journey.client is None:
            # Attempts in vain that may have been for any of several clients are no journey of one of them.
            nobodys += journey.answered is not False or not untied
        else:
            journeys[_key(journey)].append(journey)
    answers: dict[_Key, list[Answer]] = defaultdict(list)
    for answer in sorted(played.answers, key=lambda each: each.result.started):
        answers[answer.result.protocol, answer.result.source, answer.result.source_port].append(answer)
    for key, told in answers.items():
        wrong += _of_one_socket(told, journeys[key], played)
    # A connection that carries several requests may be one journey or one for each of them.
    unexpected = nobodys + sum(
        max(len(each) - len(answers.get(key, ())), 0) for key, each in journeys.items()
    )
    if unexpected > 0:
        wrong.append(f"the report has {unexpected} journeys that nobody set out on")
    return [*wrong, *_about_session(played), *_about_health(played)]


def _about_session(played: Played) -> list[str]:
    """Complaints about findings that belong to no request: exactly those named, but for those of health checks."""
    of_journeys = {code for journey in played.report.journeys for code in journey.findings}
    found = {
        finding.code for finding in played.report.findings if not finding.code.startswith("SIP6")
    } - of_journeys
    if found == set(played.scenario.findings):
        return []
    wanted = ", ".join(played.scenario.findings) or "none"
    return [f"findings of the session are {', '.join(sorted(found)) or 'none'}, expected {wanted}"]


def _about_health(played: Played) -> list[str]:
    """Complaints about what the report says of health checks; where nothing is expected, nothing may be in error."""
    expect, health = played.scenario.health_expect, played.report.health
    told = [finding for finding in played.report.findings if finding.code.startswith("SIP6")]
    if expect is None:
        return [f"{each.code} was found" for each in told if each.severity is Severity.ERROR]
    wrong = []
    codes = sorted(finding.code for finding in told)
    if codes != sorted(expect.findings):
        wrong.append(f"of health checks {codes} were found, expected {sorted(expect.findings)}")
    lost = health.lost if health is not None else None
    if lost != expect.lost:
        wrong.append(f"{lost} clients are told as lost, expected {expect.lost}")
    saved = health.saved if health is not None else None
    if saved != expect.saved:
        wrong.append(f"{saved} connections are told as saved, expected {expect.saved}")
    return wrong


def _of_one_socket(answers: Sequence[Answer], journeys: Sequence[Journey], played: Played) -> list[str]:
    """Complaints about the requests of one connection, each held against its journey."""
    wrong: list[str] = []
    for number, answer in enumerate(answers):
        result, request = answer.result, played.scenario.requests[answer.request]
        name = f"request {answer.request + 1}.{result.number + 1} from {answer.place}"
        if not journeys:
            wrong.append(f"{name}: no journey in the report begins at {result.source} {result.source_port}")
            continue
        own = journeys[number : number + 1] if len(journeys) == len(answers) else journeys
        fewest = min((_complaints(journey, request, played.plan) for journey in own), key=len)
        wrong += [f"{name}: {complaint}" for complaint in fewest]
    return wrong


def _host_of(place: str, plan: Plan) -> str:
    """The host of a place as scenarios name it: a node, "balancer", or "pod:NAME"."""
    if place == "balancer":
        return plan.lb.name if plan.lb else place
    kind, _, name = place.partition(":")
    return plan.pod(name).pod.node if kind == "pod" else place


def _key(journey: Journey) -> _Key:
    assert journey.client is not None
    return journey.protocol, journey.client.address, journey.client.port


def _complaints(journey: Journey, request: Request, plan: Plan) -> list[str]:
    expect = request.expect
    wrong: list[str] = []
    if expect.untied and journey.verdict is Verdict.INCONCLUSIVE:
        return []
    if journey.verdict != expect.verdict:
        wrong.append(f"the verdict is {journey.verdict} ({journey.reason}), expected {expect.verdict}")
    wanted = plan.resolve(expect.seen, request) if expect.seen else None
    if wanted and (journey.seen_by_app is None or not same_address(journey.seen_by_app, wanted)):
        wrong.append(f"the application is said to see {journey.seen_by_app}, expected {wanted}")
    cross = journey.cross_node
    found = (cross.from_, cross.to, cross.via) if cross else None
    expected = expect.cross_node
    if found != ((expected.from_, expected.to, expected.via) if expected else None):
        wrong.append(f"crossing of nodes is {found}, expected {expected}")
    nodes = [snat.node for snat in journey.snat]
    if expect.snat and _host_of(expect.snat, plan) not in nodes:
        wrong.append(f"the source was replaced at {nodes or 'no place'}, expected {expect.snat}")
    mechanisms = ", ".join(snat.mechanism for snat in journey.snat)
    if expect.mechanism and expect.mechanism.lower() not in mechanisms.lower():
        wrong.append(f"the source was replaced by {mechanisms or 'nobody'}, expected {expect.mechanism}")
    version = journey.proxy_protocol.version if journey.proxy_protocol else 0
    if version != expect.proxy_version:
        wrong.append(f"the PROXY header's version is {version}, expected {expect.proxy_version}")
    if not expect.snat and journey.snat:
        wrong.append(f"the source was replaced at {nodes}, expected nowhere")
    if set(expect.findings) != set(journey.findings) and not expect.untied:
        found_codes, wanted_codes = ", ".join(journey.findings), ", ".join(expect.findings)
        wrong.append(f"findings are {found_codes or 'none'}, expected {wanted_codes or 'none'}")
    passed = iter([f"{hop.node}/{hop.point}" for hop in journey.hops])
    if missed := [hop for hop in expect.hops if hop not in passed]:
        way = " ".join(f"{hop.node}/{hop.point}" for hop in journey.hops)
        wrong.append(f"the connection did not pass {missed[0]} in its turn; its way was {way}")
    return wrong
