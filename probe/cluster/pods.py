"""Whether the agents' pods run and, where not, why: judged from pods, nodes and events as the API has them. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from probe.cluster.lister import Json

#: What a container waits for that waiting does not cure (kubelet's and the runtimes' reasons).
_HOPELESS = {
    "ImagePullBackOff": "its image cannot be pulled",
    "InvalidImageName": "its image's name is not valid",
    "ErrImageNeverPull": "its image is not on the node, and may not be pulled",
    "CreateContainerConfigError": "its container cannot be made",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
    "CrashLoopBackOff": "its container ends again and again",
}
_ON_ITS_WAY = {"ErrImagePull": "its image cannot be pulled yet", "ContainerCreating": "it is being made"}
_IMAGE_HINT = "; check --image, and that nodes can reach its registry"
#: How runtimes word that an image, or what is in it, was made for another processor.
_OTHER_PROCESSOR = ("exec format error", "no match for platform", "no matching manifest")
_PROCESSOR_HINT = "; the image is not built for this node's processor: build it for all that the cluster has"
_TEXT = 300


class Stage(enum.Enum):
    """How far a pod is."""

    READY = enum.auto()
    WAITING = enum.auto()  # may still become ready
    HOPELESS = enum.auto()  # will not, as far as one can tell


class PodState(NamedTuple):
    """How far a pod is, and why not further."""

    stage: Stage
    reason: str = ""


def state_of(pod: Json) -> PodState:
    """The state of an agent's pod."""
    status, metadata = _part(pod, "status"), _part(pod, "metadata")
    phase = str(status.get("phase") or "Pending")
    if phase in {"Failed", "Succeeded"}:
        return PodState(Stage.WAITING, f"its pod ended: {fate_of(pod) or phase}")
    if metadata.get("deletionTimestamp"):
        return PodState(Stage.WAITING, "its pod is being deleted")
    for container in _objects(status, "containerStatuses"):
        waiting = _part(_part(container, "state"), "waiting")
        if waiting:
            return _waiting(waiting, container)
    if phase == "Running" and _condition(status, "Ready").get("status") != "False":
        return PodState(Stage.READY)
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return PodState(Stage.WAITING, f"its pod is not scheduled: {_said(scheduled)}")
    return PodState(Stage.WAITING, f"its pod is {phase.lower()}")


def _waiting(waiting: Json, container: Json) -> PodState:
    name, image = str(waiting.get("reason") or ""), str(container.get("image") or "")
    message = _text(waiting.get("message"))
    before = _ended(_part(_part(container, "lastState"), "terminated"))
    told = "".join(f": {text}" for text in (message, before) if text)
    if name in _HOPELESS:
        hint = _IMAGE_HINT if "mage" in name else ""
        hint = _PROCESSOR_HINT if any(words in told for words in _OTHER_PROCESSOR) else hint
        which = f" ({image})" if "mage" in name and image and image not in message else ""
        return PodState(Stage.HOPELESS, f"{_HOPELESS[name]}{which}{told}{hint}")
    return PodState(Stage.WAITING, f"{_ON_ITS_WAY.get(name, name or 'it waits')}{told}")


def _ended(over: Json) -> str:
    """How a container ended before, in words; "" where it did not."""
    if not over:
        return ""
    said = _text(over.get("message"))
    return f"{over.get('reason') or 'unknown'} (exit code {over.get('exitCode')})" + (
        f", {said}" if said else ""
    )


def fate_of(pod: Json) -> str:
    """Why a pod has ended or is about to; "" where it does not say."""
    status = _part(pod, "status")
    if status.get("reason"):
        message = _text(status.get("message"))
        return f"{status['reason']}{': ' + message if message else ''}"
    for container in _objects(status, "containerStatuses"):
        over = _part(_part(container, "state"), "terminated") or _part(
            _part(container, "lastState"), "terminated"
        )
        if over:
            code = over.get("exitCode")
            return f"its container was ended: {over.get('reason') or 'unknown'} (exit code {code})"
    disrupted = _condition(status, "DisruptionTarget")
    if disrupted.get("status") == "True":
        return _said(disrupted)
    return "it is being deleted" if _part(pod, "metadata").get("deletionTimestamp") else ""


def node_of(pod: Json) -> str | None:
    """The node that a pod is for: its own or, while it is not bound, the one that its DaemonSet made it for."""
    spec = _part(pod, "spec")
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    affinity = _part(
        _part(_part(spec, "affinity"), "nodeAffinity"), "requiredDuringSchedulingIgnoredDuringExecution"
    )
    for term in _objects(affinity, "nodeSelectorTerms"):
        for field in _objects(term, "matchFields"):
            values = field.get("values")
            if field.get("key") == "metadata.name" and isinstance(values, list) and values:
                return str(values[0])
    return None


def unfit(node: Json) -> str | None:
    """Why no agent can ever run on a node; None where one can."""
    labels = _part(_part(node, "metadata"), "labels")
    info = _part(_part(node, "status"), "nodeInfo")
    system = str(labels.get("kubernetes.io/os") or info.get("operatingSystem") or "linux")
    if system != "linux":
        return f"it runs {system.capitalize()}; agents run on Linux only"
    if labels.get("type") == "virtual-kubelet" or labels.get("eks.amazonaws.com/compute-type") == "fargate":
        return "it is a virtual node, which runs no DaemonSet"
    return None


def not_ready(node: Json) -> str | None:
    """Why a node counts as not ready; None where it is."""
    ready = _condition(_part(node, "status"), "Ready")
    if not ready or ready.get("status") == "True":
        return None
    return f"the node is not ready: {_said(ready)}"


def complaint_about(events: Iterable[Json], kind: str, name: str) -> str | None:
    """The last warning about an object, from events/v1 or core/v1."""
    last: tuple[str, str] | None = None
    for event in events:
        about = _part(event, "involvedObject") or _part(event, "regarding")
        if event.get("type") != "Warning" or about.get("kind") != kind or about.get("name") != name:
            continue
        when = str(event.get("lastTimestamp") or event.get("eventTime") or "")
        said = _text(event.get("message") or event.get("note"))
        if said and (last is None or when >= last[0]):
            last = (when, said)
    return last[1] if last is not None else None


def refused_by_policy(complaint: str, namespace: str) -> str | None:
    """What to do where Pod Security refused the pods of a DaemonSet; None where it was something else."""
    if "PodSecurity" not in complaint:
        return None
    return (
        f"Pod Security refuses the agents' pods in namespace {namespace}: {complaint}; label the namespace "
        "pod-security.kubernetes.io/enforce=privileged, or ask who runs the cluster to exempt it"
    )


def _part(item: Mapping[str, Any], key: str) -> Json:
    value = item.get(key)
    return value if isinstance(value, dict) else {}


def _objects(item: Mapping[str, Any], key: str) -> Sequence[Json]:
    value = item.get(key)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _condition(status: Json, name: str) -> Json:
    return next((entry for entry in _objects(status, "conditions") if entry.get("type") == name), {})


def _said(condition: Json) -> str:
    return _text(condition.get("message")) or _text(condition.get("reason")) or "it does not say why"


def _text(value: object) -> str:
    text = " ".join(str(value or "").split())
    return text if len(text) <= _TEXT else text[:_TEXT] + "…"
