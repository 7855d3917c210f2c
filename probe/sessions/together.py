"""Several recorded sessions as one: folders that agents on different nodes wrote, each by itself.

Rules:

1. A node was watched by one of them alone: two streams of one node would count each packet twice.
2. Facts of the cluster come from the one session that has them, or from the person who asks. Two sessions that say
   different things are not mixed.
3. Nobody compared the clocks, so no times are corrected, and a connection's way over nodes is never told by time.
   Sessions that, by their own clocks, have no moment in common did not see the same connections: that is a reason why
   the whole is incomplete.
4. All watched the same share of the connections: where one kept fewer, others' connections would end there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from analysis.facts import Facts
from analysis.health.own import OwnChecks
from analysis.ingress import IngressRecord
from analysis.recording import Recording, RecordingBuilder, Stream
from daemonset.observation import Gap, TapKind
from probe.cluster.durations import seconds_text
from probe.errors import UsageError
from probe.sessions.folder import Meta
from probe.sessions.session import Session, load, pour_folder

Note = Callable[[str], None]


class Part(NamedTuple):
    """One of the folders, and what it says of itself."""

    path: Path
    meta: Meta


def load_together(paths: Sequence[Path], note: Note, facts: Facts | None = None) -> Session:
    """Read recorded sessions as one; `facts` take the place of what they say of the cluster. Raises ProbeError."""
    if len(paths) == 1 and facts is None:
        return load(paths[0])
    builder = RecordingBuilder()
    parts: list[Part] = []
    places: dict[str, Path] = {}
    for path in paths:
        meta, of_part = pour_folder(path, builder)
        for place in of_part:
            _claim(places, place, path)
        parts.append(Part(path, meta))
    known = _facts(parts) if facts is None else facts
    recording = builder.build(expected_nodes=tuple(places))
    _check_nodes(recording, known)
    _check_samples(recording.streams)
    if len(paths) > 1:
        note(
            f"· the clocks of these {len(paths)} sessions were not compared, so times may not agree between them"
        )
        recording = replace(recording, gaps=(*recording.gaps, *_apart(recording.streams)))
    return Session(recording, known, _together(parts, known, tuple(places)))


def _together(parts: Sequence[Part], facts: Facts, places: tuple[str, ...]) -> Meta:
    """What the sessions say of themselves, as one. Raises UsageError where they were about different Services."""
    first = parts[0].meta
    if len(parts) == 1:
        return msgspec.structs.replace(first, facts=facts)
    services = dict.fromkeys(part.meta.service for part in parts if part.meta.service)
    ingress = IngressRecord()
    for part in parts:
        ingress = ingress.plus(part.meta.ingress)
    return msgspec.structs.replace(
        first,
        complete=all(part.meta.complete for part in parts),
        title=f"{len(parts)} sessions together",
        service=next(iter(services)) if len(services) == 1 else None,
        proxy_mode=facts.proxy_mode if facts.known else "",
        places=places,
        facts=facts,
        answers=tuple(answer for part in parts for answer in part.meta.answers),
        asked=tuple(asked for part in parts for asked in part.meta.asked),
        changes=tuple(change for part in parts for change in part.meta.changes),
        own=OwnChecks(
            tuple(answer for part in parts for answer in part.meta.own.answers),
            tuple(source for part in parts for source in part.meta.own.sources),
            tuple(reason for part in parts for reason in part.meta.own.reasons),
            next((part.meta.own.asked for part in parts if part.meta.own.asked is not None), None),
        ),
        ingress=ingress,
        streams={},
        lacks={},
        clocks={},
        clients=first.clients if all(part.meta.clients == first.clients for part in parts) else (),
        kernels={place: kernel for part in parts for place, kernel in part.meta.kernels.items()},
    )


def _claim(places: dict[str, Path], place: str, path: Path) -> None:
    if place in places:
        same = (
            f"{path} is given twice"
            if places[place] == path
            else f"{places[place]} and {path} both watched {place}"
        )
        raise UsageError(
            f"{same}; give one folder for each node (`probe agent --once --node NAME` names the node)"
        )
    places[place] = path


def _facts(parts: Sequence[Part]) -> Facts:
    """The facts of the one session that has some. Raises UsageError where sessions contradict each other."""
    knowing = [part for part in parts if part.meta.facts.known]
    for other in knowing[1:]:
        if other.meta.facts != knowing[0].meta.facts:
            raise UsageError(
                f"{knowing[0].path} and {other.path} say different things of the cluster; say which hold with "
                "--objects FILE"
            )
    return knowing[0].meta.facts if knowing else Facts(known=False)


def _check_nodes(recording: Recording, facts: Facts) -> None:
    """Hold the names of agents against each other, and those of nodes against the cluster's. Raises UsageError."""
    names = Counter(stream.node for stream in recording.streams)
    if twice := [node for node, count in names.items() if count > 1]:
        raise UsageError(f"two of the sessions' streams are of {twice[0]}; give one folder for each node")
    known = [node.name for node in facts.nodes]
    for tap in recording.taps:
        if known and tap.kind is TapKind.NIC and tap.node not in known:
            raise UsageError(
                f"the objects know no node {tap.node}; they know {', '.join(known[:8])}: let the agent call it what "
                "the cluster does (`probe agent --once --node NAME`)"
            )


def _check_samples(streams: Sequence[Stream]) -> None:
    """Hold the agents' --sample against each other. Raises UsageError."""
    by_rate = {stream.sample: stream.node for stream in streams if stream.hello is not None}
    if len(by_rate) > 1:
        (one, node), (other, elsewhere) = sorted(by_rate.items())[:2]
        raise UsageError(
            f"{_share(one)} was watched on {node}, {_share(other)} on {elsewhere}; capture with one --sample everywhere"
        )


def _share(rate: int) -> str:
    return "every connection" if rate == 1 else f"1 of {rate:,} connections"


def _apart(streams: Sequence[Stream]) -> list[tuple[str, Gap]]:
    """Which streams have no moment in common with the first, by their own clocks."""
    spans = [(each.node, each.hello.time, each.bye.time) for each in streams if each.hello and each.bye]
    gaps = []
    for node, begin, end in spans[1:]:
        first, since, until = spans[0]
        away = max(since - end, begin - until)
        if away > 0:
            what = f"it was watched {seconds_text(away)} away from {first}, by their own clocks"
            gaps.append((node, Gap("session", what)))
    return gaps
