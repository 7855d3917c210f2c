"""`probe health svc/NAME` on a cluster: command → API → exec stream → the asking process on each node → judgement."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from daemonset.node.health_port import Answered
from daemonset.observation import HealthAnswer
from tests.cluster.agents import Json, nodes, web_service
from tests.cluster.conftest import Stage
from tests.cluster.double import Double, Faults
from tests.cluster.double.double import namespaces
from tests.cluster.double.execution import Command, ScriptedCommand

PORT = 32100
SLICES = ("discovery.k8s.io/v1", "endpointslices")


def codes(report: Json) -> set[str]:
    return {finding["code"] for finding in report["findings"]}


def replies(report: Json, node: str, port: int = PORT) -> dict[str, Json]:
    (told,) = [each for each in report["asking"]["nodes"] if each["node"] == node]
    return {each["askedFrom"]: each for each in told["replies"] if each["port"] == port}


def standing(report: Json) -> dict[str, str]:
    return {each["node"]: each["standing"] for each in report["asking"]["nodes"]}


# ── with real processes in the lab's nodes ───────────────────────────────────────────────────────────────


@pytest.mark.lab
def test_nodes_ask_themselves_and_each_other(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("hc-ok")  # one endpoint, on node2
    ending = stage.start("health", "svc/web", "-o", "json").ending()
    assert ending.code == 0, ending.err
    report = ending.json
    assert codes(report) == {"SIP618"}
    for node, status, count in (("node1", 503, 0), ("node2", 200, 1), ("node3", 503, 0)):
        for side in ("itself", "peer"):
            said = replies(report, node)[side]
            assert (said["status"], said["localEndpoints"], said["weight"]) == (status, count, count)
            assert said["service"] == "default/web"
            assert replies(report, node, 10256)[side]["status"] == 200
        assert replies(report, node)["peer"]["asker"] not in {node, ""}
        assert "operator" in replies(report, node), "whether reachable from here or not, it is said"
    assert stage.double.left() == [], "something is left on the cluster"


@pytest.mark.lab
@pytest.mark.parametrize(
    ("scenario", "found"),
    [
        ("hc-lies", "SIP601"),
        ("hc-never", "SIP602"),
        ("hc-failing", "SIP603"),
        ("hc-body-only", "SIP608"),
    ],
)
def test_a_port_that_lies_is_found(lab_stage: Callable[[str], Stage], scenario: str, found: str) -> None:
    stage = lab_stage(scenario)
    ending = stage.start("health", "svc/web", "--settle", "500ms", "-o", "json").ending()
    assert ending.code == 3, ending.err
    assert codes(ending.json) == {found}
    assert standing(ending.json)["node1"] == "wrong"
    assert standing(ending.json)["node2"] == "as it must be"
    assert stage.double.left() == []


@pytest.mark.lab
def test_under_policy_cluster_nodes_own_health_is_asked(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("cluster-remote")
    stage.double.call(lambda: doom(stage.double, "node3"))
    ending = stage.start("health", "svc/web", "--settle", "500ms", "-o", "json").ending()
    # The lab's kube-proxy knows nothing of taints: it goes on saying that node3 is well.
    assert codes(ending.json) == {"SIP614"}
    assert {each["port"] for node in ending.json["asking"]["nodes"] for each in node["replies"]} == {10256}


def doom(double: Double, node: str) -> None:
    body = double.store.get(("v1", "nodes"), "", node)
    body["spec"]["taints"] = [{"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}]
    double.store.changed_object(("v1", "nodes"), body)


@pytest.mark.lab
def test_single_pods_ask_where_no_daemonset_may_be(lab_stage: Callable[[str], Stage]) -> None:
    stage = lab_stage("hc-ok")
    stage.faults.forbidden = {
        ("create", "daemonsets"),
        ("create", "namespaces"),
        ("create", "serviceaccounts"),
    }
    ending = stage.start(
        "health", "svc/web", "--debug-node", "node1", "--debug-node", "node2", "-o", "json"
    ).ending()
    assert ending.code == 0, ending.err
    assert standing(ending.json) == {"node1": "as it must be", "node2": "as it must be"}
    assert replies(ending.json, "node1")["peer"]["asker"] == "node2"
    assert stage.double.left() == []


# ── with scripts in their place ──────────────────────────────────────────────────────────────────────────


def local_service() -> list[Json]:
    """Policy Local; the endpoint is on node1."""
    pod, service, slice_ = web_service()
    service["spec"] |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": PORT}
    return [pod, service, slice_]


class Ports:
    """Plays the asking process on every node: who asks whom, and what comes back. A test puts its own into `play`."""

    def __init__(self) -> None:
        self.has = {"node1": 1, "node2": 0, "node3": 0}
        self.addresses = {f"192.0.2.{10 + n}": f"node{n}" for n in (1, 2, 3)}
        self.before: Callable[[str], None] = lambda _asker: None
        self.output: Callable[[str, list[str]], bytes | int] = self.honest
        self.asked: list[str] = []

    async def start(self, node: str, command: Sequence[str]) -> Command:
        targets = [word for word in command if "/" in word]

        async def play(asker: str, running: ScriptedCommand) -> int:
            self.asked.append(asker)
            self.before(asker)
            said = self.output(asker, targets)
            if isinstance(said, int):
                running.errors = b""
                return said
            running.put(said)
            return 0

        return ScriptedCommand(node, play)

    def honest(self, _asker: str, targets: list[str]) -> bytes:
        return b"".join(self.line(number, target) for number, target in enumerate(targets))

    def line(self, number: int, target: str, *, status: int | None = None) -> bytes:
        where, _, path = target.partition("/")
        count = self.has[self.addresses[where.rpartition(":")[0]]]
        own = path == ""
        answer = Answered(
            number,
            1,
            "answered",
            status=status or (200 if count or not own else 503),
            said=HealthAnswer(count, True, "default/web", count) if own else None,
            eligible=None if own else True,
        )
        return msgspec.json.encode(answer) + b"\n"


@pytest.fixture
def ports() -> Ports:
    return Ports()


@pytest.fixture
def asked_stage(tmp_path: Path, ports: Ports) -> Iterator[Stage]:
    objects = [*namespaces("default", "kube-system"), *nodes("node1", "node2", "node3"), *local_service()]
    with Double(objects, ports, Faults()) as double:
        stage = Stage(double, tmp_path)
        try:
            yield stage
        finally:
            stage.close()


def ask(stage: Stage, *more: str) -> tuple[int, Json, str]:
    ending = stage.start("health", "svc/web", "--settle", "10ms", "-o", "json", *more).ending()
    return ending.code, json.loads(ending.out) if ending.out else {}, ending.err


def test_a_node_without_an_agent_is_asked_by_its_peer(asked_stage: Stage) -> None:
    asked_stage.faults.pods["node2"] = "unschedulable"
    code, report, _ = ask(asked_stage)
    own = replies(report, "node2")["itself"]
    assert own["outcome"] == "not asked"
    assert "Insufficient memory" in own["reason"]
    assert replies(report, "node2")["peer"]["status"] == 503
    assert standing(report)["node2"] == "as it must be"
    assert code == 0


def test_a_node_that_nobody_reaches_is_not_called_wrong(asked_stage: Stage, ports: Ports) -> None:
    asked_stage.faults.pods["node2"] = "unschedulable"

    def silent(_asker: str, targets: list[str]) -> bytes:
        lines = []
        for number, target in enumerate(targets):
            dead = msgspec.json.encode(Answered(number, 1, "no answer")) + b"\n"
            lines.append(dead if "192.0.2.12:" in target else ports.line(number, target))
        return b"".join(lines)

    ports.output = silent
    code, report, _ = ask(asked_stage)
    assert code == 4
    assert codes(report) == set()
    assert standing(report) == {"node1": "as it must be", "node2": "not judged", "node3": "as it must be"}


@pytest.mark.parametrize(
    ("forbidden", "words"),
    [
        (("create", "daemonsets"), "you may not create daemonsets"),
        (("get", "pods/exec"), "no agent could ask: you may not get and create pods/exec"),
        (("list", "services"), "you may not list services"),
        (("list", "nodes"), "you may not list nodes"),
    ],
)
def test_what_is_forbidden_is_said_in_one_line(
    asked_stage: Stage, forbidden: tuple[str, str], words: str
) -> None:
    asked_stage.faults.forbidden.add(forbidden)
    code, _, err = ask(asked_stage)
    assert code == 5
    assert words in err.splitlines()[-1]
    assert "client-ip-probe-may-" in err.splitlines()[-1], "the role that would allow it"
    assert asked_stage.double.left() == []


def test_without_slices_answers_are_shown_and_not_judged(asked_stage: Stage) -> None:
    asked_stage.faults.forbidden.add(("list", "endpointslices"))
    code, report, err = ask(asked_stage)
    assert code == 4
    assert replies(report, "node1")["itself"]["status"] == 200
    assert set(standing(report).values()) == {"not judged"}
    assert any("EndpointSlices" in reason for reason in report["asking"]["reasons"])
    assert "you may not list endpointslices" in err


def test_an_agent_that_is_killed_while_it_asks(asked_stage: Stage, ports: Ports) -> None:
    ports.output = lambda asker, targets: 137 if asker == "node2" else ports.honest(asker, targets)
    code, report, _ = ask(asked_stage)
    own = replies(report, "node2")["itself"]
    assert (own["outcome"], own["reason"]) == ("not asked", "it ended with code 137, killed")
    assert codes(report) <= {"SIP618"}
    assert standing(report)["node2"] == "as it must be", "its peer was answered"
    assert code == 0


def test_an_agent_that_is_killed_between_two_answers_keeps_the_first(asked_stage: Stage) -> None:
    asked_stage.faults.drop_after["node1"] = 300
    code, report, _ = ask(asked_stage)
    outcomes = [
        each for node in report["asking"]["nodes"] for each in node["replies"] if each["asker"] == "node1"
    ]
    assert any(each["outcome"] == "not asked" for each in outcomes)
    assert all("lost" in each["reason"] for each in outcomes if each["outcome"] == "not asked")
    assert codes(report) <= {"SIP618"}
    assert code in {0, 4}


def test_an_endpoint_that_goes_between_asking_and_reading_is_no_alarm(
    asked_stage: Stage, ports: Ports
) -> None:
    """Nodes answer by what was; the API server tells what is."""

    def goes(_asker: str) -> None:
        (body,) = asked_stage.double.store.all(SLICES)
        if body["endpoints"]:
            body["endpoints"] = []
            asked_stage.double.store.changed_object(SLICES, body)

    ports.before = goes
    code, report, _ = ask(asked_stage)
    assert code == 4
    assert codes(report) == set()
    assert standing(report) == {
        "node1": "changed meanwhile",
        "node2": "as it must be",
        "node3": "as it must be",
    }


def test_a_node_that_was_late_and_then_right_is_right(asked_stage: Stage, ports: Ports) -> None:
    def late(asker: str, targets: list[str]) -> bytes:
        first = len(ports.asked) <= 3
        return b"".join(
            ports.line(
                number, target, status=503 if first and target.startswith("192.0.2.11:32100") else None
            )
            for number, target in enumerate(targets)
        )

    ports.output = late
    code, report, err = ask(asked_stage)
    assert (code, codes(report)) == (0, {"SIP618"})
    assert report["asking"]["rounds"] == 2
    assert "asking again" in err


HOSTILE = {
    "no lines": b"\xff\xfe\x00garbage",
    "another program": b"<html>\n" * 1000,
    "more than can be": b"x" * (3 << 20),
    "targets that nobody named": b'{"target":99,"time":1,"outcome":"answered"}\n' * 3,
    "numbers that are none": b'{"target":-1,"time":1e99,"outcome":"answered","status":true}\n',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_junk_from_an_agents_pod_is_no_answer(asked_stage: Stage, ports: Ports, what: str) -> None:
    ports.output = lambda asker, targets: HOSTILE[what] if asker == "node2" else ports.honest(asker, targets)
    code, report, _ = ask(asked_stage)
    assert replies(report, "node2")["itself"]["outcome"] == "not asked"
    assert code in {0, 4}
    assert codes(report) <= {"SIP618"}


def test_what_a_port_says_cannot_speak_to_a_terminal(asked_stage: Stage, ports: Ports) -> None:
    evil = '{"target":0,"time":1,"outcome":"answered","status":418,"start":"HTTP/1.1 418 \\u001b[2J\\u202e\\n× all"}\n'
    ports.output = lambda _asker, _targets: evil.encode()
    ending = asked_stage.start("health", "svc/web", "--settle", "10ms", "-o", "wide").ending()
    assert ending.code == 3
    assert "SIP616" in ending.out
    assert "\x1b" not in ending.out
    assert "\u202e" not in ending.out
    assert not any(line.startswith("× all") for line in ending.out.splitlines())


def test_a_port_is_asked_where_kube_proxy_serves_it(asked_stage: Stage) -> None:
    """nodePortAddresses may leave out every address that is known of a node."""
    lines = [
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1",
        "kind: KubeProxyConfiguration",
        "mode: iptables",
        'nodePortAddresses: ["198.51.100.0/24"]',
    ]
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
        "data": {"config.conf": "\n".join(lines) + "\n"},
    }
    asked_stage.double.call(lambda: asked_stage.double.store.create(("v1", "configmaps"), body))
    code, report, _ = ask(asked_stage)
    assert code == 4
    assert codes(report) == set(), "that it is not served elsewhere is right"
    own = replies(report, "node1")["itself"]
    assert (own["outcome"], "198.51.100.0/24" in own["reason"]) == ("not asked", True)
    assert replies(report, "node1", 10256)["itself"]["status"] == 200


def test_from_here_places_nothing(asked_stage: Stage, ports: Ports) -> None:
    asked_stage.faults.forbidden |= {("create", "namespaces"), ("create", "daemonsets"), ("get", "pods/exec")}
    ending = asked_stage.start(
        "health", "svc/web", "--from-here", "--node", "node1", "--settle", "10ms", "-o", "json"
    ).ending()
    assert ending.code == 4, "192.0.2.0/24 is for documentation: nobody of the cluster answers there"
    assert ports.asked == []
    assert not any(verb == "create" for verb, _ in asked_stage.double.server.requests)
    assert replies(ending.json, "node1")["itself"]["reason"] == "no agents were wanted (--from-here)"


def test_an_interruption_takes_everything_away(asked_stage: Stage, ports: Ports) -> None:
    ports.output = lambda _asker, targets: b"".join(
        ports.line(number, target, status=404) for number, target in enumerate(targets)
    )
    running = asked_stage.start("health", "svc/web", "--settle", "600s")
    running.until("asking again in")
    running.interrupt()
    assert running.ending().code == 130
    assert asked_stage.double.left() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("svc/web", "--tap", "nic:a/b=c"), "leave them out"),
        (("--lab", "hc-ok", "-n", "shop"), "knows no cluster"),
        (("svc/web", "--settle", "soon"), "no duration"),
        (("pod/web",), "svc/NAME"),
    ],
)
def test_what_cannot_be_meant(asked_stage: Stage, arguments: tuple[str, ...], words: str) -> None:
    ending = asked_stage.start("health", *arguments).ending()
    assert ending.code == 2
    assert words in " ".join(ending.err.split())


@pytest.mark.parametrize("more", [(), ("--from-here",)])
def test_what_was_asked_can_be_judged_again(
    asked_stage: Stage, ports: Ports, more: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "session"
    now = asked_stage.start(
        "health", "svc/web", *more, "--settle", "0.1s", "--record", folder, "-o", "json"
    ).ending()
    later = asked_stage.start_plain("health", folder, "-o", "json")
    assert later.json == now.json
    assert (later.code, later.err) == (now.code, "")
    assert f"kept in {folder}" in now.err
