"""Whole recordings, to be degraded: flows of a real cluster, and scenarios of the lab, played or kept from before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.analyze import analyze
from analysis.facts import Facts
from analysis.recording import Recording
from analysis.report import Report, Verdict
from probe.lab import ProxyMode, load_scenario
from probe.objects import facts_from_objects
from probe.playing.play import play
from probe.sessions.folder import Meta
from probe.sessions.session import load
from prove.verdicts import Name
from tests.analysis.captures import load_flow

#: Where endpoints came and went, a node had none for a while and dropped. The cluster's objects are of another moment,
#: so that the whole cannot tell; one that forgets the right endpoints can.
DRAINED = frozenset({Verdict.BLACKHOLED})


@dataclass(frozen=True)
class Original:
    """A recording, what the cluster says, what else was told, and what is known of its clients by construction."""

    name: str
    recording: Recording
    facts: Facts
    meta: Meta = field(default_factory=Meta)
    truth: Mapping[Name, Verdict] = field(default_factory=dict)
    left_open: frozenset[Verdict] = frozenset()  # what besides may be true of what the whole leaves open

    @cached_property
    def whole(self) -> Report:
        """What is said where nothing is degraded."""
        return self.judged(self.recording, self.facts)

    def judged(self, recording: Recording, facts: Facts) -> Report:
        """What becomes of a part of it."""
        meta = self.meta
        return analyze(
            recording, facts, asked=meta.asked, service=meta.service,
            ingress=meta.ingress, changes=meta.changes, own=meta.own,
        )  # fmt: skip


def recorded(evidence: Path) -> Iterator[Original]:
    """The flows of a real cluster: folders of captures with the cluster's objects above them."""
    for table in sorted(evidence.glob("*/objects.json")):
        facts = facts_from_objects(json.loads(table.read_text(encoding="utf-8")))
        for folder in sorted(path for path in table.parent.iterdir() if any(path.glob("*.pcap"))):
            watched = any(folder.glob("healthcheck-*.jsonl"))
            original = Original(
                f"{table.parent.name}/{folder.name}",
                load_flow(folder),
                facts,
                left_open=DRAINED if watched else frozenset(),
            )
            _ = original.whole  # once, and not by each process that degrades it
            yield original


def played(
    names: Sequence[str], modes: Sequence[ProxyMode], pool: Executor, keep: Path | None
) -> Iterator[Original]:
    """Scenarios of the lab under the agents' eyes: those that `keep` has as they were, the others played now.

    Raises ProbeError: UnavailableError where there can be no lab.
    """
    with TemporaryDirectory(prefix="prove-") as passing:
        wanted = [(name, mode) for name in names for mode in modes]
        for original in pool.map(_original, wanted, repeat(keep or Path(passing))):
            if original is not None:
                yield original


def _original(wanted: tuple[str, ProxyMode], keep: Path) -> Original | None:
    name, mode = wanted
    folder = keep / f"{name}-{mode}"
    scenario = load_scenario(name)
    if not folder.exists():
        keep.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=keep) as making:
            play(scenario, mode, record=Path(making, "session"), progress=lambda _: None)
            Path(making, "session").rename(folder)
    session = load(folder)
    truth = {
        (answer["result"]["source"], answer["result"]["source_port"]): Verdict(
            scenario.requests[answer["request"]].expect.verdict
        )
        for answer in session.meta.answers
    }
    open_ = DRAINED if session.meta.changes else frozenset()
    original = Original(f"{name}, {mode}", session.recording, session.facts, session.meta, truth, open_)
    if any("SIP313" in journey.findings for journey in original.whole.journeys):
        return None  # a balancer whose header lies is believed where nothing is left to contradict it
    return original
