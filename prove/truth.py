"""Truth under loss: degraded sessions of the lab's scenarios and of a real cluster's captures, and their verdicts."""

from __future__ import annotations

import json
import os
import random
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from analysis.analyze import analyze
from analysis.asked import Asked
from analysis.facts import Facts
from analysis.recording import Recording
from analysis.report import Report, Verdict
from probe.errors import UnavailableError
from probe.lab import ProxyMode, list_scenarios, load_scenario
from probe.objects import facts_from_objects
from probe.play import play
from prove.degrading import disturbed, forgetful, lessened
from prove.row import Row
from prove.verdicts import Name, another, settled
from tests.analysis.captures import load_flow

_KINDS = (
    "lost packets, taps, places, NAT",
    "doubled, out of order, clocks off",
    "forgotten objects",
    "all of it",
)

#: Scenarios of the short form: one for each way in which an address is kept or lost.
_SHORT = (
    "cluster-remote", "local-preserved", "local-no-endpoint", "hairpin-lb-ip", "lb-tcp-no-proxy", "proxy-v2-ok",
    "proxy-unused", "proxy-unexpected", "xff-untrusted", "xff-keepalive", "proxy-chain", "udp-dns",
)  # fmt: skip

_DETAILS = 3


@dataclass(frozen=True)
class Original:
    """A recording, what the cluster says, and what is known of its clients."""

    name: str
    recording: Recording
    facts: Facts
    asked: Sequence[Asked] = ()
    service: str | None = None
    truth: dict[Name, Verdict] = field(default_factory=dict)


def recorded(evidence: Path) -> Iterator[Original]:
    """The flows of a real cluster: folders of captures with the cluster's objects above them."""
    for table in sorted(evidence.glob("*/objects.json")):
        facts = facts_from_objects(json.loads(table.read_text(encoding="utf-8")))
        for folder in sorted(path for path in table.parent.iterdir() if any(path.glob("*.pcap"))):
            yield Original(f"{table.parent.name}/{folder.name}", load_flow(folder), facts)


def played(names: Sequence[str], modes: Sequence[ProxyMode]) -> Iterator[Original]:
    """Scenarios of the lab, played now under the agents' eyes. Raises UnavailableError where there can be no lab."""
    for name in names:
        for mode in modes:
            scene = play(load_scenario(name), mode, progress=lambda _: None)
            if any("SIP313" in journey.findings for journey in scene.report.journeys):
                continue  # a balancer whose header lies is believed where nothing is left to contradict it
            truth = {
                (answer.result.source, answer.result.source_port): Verdict(
                    scene.scenario.requests[answer.request].expect.verdict
                )
                for answer in scene.answers
            }
            session = scene.session
            yield Original(
                f"{name}, {mode}",
                session.recording,
                session.facts,
                session.meta.asked,
                scene.report.service,
                truth,
            )


@dataclass
class Count:
    """What came of many degraded sessions."""

    sessions: int = 0
    journeys: int = 0
    conclusive: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Count) -> None:
        """Take another's in."""
        self.sessions += other.sessions
        self.journeys += other.journeys
        self.conclusive += other.conclusive
        self.wrong += other.wrong


def tried(original: Original, kind: int, rounds: int) -> Count:
    """Degrade one session `rounds` times in one way."""
    count = Count()
    full = _judged(original, original.recording, original.facts)
    for number in range(rounds):
        dice = random.Random(f"{original.name}/{kind}/{number}")  # noqa: S311 - to be made again
        recording, facts = original.recording, original.facts
        if kind in {1, 3}:
            recording = disturbed(recording, dice)
        if kind in {0, 3}:
            recording = lessened(recording, dice)
        if kind in {2, 3}:
            facts = forgetful(facts, dice)
        where = f"{original.name}, {_KINDS[kind]}, draw {number}"
        try:
            partial = _judged(original, recording, facts)
        except Exception:  # whatever it is, it is what is looked for
            count.wrong.append(f"{where}: {traceback.format_exc(limit=-1).splitlines()[-1]}")
            continue
        count.sessions += 1
        count.journeys += settled(full)
        count.conclusive += min(settled(partial), settled(full))
        count.wrong += [
            f"{where}: {journey.client} {journey.verdict}, {journey.reason}"
            for journey in another(full, partial, truth=original.truth)
        ]
    return count


def rows(
    *, long: bool, evidence: Path | None, sessions: int | None = None, scenarios: Sequence[str] = _SHORT
) -> list[Row]:
    """One row for each way of degrading."""
    originals = list(recorded(evidence)) if evidence is not None else []
    problem = ""
    try:
        modes: tuple[ProxyMode, ...] = ("iptables", "nftables") if long else ("iptables",)
        originals += played(list_scenarios() if long else scenarios, modes)
    except UnavailableError as error:
        problem = f"no lab: {error}"
    if not originals:
        return [Row(f"sessions: {what}", 0, 0, skipped=problem or "no recordings") for what in _KINDS]
    wanted = sessions or (25 * len(originals) if long else 250)
    again = f"python -m prove truth{' --long' if long else ''}"
    found: list[Row] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for kind, what in enumerate(_KINDS):
            total = Count()
            rounds = -(-wanted // len(originals))
            for count in pool.map(tried, originals, [kind] * len(originals), [rounds] * len(originals)):
                total.add(count)
            lacking = f"; {problem}" if problem else ""
            share = total.conclusive / total.journeys if total.journeys else 0.0
            found.append(
                Row(
                    f"sessions: {what}",
                    total.sessions,
                    len(total.wrong),
                    f"{share:.0%} of {total.journeys:,} verdicts still given{lacking}",
                    again,
                    tuple(total.wrong[:_DETAILS]),
                )
            )
    return found


def _judged(original: Original, recording: Recording, facts: Facts) -> Report:
    return analyze(recording, facts, asked=original.asked, service=original.service)
