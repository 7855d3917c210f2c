"""What an installation places on a cluster, as plain Kubernetes objects.

The one source is `daemonset/manifests`: files that people can read, and apply as they stand. A session, `probe
manifests`, the kustomize base and the Helm chart (`probe.manifests.chart`) all come from them; this file sets in what
installations differ. It talks to no cluster.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

import daemonset
from probe import __version__
from probe.errors import UsageError

Object = dict[str, Any]

NAME = "client-ip-probe"
NAMESPACE = "client-ip-probe"
CONTAINER = "agent"
IMAGE = f"client-ip-probe:{__version__}"

#: On everything that a session or an installation places.
PROBE_LABELS: Mapping[str, str] = {
    "app.kubernetes.io/name": NAME,
    "app.kubernetes.io/managed-by": "probe",
}

#: Its value is the session's id. What a standing installation places does not have it.
SESSION_LABEL = "client-ip-probe/session"

#: The roles' names; errors name them where a permission is missing.
MAY_LOOK = "client-ip-probe-may-look"
MAY_INSTALL = "client-ip-probe-may-install"

#: Where kube-proxy and most CNIs keep their configuration.
CONFIG_NAMESPACES = ("kube-system",)

#: The newest release that the manifests are checked against; an older one can be named.
KUBERNETES = (1, 36)

SOURCE = Path(daemonset.__file__).parent / "manifests"

_OLDEST = (1, 27)
_APPARMOR_FIELD_SINCE = (1, 30)
_APPARMOR_ANNOTATION = f"container.apparmor.security.beta.kubernetes.io/{CONTAINER}"
_OPENSHIFT_TYPE = "spc_t"  # SELinux: a container that may look at others

# Names and labels as the API server checks them (RFC 1123; pkg/util/validation of apimachinery).
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_SESSION = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,511}")
_SELINUX_TYPE = re.compile(r"[A-Za-z0-9_.]{1,63}")

#: What these take, in words.
_WORDS = {
    _DNS_LABEL: "lower-case letters, digits and - between them, 63 at most",
    _DNS_NAME: "lower-case letters, digits, and - and . between them, 253 at most",
    _SESSION: "lower-case letters, digits and - between them, 32 at most",
    _IMAGE: "a name as REGISTRY/client-ip-probe:0.1.0, 512 characters at most",
    _SELINUX_TYPE: "letters, digits, _ and ., 63 at most",
}


def session_name(session: str | None) -> str:
    """What a session's objects are called, and the namespace that it makes where none is given."""
    return NAME if session is None else f"{NAME}-{session}"


def labels(session: str | None) -> dict[str, str]:
    """The labels of everything that a session places; of a standing installation for None."""
    return dict(PROBE_LABELS) if session is None else {**PROBE_LABELS, SESSION_LABEL: session}


def installation(
    session: str | None = None,
    *,
    namespace: str | None = None,
    create_namespace: bool = True,
    image: str = IMAGE,
    image_pull_policy: str = "IfNotPresent",
    image_pull_secrets: Sequence[str] = (),
    node_selector: Mapping[str, str] | None = None,
    nodes: Sequence[str] = (),
    privileged: bool = False,
    openshift: bool = False,
    selinux_type: str | None = None,
    priority_class: str | None = None,
    annotations: Mapping[str, str] | None = None,
    kubernetes: tuple[int, int] = KUBERNETES,
) -> list[Object]:
    """The objects of a session's installation (None: a standing one), in order of creation.

    They are: Namespace, on OpenShift SecurityContextConstraints, ServiceAccount, DaemonSet. `nodes` limits the
    agents to these; `annotations` are put on every object. `kubernetes` is the server's version: before 1.30
    AppArmor is named in an annotation. Raises UsageError for what the API server would refuse.
    """
    _check("session", session, _SESSION)
    name = session_name(session)
    namespace = name if namespace is None else namespace
    _check("namespace", namespace, _DNS_LABEL)
    objects = {kind: _read(f"base/{kind}") for kind in ("namespace", "serviceaccount", "daemonset")}
    if openshift:
        objects["scc"] = _read("openshift/scc")
        _for_openshift(objects, namespace, name, privileged=privileged)
    pods = objects["daemonset"]["spec"]["template"]
    _place(pods["spec"], node_selector or {}, nodes)
    _set_image(pods["spec"], image, image_pull_policy, image_pull_secrets)
    _secure(pods, privileged=privileged, kubernetes=kubernetes)
    _set_selinux_type(pods["spec"], selinux_type or (_OPENSHIFT_TYPE if openshift else None))
    pods["spec"]["serviceAccountName"] = name
    if priority_class is not None:
        _check("priority class", priority_class, _DNS_NAME)
        pods["spec"]["priorityClassName"] = priority_class
    for item in objects.values():
        _name(item, name, namespace, session, annotations or {})
    if not create_namespace:
        del objects["namespace"]
    return [objects[kind] for kind in ("namespace", "scc", "serviceaccount", "daemonset") if kind in objects]


def debug_pod(
    session: str,
    node: str,
    *,
    namespace: str,
    image: str = IMAGE,
    seconds: int = 3600,
    image_pull_policy: str = "IfNotPresent",
    image_pull_secrets: Sequence[str] = (),
    privileged: bool = False,
    selinux_type: str | None = None,
    kubernetes: tuple[int, int] = KUBERNETES,
) -> Object:
    """One pod on one node in an existing namespace, for who may create no DaemonSet; it ends after `seconds`.

    It has the rights of the DaemonSet's pods, so the namespace must allow these. Raises UsageError as
    `installation` does.
    """
    *_, daemons = installation(
        session,
        namespace=namespace,
        image=image,
        image_pull_policy=image_pull_policy,
        image_pull_secrets=image_pull_secrets,
        privileged=privileged,
        selinux_type=selinux_type,
        kubernetes=kubernetes,
    )
    _check("node's name", node, _DNS_NAME)
    template = daemons["spec"]["template"]
    # The scheduler is not asked: the kubelet of that node starts it, or says why not.
    changes = {"restartPolicy": "Never", "nodeName": node, "activeDeadlineSeconds": seconds}
    spec = {**template["spec"], **changes}
    del spec["serviceAccountName"], spec["nodeSelector"]
    digest = hashlib.sha256(node.encode()).hexdigest()[:8]  # a node's name may be longer than a pod's may
    metadata = {"name": f"{session_name(session)}-{digest}", "namespace": namespace, **template["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def roles(config_namespaces: Sequence[str] = CONFIG_NAMESPACES, *, openshift: bool = False) -> list[Object]:
    """The two roles, "may look" and "may install", without bindings.

    ConfigMaps may be read in `config_namespaces` alone: kube-proxy's, the CNI's and the controller's. With
    `openshift`, who may install may make SecurityContextConstraints: that is as much as being its administrator.
    """
    for namespace in config_namespaces:
        _check("namespace", namespace, _DNS_LABEL)
    configs = []
    for namespace in dict.fromkeys(config_namespaces):
        config = _read("roles/may-look-config")
        config["metadata"]["namespace"] = namespace
        configs.append(config)
    install = _read("roles/may-install")
    if openshift:
        install["rules"].append(_read("openshift/rule"))
    return [_read("roles/may-look"), *configs, install]


def _read(name: str) -> Object:
    return msgspec.yaml.decode((SOURCE / f"{name}.yaml").read_bytes(), type=Object)


def _check(what: str, value: str | None, pattern: re.Pattern[str]) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise UsageError(f"{value!a} cannot be a {what}; give {_WORDS[pattern]}")


def _name(
    item: Object, name: str, namespace: str, session: str | None, annotations: Mapping[str, str]
) -> None:
    """Name and label one object as this session's."""
    metadata = item["metadata"]
    metadata["labels"].update(labels(session))
    if annotations:
        metadata["annotations"] = {**metadata.get("annotations", {}), **annotations}
    if item["kind"] == "Namespace":
        metadata["name"] = namespace
        return
    metadata["name"] = name
    if "namespace" in metadata:
        metadata["namespace"] = namespace
    if item["kind"] == "DaemonSet":
        item["spec"]["template"]["metadata"]["labels"].update(labels(session))
        if session is not None:  # two sessions may share a namespace
            item["spec"]["selector"]["matchLabels"][SESSION_LABEL] = session


def _place(pod: Object, node_selector: Mapping[str, str], nodes: Sequence[str]) -> None:
    """On which nodes the agents run: those with these labels, and of them only those that are named."""
    for key, value in node_selector.items():
        if not (_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value)):
            raise UsageError(f"{key + '=' + value!a} cannot be a node's label; give KEY=VALUE")
        if pod["nodeSelector"].get(key, value) != value:
            raise UsageError(
                f"agents run on nodes with {key}={pod['nodeSelector'][key]} only; leave {key!a} out"
            )
    pod["nodeSelector"].update(node_selector)
    for node in nodes:
        _check("node's name", node, _DNS_NAME)
    if nodes:
        # A term takes one name; terms are alternatives. Labels may differ from the node's name, this does not.
        terms = [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]} for node in nodes
        ]
        pod["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        }


def _set_image(pod: Object, image: str, policy: str, secrets: Sequence[str]) -> None:
    _check("container image", image, _IMAGE)
    if policy not in {"Always", "IfNotPresent", "Never"}:
        raise UsageError(f"{policy!a} is no pull policy; give Always, IfNotPresent or Never")
    (container,) = pod["containers"]
    container["image"], container["imagePullPolicy"] = image, policy
    for secret in secrets:
        _check("secret's name", secret, _DNS_NAME)
    if secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in secrets]


def _secure(template: Object, *, privileged: bool, kubernetes: tuple[int, int]) -> None:
    """The container's rights: four capabilities, or all where nodes allow no less."""
    if kubernetes < _OLDEST:
        raise UsageError(
            f"Kubernetes {kubernetes[0]}.{kubernetes[1]} is too old; 1.27 is the oldest that is known"
        )
    (container,) = template["spec"]["containers"]
    security = container["securityContext"]
    if privileged:
        security["privileged"] = True
        # A privileged container has every right, whatever else is said; "no escalation" beside it is refused.
        for key in ("allowPrivilegeEscalation", "capabilities", "seccompProfile", "appArmorProfile"):
            del security[key]
    elif kubernetes < _APPARMOR_FIELD_SINCE:
        del security["appArmorProfile"]
        template["metadata"]["annotations"][_APPARMOR_ANNOTATION] = "unconfined"


def _set_selinux_type(pod: Object, selinux_type: str | None) -> None:
    _check("SELinux type", selinux_type, _SELINUX_TYPE)
    if selinux_type is not None:
        (container,) = pod["containers"]
        container["securityContext"]["seLinuxOptions"] = {"type": selinux_type}


def _for_openshift(objects: dict[str, Object], namespace: str, name: str, *, privileged: bool) -> None:
    constraints, metadata = objects["scc"], objects["namespace"]["metadata"]
    constraints["users"] = [f"system:serviceaccount:{namespace}:{name}"]
    if privileged:
        constraints.update(
            allowPrivilegedContainer=True,
            allowPrivilegeEscalation=True,
            allowedCapabilities=["*"],
            seccompProfiles=["*"],
        )
    # All nodes, not only those of the cluster's default selector; and our Pod Security labels stay ours.
    metadata["annotations"] = {"openshift.io/node-selector": ""}
    metadata["labels"]["security.openshift.io/scc.podSecurityLabelSync"] = "false"
