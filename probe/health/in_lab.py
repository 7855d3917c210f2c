"""Asking in the lab: processes in the namespaces of nodes and of a client outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from analysis.facts import Facts, Service
from analysis.health.changes import EndpointChange
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.health.rounds import View
from probe.health.answers import FIRST_WITHIN, Answers, Lines
from probe.health.questions import Question, leaving_of, own_questions, questions_of
from probe.health.rounds import MOST_OUTPUT, SPARE, Asked, Output, Plan, ask_in_rounds, command, read_answer
from probe.health.telling import Telling
from probe.lab import PIPE, Lab, LabProcess
from probe.lab.errors import LabError
from probe.objects import facts_from_objects

#: Seconds for which what is wrong must last in the lab, whose health ports follow at once.
SETTLE_IN_LAB = 0.5

#: Seconds from one question of a node to itself to the next.
EVERY_IN_LAB = 0.1


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
            questions=lambda turn: questions_of(service, facts.nodes, nodes, turn, operator=outside),
            hands=LabHands(lab),
            view=lambda: View.of(service_of(lab, facts_from_objects(lab.objects_now()))),
            leaving=leaving_of(facts),
            unasked={},
            settle=self._settle,
        )
        self.asked = ask_in_rounds(plan, self._progress)

    def end(self) -> OwnChecks:
        """What was asked; and our own sockets, so that nobody takes them for a balancer's."""
        if self.asked is None:
            return NONE_OWN
        return OwnChecks(sources=tuple(sorted(self.asked.sources)), asked=self.asked.kept)


class WatchedInLab(AskedInLab):
    """Asks once, then lets every node ask its own port again and again until all requests have been sent."""

    def __init__(
        self,
        progress: Callable[[str], None],
        note: Callable[[str], None],
        settle: float = SETTLE_IN_LAB,
        every: float = EVERY_IN_LAB,
    ) -> None:
        super().__init__(progress, settle)
        self._note = note
        self._every = every
        self._answers: Answers | None = None
        self._askers: list[tuple[LabProcess, threading.Thread]] = []
        self._ending = False

    def begin(self, lab: Lab, facts: Facts) -> None:
        """Ask, and start. Raises LabError."""
        telling = Telling(self._note, time.time())
        told: list[EndpointChange] = []

        def tell(node: str, words: str) -> None:
            for change in lab.changes[len(told) :]:
                told.append(change)
                telling.change(change)
            telling.answer(node, words)

        super().begin(lab, facts)
        self._answers = Answers(tell)
        own = own_questions(service_of(lab, facts), facts, [node.name for node in facts.nodes])
        for node in facts.nodes:
            questions = [question for question in own if question.node == node.name]
            words = command(sys.executable, [each.text for each in questions], "--every", f"{self._every:g}")
            process = lab.spawn(node.name, words, stdin=PIPE, stdout=PIPE)
            reader = threading.Thread(target=self._read, args=(node.name, process, questions), daemon=True)
            self._askers.append((process, reader))
            reader.start()
        self._answers.await_first(len(self._askers), FIRST_WITHIN)

    def end(self) -> OwnChecks:
        """What nodes answered, and our own sockets."""
        self._ending = True
        for process, _ in self._askers:
            if process.stdin is not None:
                process.stdin.close()  # its lifeline
        for process, reader in self._askers:
            reader.join(SPARE)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0)
            process.kill()
            process.wait()
        asked = super().end()
        if self._answers is None:
            return asked
        own = self._answers.so_far(sources=frozenset(asked.sources))
        return msgspec.structs.replace(own, asked=asked.asked)

    def _read(self, node: str, process: LabProcess, questions: Sequence[Question]) -> None:
        stream, lines, answers = process.stdout, Lines(), self._answers
        assert stream is not None
        assert answers is not None
        with stream:
            while data := os.read(stream.fileno(), MOST_OUTPUT):
                for line in lines.feed(data):
                    answered = read_answer(line)
                    if answered is not None and 0 <= answered.target < len(questions):
                        answers.take(node, questions[answered.target].port, answered)
        if not self._ending:
            answers.lack(node, "the asking there ended")


def service_of(lab: Lab, facts: Facts) -> Service:
    """The Service that a scenario is about."""
    wanted = lab.scenario.service
    key = f"{wanted.namespace}/{wanted.name}"
    return next(service for service in facts.services if service.key == key)
