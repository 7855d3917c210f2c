"""Captures of every way into a Service, made with tcpdump and conntrack: the verdict is what the server answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from probe.lab import Lab, ProxyMode
from probe.lab.scenario import Family
from tests.field import twins
from tests.field.judging import Expected, contradictions, differences, judge
from tests.field.recorded import once
from tests.field.watching import Captures, Watch, Watched, usual_taps

pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class Recorded:
    """Everything that was asked in one cluster, as captured and as answered."""

    captures: Captures
    objects: twins.Json
    expected: dict[twins.Way, list[Expected]]

    @property
    def everything(self) -> list[Expected]:
        """All requests."""
        return [entry for entries in self.expected.values() for entry in entries]


CLUSTERS: dict[str, tuple[ProxyMode, tuple[Family, ...], str]] = {
    "iptables": ("iptables", ("ipv4",), "routed"),
    "nftables": ("nftables", ("ipv4",), "routed"),
    "iptables, IPv6": ("iptables", ("ipv4", "ipv6"), "routed"),
    "nftables, VXLAN": ("nftables", ("ipv4",), "vxlan"),
}


def record(name: str, folder: Path) -> Recorded:
    """Start the cluster, ask in every way, capture."""
    mode, families, network = CLUSTERS[name]
    with Lab.start(twins.scenario(families, network), mode) as lab:
        objects = twins.objects(lab)
        twins.settle(lab, objects)
        ways = twins.ways(mode, families[-1])
        with Watch(lab, folder, usual_taps(lab)) as watch:
            answers = twins.send(lab, ways)
    via = "vxlan" if network == "vxlan" else "routed"
    expected = {way: [twins.expectation(way, told, via) for told in answers[way]] for way in ways}
    return Recorded(watch.captures, objects, expected)


Recorder = Callable[[str], Recorded]


@pytest.fixture
def recorded(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Recorder:
    """The recording of one of the clusters."""
    return lambda name: once(tmp_path_factory, worker_id, name, lambda folder: record(name, folder))


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_each_request_is_one_journey_with_the_verdict_of_the_servers_answer(
    recorded: Recorder, cluster: str
) -> None:
    recording = recorded(cluster)
    report = judge(recording.captures, recording.objects)
    assert differences(report, recording.everything) == []
    assert report.exit_code == 3


@pytest.mark.parametrize("service", twins.NODE_PORTS)
def test_a_service_that_is_named_gets_its_own_journeys_alone(recorded: Recorder, service: str) -> None:
    recording = recorded("nftables")
    expected = [
        entry for way, entries in recording.expected.items() if service in way.name for entry in entries
    ]
    report = judge(recording.captures, recording.objects, service=f"default/{service}")
    assert differences(report, expected) == []


@pytest.mark.parametrize("asker", ["client", "pod", "endpoint", "host"])
@pytest.mark.parametrize("cluster", ["iptables", "nftables"])
def test_each_way_alone_is_judged_as_in_the_crowd(
    recorded: Recorder, cluster: str, asker: str, tmp_path: Path
) -> None:
    recording = recorded(cluster)
    ways = {way: expected for way, expected in recording.expected.items() if way.name.startswith(asker)}
    assert ways
    for number, (way, expected) in enumerate(ways.items()):
        times = expected[0].told
        # The kernel's clock of packets is a coarser one: a packet may seem a little older than its request.
        part = recording.captures.between(tmp_path / str(number), times.started - 0.005, times.ended)
        report = judge(part, recording.objects)
        assert differences(report, expected) == [], way.name
        verdicts = {entry.verdict for entry in expected}
        assert report.exit_code == (0 if verdicts == {"preserved"} else 3), way.name


def without_places(captures: Captures) -> Iterator[tuple[str, Captures]]:
    """The captures with the taps and tables of one place missing, and those of one place alone."""
    for place in sorted({tap.node for tap in captures.taps}):
        yield f"without {place}", captures.without(taps=lambda tap, place=place: tap.node == place)
        yield f"only {place}", captures.without(taps=lambda tap, place=place: tap.node != place)


def without_kinds(captures: Captures) -> Iterator[tuple[str, Captures]]:
    """The captures without conntrack, without one kind of tap, and with one kind of tap and nothing else."""
    yield "no conntrack", captures.without(taps=lambda _: False, tables=False)
    for kind in sorted({tap.kind for tap in captures.taps}):

        def same(tap: Watched, kind: str = kind) -> bool:
            return tap.kind == kind

        yield f"without {kind} taps", captures.without(taps=same)
        yield (
            f"only {kind} taps, no conntrack",
            captures.without(taps=lambda tap: not same(tap), tables=False),
        )


Parts = Callable[[Captures], Iterator[tuple[str, Captures]]]


@pytest.mark.parametrize("parts", [without_places, without_kinds])
@pytest.mark.parametrize("cluster", ["iptables", "nftables, VXLAN"])
def test_what_is_missing_makes_a_verdict_inconclusive_and_never_another(
    recorded: Recorder, cluster: str, parts: Parts
) -> None:
    recording = recorded(cluster)
    for name, part in parts(recording.captures):
        report = judge(part, recording.objects)
        assert contradictions(report, recording.everything) == [], name
        assert all(journey.reason for journey in report.journeys), name


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_nothing_false_is_said_without_the_clusters_objects(recorded: Recorder, cluster: str) -> None:
    recording = recorded(cluster)
    report = judge(recording.captures, None)
    assert contradictions(report, recording.everything) == []
