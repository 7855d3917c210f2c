"""What happens to pods: the DaemonSet controller makes them, the scheduler binds them, kubelets run them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine
from typing import Any

from tests.cluster.double.faults import Faults
from tests.cluster.double.store import Json, Kind, Store

NODES: Kind = ("v1", "nodes")
PODS: Kind = ("v1", "pods")
EVENTS: Kind = ("v1", "events")
NAMESPACES: Kind = ("v1", "namespaces")
DAEMON_SETS: Kind = ("apps/v1", "daemonsets")

IMAGE_MESSAGE = 'Back-off pulling image "{image}": ErrImagePull: failed to resolve reference: not found'
POLICY_MESSAGE = (
    'Error creating: pods "{name}-" is forbidden: violates PodSecurity "restricted:latest": '
    "host namespaces (hostNetwork=true, hostPID=true), allowPrivilegeEscalation != false"
)
TAINT_MESSAGE = "0/{count} nodes are available: 1 Insufficient memory. preemption: not eligible"


class Nodes:
    """All controllers and kubelets."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self.store = store
        self.faults = faults
        self._tasks: set[asyncio.Task[Any]] = set()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ── the DaemonSet controller ─────────────────────────────────────────────────────────────────────────────

    def daemon_set_created(self, daemons: Json) -> None:
        self.later(self._run_daemons(daemons))

    async def _run_daemons(self, daemons: Json) -> None:
        await asyncio.sleep(0.01)
        metadata, template = daemons["metadata"], daemons["spec"]["template"]
        if self._refused(metadata["namespace"]):
            message = POLICY_MESSAGE.format(name=metadata["name"])
            self.event(metadata["namespace"], "DaemonSet", metadata["name"], "FailedCreate", message)
            return
        for node in self.store.all(NODES):
            name = node["metadata"]["name"]
            if not _fits(node, template["spec"]) or self.faults.pods.get(name) == "no-pod":
                continue
            pod = self._make(daemons, template, name)
            self.later(self._run_pod(pod, name))

    # ── pods of their own ────────────────────────────────────────────────────────────────────────────────────

    def refusal_of(self, pod: Json) -> str | None:
        """What admission says against a pod that somebody makes; pods for the node's network are what it looks at."""
        metadata = pod["metadata"]
        if not (pod["spec"].get("hostNetwork") and self._refused(metadata["namespace"])):
            return None
        return POLICY_MESSAGE.removeprefix("Error creating: ").format(name=metadata["name"])

    def pod_created(self, pod: Json) -> None:
        """The kubelet of the node that it names starts it; where there is no such node, nobody does."""
        pod["status"] = {"phase": "Pending", "conditions": []}
        node = pod["spec"].get("nodeName", "")
        if self.store.find(NODES, "", node) is not None:
            self.later(self._run_pod(pod, node))

    def _refused(self, namespace: str) -> bool:
        body = self.store.find(NAMESPACES, "", namespace) or {"metadata": {}}
        labels = body["metadata"].get("labels") or {}
        level = labels.get("pod-security.kubernetes.io/enforce", self.faults.pod_security)
        return self.faults.strict_policy or level not in {"", "privileged"}

    def _make(self, daemons: Json, template: Json, node: str) -> Json:
        metadata = daemons["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **copy.deepcopy(template["metadata"]),
                "name": f"{metadata['name']}-{node}"[-63:].strip("-"),
                "namespace": metadata["namespace"],
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "DaemonSet",
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": copy.deepcopy(template["spec"]),
            "status": {"phase": "Pending", "conditions": []},
        }
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        body["spec"]["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        }
        return self.store.create(PODS, body)

    # ── the scheduler and the kubelet ────────────────────────────────────────────────────────────────────────

    async def _run_pod(self, pod: Json, node: str) -> None:
        fault = self.faults.pods.get(node, "")
        await asyncio.sleep(0.02)
        if fault == "unschedulable":
            message = TAINT_MESSAGE.format(count=len(self.store.all(NODES)))
            self._condition(pod, "PodScheduled", "False", "Unschedulable", message)
            self.store.changed_object(PODS, pod)
            return
        pod["spec"]["nodeName"] = node
        self._condition(pod, "PodScheduled", "True")
        self.store.changed_object(PODS, pod)
        if fault == "not-ready":
            return  # nobody there who would start it
        self._state(pod, {"waiting": {"reason": "ContainerCreating"}})
        await asyncio.sleep(0.02)
        image = pod["spec"]["containers"][0]["image"]
        if fault == "image":
            self._state(pod, {"waiting": {"reason": "ErrImagePull", "message": "rpc error: not found"}})
            await asyncio.sleep(0.02)
            message = IMAGE_MESSAGE.format(image=image)
            self._state(pod, {"waiting": {"reason": "ImagePullBackOff", "message": message}})
            return
        if fault == "crash":
            self._state(
                pod, {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}}
            )
            return
        self.run(pod)

    def run(self, pod: Json) -> None:
        """The container runs."""
        pod["status"]["phase"] = "Running"
        self._condition(pod, "Ready", "True")
        self._state(pod, {"running": {"startedAt": "2026-01-01T00:00:00Z"}})

    def evict(self, pod: Json, message: str) -> None:
        """The kubelet ends a pod for want of something, and the controller takes it away."""
        pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": message}
        self.store.changed_object(PODS, pod)

    def _condition(self, pod: Json, name: str, status: str, reason: str = "", message: str = "") -> None:
        conditions = [entry for entry in pod["status"]["conditions"] if entry["type"] != name]
        entry = {"type": name, "status": status}
        entry |= {"reason": reason} if reason else {}
        entry |= {"message": message} if message else {}
        pod["status"]["conditions"] = [*conditions, entry]

    def _state(self, pod: Json, state: Json) -> None:
        container = pod["spec"]["containers"][0]
        pod["status"]["containerStatuses"] = [
            {
                "name": container["name"],
                "image": container["image"],
                "ready": "running" in state,
                "restartCount": 0,
                "state": state,
            }
        ]
        self.store.changed_object(PODS, pod)

    def event(self, namespace: str, kind: str, name: str, reason: str, message: str) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.{self.store.version}", "namespace": namespace},
            "involvedObject": {"kind": kind, "name": name, "namespace": namespace},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "lastTimestamp": "2026-01-01T00:00:00Z",
        }
        self.store.create(EVENTS, body)

    # ── deletion ─────────────────────────────────────────────────────────────────────────────────────────────

    def delete(self, kind: Kind, body: Json) -> None:
        """Begin to delete: pods and namespaces take their time, the garbage collector follows for what they own."""
        if kind in {PODS, NAMESPACES}:
            if "deletionTimestamp" not in body["metadata"]:
                body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:30Z"
                if kind == NAMESPACES:
                    body["status"] = {"phase": "Terminating"}
                self.store.changed_object(kind, body)
                self.later(self._finish(kind, body))
            return
        self.store.remove(kind, body)
        self.later(self._collect(body["metadata"]["uid"]))

    async def _collect(self, owner: str) -> None:
        """Background deletion: what is owned goes after its owner."""
        await asyncio.sleep(0.01)
        for kind, body in self.store.everything():
            owners = body["metadata"].get("ownerReferences") or []
            if any(each["uid"] == owner for each in owners):
                self.delete(kind, body)

    async def _finish(self, kind: Kind, body: Json) -> None:
        await asyncio.sleep(self.faults.finalizing)
        if kind == NAMESPACES:
            if self.faults.stuck:
                message = "Some resources are remaining: pods. has 1 resource instances"
                body["status"]["conditions"] = [
                    {"type": "NamespaceContentRemaining", "status": "True", "message": message}
                ]
                self.store.changed_object(kind, body)
                return
            name = body["metadata"]["name"]
            while contents := list(self.store.in_namespace(name)):
                for its_kind, each in contents:
                    self.delete(its_kind, each)
                await asyncio.sleep(0.02)
        self.store.remove(kind, body)


def _fits(node: Json, spec: Json) -> bool:
    """nodeSelector and the affinity by metadata.name; every taint is tolerated."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms")
    return terms is None or any(
        node["metadata"]["name"] in field["values"] for term in terms for field in term.get("matchFields", [])
    )
