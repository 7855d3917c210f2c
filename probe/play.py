"""Playing a scenario of the lab under watch, and holding what was seen against what must come of it.

What must come of it is known by construction (`probe.lab.scenario.Expect`) and from the applications' own
answers; the analysis knows neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from analysis.analyze import analyze
from analysis.facts import Facts
from analysis.report import Journey, Report
from probe.agents.lab import LabSource
from probe.folder import Meta
from probe.lab import Answer, Lab, ProxyMode, Scenario
from probe.lab.plan import Plan, same_address
from probe.lab.scenario import Request
from probe.objects import facts_from_objects
from probe.session import Answers, Session, capture

#: What is still on its way when the last answer has come: the ends of connections, seconds.
SETTLE = 0.2


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario that was played: the session, its report, and what the clients were answered."""

    scenario: Scenario
    plan: Plan
    session: Session
    report: Report
    answers: tuple[Answer, ...]


def play(
    scenario: Scenario,
    proxy_mode: ProxyMode,
    *,
    record: Path | None = None,
    linger: float = 0.0,
    progress: Callable[[str], None],
) -> Played:
    """Build the scenario's cluster, watch it everywhere, send its requests, judge. Raises ProbeError.

    `linger` is how many seconds to go on watching after the last answer. Ctrl-C ends the watching only.
    """
    answers: list[Answer] = []

    def requests() -> Answers:
        progress(f"sending {sum(request.count for request in scenario.requests)} requests")
        try:
            answers.extend(lab.send())
            if linger:
                progress(f"watching for {linger:g} s more; Ctrl-C ends that")
            time.sleep(SETTLE + linger)
        except KeyboardInterrupt:
            progress("ending the capture; Ctrl-C again gives up")
        return tuple(msgspec.json.decode(msgspec.json.encode(answer)) for answer in answers)

    with Lab.start(scenario, proxy_mode, progress) as lab:
        facts = facts_from_objects(lab.objects())
        meta = Meta(
            title=f"{scenario.name}, {proxy_mode} mode: {scenario.title}",
            service=f"{scenario.service.namespace}/{scenario.service.name}",
            scenario=scenario.name,
            proxy_mode=proxy_mode,
            facts=facts,
        )
        source = LabSource(lab, watched_ports(facts, scenario))
        session = capture(source, requests, facts=facts, meta=meta, record=record, progress=progress)
        plan = lab.plan
    progress("judging")
    report = analyze(session.recording, facts, service=meta.service, title=meta.title)
    return Played(scenario, plan, session, report, tuple(answers))


def watched_ports(facts: Facts, scenario: Scenario) -> list[int]:
    """Every port at which a connection of the cluster's Services can be met, on either side of NAT."""
    ports = {scenario.balancer.port} if scenario.balancer else set()
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
    journeys = {_key(journey): journey for journey in played.report.journeys if journey.client}
    for answer in played.answers:
        result = answer.result
        name = f"request {answer.request + 1}.{result.number + 1} from {answer.place}"
        journey = journeys.pop((result.protocol, result.source, result.source_port), None)
        if journey is None:
            wrong.append(f"{name}: no journey in the report begins at {result.source} {result.source_port}")
            continue
        request = played.scenario.requests[answer.request]
        wrong += [f"{name}: {complaint}" for complaint in _complaints(journey, request, played.plan)]
    unexpected = len(played.report.journeys) - len(played.answers)
    if unexpected > 0:
        wrong.append(f"the report has {unexpected} journeys that nobody set out on")
    return wrong


def _host_of(place: str, plan: Plan) -> str:
    """The host of a place as scenarios name it: a node, "balancer", or "pod:NAME"."""
    if place == "balancer":
        return plan.lb.name if plan.lb else place
    kind, _, name = place.partition(":")
    return plan.pod(name).pod.node if kind == "pod" else place


def _key(journey: Journey) -> tuple[str, str, int]:
    assert journey.client is not None
    return journey.protocol, journey.client.address, journey.client.port


def _complaints(journey: Journey, request: Request, plan: Plan) -> list[str]:
    expect = request.expect
    wrong: list[str] = []
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
    if set(expect.findings) != set(journey.findings):
        found_codes, wanted_codes = ", ".join(journey.findings), ", ".join(expect.findings)
        wrong.append(f"findings are {found_codes or 'none'}, expected {wanted_codes or 'none'}")
    passed = iter([f"{hop.node}/{hop.point}" for hop in journey.hops])
    if missed := [hop for hop in expect.hops if hop not in passed]:
        way = " ".join(f"{hop.node}/{hop.point}" for hop in journey.hops)
        wrong.append(f"the connection did not pass {missed[0]} in its turn; its way was {way}")
    return wrong
