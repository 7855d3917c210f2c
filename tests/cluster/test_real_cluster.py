"""The same against a real Kubernetes, where PROBE_E2E_KUBECONFIG names one and PROBE_E2E_IMAGE an image for it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from probe.cluster import channels
from probe.cluster.cleanup import find
from probe.cluster.client import Api, ApiError
from probe.cluster.resources import NAMESPACES, NODES, PODS, Resource
from probe.manifests.objects import CONTAINER, SESSION_LABEL
from tests.cli.helpers import ended, start
from tests.cluster.running import Running

UNSET = [name for name in ("PROBE_E2E_KUBECONFIG", "PROBE_E2E_IMAGE") if not os.environ.get(name)]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(UNSET), reason=f"needs a real Kubernetes: set {' and '.join(UNSET)}"),
]

NAMESPACE = "probe-e2e"
SERVER_IMAGE = os.environ.get("PROBE_E2E_SERVER_IMAGE", "registry.k8s.io/e2e-test-images/agnhost:2.53")
SERVICES = Resource("v1", "services", "Service")

Json = dict[str, Any]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """A connection of the test's own."""
    with Api.connect(Path(os.environ["PROBE_E2E_KUBECONFIG"])) as api:
        yield api


def eventually(what: Callable[[], bool], within: float) -> bool:
    """Whether something comes true in time; the cluster is asked once a second."""
    until = time.monotonic() + within
    while not (true := what()) and time.monotonic() < until:
        time.sleep(1)
    return true


@pytest.fixture(scope="module")
def service(api: Api) -> Iterator[Json]:
    """A web server of one pod behind a node port, with externalTrafficPolicy Cluster."""
    labels = {"app": "web"}
    container = {"name": "web", "image": SERVER_IMAGE, "args": ["netexec", "--http-port=8080"]}
    metadata = {"name": "web", "namespace": NAMESPACE, "labels": labels}
    api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    try:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
        # The service account that pods need is made a moment after its namespace.
        assert eventually(lambda: _made(api, pod), 30)
        spec = {"type": "NodePort", "selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}
        body = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
        made = api.create(SERVICES, body)
        assert eventually(lambda: api.get(PODS, "web", NAMESPACE)["status"]["phase"] == "Running", 180)
        yield made
    finally:
        api.delete(NAMESPACES, NAMESPACE)


def _made(api: Api, pod: Json) -> bool:
    try:
        api.create(PODS, pod)
    except ApiError as error:
        if "serviceaccount" not in error.message:
            raise
        return False
    return True


def probe(*arguments: str | Path) -> Running:
    """Start a command on the cluster, with the image under test where it captures."""
    image = ("--image", os.environ["PROBE_E2E_IMAGE"]) if arguments[0] == "capture" else ()
    return Running(Path(os.environ["PROBE_E2E_KUBECONFIG"]), *arguments, *image)


def node_addresses(api: Api) -> list[str]:
    """The internal address of each node."""
    addresses = (entry for node in api.find(NODES) for entry in node["status"]["addresses"])
    return [entry["address"] for entry in addresses if entry["type"] == "InternalIP"]


def test_requests_are_judged_and_nothing_stays(api: Api, service: Json, tmp_path: Path) -> None:
    port = service["spec"]["ports"][0]["nodePort"]
    addresses = node_addresses(api)
    running = probe(
        "capture", "-n", NAMESPACE, "svc/web", "--duration", "10s", "--count", "3",
        "--send", f"http://{addresses[0]}:{port}/clientip", "--record", tmp_path / "session", "-o", "json",
    )  # fmt: skip
    ending = running.ending()
    assert ending.code in {0, 3}, ending.err
    report = ending.json
    assert report["capture"]["complete"] is True, report["capture"]["reasons"]
    assert len(report["capture"]["nodes"]) == len(api.find(NODES))
    assert report["summary"]["journeys"] >= 3
    assert find(api) == []
    assert ended(start("analyze", tmp_path / "session", "-o", "json")).json == report


def test_a_killed_capture_is_cleaned_up_later(api: Api, service: Json) -> None:
    running = probe("capture", "-n", NAMESPACE, "svc/web", "--duration", "120s")
    running.until("watching for")
    running.interrupt(signal.SIGKILL)
    running.ending()
    assert find(api)
    assert eventually(lambda: not agents(api), 40), "agents go on although nobody listens"  # promised: 30 s
    assert probe("cleanup").ending().code == 0
    assert find(api) == []


#: Command lines of the processes that share the pod's own mounts; the pod sees all processes of its node.
LOOK = """
import os, pathlib
own = os.readlink("/proc/self/ns/mnt")
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if os.readlink(process / "ns/mnt") == own:
            print((process / "cmdline").read_bytes().replace(bytes(1), b" ").decode())
    except OSError:
        pass
"""


def agents(api: Api) -> list[str]:
    """Agents that run in the pods of sessions."""
    lines: list[str] = []
    for pod in api.find(PODS, labels=SESSION_LABEL):
        metadata = pod["metadata"]
        lines += api.run(output(api, metadata["namespace"], metadata["name"]), within=30).splitlines()
    return [line for line in lines if "daemonset.agent" in line]


async def output(api: Api, namespace: str, pod: str) -> str:
    """What the look into a pod prints."""
    stream = await api.exec(namespace, pod, CONTAINER, ["python3", "-c", LOOK])
    said = b""
    async with asyncio.timeout(20):
        async for message in stream:
            channel, data = channels.unpack(message.data)
            said += data if channel == channels.STDOUT else b""
    return said.decode()
