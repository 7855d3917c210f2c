"""What an agent finds out about its node: told from values, and looked at in a small real fabric."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemonset.node.topology import SurveyEndedError, classify, survey
from daemonset.observation import Interface, Route, TapKind, Topology
from tests.agent.scene import Scene, python_path, scene, why_not


def kind_of(interface: Interface, *routes: Route) -> TapKind | None:
    return classify(interface, Topology((interface,), routes))


DEFAULT = Route("default", "192.0.2.1", "x")


@pytest.mark.parametrize(
    ("interface", "routes", "kind"),
    [
        (Interface(1, "lo", addresses=("127.0.0.1/8", "::1/128")), (), None),
        (Interface(1, "lo", addresses=("203.0.113.5/32",)), (), None),
        (Interface(2, "x", addresses=("192.0.2.2/24",)), (), TapKind.NIC),
        (Interface(2, "x", addresses=("fe80::1/64",)), (), None),
        (Interface(2, "x", addresses=("fe80::1/64",)), (DEFAULT,), TapKind.NIC),
        (Interface(2, "x", "bond", ("192.0.2.2/24",)), (), TapKind.NIC),
        (Interface(2, "x", master=7), (), None),
        (Interface(2, "x", "bridge", ("10.244.1.1/24",)), (), TapKind.BRIDGE),
        (Interface(2, "x", "bridge", ("192.0.2.2/24",)), (DEFAULT,), TapKind.NIC),
        (Interface(2, "x", "openvswitch"), (), TapKind.BRIDGE),
        (Interface(2, "x", "veth", ("172.30.0.11/24",), peer=5), (), TapKind.NIC),
        (Interface(2, "x", "veth", ("fe80::1/64",), peer=5), (), TapKind.VETH),
        (Interface(2, "x", "veth", peer=5, master=3), (), TapKind.VETH),
        (Interface(2, "x", "veth", ("10.244.1.1/32",), peer=5), (), TapKind.VETH),
        (Interface(2, "x", "veth", ("10.244.1.1/32",), peer=0), (), None),
        (Interface(2, "x", "netkit", peer=5), (), TapKind.VETH),
        (Interface(2, "x", "vxlan", ("10.244.1.0/32",)), (), TapKind.TUNNEL),
        (Interface(2, "x", "wireguard", ("10.6.0.1/24",)), (DEFAULT,), TapKind.TUNNEL),
        (Interface(2, "x", "ipip"), (), TapKind.TUNNEL),
        (Interface(2, "x", "dummy", ("10.96.0.1/32",)), (), None),
    ],
)
def test_which_interface_is_which_tap(
    interface: Interface, routes: tuple[Route, ...], kind: TapKind | None
) -> None:
    assert kind_of(interface, *routes) == kind


REASON = why_not()
live = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(params=[False, True], ids=["root", "nobody"])
def fabric(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Two nodes on a bridge, each with a pod: bridge, veths, a VXLAN device, and things that are no taps."""
    if request.param and os.geteuid() != 0:
        pytest.skip("already not root")
    with scene(as_nobody=request.param) as made:
        made.ip("link add br0 type bridge", "link set br0 up")
        for number in (1, 2):
            node, pod = f"node{number}", f"pod{number}"
            ids = {name: made.add(name) for name in (node, pod)}
            made.ip(
                f"link add port{number} type veth peer name eth0 netns {ids[node]}",
                f"link set port{number} master br0 up",
            )
            made.ip(
                "link set lo up",
                f"addr add 172.30.0.1{number}/24 dev eth0",
                f"addr add fd30::1{number}/64 dev eth0 nodad",
                "link set eth0 up",
                f"link add veth0 type veth peer name eth0 netns {ids[pod]}",
                "link add cni0 type bridge",
                f"addr add 10.244.{number}.1/24 dev cni0",
                "link set cni0 up",
                "link set veth0 master cni0 up",
                "link add flannel.1 type vxlan id 1 dev eth0 dstport 8472",
                "link set flannel.1 up",
                "link add down0 type bridge",
                "link add here0 type veth peer name here1",
                "link set here0 up",
                "link set here1 up",
                f"route add 10.244.{3 - number}.0/24 via 172.30.0.1{3 - number}",
                "route add default via 172.30.0.101",
                "route add 10.245.0.0/24 nexthop via 172.30.0.12 nexthop via 172.30.0.13",
                "-6 route add fd45::/64 via fd30::99",
                name=node,
            )
            made.ip(
                "link set lo up",
                f"addr add 10.244.{number}.5/24 dev eth0",
                f"addr add fd44:{number}::5/64 dev eth0 nodad",
                "link set eth0 up",
                name=pod,
            )
        yield made


def seen_by(scene: Scene, name: str) -> Any:
    path = f"PYTHONPATH={python_path()['PYTHONPATH']}"
    return json.loads(scene.run("env", path, scene.python, "-m", "tests.ground.seen_topology", name=name))


@live
def test_a_node_sees_itself_and_its_own_pods_only(fabric: Scene) -> None:
    for number in (1, 2):
        seen = seen_by(fabric, f"node{number}")
        (pod,) = seen["topology"]["pods"]
        assert sorted(pod["addresses"]) == [f"10.244.{number}.5", f"fd44:{number}::5"]
        assert pod["veth"] == "veth0"
        assert seen["entered"] == {pod["namespace"]: int(pod["namespace"])}
        assert Path(f"/proc/{pod['process']}/ns/net").stat().st_ino == int(pod["namespace"])


@live
def test_interfaces_and_the_taps_among_them(fabric: Scene) -> None:
    seen = seen_by(fabric, "node1")
    assert seen["kinds"] == {
        "lo": None, "eth0": "nic", "cni0": "bridge", "veth0": "veth", "flannel.1": "tunnel",
        "here0": None, "here1": None,
    }  # fmt: skip
    interfaces = {interface["name"]: interface for interface in seen["topology"]["interfaces"]}
    assert interfaces["veth0"]["master"] == interfaces["cni0"]["index"]
    assert interfaces["veth0"]["peer"] > 0
    assert interfaces["here0"].get("peer", 0) == 0
    assert {"172.30.0.11/24", "fd30::11/64"} <= set(interfaces["eth0"]["addresses"])


@live
def test_routes_of_both_families_and_of_several_hops(fabric: Scene) -> None:
    routes = {
        (route["destination"], route["via"], route["interface"])
        for route in seen_by(fabric, "node1")["topology"]["routes"]
    }
    assert routes == {
        ("default", "172.30.0.101", "eth0"),
        ("10.244.1.0/24", None, "cni0"),
        ("10.244.2.0/24", "172.30.0.12", "eth0"),
        ("10.245.0.0/24", "172.30.0.12", "eth0"),
        ("10.245.0.0/24", "172.30.0.13", "eth0"),
        ("172.30.0.0/24", None, "eth0"),
        ("fd30::/64", None, "eth0"),
        ("fd45::/64", "fd30::99", "eth0"),
    }  # fmt: skip


@live
def test_the_fabric_and_a_pod_see_no_pods_of_theirs(fabric: Scene) -> None:
    for name in ("", "pod1"):
        seen = seen_by(fabric, name)
        assert seen["kinds"].get("eth0") in {None, "nic"}
        if name:
            assert seen["topology"]["pods"] == []


@live
def test_looking_twice_gives_the_same_and_leaves_nothing_open(fabric: Scene) -> None:
    seen = seen_by(fabric, "node1")
    assert seen["same"]
    assert not seen["left open"]


def test_a_survey_that_nobody_wants_any_more_ends_before_the_next_namespace(tmp_path: Path) -> None:
    """On a node with hundreds of pods an agent must not wait for all of them before it ends."""
    for process in range(3):
        space = tmp_path / str(process) / "ns"
        space.mkdir(parents=True)
        (space / "net").touch()
    asked: list[None] = []

    def wanted() -> bool:
        asked.append(None)
        return len(asked) < 2

    with pytest.raises(SurveyEndedError):
        survey(proc=tmp_path, named=tmp_path / "none", wanted=wanted)
    assert len(asked) == 2
