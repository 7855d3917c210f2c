"""Whose rule it is, and what it is for, by the names and comments that kube-proxy and network plugins give theirs.

kube-proxy's chains are those of its iptables and IPVS modes (pkg/proxy/iptables, pkg/proxy/ipvs) and of the table
`kube-proxy` of its nftables mode (pkg/proxy/nftables).
"""

from __future__ import annotations

import enum
import re

from analysis.rules.hits import Met

_SERVICE = re.compile(r"\b([a-z0-9][a-z0-9.-]*/[a-z0-9][a-z0-9.-]*(?::[a-z0-9-]+)?)")
_NFT_SERVICE = re.compile(r"^[a-z-]+-[A-Z0-9]{8}-([^/]+/[^/]+)/(?:tcp|udp|sctp)/([^/_]*)")
_NFT_CHAINS = ("external-", "service-", "local-", "endpoint-", "firewall-")
_MARKERS = frozenset({"KUBE-MARK-MASQ", "mark-for-masquerade"})

#: Network plugins and what else is installed on nodes, by their tables and chains, else by comments.
_PLUGINS = (
    (re.compile(r"flannel", re.IGNORECASE), "flannel"),
    (re.compile(r"^cali-|calico", re.IGNORECASE), "Calico"),
    (re.compile(r"^CILIUM_|cilium"), "Cilium"),
    (re.compile(r"^KUBE-ROUTER|^KUBE-POD-FW|^KUBE-NWPLCY"), "kube-router"),
    (re.compile(r"^WEAVE"), "Weave Net"),
    (re.compile(r"^ANTREA|antrea"), "Antrea"),
    (re.compile(r"^OVN-KUBE|ovn-kube"), "OVN-Kubernetes"),
    (re.compile(r"^KIND-MASQ|kindnet|kind-masq"), "kindnet"),
    (re.compile(r"^IP-MASQ|ip-masq|kubenet|^AWS-SNAT|^AWS-CONNMARK"), "the masquerade agent of the nodes"),
    (re.compile(r"^CNI-HOSTPORT|^CNI-DN-|^CNI-SN-|cni_hostport|portmap"), "the portmap plugin"),
    (re.compile(r"^CNI-[0-9a-f]{8,}|cni_plugins|^ipmasq"), "the bridge plugin"),
    (re.compile(r"klipper|svclb"), "the service load balancer (klipper-lb)"),
    (re.compile(r"^ISTIO|istio"), "Istio"),
)
_HOSTS = (
    (re.compile(r"firewalld|_(?:public|trusted|internal|external|dmz)(?:_|$)"), "firewalld"),
    (re.compile(r"^ufw6?-"), "ufw"),
    (re.compile(r"^DOCKER"), "Docker"),
    (re.compile(r"^LIBVIRT|^NETAVARK"), "the host's virtual networks"),
)
_POLICIES = re.compile(
    r"^cali-|^KUBE-POD-FW|^KUBE-NWPLCY|^CILIUM_|network-polic|^ANTREA|^WEAVE-NPC|^KUBE-ROUTER"
)


class Cause(enum.Enum):
    """Why kube-proxy had a packet masqueraded, by the rule that marked it."""

    POLICY_CLUSTER = "policy Cluster"
    NODE_LOCAL = "a client on the node"
    MASQUERADE_ALL = "--masquerade-all"
    CLUSTER_CIDR = "clusterCIDR"
    HAIRPIN = "a pod that reaches itself"
    EXTERNAL_IP = "an external IP in IPVS mode"


def by_kube_proxy(met: Met) -> bool:
    """Whether a rule is kube-proxy's. kube-router and the kubelet have chains whose names begin alike."""
    chain = met.hit.chain
    if met.hit.table == "kube-proxy":
        return True
    return chain.startswith("KUBE-") and plugin(met) is None


def plugin(met: Met) -> str | None:
    """The network plugin whose rule it is, by name; None where no name or comment tells."""
    return _by_name(met, _PLUGINS)


def owner(met: Met) -> str | None:
    """Whose rule it is, as far as names and comments tell."""
    if by_kube_proxy(met):
        return "kube-proxy"
    return plugin(met) or _by_name(met, _HOSTS)


def _by_name(met: Met, names: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    said = [met.hit.table, met.hit.chain, met.rule.comment if met.rule is not None else ""]
    return next((name for pattern, name in names for text in said if pattern.search(text[:300])), None)


def marked_by(met: Met) -> Met | None:
    """The rule that had this packet marked for masquerade, where kube-proxy masquerades it."""
    return next((each for each in reversed(met.before) if each.hit.target in _MARKERS), None)


def cause(marking: Met) -> Cause | None:
    """Why a rule of kube-proxy's marks for masquerade; None where its chain is not one that is known."""
    chain = marking.hit.chain
    said = (marking.rule.text + " " + marking.rule.comment) if marking.rule is not None else ""
    if chain.startswith(("KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-", "external-")):
        local = "LOCAL traffic" in said or "local traffic" in said or "type local" in said
        return Cause.NODE_LOCAL if local else Cause.POLICY_CLUSTER
    if chain.startswith(("KUBE-SEP-", "endpoint-")):
        return Cause.HAIRPIN
    if chain.startswith(("KUBE-SVC-", "KUBE-SVL-", "service-", "local-")):
        off_cluster = "saddr !=" in said or said.startswith("! -s ")
        return Cause.CLUSTER_CIDR if off_cluster else Cause.MASQUERADE_ALL
    if chain in {"KUBE-LOAD-BALANCER", "KUBE-NODE-PORT"}:
        return Cause.POLICY_CLUSTER
    if chain == "KUBE-SERVICES" and "external ip" in said.lower():
        return Cause.EXTERNAL_IP
    return None


def service(met: Met) -> str | None:
    """The Service's port that a rule is about, as namespace/name:port; by its comment or its chain."""
    if (found := _NFT_SERVICE.match(met.hit.chain)) is not None:
        return f"{found[1]}:{found[2]}" if found[2] else found[1]
    if met.rule is not None and (named := _SERVICE.search(met.rule.comment)) is not None:
        return named[1]
    return None


def words(met: Met) -> str:
    """What a rule is for, in a sentence without its end; empty where nothing of it is known."""
    if by_kube_proxy(met):
        return _kube_proxy(met)
    name = owner(met)
    deed = {"snat": "masquerades", "dnat": "sends on", "drop": "drops", "reject": "rejects"}.get(
        met.does, "meets"
    )
    if name is None:
        return ""
    why = (
        ", as a network policy would"
        if met.does in {"drop", "reject"} and _POLICIES.search(met.hit.chain)
        else ""
    )
    return f"{name} {deed} such packets{why}"


def _kube_proxy(met: Met) -> str:
    chain = met.hit.chain
    of = f" of {named}" if (named := _service_of(met)) else ""
    if met.hit.target in _MARKERS:
        why = {
            Cause.POLICY_CLUSTER: "policy Cluster marks every external packet for masquerade",
            Cause.NODE_LOCAL: "what begins on the node itself is marked for masquerade",
            Cause.MASQUERADE_ALL: "--masquerade-all marks every packet to the cluster IP for masquerade",
            Cause.CLUSTER_CIDR: "what comes from outside clusterCIDR is marked for masquerade",
            Cause.HAIRPIN: "a pod that reaches itself is marked for masquerade",
            Cause.EXTERNAL_IP: "IPVS mode marks what is sent to external IPs for masquerade",
            None: "it marks packets for masquerade",
        }[cause(met)]
        return f"{chain}{of}: {why}"
    match met.does:
        case "snat":
            return f"{chain}: kube-proxy masquerades what was marked"
        case "dnat":
            return f"{chain}{of}: kube-proxy chose this endpoint"
        case "drop" | "reject":
            return f"{chain}{of}: {_refusal(met)}"
    return ""


def _service_of(met: Met) -> str | None:
    """The Service's port of a rule, or of the rules that led to it."""
    return next((named for each in (met, *reversed(met.before)) if (named := service(each))), None)


class Refusal(enum.Enum):
    """Why a rule of kube-proxy's lets a packet go no further."""

    NO_LOCAL_ENDPOINT = "this node has no endpoint, and policy Local sends to no other: dropped"
    NO_ENDPOINT = "there is no endpoint: rejected"
    SOURCE_RANGE = "the source is not in loadBalancerSourceRanges: dropped"
    OTHER = "dropped"


def refusal(met: Met) -> Refusal:
    """The reason of a rule of kube-proxy's that drops or rejects."""
    chain = met.hit.chain
    comment = met.rule.comment if met.rule is not None else ""
    if chain.startswith(("KUBE-PROXY-FIREWALL", "KUBE-FW-", "firewall-")):
        return Refusal.SOURCE_RANGE
    if "has no local endpoints" in comment or (met.does == "drop" and chain.endswith("endpoints-check")):
        return Refusal.NO_LOCAL_ENDPOINT
    if "has no endpoints" in comment or (met.does == "reject" and chain == "reject-chain"):
        return Refusal.NO_ENDPOINT
    return Refusal.OTHER


def _refusal(met: Met) -> str:
    return refusal(met).value
