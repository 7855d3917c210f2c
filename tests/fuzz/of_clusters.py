"""Readers of what a cluster says: objects as anybody may store them, and answers of an API server of whatever kind."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from analysis.facts import Facts
from probe.cluster.answers import page_of, parse_json
from probe.cluster.applications import read_application
from probe.cluster.client import refusal_of
from probe.cluster.command_lines import (
    LONGEST,
    UnknownCommandError,
    command_line,
    flags_of,
    plain_command,
    program_arguments,
)
from probe.cluster.pods import complaint_about, fate_of, node_of, not_ready, state_of, unfit
from probe.cluster.reading import Reading
from probe.cluster.resources import NODES, PODS
from probe.errors import ProbeError
from probe.objects import ObjectsError, facts_from_objects
from tests.checks.manifests import Manifests, seed
from tests.cluster_facts.cluster import Cluster, app, configmap, kube_proxy, node, pod
from tests.cluster_facts.test_odd_objects import EDGE, SHOP, hold
from tests.fuzz.odd import MOST_ORDERS, Base
from tests.fuzz.reader import Reader, one_line


def objects(data: bytes, size: int) -> None:
    """What Kubernetes says, or a file that is called so."""
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    problems: list[str] | None = [] if size & 1 else None
    try:
        facts = facts_from_objects(document, problems)
    except ObjectsError as error:
        one_line(error)
        return
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts
    assert all(each.isprintable() for each in problems or ())


_SHOP, _EDGE, _SEED = Base(SHOP), Base(EDGE), Base(seed().items)
_POD = Base([SHOP[0], *app("web", "10.244.1.9"), {
    "kind": "Pod", "metadata": {"name": "agent", "deletionTimestamp": None},
    "spec": {"nodeName": "n", "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "values": ["n"]}]}]}}}},
    "status": {
        "phase": "Running", "reason": "Evicted", "message": "m",
        "conditions": [{"type": "Ready", "status": "False", "reason": "r", "message": "m"},
                       {"type": "PodScheduled", "status": "False", "reason": "r", "message": "m"}],
        "containerStatuses": [
            {"image": "i", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "m"}},
             "lastState": {"terminated": {"exitCode": 1, "reason": "OOMKilled", "message": "m"}}}],
    },
}, {
    "kind": "Event", "message": "forbidden: violates PodSecurity", "reason": "FailedCreate", "type": "Warning",
    "involvedObject": {"kind": "Pod", "name": "agent"}, "lastTimestamp": "2026-01-01T00:00:00Z",
    "metadata": {"name": "e", "creationTimestamp": "2026-01-01T00:00:00Z"},
}])  # fmt: skip


def odd_clusters(data: bytes, size: int) -> None:
    """Whatever stands in the objects of a cluster, what is captured is known or there is one line."""
    if size & 1:
        hold(_SHOP.changed(data), "ingress/shop")
    else:
        hold(_EDGE.changed(data), "gateway/edge")


def odd_manifests(data: bytes, size: int) -> None:
    """Whatever stands in manifests, they are checked or there is one line."""
    changed = Manifests([])
    changed.items = [each for each in _SEED.changed(data) if _named(each)]
    try:
        report = changed.report() if size & 1 else changed.report("svc/web", "default")
    except ProbeError as error:
        one_line(error)
        return
    for result in report.results:
        assert result.detail.isprintable(), result
        assert len(result.detail) < 4096
    assert all(each.isprintable() and len(each) < 2000 for each in report.remarks)
    assert msgspec.json.encode(report)


def _named(item: Any) -> bool:
    """What the reading of files lets through (`probe.checking.documents`)."""
    metadata = item.get("metadata") if isinstance(item, dict) else None
    named = isinstance(metadata, dict) and isinstance(metadata.get("name"), str)
    return named and isinstance(item.get("kind"), str) and bool(item["kind"])


def pods_and_nodes(data: bytes, size: int) -> None:
    """What is told of agents' pods, of nodes, and of events about them."""
    machine, *others = _POD.changed(data)
    told = [complaint_about([each for each in others if isinstance(each, dict)], "Pod", "agent")]
    for each in others:
        if isinstance(each, dict):
            told += [state_of(each).reason, fate_of(each), node_of(each)]
    if isinstance(machine, dict):
        told += [unfit(machine), not_ready(machine)]
    assert all(each is None or isinstance(each, str) for each in told)
    assert size < 256


def pod_commands(data: bytes, size: int) -> None:
    """Command lines of containers, each line an argument: what they run, their flags, whom an application believes."""
    words = data.decode("utf-8", "replace").split("\n")[:64]
    container = {
        "name": "c",
        "command": words[: size & 3],
        "args": words[size & 3 :],
        "env": [{"name": "A", "value": words[-1]}, {"name": "FORWARDED_ALLOW_IPS", "value": words[0]}],
    }
    filled = command_line(container)
    assert all(len(word) <= LONGEST for word in filled)
    arguments = program_arguments(container, "kube-proxy", "uvicorn")
    assert arguments is None or len(flags_of(arguments)) <= len(data) + 8
    with suppress(UnknownCommandError):
        plain_command(container)
    reading = Reading(Cluster(()), "d")
    read_application(reading, [pod("a-1", "10.244.1.9", "a", "d", container=container)])
    assert all(remark.isprintable() for remark in reading.remarks)


def told_settings(data: bytes, size: int) -> None:
    """Texts within objects: kube-proxy's configuration, what k3s notes, Cilium's values."""
    written = data.decode("utf-8", "replace")
    told = (
        [kube_proxy(written)],
        [node(annotations={"k3s.io/node-args": written, "k3s.io/node-env": written})],
        [configmap("cilium-config", {"kube-proxy-replacement": written, "routing-mode": written})],
    )[size % 3]
    problems: list[str] = []
    facts = facts_from_objects(told, problems)
    assert all(each.isprintable() and len(each) < 2000 for each in problems)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts


def api_answers(data: bytes, size: int) -> None:
    """JSON of an API server, or of what answers in its place: pages, refusals."""
    answer = parse_json(data)
    page = page_of(answer, PODS)
    assert all("kind" in item for item in page.items)
    said = refusal_of(answer, (400, 401, 403, 404, 409, 410, 500, 503)[size & 7], ("list", NODES, None))
    assert "\n" not in str(said)  # and escaped where it is shown
    assert len(str(said)) < 4096


READERS = (
    Reader(objects, 60, longest=1024),
    Reader(odd_clusters, 20, longest=MOST_ORDERS),
    Reader(odd_manifests, 10, longest=MOST_ORDERS),
    Reader(pods_and_nodes, 80, longest=MOST_ORDERS),
    Reader(pod_commands, 130, longest=1024),
    Reader(told_settings, 40, longest=512),
    Reader(api_answers, 90, longest=1024),
)
