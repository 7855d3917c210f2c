"""Asking in rounds, between two readings of the slices each, until what is wrong has lasted."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from analysis.facts import Service
from analysis.health.asking import ROUNDS, judge_kept, unsettled
from analysis.health.judge import Codes
from analysis.health.replies import Asking, Reply
from analysis.health.rounds import AskedRounds, Round, View
from daemonset.node.health_port import MOST_START, OUTCOMES, PATIENCE, Answered, Target, ask_all
from probe.health.questions import Question, best_of
from probe.render.escape import escape
from probe.sending.target import is_address

#: Bytes that one process of asking may write; and seconds beside its patience until it is given up.
MOST_OUTPUT, SPARE = 1 << 20, 20.0

#: Seconds for which what is wrong must last before it is called so: kube-proxy follows the slices a while later.
SETTLE = 10.0


@dataclass(frozen=True, slots=True)
class Output:
    """What asking from one place printed; `lack`: why that is not all."""

    text: bytes = b""
    lack: str | None = None


class Hands(Protocol):
    """Runs the asking process at places."""

    def run(self, orders: Mapping[str, Sequence[str]]) -> Mapping[str, Output]:
        """Run `daemonset.node.health_port` with these targets at each place, all at once. Does not raise ProbeError."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked, by whom, and held against what. `view` reads the slices, None where they may not be read."""

    service: Service
    questions: Callable[[int], Sequence[Question]]  # of the round of that number: other neighbours each time
    hands: Hands
    view: Callable[[], View | None]
    leaving: Mapping[str, str]
    unasked: Mapping[str, str]  # places that cannot be asked from, and why
    reasons: Sequence[str] = ()
    settle: float = SETTLE


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of it, and what it came of. `sources` are the addresses and ports of our own sockets."""

    asking: Asking
    codes: Codes
    sources: frozenset[tuple[str, int]]
    kept: AskedRounds


def ask_in_rounds(plan: Plan, progress: Callable[[str], None]) -> Asked:
    """Ask, and again where something is wrong. Raises ProbeError where the slices cannot be read."""
    rounds: list[Round] = []
    sources: set[tuple[str, int]] = set()
    view = plan.view()
    while unsettled(rounds, plan.service, plan.leaving):
        if rounds:
            progress(f"something is wrong; asking again in {plan.settle / (ROUNDS - 1):g} s, to be certain")
            time.sleep(plan.settle / (ROUNDS - 1))
        questions = plan.questions(len(rounds))
        nodes = len({question.node for question in questions})
        progress(f"asking the health ports of {nodes} node{'' if nodes == 1 else 's'}")
        before = view if not rounds else plan.view()
        replies = ask_once(plan, questions, sources)
        view = plan.view()
        rounds.append(Round(before, view, tuple(replies)))
    kept = AskedRounds(
        plan.service.key,
        plan.service.external_policy,
        plan.service.health_check_node_port,
        tuple(rounds),
        dict(plan.leaving),
        tuple(plan.reasons),
    )
    asking, codes = judge_kept(kept)
    return Asked(asking, codes, frozenset(sources), kept)


def ask_once(plan: Plan, questions: Sequence[Question], sources: set[tuple[str, int]]) -> list[Reply]:
    """One round, in the order of the nodes."""
    by_place: dict[str, list[Question]] = defaultdict(list)
    replies: list[Reply] = []
    for question in questions:
        if why := question.impossible or plan.unasked.get(question.place):
            replies.append(question.unasked(why))
        else:
            by_place[question.place].append(question)
    here = by_place.pop("", [])
    orders = {place: [question.text for question in asked] for place, asked in by_place.items()}
    outputs = plan.hands.run(orders) if orders else {}
    for place, asked in by_place.items():
        output = outputs.get(place, Output(lack="nobody asked there"))
        replies += _replies(asked, output, sources)
    for question, answered in zip(
        here, ask_all([Target.parse(question.text) for question in here]), strict=True
    ):
        replies.append(question.reply(answered))
        sources.add((answered.source, answered.source_port))
    order = {name: number for number, name in enumerate(dict.fromkeys(each.node for each in questions))}
    return sorted(
        best_of(replies), key=lambda each: (order[each.node], each.target != "health-check node port")
    )


def _replies(asked: Sequence[Question], output: Output, sources: set[tuple[str, int]]) -> list[Reply]:
    """What one process answered; what it did not, with the reason."""
    found: dict[int, Answered] = {}
    for line in output.text.splitlines():
        answered = read_answer(line)
        if answered is not None and 0 <= answered.target < len(asked):
            found[answered.target] = answered
            if answered.source:
                sources.add((answered.source, answered.source_port))
    lack = escape(output.lack or "the asking ended without an answer", 300)
    return [
        question.reply(found[number]) if number in found else question.unasked(lack)
        for number, question in enumerate(asked)
    ]


def read_answer(line: bytes) -> Answered | None:
    """One line of the asking process; None where it is none."""
    try:
        answered = msgspec.json.decode(line, type=Answered)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return answered if _possible(answered) else None


def _possible(answered: Answered) -> bool:
    """Whether it can have been said: what a node says is kept in sessions, and has to be read back from there."""
    return (
        answered.outcome in OUTCOMES
        and 0 <= answered.time < 1 << 63
        and 0 <= answered.source_port <= 0xFFFF
        and (not answered.source or is_address(answered.source))
        and len(answered.start) <= MOST_START
        and (answered.status is None or 0 <= answered.status < 1000)
    )


def command(python: str, targets: Sequence[str], *further: str) -> list[str]:
    """How asking is started."""
    return [python, "-m", "daemonset.node.health_port", "--patience", f"{PATIENCE:g}", *further, *targets]
