"""Asking in the lab: processes in the namespaces of nodes and of a client outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from analysis.facts import Facts, Service
from analysis.health.asking import View
from analysis.health.own import NONE_OWN, OwnChecks
from probe.health.questions import leaving_of, questions_of
from probe.health.rounds import MOST_OUTPUT, SPARE, Asked, Output, Plan, ask_in_rounds, command
from probe.lab import PIPE, Lab, LabProcess
from probe.lab.errors import LabError
from probe.objects import facts_from_objects

#: Seconds for which what is wrong must last in the lab, whose health ports follow at once.
SETTLE_IN_LAB = 0.5


class LabHands:
    """Runs asking processes in a lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def run(self, orders: Mapping[str, Sequence[str]]) -> Mapping[str, Output]:
        """All at once: each is started before the first is waited for."""
        started: dict[str, LabProcess | str] = {}
        for place, targets in orders.items():
            try:
                started[place] = self._lab.spawn(place, command(sys.executable, targets), stdout=PIPE)
            except LabError as error:
                started[place] = str(error)
        return {place: _output(process) for place, process in started.items()}


def _output(process: LabProcess | str) -> Output:
    if isinstance(process, str):
        return Output(lack=process)
    stream = process.stdout
    assert stream is not None
    with stream:
        text = stream.read(MOST_OUTPUT)
    try:
        code = process.wait(SPARE)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    return Output(text, None if code == 0 else f"the asking there ended with code {code}")


class AskedInLab:
    """Asks all health ports of a lab once, before its requests: from every node, and from the first client."""

    def __init__(self, progress: Callable[[str], None], settle: float = SETTLE_IN_LAB) -> None:
        self._progress = progress
        self._settle = settle
        self.asked: Asked | None = None

    def begin(self, lab: Lab, facts: Facts) -> None:
        """Ask. Raises LabError."""
        service = service_of(lab, facts)
        nodes = [node.name for node in facts.nodes]
        outside = next((host.name for host in lab.plan.hosts if host.role == "client"), None)
        plan = Plan(
            service=service,
            questions=questions_of(service, facts.nodes, nodes, operator=outside),
            hands=LabHands(lab),
            view=lambda: View.of(service_of(lab, facts_from_objects(lab.objects_now()))),
            leaving=leaving_of(facts),
            unasked={},
            settle=self._settle,
        )
        self.asked = ask_in_rounds(plan, self._progress)

    def end(self) -> OwnChecks:
        """Our own sockets, so that nobody takes them for a balancer's."""
        if self.asked is None:
            return NONE_OWN
        return OwnChecks(sources=tuple(sorted(self.asked.sources)))


def service_of(lab: Lab, facts: Facts) -> Service:
    """The Service that a scenario is about."""
    wanted = lab.scenario.service
    key = f"{wanted.namespace}/{wanted.name}"
    return next(service for service in facts.services if service.key == key)
