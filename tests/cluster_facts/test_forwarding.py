"""Who forwards on the nodes, and how that is known."""

from __future__ import annotations

import json

import pytest

from analysis.facts import Facts, LocalDetection
from probe.cluster.lister import Json
from probe.objects import facts_from_objects
from tests.cluster_facts.cluster import Cluster, app, configmap, kube_proxy, node, obj, pod


def facts(*objects: Json) -> Facts:
    return facts_from_objects(list(objects))


def proxy_pod(
    *arguments: str, name: str = "kube-proxy-x1", command: str = "/usr/local/bin/kube-proxy"
) -> Json:
    container = {"command": [command, *arguments]}
    return pod(name, "192.0.2.11", "p", "kube-system", labels={"k8s-app": "kube-proxy"}, container=container)


def agent(label: str, value: str, name: str = "agent-1", namespace: str = "kube-system") -> Json:
    return pod(name, "192.0.2.11", value, namespace, labels={label: value}, spec={"hostNetwork": True})


def test_kubeadms_configmap() -> None:
    found = facts(kube_proxy())
    assert (found.proxy_mode, found.cluster_cidrs) == ("iptables", ("10.244.0.0/16",))
    assert found.local_detection == LocalDetection("ClusterCIDR")
    assert found.sources["proxyMode"] == "ConfigMap kube-proxy"


@pytest.mark.parametrize(
    ("text", "mode", "masquerade"),
    [
        ("iptables: {masqueradeAll: true}\nnftables: {masqueradeAll: false}\n", "iptables", True),
        (
            "mode: nftables\niptables: {masqueradeAll: true}\nnftables: {masqueradeAll: false}\n",
            "nftables",
            False,
        ),
        ("mode: ipvs\niptables: {masqueradeAll: true}\n", "ipvs", True),
        (json.dumps({"mode": "nftables", "nftables": {"masqueradeAll": True}}), "nftables", True),
    ],
)
def test_masquerade_all_is_that_of_the_mode_in_force(text: str, mode: str, masquerade: bool) -> None:
    found = facts(kube_proxy(text))
    assert (found.proxy_mode, found.masquerade_all) == (mode, masquerade)


@pytest.mark.parametrize(
    ("text", "detection"),
    [
        ("detectLocalMode: NodeCIDR\n", LocalDetection("NodeCIDR")),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n",
            LocalDetection("BridgeInterface", "cni0"),
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}\n",
            LocalDetection("InterfaceNamePrefix", "veth"),
        ),
    ],
)
def test_how_local_traffic_is_told(text: str, detection: LocalDetection) -> None:
    cluster = Cluster([node(), kube_proxy(text), *app("web", "10.244.1.5")])
    found = cluster.gather("svc/web")
    assert found.facts.local_detection == detection
    assert found.facts.sources["localDetection"] == "ConfigMap kube-proxy"
    assert any(f"by {detection.mode}" in remark for remark in found.remarks)


def test_flags_count_where_no_file_takes_their_place() -> None:
    flags = ("--proxy-mode=nftables", "--cluster-cidr", "10.1.0.0/16,fd00::/64", "--masquerade-all")
    found = facts(proxy_pod(*flags, "--nodeport-addresses=primary"), kube_proxy("mode: ipvs"))
    assert (found.proxy_mode, found.masquerade_all) == ("nftables", True)
    assert found.cluster_cidrs == ("10.1.0.0/16", "fd00::/64")
    assert found.node_port_addresses == ("primary",)
    assert found.sources["proxyMode"] == "command line of Pod kube-proxy-x1"
    # kube-proxy passes over its flags where it is given a file.
    assert facts(proxy_pod("--config=/var/lib/c", *flags), kube_proxy("mode: ipvs")).proxy_mode == "ipvs"


def test_a_shell_may_start_it() -> None:
    container = {"command": ["/bin/sh", "-c", "exec kube-proxy --proxy-mode=ipvs --v=2 1>>/var/log/x 2>&1"]}
    one = pod("kube-proxy-gke", "192.0.2.11", "p", "kube-system", container=container)
    assert facts(one).proxy_mode == "ipvs"


def test_the_daemonset_where_pods_may_not_be_seen() -> None:
    template = {"spec": {"containers": [{"name": "p", "command": ["kube-proxy", "--proxy-mode=ipvs"]}]}}
    daemons = obj("DaemonSet", "kube-proxy", "kube-system", spec={"template": template})
    hidden = [("pods", None)]
    found = Cluster([node(), daemons, *app("web", "10.244.1.5")], hidden).gather("svc/web")
    assert found.facts.proxy_mode == "ipvs"
    assert found.facts.sources["proxyMode"] == "command line of DaemonSet kube-proxy"


def test_nodes_that_differ_are_told_and_not_decided() -> None:
    problems: list[str] = []
    both = [proxy_pod("--proxy-mode=ipvs"), proxy_pod("--proxy-mode=iptables", name="kube-proxy-x2")]
    found = facts_from_objects(both, problems)
    assert found.proxy_mode == ""
    assert any("not started alike on all nodes" in problem for problem in problems)


@pytest.mark.parametrize(
    ("data", "mode", "forwarding"),
    [
        ({"kube-proxy-replacement": "true", "bpf-lb-mode": "dsr"}, "ebpf", "dsr"),
        ({"kube-proxy-replacement": "strict"}, "ebpf", "snat"),
        ({"kube-proxy-replacement": "true", "bpf-lb-mode": "hybrid"}, "ebpf", "hybrid"),
        ({"kube-proxy-replacement": "partial", "enable-node-port": "true"}, "ebpf", "snat"),
        ({"kube-proxy-replacement": "partial"}, "iptables", ""),
        ({"kube-proxy-replacement": "false"}, "iptables", ""),
    ],
)
def test_cilium(data: dict[str, str], mode: str, forwarding: str) -> None:
    found = facts(configmap("cilium-config", data), agent("k8s-app", "cilium"), kube_proxy())
    assert (found.proxy_mode, found.forwarding_mode, found.datapath) == (mode, forwarding, "cilium")


def test_gkes_dataplane_v2() -> None:
    found = facts(agent("k8s-app", "cilium", "anetd-7xk2p"))
    assert found.datapath == "gke-dataplane-v2"


def test_calico_says_whether_it_forwards_by_ebpf() -> None:
    felix = obj(
        "FelixConfiguration", "default", None, spec={"bpfEnabled": True, "bpfExternalServiceMode": "DSR"}
    )
    cluster = Cluster(
        [node(), felix, kube_proxy(), agent("k8s-app", "calico-node"), *app("web", "10.244.1.5")]
    )
    found = cluster.gather("svc/web").facts
    assert (found.proxy_mode, found.forwarding_mode, found.datapath) == ("ebpf", "dsr", "calico")
    felix["spec"]["bpfEnabled"] = False
    assert cluster.gather("svc/web").facts.proxy_mode == "iptables"


def test_the_operator_of_calico() -> None:
    installation = obj("Installation", "default", None, spec={"calicoNetwork": {"linuxDataplane": "BPF"}})
    cluster = Cluster([
        node(), installation, agent("k8s-app", "calico-node", namespace="calico-system"), *app("web", "10.244.1.5"),
    ])  # fmt: skip
    found = cluster.gather("svc/web")
    assert found.facts.proxy_mode == "ebpf"
    # Its own CRD is not there in this cluster: that is told, not passed over.
    assert any("no felixconfigurations" in remark for remark in found.remarks)


def test_a_cluster_without_calico_is_not_asked_for_it() -> None:
    cluster = Cluster([node(), kube_proxy(), *app("web", "10.244.1.5")])
    assert not any("cluster has no" in remark for remark in cluster.gather("svc/web").remarks)
    assert not any("calico" in group for group, _, _ in cluster.asked)


def test_k3s_starts_kube_proxy_itself() -> None:
    written = {
        "k3s.io/node-args": json.dumps(
            ["server", "--kube-proxy-arg", "proxy-mode=ipvs", "--cluster-cidr", "10.9.0.0/16"]
        )
    }
    backend = {"flannel.alpha.coreos.com/backend-type": "vxlan"}
    found = facts(node(annotations={**written, **backend}))
    assert (found.proxy_mode, found.cluster_cidrs, found.datapath) == ("ipvs", ("10.9.0.0/16",), "flannel")
    assert "k3s on node node1" in found.sources["proxyMode"]
    plain = facts(node(annotations={"k3s.io/node-args": '["server"]'}))
    assert (plain.proxy_mode, plain.cluster_cidrs) == ("iptables", ("10.42.0.0/16",))
    problems: list[str] = []
    off = node(annotations={"k3s.io/node-args": '["server","--disable-kube-proxy"]'})
    assert facts_from_objects([off], problems).proxy_mode == ""
    assert any("turned off on node node1" in problem for problem in problems)


@pytest.mark.parametrize(
    ("label", "value", "name"),
    [
        ("app", "kindnet", "kindnet"),
        ("app", "flannel", "flannel"),
        ("k8s-app", "canal", "canal"),
        ("app", "antrea", "antrea"),
        ("k8s-app", "aws-node", "aws-vpc-cni"),
        ("k8s-app", "kube-router", "kube-router"),
        ("app", "ovnkube-node", "ovn-kubernetes"),
    ],
)
def test_a_cni_is_known_by_its_agents(label: str, value: str, name: str) -> None:
    found = facts(agent(label, value))
    assert found.datapath == name
    assert found.sources["datapath"] == "pod kube-system/agent-1"


def test_one_odd_object_does_not_hide_the_others() -> None:
    odd = agent("k8s-app", "cilium")
    odd["spec"]["hostNetwork"] = "yes"
    found = facts_from_objects([odd, kube_proxy("mode: ipvs"), agent("app", "kindnet")], [])
    assert (found.proxy_mode, found.datapath) == ("ipvs", "kindnet")


def test_a_small_document_does_not_become_an_enormous_one() -> None:
    laughs = "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nmode: ipvs\n"
    problems: list[str] = []
    assert facts_from_objects([kube_proxy(laughs)], problems).proxy_mode == ""
    assert any("no configuration of kube-proxy that can be read" in problem for problem in problems)
