"""Every finding can happen: for each code of the catalogue, a story that leads to it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import msgspec
import pytest

from analysis.analyze import analyze
from analysis.catalogue.findings import CATALOGUE
from analysis.checks.catalogue import BY_CODE as CHECKS
from analysis.facts import Facts, Pod
from analysis.report import Report
from daemonset.observation import RuleCounts, TcpFlag, Tracing
from tests.analysis import test_full_tables as full_tables
from tests.analysis.rule_stories import MARK, MASQUERADE, Said, with_counts, with_rules, with_tracing
from tests.analysis.story import NODES, PODS, Story, cluster
from tests.analysis.test_chain import CHAIN_STORIES, application_in_doubt, misconfigured
from tests.analysis.test_proxies_in_a_row import named_by_the_edge
from tests.analysis.test_stories import (
    BEHIND,
    CLIENT,
    HTTP,
    LB,
    LOCAL,
    MASQUERADED,
    N2,
    NODE_PORT,
    POD,
    REMOTE,
    C,
    v1,
)
from tests.health.balanced import HEALTH_STORIES
from tests.health.replied import ASKED_STORIES

MASKED = [("nic:node2/eth0", C, f"{N2}:30080"), ("pod:node2/web", "10.244.2.1:61000", POD)]
TOOL = "10.244.1.9:41000"


def asked(dst: str, src: str = TOOL, seen: str = TOOL) -> list[tuple[str, str, str]]:
    return [("pod:node1/tool", src, dst), ("nic:node1/eth0", seen, POD), ("pod:node2/web", seen, POD)]


def silent(facts: Facts, to: str = NODE_PORT) -> Report:
    story = Story(facts).watch("bridge:node1/cni0")
    for attempt in range(3):
        story.syn([("nic:node1/eth0", C, to)], isn=7_000, tsval=1_000 + attempt * 1_000).wait(1)
    return story.report()


def rejected(facts: Facts) -> Report:
    story = Story(facts).watch("bridge:node1/cni0").syn([("nic:node1/eth0", C, NODE_PORT)], isn=7_000)
    return story.packet(
        "nic:node1/eth0", C, NODE_PORT, seq=7_000, icmp=3 << 8 | 3, sender=NODES["node1"]
    ).report()


def refused_by_endpoint() -> Report:
    story = Story(cluster("Local")).syn(LOCAL, isn=7_000)
    for tap, src, dst in reversed(LOCAL):
        story.packet(tap, dst, src, flags=TcpFlag.RST | TcpFlag.ACK, ack=7_001)
    return story.report()


def ranged(policy: str = "Cluster") -> Facts:
    facts = cluster(policy, vip="192.0.2.10")
    service = msgspec.structs.replace(facts.services[0], source_ranges=("198.51.100.0/24",))
    return msgspec.structs.replace(facts, services=(service,))


def l4_balancer() -> Report:
    path = [("client:c/eth0", C, f"{LB}:80"), ("lb:lb/eth0", C, f"{LB}:80")]
    path.append(("lb:lb/eth0", f"{LB}:40000", f"{N2}:30080"))
    path += [(tap, src.replace(C, f"{LB}:40000"), dst) for tap, src, dst in LOCAL]
    return Story(cluster("Local", balancer=LB)).connection(path).report()


def svclb() -> Report:
    facts = cluster("Cluster")
    facts = msgspec.structs.replace(
        facts, pods=(*facts.pods, Pod("kube-system", "svclb-web-1", "node1", ("10.244.1.7",)))
    )
    path = [("nic:node1/eth0", C, NODE_PORT), ("nic:node1/eth0", "10.244.1.7:40000", POD)]
    return Story(facts).connection([*path, ("pod:node2/web", "10.244.1.7:40000", POD)]).report()


def node_local() -> Report:
    path = [("nic:node1/eth0", MASQUERADED, POD), ("pod:node2/web", MASQUERADED, POD)]
    story = Story(cluster("Local")).connection(path)
    return story.conntrack("node1", ("127.0.0.1:50000", "127.0.0.1:30080"), (MASQUERADED, POD)).report()


def unnamed() -> Report:
    path = [("client:c/eth0", C, f"{N2}:30080"), ("pod:node2/web", "10.9.9.9:61000", POD)]
    return Story(Facts(known=False)).connection(path).report()


def dropped() -> Report:
    story = Story(cluster("Local")).connection(LOCAL)
    recording = story.recording()
    return analyze(dataclasses.replace(recording, losses=((recording.taps[0], 100, 7),)), story.facts)


def cut_off() -> Report:
    story = Story(cluster("Local")).connection(LOCAL)
    recording = story.recording()
    streams = (dataclasses.replace(recording.streams[0], truncated="cut after 9 packets"),)
    return analyze(dataclasses.replace(recording, streams=streams), story.facts)


def by_a_rule(policy: str, *said: Said) -> Report:
    return with_rules(Story(cluster(policy)).connection(REMOTE), "node1", (C, POD), *said)


def stopped_by_a_rule() -> Report:
    story = Story(cluster()).syn([("nic:node1/eth0", C, NODE_PORT)], isn=7_000)
    return with_rules(story, "node1", (C, NODE_PORT), Said("ip filter INPUT", "drop"))


def disagreeing() -> Report:
    story = Story(cluster()).connection(REMOTE)
    return story.conntrack("node1", (C, NODE_PORT), (f"{NODES['node1']}:1234", POD)).report()


def two_with_one_number() -> Report:
    second = [
        (tap, src.replace(C, "198.51.100.7:1").replace("61000", "61001"), dst) for tap, src, dst in REMOTE
    ]
    return Story(cluster()).connection(REMOTE, tsval=0).connection(second, tsval=0).report()


def draining() -> Report:
    return Story(cluster("Local", ready=False)).connection(LOCAL).report()


def header(data: bytes, response: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Report:
    return Story(cluster("Local", balancer=LB)).connection(BEHIND, data=data, response=response).report()


def disbelieving(named: str = LB) -> Report:
    """The ingress on node2 asks its application, and names somebody else."""
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND, data=v1(C) + HTTP, response=b"")
    request = HTTP.replace(b"\r\n\r\n", f"\r\nX-Real-IP: {named}\r\n\r\n".encode())
    onward = [("pod:node2/web", f"{PODS['node2']}:33000", "10.244.3.7:8000")]
    story.connection(onward, isn=50, tsval=50, data=request)
    for tap, src, dst in reversed(BEHIND):
        story.packet(
            tap, dst, src, flags=TcpFlag.PSH | TcpFlag.ACK, seq=(7_000 ^ 0x5555_5555) + 1, tsecr=1_000,
            payload=b"HTTP/1.1 200 OK\r\n\r\n",
        )  # fmt: skip
    return story.report()


def test_a_server_that_names_the_client_believes_the_header() -> None:
    [journey] = disbelieving(CLIENT).journeys
    assert (journey.verdict, journey.confidence) == ("preserved", "medium")
    [journey] = disbelieving().journeys
    assert (journey.verdict, journey.seen_by_app) == ("lost", LB)


def from_stranger(*, watched: bool) -> Report:
    path = [(tap, src.replace(LB, "198.51.100.66"), dst) for tap, src, dst in BEHIND]
    if watched:
        path.insert(0, ("client:c/eth0", "198.51.100.66:50000", f"{N2}:30080"))
    return Story(cluster("Local")).connection(path, data=v1(C) + HTTP).report()


STORIES: dict[str, Callable[[], Report]] = {
    "SIP101": lambda: Story(cluster()).connection(REMOTE).report(),
    "SIP102": lambda: Story(cluster("Local")).connection(MASKED).report(),
    "SIP103": l4_balancer,
    "SIP104": lambda: Story(cluster("Local", balancer=LB)).connection(BEHIND).report(),
    "SIP105": svclb,
    "SIP106": lambda: Story(cluster("Local", masquerade_all=True)).connection(MASKED).report(),
    "SIP107": lambda: (
        Story(cluster(cluster_cidrs=("10.200.0.0/16",)))
        .connection(asked("10.96.0.80:80", seen=MASQUERADED))
        .report()
    ),
    "SIP108": lambda: (
        Story(cluster("Local", external_ip="192.0.2.80", proxy_mode="ipvs"))
        .connection([("nic:node2/eth0", C, "192.0.2.80:80"), ("pod:node2/web", "10.244.2.1:61000", POD)])
        .report()
    ),
    "SIP109": lambda: (
        Story(cluster())
        .connection(
            [
                ("pod:node2/web", f"{PODS['node2']}:41000", "10.96.0.80:80"),
                ("bridge:node2/cni0", f"{PODS['node2']}:41000", "10.96.0.80:80"),
                ("pod:node2/web", "10.244.2.1:61000", POD),
            ]
        )
        .report()
    ),
    "SIP110": node_local,
    "SIP111": unnamed,
    "SIP201": lambda: silent(cluster("Local")),
    "SIP202": lambda: rejected(cluster(endpoints=())),
    "SIP203": lambda: silent(cluster("Cluster")),
    "SIP204": refused_by_endpoint,
    "SIP205": lambda: silent(ranged(), "192.0.2.10:80"),
    "SIP206": lambda: rejected(cluster()),
    "SIP301": lambda: header(v1(C) + HTTP),
    "SIP302": lambda: header(v1(C) + HTTP, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "SIP303": lambda: header(b"PROXY TCP4 999.1.1.1 10.0.0.1 1 2\r\n" + HTTP),
    "SIP304": lambda: from_stranger(watched=False),
    "SIP305": lambda: from_stranger(watched=True),
    "SIP306": disbelieving,
    "SIP401": lambda: Story(cluster()).connection(REMOTE).report(),
    "SIP402": lambda: Story(cluster("Local", vip="192.0.2.10")).connection(asked("192.0.2.10:80")).report(),
    "SIP403": lambda: Story(cluster("Cluster")).connection(LOCAL).report(),
    "SIP404": draining,
    "SIP432": lambda: Story(cluster("Local")).connection(REMOTE).report(),
    "SIP421": lambda: by_a_rule("Cluster", Said("ip nat POSTROUTING", "masquerade")),
    "SIP422": stopped_by_a_rule,
    "SIP423": lambda: with_tracing(Story(cluster()).connection(REMOTE), Tracing(refused="others trace")),
    "SIP425": lambda: with_counts(
        Story(cluster()).connection(REMOTE), RuleCounts(tables=("ip nat",), rivals=("ip filter",))
    ),
    "SIP426": lambda: full_tables.told(full_tables.silent(), full_tables.FULL),
    "SIP427": lambda: full_tables.told(full_tables.silent(), full_tables.EVICTING),
    "SIP424": lambda: by_a_rule("Local", MARK, MASQUERADE),
    "SIP901": dropped,
    "SIP902": lambda: Story(cluster()).connection(REMOTE).report(),
    "SIP903": cut_off,
    "SIP904": disagreeing,
    "SIP905": two_with_one_number,
    "SIP501": application_in_doubt,
    "SIP507": misconfigured,
    "SIP509": misconfigured,
    **HEALTH_STORIES,
    **ASKED_STORIES,
    **{code: lambda told=told: told().report() for code, told in CHAIN_STORIES.items()},  # type: ignore[misc]
    "SIP316": lambda: named_by_the_edge().report(),
}


#: For each code one whose story is near, and must not lead to it.
NEAR = {
    "SIP101": "SIP403", "SIP102": "SIP101", "SIP103": "SIP104", "SIP104": "SIP301", "SIP105": "SIP101",
    "SIP106": "SIP102", "SIP107": "SIP402", "SIP108": "SIP102", "SIP109": "SIP107", "SIP110": "SIP101",
    "SIP111": "SIP102", "SIP201": "SIP203", "SIP202": "SIP206", "SIP203": "SIP201", "SIP204": "SIP206",
    "SIP205": "SIP201", "SIP206": "SIP202", "SIP301": "SIP302", "SIP302": "SIP301", "SIP303": "SIP301",
    "SIP304": "SIP305", "SIP305": "SIP304", "SIP306": "SIP301", "SIP307": "SIP302", "SIP308": "SIP302",
    "SIP309": "SIP302", "SIP310": "SIP301", "SIP311": "SIP301", "SIP312": "SIP301", "SIP313": "SIP301",
    "SIP314": "SIP301", "SIP315": "SIP301", "SIP316": "SIP311", "SIP401": "SIP404", "SIP402": "SIP107",
    "SIP403": "SIP101", "SIP404": "SIP403", "SIP421": "SIP101", "SIP422": "SIP203", "SIP423": "SIP424",
    "SIP424": "SIP101", "SIP425": "SIP423", "SIP426": "SIP427", "SIP427": "SIP426", "SIP431": "SIP502",
    "SIP432": "SIP101", "SIP501": "SIP505", "SIP502": "SIP503", "SIP503": "SIP502", "SIP504": "SIP506",
    "SIP505": "SIP502", "SIP506": "SIP505", "SIP507": "SIP502", "SIP508": "SIP505", "SIP509": "SIP502",
    "SIP601": "SIP609", "SIP602": "SIP609", "SIP603": "SIP609", "SIP604": "SIP609", "SIP605": "SIP604",
    "SIP606": "SIP607", "SIP607": "SIP609", "SIP608": "SIP609", "SIP609": "SIP601", "SIP610": "SIP607",
    "SIP611": "SIP612", "SIP612": "SIP611", "SIP613": "SIP618", "SIP614": "SIP617", "SIP615": "SIP613",
    "SIP616": "SIP612", "SIP617": "SIP614", "SIP618": "SIP612", "SIP901": "SIP903", "SIP902": "SIP111",
    "SIP903": "SIP901", "SIP904": "SIP101", "SIP905": "SIP101",
}  # fmt: skip


def test_every_code_has_its_story_and_one_nearby() -> None:
    # Those of `probe check` have theirs in tests/checks.
    assert set(STORIES) | set(CHECKS) == set(CATALOGUE)
    assert set(NEAR) == set(STORIES)


@pytest.mark.parametrize("code", sorted(STORIES))
def test_what_is_near_does_not(code: str) -> None:
    assert NEAR[code] != code
    assert code not in {finding.code for finding in STORIES[NEAR[code]]().findings}


@pytest.mark.parametrize("code", sorted(STORIES))
def test_the_story_leads_to_the_finding(code: str) -> None:
    report = STORIES[code]()
    assert code in {finding.code for finding in report.findings}, [
        (journey.verdict, journey.reason, journey.findings) for journey in report.journeys
    ]


@pytest.mark.parametrize("definition", CATALOGUE.values(), ids=lambda definition: definition.code)
def test_a_definition_is_whole(definition: object) -> None:
    from analysis.catalogue.findings import Definition

    assert isinstance(definition, Definition)
    assert re.fullmatch(r"SIP\d{3}", definition.code)
    assert definition.title
    assert not definition.title.endswith(".")
    assert definition.explanation.endswith(".")
    assert definition.fix.endswith(".")
