"""Who forwards Services on the nodes, and how: kube-proxy, an eBPF datapath, a distribution's own; and which CNI.

Each answer comes with the source that it rests on. Sources, strongest first: what a datapath's own configuration
says (cilium-config, Calico's FelixConfiguration and Installation), the command line of the running kube-proxy pods
or of their DaemonSet (`--config` makes kube-proxy pass over the flags beside it), the ConfigMap that they mount, and
the arguments that k3s and RKE2 write on their nodes. What contradicts itself is told, not decided.

Field names: kube-proxy `pkg/proxy/apis/config`, k8s.io/kube-proxy/config/v1alpha1; cilium `install/kubernetes` and
`pkg/option`; projectcalico/api v3 FelixConfiguration, tigera operator.tigera.io/v1 Installation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from analysis.facts import LocalDetection
from probe.cluster.command_lines import Flags, command_line, flags_of, program_arguments
from probe.cluster.fields import (
    Json,
    ObjectsError,
    annotations_of,
    document,
    entries,
    key_of,
    labels,
    name_of,
    namespace_of,
    objects,
    shown,
    table,
    text,
)
from probe.cluster.fields import field as read

#: ConfigMaps that hold kube-proxy's configuration: kubeadm's and its kin, and EKS'.
PROXY_CONFIGMAPS = ("kube-proxy", "kube-proxy-config")

#: What kube-proxy does without a mode on Linux (pkg/proxy/apis/config, platformApplyDefaults).
DEFAULT_MODE = "iptables"
DEFAULT_DETECTION = "ClusterCIDR"

_KINDS = ("Node", "Pod", "DaemonSet", "ConfigMap", "Installation", "FelixConfiguration")
_TEMPLATE = "spec.template.spec.containers"

_MODES = frozenset({"iptables", "nftables", "ipvs"})
_DETECTIONS = frozenset({"ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"})

#: How the pods of a CNI's agents are labelled, and its name. The first that is found counts.
CNI_LABELS = (
    ("k8s-app", "cilium", "cilium"),
    ("k8s-app", "canal", "canal"),
    ("k8s-app", "calico-node", "calico"),
    ("k8s-app", "kube-flannel", "flannel"),
    ("k8s-app", "flannel", "flannel"),
    ("app", "flannel", "flannel"),
    ("k8s-app", "kindnet", "kindnet"),
    ("app", "kindnet", "kindnet"),
    ("app", "antrea", "antrea"),
    ("app", "ovnkube-node", "ovn-kubernetes"),
    ("k8s-app", "kube-router", "kube-router"),
    ("name", "weave-net", "weave"),
    ("k8s-app", "aws-node", "aws-vpc-cni"),
    ("k8s-app", "azure-cns", "azure-cni"),
)


@dataclass(slots=True)
class Forwarding:
    """What is known of it. Fields are those of `analysis.facts.Facts`; `remarks` are for people."""

    proxy_mode: str = ""
    cluster_cidrs: tuple[str, ...] = ()
    masquerade_all: bool = False
    local_detection: LocalDetection = LocalDetection()  # noqa: RUF009 - a frozen value
    node_port_addresses: tuple[str, ...] = ()
    mode: str = ""
    datapath: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read_forwarding(by_kind: Mapping[str, Sequence[Json]]) -> Forwarding:
    """What the objects say. Never raises: what cannot be read becomes a remark."""
    found = Forwarding()
    readable = {kind: [item for item in by_kind.get(kind, ()) if _readable(item)] for kind in _KINDS}
    readers = (_cni, _cilium, _calico, _proxy_pods, _proxy_configmap, _node_arguments)
    for reader in readers:
        try:
            reader(found, readable)
        except ObjectsError as error:
            found.remarks.append(f"left out: {error}")
    return found


def _readable(item: Json) -> bool:
    """Whether what every reader looks at is of its type, so that one odd object does not hide the others."""
    try:
        labels(item), annotations_of(item), namespace_of(item), table(item, "data")
        read(item, "spec.hostNetwork", bool, False)
        read(item, "spec.bpfEnabled", bool, False)
        text(item, "status.nodeInfo.kubeletVersion")
        for container in (*objects(item, "spec.containers"), *objects(item, _TEMPLATE)):
            command_line(container)
    except ObjectsError:
        return False
    return True


# ── the CNI ──────────────────────────────────────────────────────────────────────────────────────────────


def _cni(found: Forwarding, by_kind: Mapping[str, Sequence[Json]]) -> None:
    seen: dict[str, str] = {}
    for pod in by_kind.get("Pod", ()):
        if read(pod, "spec.hostNetwork", bool, False) is not True:
            continue
        known = labels(pod)
        for label, value, name in CNI_LABELS:
            if known.get(label) == value:
                seen.setdefault(name, key_of(pod))
    for _, _, name in CNI_LABELS:
        if name in seen:
            found.datapath = name
            found.sources["datapath"] = f"pod {seen[name]}"
            break
    if found.datapath == "cilium" and name_of_anetd(seen["cilium"]):
        found.datapath = "gke-dataplane-v2"
    if not found.datapath:
        _flannel_by_nodes(found, by_kind)


def name_of_anetd(pod: str) -> bool:
    """Whether the agent is GKE's own build of Cilium, which its nodes call anetd."""
    return pod.rpartition("/")[2].startswith("anetd")


def _flannel_by_nodes(found: Forwarding, by_kind: Mapping[str, Sequence[Json]]) -> None:
    """k3s runs flannel in its own process; only the nodes' annotations show it."""
    for node in by_kind.get("Node", ()):
        if backend := annotations_of(node).get("flannel.alpha.coreos.com/backend-type"):
            found.datapath = "flannel"
            found.sources["datapath"] = f"annotation of node {name_of(node)}: flannel {backend[:40]}"
            return


# ── eBPF ─────────────────────────────────────────────────────────────────────────────────────────────────


def _cilium(found: Forwarding, by_kind: Mapping[str, Sequence[Json]]) -> None:
    for item in by_kind.get("ConfigMap", ()):
        if name_of(item) != "cilium-config":
            continue
        data, source = table(item, "data"), f"ConfigMap {key_of(item)}"
        replacement = data.get("kube-proxy-replacement", "").lower()
        # "strict" was the word for it until 1.13; "partial" then left each part to a setting of its own.
        whole = replacement in {"true", "strict"}
        partly = replacement in {"partial", "probe"} and data.get("enable-node-port", "").lower() == "true"
        if not found.datapath:
            found.datapath, found.sources["datapath"] = "cilium", source
        if whole or partly:
            found.proxy_mode = "ebpf"
            found.sources["proxyMode"] = f"{source}: kube-proxy-replacement {replacement}"
            found.mode = data.get("bpf-lb-mode", "snat").lower()[:16]
            found.sources["forwardingMode"] = f"{source}: bpf-lb-mode"
        if data.get("bpf-lb-mode-annotation", "").lower() == "true":
            found.remarks.append(
                f"{source}: Services may choose between snat and dsr by annotation (bpf-lb-mode-annotation)"
            )
        return


def _calico(found: Forwarding, by_kind: Mapping[str, Sequence[Json]]) -> None:
    for item in by_kind.get("Installation", ()):
        plane = text(item, "spec.calicoNetwork.linuxDataplane")
        if plane == "BPF" and not found.proxy_mode:
            found.proxy_mode = "ebpf"
            found.sources["proxyMode"] = f"Installation {name_of(item)}: linuxDataplane BPF"
            found.mode = "snat"
    for item in by_kind.get("FelixConfiguration", ()):
        if name_of(item) != "default" or read(item, "spec.bpfEnabled", bool, False) is not True:
            continue
        if found.proxy_mode != "ebpf":
            found.proxy_mode = "ebpf"
            found.sources["proxyMode"] = "FelixConfiguration default: bpfEnabled"
        found.mode = "dsr" if text(item, "spec.bpfExternalServiceMode").lower() == "dsr" else "snat"
        found.sources["forwardingMode"] = "FelixConfiguration default: bpfExternalServiceMode"


# ── kube-proxy ───────────────────────────────────────────────────────────────────────────────────────────


def _proxy_pods(found: Forwarding, by_kind: Mapping[str, Sequence[Json]]) -> None:
    """kube-proxy's own flags, where no file takes their place."""
    if found.proxy_mode:
        return
    told: dict[tuple[object, ...], tuple[Forwarding, str]] = {}
    for item in (*by_kind.get("Pod", ()), *by_kind.get("DaemonSet", ())):
        flags = proxy_flags(item)
        if flags is None or "config" in flags or flags.get("proxy-mode") == "kernelspace":
            continue
        one = Forwarding()
        _apply_flags(one, flags)
        told.setdefault(_summary(one), (one, shown(item)))
    if not told:
        return
    if len(told) > 1:
        where = " and ".join(source for _, source in list(told.values())[:2])
        found.remarks.append(f"kube-proxy is not started alike on all nodes: see {where}")
        return
    one, source = next(iter(told.values()))
    _take(found, one, f"command line of {source}")


def proxy_flags(item: Json) -> Flags | None:
    """The flags of kube-proxy in a pod or DaemonSet; None where it runs no kube-proxy."""
    template = _TEMPLATE if item.get("kind") == "DaemonSet" else "spec.containers"
    if not (name_of(item).startswith("kube-proxy") or "kube-proxy" in labels(item).values()):
        return None
    for container in objects(item, template):
        arguments = program_arguments(container, "kube-proxy")
        if arguments is not None:
            return flags_of(arguments)
    return None


def _apply_flags(one: Forwarding, flags: Flags) -> None:
    _set_mode(one, flags.get("proxy-mode", ""))
    one.cluster_cidrs = _split(flags.get("cluster-cidr", ""))
    one.masquerade_all = flags.get("masquerade-all", "false").lower() == "true"
    one.node_port_addresses = _split(flags.get("nodeport-addresses", ""))
    _set_detection(
        one,
        flags.get("detect-local-mode", ""),
        flags.get("pod-bridge-interface", ""),
        flags.get("pod-interface-name-prefix", ""),
    )


def _proxy_configmap(found: Forwarding, by_kind: Mapping[str, Sequence[Json]]) -> None:
    if found.proxy_mode:
        return
    for item in by_kind.get("ConfigMap", ()):
        if name_of(item) not in PROXY_CONFIGMAPS:
            continue
        for key, written in table(item, "data").items():
            if "kubeconfig" in key:
                continue
            config = document(written)
            if config.get("kind", "KubeProxyConfiguration") != "KubeProxyConfiguration" or not config:
                continue
            one = Forwarding()
            _apply_config(one, {**config, "kind": "KubeProxyConfiguration"})
            # The namespace is left out where it is the usual one.
            where = name_of(item) if namespace_of(item) == "kube-system" else key_of(item)
            _take(found, one, f"ConfigMap {where}")
            return
        found.remarks.append(
            f"ConfigMap {key_of(item)} holds no configuration of kube-proxy that can be read"
        )


def _apply_config(one: Forwarding, config: Json) -> None:
    mode = text(config, "mode")
    _set_mode(one, mode)
    one.cluster_cidrs = _split(text(config, "clusterCIDR"))
    # The IPVS proxier masquerades by the setting of iptables, whose chains it uses.
    section = "iptables" if one.proxy_mode == "ipvs" else one.proxy_mode
    one.masquerade_all = bool(read(config, f"{section}.masqueradeAll", bool, False))
    one.node_port_addresses = tuple(
        str(entry)[:64] for entry in entries(config, "nodePortAddresses") if isinstance(entry, str)
    )
    _set_detection(
        one,
        text(config, "detectLocalMode"),
        text(config, "detectLocal.bridgeInterface"),
        text(config, "detectLocal.interfaceNamePrefix"),
    )


def _set_mode(one: Forwarding, written: str) -> None:
    mode = (written or DEFAULT_MODE).lower()
    if mode in _MODES:
        one.proxy_mode = mode
    else:
        one.remarks.append(f"kube-proxy's mode {written[:40]!a} is not known")


def _set_detection(one: Forwarding, written: str, bridge: str, prefix: str) -> None:
    mode = written or DEFAULT_DETECTION
    if mode not in _DETECTIONS:
        one.remarks.append(f"kube-proxy's detectLocalMode {written[:40]!a} is not known")
        return
    interface = {"BridgeInterface": bridge, "InterfaceNamePrefix": prefix}.get(mode, "")
    one.local_detection = LocalDetection(mode, interface[:16])


def _summary(one: Forwarding) -> tuple[object, ...]:
    return (
        one.proxy_mode,
        one.cluster_cidrs,
        one.masquerade_all,
        one.local_detection,
        one.node_port_addresses,
    )


def _take(found: Forwarding, one: Forwarding, source: str) -> None:
    found.proxy_mode = one.proxy_mode
    found.cluster_cidrs = one.cluster_cidrs
    found.masquerade_all = one.masquerade_all
    found.local_detection = one.local_detection
    found.node_port_addresses = one.node_port_addresses
    found.sources["proxyMode"] = source
    if one.local_detection.mode:
        found.sources["localDetection"] = source
    found.remarks += [f"{source}: {remark}" for remark in one.remarks]


def _split(written: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in written[:1024].split(",") if part.strip())


# ── distributions that start kube-proxy inside their own process ─────────────────────────────────────────

_ARGUMENTS = {"k3s.io/node-args": "k3s", "rke2.io/node-args": "rke2"}

_READ_ARGUMENTS = frozenset(
    {"--kube-proxy-arg", "--cluster-cidr", "--disable-kube-proxy", "--flannel-backend"}
)

#: The pods' network where k3s and RKE2 are not told another (their `--cluster-cidr`).
_DEFAULT_CIDR = "10.42.0.0/16"


def _node_arguments(found: Forwarding, by_kind: Mapping[str, Sequence[Json]]) -> None:
    """k3s starts kube-proxy inside its own process, and says on each node with which arguments it was started."""
    if found.proxy_mode:
        return
    cidrs: tuple[str, ...] = ()
    told: dict[tuple[object, ...], tuple[Forwarding, str]] = {}
    for node in by_kind.get("Node", ()):
        arguments = _written_arguments(node)
        if arguments is None or "+k3s" not in text(node, "status.nodeInfo.kubeletVersion", "+k3s"):
            continue
        flags, proxy = _k3s_flags(arguments)
        cidrs = cidrs or _split(flags.get("cluster-cidr", ""))
        if flags.get("disable-kube-proxy", "false") == "true":
            found.remarks.append(f"kube-proxy is turned off on node {name_of(node)} (--disable-kube-proxy)")
            continue
        one = Forwarding()
        _apply_flags(one, proxy)
        told.setdefault(_summary(one), (one, name_of(node)))
    if len(told) > 1:
        found.remarks.append(
            "kube-proxy is not started alike on all nodes of k3s (annotation k3s.io/node-args)"
        )
    elif told:
        one, name = next(iter(told.values()))
        one.cluster_cidrs = one.cluster_cidrs or cidrs or (_DEFAULT_CIDR,)
        _take(found, one, f"k3s on node {name} (annotation k3s.io/node-args)")


def _written_arguments(node: Json) -> list[str] | None:
    for name in _ARGUMENTS:
        if written := annotations_of(node).get(name):
            return _listed(written)
    return None


def _listed(written: str) -> list[str] | None:
    # A JSON list is YAML too; a document has to be a table to be read as one.
    listed = document(f"arguments: {written}").get("arguments")
    return [str(each)[:1024] for each in listed[:1024]] if isinstance(listed, list) else None


def kept_arguments(written: str) -> str:
    """Of the arguments that k3s writes on a node, as a JSON list, those that are read here; others can be secrets."""
    kept: list[str] = []
    listed = _listed(written) or []
    for at, argument in enumerate(listed):
        name, equals, _ = argument.partition("=")
        if name in _READ_ARGUMENTS:
            kept.append(argument)
            following = listed[at + 1] if at + 1 < len(listed) else "-"
            if not equals and not following.startswith("-"):
                kept.append(following)
    return json.dumps(kept)


def _k3s_flags(arguments: list[str]) -> tuple[Flags, Flags]:
    """The flags of k3s itself, and those that it hands on to kube-proxy."""
    handed: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name == "--kube-proxy-arg":
            handed.append("--" + (value if equals else next(rest, "")).removeprefix("--"))
    return flags_of(arguments), flags_of(handed)


def proxy_pods(pods: Iterable[Json]) -> list[Json]:
    """The pods of kube-proxy among all pods."""
    return [
        pod
        for pod in pods
        if name_of(pod).startswith("kube-proxy") or labels(pod).get("k8s-app") == "kube-proxy"
    ]
