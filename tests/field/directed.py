"""One direction in which a cluster is asked: recorded with tcpdump, and parts of the recording held against truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from analysis.report import Report
from probe.lab import Lab, ProxyMode
from probe.lab.scenario import Scenario
from tests.field import proxied
from tests.field.judging import judge
from tests.field.talking import Spoken, held
from tests.field.watching import Captures, Packet, Watch, Watched


@dataclass(frozen=True)
class Direction:
    """A cluster, and what is asked of it. `silent`: how many requests may stay without a verdict at all.

    `codes`: of findings about headers and fields, exactly these follow from how it is built; None: not asked for here.
    """

    scenario: Scenario
    ask: Callable[[Lab], list[Spoken]]
    mode: ProxyMode = "iptables"
    prepare: Callable[[Lab], None] = lambda _: None
    silent: int = 0
    codes: frozenset[str] | None = None


@dataclass(frozen=True)
class Recorded:
    """What was captured and what was said."""

    captures: Captures
    objects: dict[str, object]
    spoken: list[Spoken]


def record(direction: Direction, folder: Path) -> Recorded:
    with Lab.start(direction.scenario, direction.mode) as lab:
        direction.prepare(lab)
        with Watch(lab, folder, proxied.taps(lab), snap=4000) as watch:
            spoken = direction.ask(lab)
        return Recorded(watch.captures, lab.objects(), spoken)


#: Kinds of taps that are missing, and whether the conntrack lists are there.
MISSING: tuple[tuple[set[str], bool], ...] = (
    ({"client"}, True),
    ({"lb"}, True),
    ({"nic"}, False),
    ({"bridge"}, False),
    ({"pod"}, True),
    ({"client", "lb"}, False),
    ({"bridge", "pod"}, False),
)


def false_without_taps(recorded: Recorded) -> list[str]:
    """What is said falsely where taps, conntrack lists or objects are missing."""
    complaints = []
    for kinds, tables in MISSING:
        fewer = recorded.captures.without(taps=lambda tap, kinds=kinds: tap.kind in kinds)
        report = judge(fewer, recorded.objects, tables=tables)
        complaints += [f"without {sorted(kinds)}, {tables}: {word}" for word in false(report, recorded)]
    for place in ("edge", "lb") if any(tap.node == "edge" for tap in recorded.captures.taps) else ():
        for kinds in (set[str](), {"client"}):  # one of two proxies is watched, the other is not
            fewer = recorded.captures.without(
                taps=lambda tap, place=place, kinds=kinds: tap.node == place or tap.kind in kinds
            )
            report = judge(fewer, recorded.objects)
            complaints += [f"without {place}, {sorted(kinds)}: {word}" for word in false(report, recorded)]
    complaints += [f"without objects: {word}" for word in false(judge(recorded.captures, None), recorded)]
    return complaints


def false_from_the_middle(recorded: Recorded, folder: Path) -> list[str]:
    """What is said falsely where the capture begins in the middle."""
    times: list[float] = []

    def note(_: Watched, packet: Packet) -> Packet:
        times.append(packet.time)
        return packet

    recorded.captures.rewritten(folder / "all", note)
    times.sort()
    complaints = []
    for part in (0.04, 0.08, 0.15, 0.4):
        start = times[int(len(times) * part)]
        late = recorded.captures.between(folder / str(part), start, times[-1])
        complaints += [f"from {part}: {word}" for word in false(judge(late, recorded.objects), recorded)]
    return complaints


def false(report: Report, recorded: Recorded) -> list[str]:
    result = held(report, recorded.spoken)
    return result.wrong + result.beyond
