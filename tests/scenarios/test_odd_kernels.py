"""Kernels that are set otherwise than the lab's: SYN cookies, no timestamps, no bridge netfilter, NAT that gives a port
again at once, answers that take another way, packets that are dropped where no rule of Kubernetes does it.

Truth is what the application answers, or that it never did.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from analysis.facts import Facts
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.report import Severity, Verdict
from probe.errors import UnavailableError
from probe.lab import PIPE, Lab, Scenario, load_scenario
from probe.playing.play import Played, differences, play

pytestmark = pytest.mark.lab

CLIENT = "172.30.0.101"


@dataclass
class Settings:
    """What is done in the lab before the first request (place, command), and what is read there after the last."""

    made: Callable[[Lab], Iterator[tuple[str, str]]]
    asked: tuple[str, str] | None = None
    said: list[str] = field(default_factory=list)

    def begin(self, lab: Lab, facts: Facts) -> None:
        self._lab = lab
        for place, command in self.made(lab):
            process = lab.spawn(place, ["sh", "-ec", command])
            assert process.wait(60) == 0, f"{place}: {command}"

    def end(self) -> OwnChecks:
        if self.asked is not None:
            place, command = self.asked
            process = self._lab.spawn(place, ["sh", "-ec", command], stdout=PIPE)
            assert process.stdout is not None
            with process.stdout:
                self.said.append(process.stdout.read().decode())
            assert process.wait(20) == 0
        return NONE_OWN


def played(scenario: Scenario, settings: Settings | None = None) -> Played:
    try:
        return play(scenario, "iptables", beside=settings, progress=lambda _: None)
    except UnavailableError as error:
        pytest.skip(str(error))


def everywhere(lab: Lab, command: str) -> Iterator[tuple[str, str]]:
    for place in lab.places():
        yield place.name, command
    for pod in lab.plan.pods:
        yield pod.name, command


def asking(name: str, count: int, *, patience: float | None = None) -> Scenario:
    """A scenario whose first clients alone ask, so often; with `patience`, in vain."""
    scenario = load_scenario(name)
    request = msgspec.structs.replace(scenario.requests[0], count=count)
    if patience is not None:
        request = msgspec.structs.replace(request, patience=patience, outcome="timeout")
    return msgspec.structs.replace(scenario, requests=(request,))


@pytest.mark.parametrize("name", ["cluster-remote", "proxy-v2-ok"])
def test_syn_cookies(name: str) -> None:
    """A server that keeps nothing of a SYN: its own first sequence number is a cookie, and its options are fewer."""
    server = next(pod.name for pod in load_scenario(name).pods)
    settings = Settings(
        lambda lab: everywhere(lab, "echo 2 > /proc/sys/net/ipv4/tcp_syncookies"),
        (server, "cat /proc/net/netstat"),
    )
    scene = played(load_scenario(name), settings)
    names, values = (line.split() for line in settings.said[0].splitlines()[:2])
    assert int(dict(zip(names, values, strict=True))["SyncookiesRecv"]) >= 3, "or this test says nothing"
    assert differences(scene) == []


@pytest.mark.parametrize("name", ["cluster-remote", "proxy-v2-ok"])
def test_without_timestamps_hops_are_joined_by_sequence_numbers_alone(name: str) -> None:
    settings = Settings(lambda lab: everywhere(lab, "echo 0 > /proc/sys/net/ipv4/tcp_timestamps"))
    assert differences(played(load_scenario(name), settings)) == []


@pytest.mark.parametrize("name", ["cluster-same-node", "hairpin-lb-ip", "svclb-masquerade"])
def test_without_bridge_netfilter(name: str) -> None:
    scenario = load_scenario(name)
    cluster = msgspec.structs.replace(scenario.cluster, bridge_netfilter=False)
    assert differences(played(msgspec.structs.replace(scenario, cluster=cluster))) == []


def test_nat_that_gives_the_same_port_again_within_a_second() -> None:
    """Two ports for six connections, one after the other: each is told with the address that its server saw."""
    rule = "oifname eth0 tcp dport 8080 masquerade to :40000-40001"
    chain = f"type nat hook postrouting priority 90; {rule};"
    short = "echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait"
    settings = Settings(
        lambda _: iter([("node1", f"{short}; nft 'table ip odd {{ chain post {{ {chain} }}; }}'")])
    )
    scenario = asking("cluster-remote", 6)
    request = msgspec.structs.replace(scenario.requests[0], every=0.6)
    scene = played(msgspec.structs.replace(scenario, requests=(request,)), settings)
    peers = {
        f"{CLIENT}:{a.result.source_port}": f"{a.result.peer}:{a.result.peer_port}" for a in scene.answers
    }
    assert len(peers) == 6
    assert len(set(peers.values())) <= 2, "or this test says nothing"
    told = {f"{j.client.address}:{j.client.port}": j for j in scene.report.journeys if j.client is not None}
    assert {client: journey.verdict for client, journey in told.items()} == dict.fromkeys(peers, Verdict.LOST)
    for client, peer in peers.items():
        # A SYN that meets the port before it is free goes again, and NAT may then give it the other one, and again the
        # first: told is the way on which it was answered.
        assert {hop.source for hop in told[client].hops if hop.point == "pod"} == {peer}
        assert [snat.to for snat in told[client].snat] == [peer]


@pytest.mark.parametrize("name", ["cluster-remote", "local-preserved"])
def test_answers_that_take_another_way_than_questions(name: str) -> None:
    """node1 sends its answers to the client by node3, which has not seen the questions and tracks neither."""
    rule = f"type filter hook prerouting priority -300; ip daddr {CLIENT} notrack;"
    settings = Settings(
        lambda lab: iter([
            ("node3", f"nft 'table ip odd {{ chain pre {{ {rule} }}; }}'"),
            ("node1", f"ip route add {CLIENT}/32 via {_address(lab, 'node3')}"),
        ])
    )  # fmt: skip
    assert differences(played(load_scenario(name), settings)) == []


def _address(lab: Lab, place: str) -> str:
    return next(found.addresses[0] for found in lab.places() if found.name == place)


GREET = "import socket; socket.socket().connect_ex(({!r}, 1))"

DROPS = {
    # The kernel takes such a packet for a forged one: its sender is not where the route to it leads.
    "reverse path filter": f"ip route add {CLIENT}/32 dev cni0; echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter",
}


def dropping(drop: str) -> Settings:
    """The client knows node1 already: a reverse path filter would not let it ask for the address on the link."""
    return Settings(
        lambda lab: iter([
            ("client1", f'{sys.executable} -c "{GREET.format(_address(lab, "node1"))}"'),
            ("node1", DROPS[drop]),
        ])
    )  # fmt: skip


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("name", ["cluster-remote", "local-preserved"])
def test_a_drop_that_no_rule_of_kubernetes_makes_is_nobodys_fault(drop: str, name: str) -> None:
    scene = played(asking(name, 1, patience=2.5), dropping(drop))
    assert [answer.result.outcome for answer in scene.answers] == ["timeout"]
    (journey,) = scene.report.journeys
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert "although nothing calls for a drop there" in (journey.reason or "")
    assert journey.answered is False
    assert [hop.point for hop in journey.hops] == ["client", "nic"]
    assert not journey.snat
    assert journey.findings == ("SIP203",)


#: Records that are put into a table, at most; each takes some 400 bytes of the kernel's memory.
MOST_RECORDS = 1_000_000
TABLE_SIZE = Path("/proc/sys/net/netfilter/nf_conntrack_max")
FILLER = Path(__file__).with_name("table_filler.py")


@pytest.fixture
def table_size() -> int:
    """How many connections a node's table may hold: as many in each namespace."""
    size = int(TABLE_SIZE.read_text()) if TABLE_SIZE.exists() else 0
    if not 0 < size <= MOST_RECORDS:
        pytest.skip(f"a table of {size:,} connections is not filled here" if size else "no conntrack here")
    return size


def filled(records: str) -> Settings:
    """node1's table is filled, and asked in the end: the kernel's file has a line for each CPU, in hexadecimal."""
    return Settings(
        lambda _: iter([("node1", f"{sys.executable} {FILLER} {records}")]),
        ("node1", "cat /proc/net/stat/nf_conntrack"),
    )


class KernelsOwn(NamedTuple):
    """What the kernel's file says: records, dropped packets, evicted records."""

    entries: int
    dropped: int
    evicted: int

    @classmethod
    def read(cls, said: str) -> KernelsOwn:
        names, *cpus = (line.split() for line in said.splitlines())
        rows = [dict(zip(names, (int(value, 16) for value in cpu), strict=True)) for cpu in cpus]
        return cls(
            rows[0]["entries"], sum(row["drop"] for row in rows), sum(row["early_drop"] for row in rows)
        )


@pytest.mark.parametrize("name", ["cluster-remote", "local-preserved"])
def test_a_full_table_of_connections_is_told_as_what_it_is(name: str, table_size: int) -> None:
    settings = filled("assured")
    scene = played(asking(name, 1, patience=2.5), settings)
    assert [answer.result.outcome for answer in scene.answers] == ["timeout"]
    entries, dropped, evicted = KernelsOwn.read(settings.said[0])
    assert (entries, evicted) == (table_size, 0)
    assert dropped >= 2, "the client's SYN and another; or this test says nothing"

    counts = dict(scene.session.recording.conntrack_counts)
    told = counts.pop("node1")
    assert (told.entries, told.maximum, told.maximum_before) == (table_size,) * 3
    assert told.entries_before < table_size, "it was filled while we watched"
    assert dropped <= told.drop <= dropped + 10, "the kernel may have dropped more since the tool was asked"
    assert told.early_drop == told.insert_failed == 0
    assert not any(other.drop or other.early_drop for other in counts.values())
    assert not scene.session.recording.gaps

    (journey,) = scene.report.journeys
    assert journey.verdict is Verdict.INCONCLUSIVE, "the counters do not say which packets were dropped"
    assert (journey.reason or "").endswith(
        f"although nothing calls for a drop there; the node's kernel dropped {told.drop} packets in the capture, "
        f"and its table of connections was full ({table_size:,} of {table_size:,})"
    )
    assert journey.answered is False
    assert [hop.point for hop in journey.hops] == ["client", "nic"]
    assert not journey.snat
    assert journey.findings == ("SIP203",)
    (finding,) = [finding for finding in scene.report.findings if finding.code in {"SIP426", "SIP427"}]
    assert (finding.code, finding.severity) == ("SIP426", Severity.ERROR)
    assert [line.split(" and evicted")[0] for line in finding.evidence] == [
        f"node1: conntrack dropped {told.drop} packets"
    ]


@pytest.mark.parametrize("name", ["cluster-remote", "local-preserved"])
def test_a_full_table_that_gives_way_is_a_warning(name: str, table_size: int) -> None:
    """Its records are evicted for the client's, which is answered, and judged as on any other day."""
    scenario = msgspec.structs.replace(asking(name, 2), findings=("SIP427",))
    for _ in range(3):
        settings = filled("evictable")
        scene = played(scenario, settings)
        entries, dropped, evicted = KernelsOwn.read(settings.said[0])
        assert dropped == 0
        if evicted:
            break
        # When a packet was dropped in another namespace, the kernel makes room by itself, in all of them.
        assert entries < table_size
    else:
        pytest.skip("the kernel made room before anybody asked")
    assert differences(scene) == []
    told = dict(scene.session.recording.conntrack_counts)["node1"]
    assert evicted <= told.early_drop <= evicted + 100, "more may have been evicted since the tool was asked"
    assert told.drop == 0
    (finding,) = [finding for finding in scene.report.findings if finding.code in {"SIP426", "SIP427"}]
    assert (finding.code, finding.severity) == ("SIP427", Severity.WARNING)
    assert f"evicted {told.early_drop} records" in finding.evidence[0]
